"""Reference answers from an endpoint on loopback and from an engine: each asked for once, paid for once."""

import json
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from posttrain.cli.main import app
from posttrain.config_file import load_config
from posttrain.data_jobs.add_references import add_references, estimate
from posttrain.data_jobs.config import AddReferencesConfig
from posttrain.data_jobs.pool import PoolConfig, prompt_rows, read_pool
from posttrain.errors import JobError

Script = Callable[[str], tuple[int, str]]


class Server(ThreadingHTTPServer):
    """Replies with the status and text that ``script`` gives for a prompt; keeps prompts and times."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: Script = lambda prompt: (200, f"answer to {prompt}")
        self.prompts: list[str] = []
        self.times: list[float] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = payload["messages"][-1]["content"]
        self.server.times.append(time.monotonic())
        self.server.prompts.append(prompt)
        status, text = self.server.script(prompt)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps({"choices": [{"message": {"content": text}}]}).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def server(serve: Any) -> Server:
    server = Server()
    serve(server)
    return server


@pytest.fixture
def job(tmp_path: Path, server: Server) -> Path:
    """Five rows, one of which has its answer, and one model."""
    turns = [{"role": "user", "content": "q2"}, {"role": "assistant", "content": "gold"}]
    rows: list[dict[str, Any]] = [{"id": f"r{number}", "prompt": f"q{number}"} for number in range(5)]
    rows[2]["prompt"] = turns
    rows[4]["ref_output_strong"] = "there already"
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "job.yaml").write_text(f"""\
data: {{path: {tmp_path}/rows.jsonl}}
models:
  strong:
    answerer:
      type: endpoint
      base_url: http://127.0.0.1:{server.server_address[1]}/v1
      model: strong-1
      attempts: 1
      backoff_s: 0.01
