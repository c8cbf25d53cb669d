"""The recipes of Agent-R at the paper's scale: planned with a tiny model in place of theirs."""

import json
import shutil
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from posttrain.job import load_job
from posttrain.planning import make_plan
from posttrain.training.memory import Launch

FOLDER = Path(__file__).parents[1] / "recipes" / "agent_r"
TINY = "model={tiny: {hidden_size: 64, intermediate_size: 128, layers: 2, heads: 2, max_length: 8192}}"
FEW = ("data.train_tasks=2", "data.eval_tasks=1", "data.workers=1", "trainer.prompts_per_step=2")


def plan_of(recipe: str, *overrides: str) -> dict[str, dict[str, str]]:
    plan = make_plan(load_job(FOLDER / recipe, [TINY, *FEW, *overrides]), Launch())
    return {title: dict(lines) for title, lines in plan.sections.items()}


class Shop(BaseHTTPRequestHandler):
    """Begins tasks as WebShop's server does."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or "null")
        reply = json.dumps(0 if self.path == "/create" else [f"Instruction: find {body['session_id']}", None]).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *arguments: Any) -> None:
        pass


def test_webshop_over_http(serve: Callable[[Any], None]) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    serve(server)
    plan = plan_of("webshop-http.yaml", f"data.environment.url=http://127.0.0.1:{server.server_address[1]}")
    assert plan["Batch"]["expansions, at most"] == "8 walks x 20 turns = 160 of a tree"
    assert plan["Batch"]["environment steps, at most"].startswith("320 expansions x 4 children = 1,280, and 320 in ")


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("scienceworld") is None or shutil.which("java") is None,
    reason="the extra posttrain[scienceworld] or a Java runtime is not installed",
)
def test_scienceworld() -> None:
    plan = plan_of("scienceworld-llama-3.1-8b.yaml", "data.environment.task_types=[power-component]")
    assert plan["Batch"]["sequences trained, at most"].endswith("/ 0.2 for the general data = 160 an iteration")
    assert plan["Batch"]["judgements, at most"] == "320 of 256 tokens"
    assert "policy and optimizer" in plan["Memory on each rank, estimated"]
