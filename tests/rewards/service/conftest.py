"""Servers under test: real processes of ``posttrain serve`` on a free port of loopback."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

httpx = pytest.importorskip("httpx", reason="needs the extra serve")
pytest.importorskip("fastapi", reason="needs the extra serve")

HERE = Path(__file__).parent
START_LIMIT_S = 90.0
STOP_LIMIT_S = 30.0


class RunningServer:
    """A server process; ``items`` are sent and answered as JSON."""

    def __init__(self, folder: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.log_file = folder / f"server-{time.monotonic_ns()}.log"
        path = os.pathsep.join((str(HERE), str(Path(__file__).parents[3])))
        with self.log_file.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "posttrain", "serve", *arguments, *("--port", "0")],
                env={**os.environ, "PYTHONPATH": path, **(env or {})},
                stdout=log,
                stderr=log,
                cwd=folder,
            )
        self.port = self._wait_for_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=60.0, trust_env=False)

    def _wait_for_port(self) -> int:
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            if found := re.search(r"running on http://[\w.]+:(\d+)", self.log()):
                return int(found[1])
            assert self.process.poll() is None, self.log()
            time.sleep(0.05)
        raise AssertionError(f"the server does not listen: {self.log()}")

    def log(self) -> str:
        return self.log_file.read_text()

    def score(self, *completions: str, **body: Any) -> Any:
        items = [{"completion": completion} for completion in completions]
        return self.http.post("/v1/score", json={"items": items, **body})

    def results(self, *completions: str, **body: Any) -> list[dict[str, Any]]:
        reply = self.score(*completions, **body)
        assert reply.status_code == 200, reply.text
        results: list[dict[str, Any]] = reply.json()["results"]
        return results

    def metric(self, line: str) -> float:
        """The value of a line of ``/metrics``, such as ``posttrain_items_total{...}``; 0 where there is none."""
        lines = self.http.get("/metrics").text.splitlines()
        return sum(float(one.rpartition(" ")[2]) for one in lines if one.startswith(f"{line} "))

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30.0)

    def workers(self) -> list[int]:
        """The process ids of the scoring processes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children]

    def stop(self) -> int:
        """The exit status after SIGTERM."""
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_LIMIT_S)
        finally:
            self.process.kill()


ServerFactory = Callable[..., RunningServer]


@pytest.fixture(scope="module")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerFactory]:
    """``start_server({"name": {"type": ...}}, *arguments, env=...)``; all end with the module's tests."""
    servers: list[RunningServer] = []

    def start(rewards: dict[str, dict[str, Any]], *arguments: str, env: dict[str, str] | None = None) -> RunningServer:
        folder = tmp_path_factory.mktemp("server")
        for name, reward in rewards.items():
            (folder / f"{name}.yaml").write_text(json.dumps({"reward": reward}))
        servers.append(RunningServer(folder, *(f"{name}.yaml" for name in rewards), *arguments, env=env))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def server(start_server: ServerFactory) -> RunningServer:
    """Serves ``commanded`` (the default) and ``integer``."""
    return start_server(
        {"commanded": {"type": "served_rewards:Commanded"}, "integer": {"type": "exact_integer"}}, "server.timeout_s=20"
    )


@pytest.fixture(scope="session")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A reward model of random weights, whose scores differ from text to text."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tmp_path_factory.mktemp("classifier")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(tiny_model_folder, num_labels=1)
        torch.nn.init.normal_(model.score.weight, std=0.3)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model_folder).save_pretrained(folder)
    return folder