output: {tmp_path}/out
""")
    return tmp_path / "job.yaml"


def add(job: Path, *overrides: str) -> tuple[list[str], list[str]]:
    config = load_config(AddReferencesConfig, job, overrides)
    return add_references(config, prompt_rows(config.data))


def command(job: Path, *further: str) -> Any:
    return CliRunner().invoke(app, ["data", "add-references", str(job), *further])


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_column_is_filled_and_what_is_there_stays(job: Path, server: Server) -> None:
    result = command(job)
    assert (result.exit_code, result.stderr) == (0, "")
    assert sorted(server.prompts) == ["q0", "q1", "q2", "q3"]
    rows = read(job.parent / "out" / "rows.jsonl")
    assert [row["ref_output_strong"] for row in rows] == [*(f"answer to q{n}" for n in range(4)), "there already"]
    assert rows[2]["prompt"][-1]["content"] == "gold", "a row is as it came"
    assert "ref_output_strong: 5 of 5 rows" in result.stdout
    pool = read_pool(PoolConfig(path=str(job.parent / "out" / "rows.jsonl"), reference_columns=["ref_output_*"]))
    assert [example.references for example in pool.examples][2] == ["answer to q2"]
    command(job)
    assert len(server.prompts) == 4, "nothing is asked twice"


def test_failures_are_told_and_asked_again(job: Path, server: Server) -> None:
    server.script = lambda prompt: (500, "") if prompt == "q1" else (200, " " if prompt == "q3" else "fine")
    result = command(job)
    assert result.exit_code == 1
    assert "strong: 2 calls failed: unavailable 1, unparseable 1" in " ".join(result.stderr.split()) or (
        "strong: 2 calls failed: unparseable 1, unavailable 1" in " ".join(result.stderr.split())
    )
    assert all(len(line) <= 80 for line in result.stderr.splitlines())
    failures = {row["id"]: row for row in read(job.parent / "out" / "failures.jsonl")}
    assert failures.keys() == {"r1", "r3"}
    assert failures["r1"]["message"].startswith("status 500: ") and failures["r3"]["message"] == "the answer is blank"
    rows = read(job.parent / "out" / "rows.jsonl")
    assert [row["ref_output_strong"] for row in rows] == ["fine", None, "fine", None, "there already"]

    server.script, server.prompts = lambda prompt: (200, "now"), []
    assert command(job).exit_code == 0
    assert sorted(server.prompts) == ["q1", "q3"]
    assert read(job.parent / "out" / "failures.jsonl") == []


def test_nobody_listens(job: Path, server: Server) -> None:
    address = "models.strong.answerer.base_url=http://127.0.0.1:9/v1"
    _, failed = add(job, address, "models.strong.stop_after_failures=2", "models.strong.answerer.concurrency=1")
    assert "unavailable 2; the last: ConnectError" in failed[0]
    assert failed[1] == "strong: 2 rows were not asked after 2 failures in a row"
    summary, failed = add(job)  # at another address the same model goes on
    assert (summary[0], failed) == ("ref_output_strong: 5 of 5 rows", [])


def test_the_estimate_counts_only_what_is_missing(job: Path, server: Server) -> None:
    overrides = (
        "models.strong.input_price=1000000",
        "models.strong.output_price=10",
        "models.strong.expected_tokens=50000",
        "models.strong.expected_seconds=64",
    )
    result = command(job, "--dry-run", *overrides)
    assert result.exit_code == 0
    # four prompts of 2 letters are 2 tokens; 4 x 64 s by 32 at once are 8 s; 4 calls at 3 a minute take 80 s
    assert result.stdout.splitlines()[1].split() == ["strong", "4", "2", "200k", "4.00", "8", "s"]
    assert (server.prompts, (job.parent / "out").exists()) == ([], False)
    config = load_config(AddReferencesConfig, job, [*overrides, "models.strong.answerer.requests_per_minute=3"])
    assert list(estimate(config, prompt_rows(config.data)))[1].split()[-1] == "1:20"
    server.script = lambda prompt: (200 if prompt == "q0" else 500, "fine")
    add(job)
    assert list(estimate(config, prompt_rows(config.data)))[1].split()[1:4] == ["3", "2", "150k"]


def test_requests_keep_to_the_rate(job: Path, server: Server) -> None:
    add(job, "models.strong.answerer.requests_per_minute=300")
    gaps = [after - before for before, after in zip(server.times, server.times[1:], strict=False)]
    assert len(gaps) == 3
    assert server.times[-1] - server.times[0] >= 0.6 - 0.1
    assert min(gaps) > 0.05


def test_other_settings_do_not_mix(job: Path) -> None:
    add(job)
    with pytest.raises(JobError, match="model is strong-1 there and strong-2 here"):
        add(job, "models.strong.answerer.model=strong-2")
    with pytest.raises(JobError, match=r"sampling.temperature is 0.0 there and 1.0 here"):
        add(job, "sampling.temperature=1.0")


def test_a_model_of_ones_own_and_a_prompt_too_long_for_it(job: Path, tiny_model_folder: Path, server: Server) -> None:
    with (job.parent / "rows.jsonl").open("a") as file:
        file.write(json.dumps({"id": "long", "prompt": "x" * 300}) + "\n")
    engine = f"models.own={{answerer: {{type: engine, model: {tiny_model_folder}}}}}"
    summary, failed = add(job, engine, "sampling.max_completion_tokens=8")
    assert summary[:2] == ["ref_output_strong: 6 of 6 rows", "ref_output_own: 5 of 6 rows"]
    message = "the prompt has 300 tokens, and the model has room for 248"
    assert failed == [f"own: 1 calls failed: invalid_input 1; the last: {message}"]
    rows = read(job.parent / "out" / "rows.jsonl")
    assert rows[5]["ref_output_own"] is None and isinstance(rows[0]["ref_output_own"], str)
    assert "ref_output_own,ref_output_strong" in summary[-1] or "ref_output_strong,ref_output_own" in summary[-1]


def test_a_name_that_is_no_column(job: Path) -> None:
    with pytest.raises(JobError, match="models"):
        add(job, "models={../up: {answerer: {type: endpoint, base_url: 'http://x', model: m}}}")


def test_what_was_paid_for_before_an_interruption_is_kept(job: Path, server: Server) -> None:
    config = load_config(AddReferencesConfig, job, ["models.strong.answerer.concurrency=1"])

    def interrupted(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_references(config, prompt_rows(config.data), interrupted)
    asked_before = list(server.prompts)
    assert len(asked_before) <= 3, "what waited is not asked any more"
    assert len(read(job.parent / "out" / "answers" / "strong.jsonl")) == 2
    server.prompts.clear()
    add(job)
    assert sorted(server.prompts) == ["q2", "q3"]
    rows = read(job.parent / "out" / "rows.jsonl")
    assert [row["ref_output_strong"] for row in rows[:4]] == [f"answer to q{n}" for n in range(4)]
