"""One vLLM server: its process, if this one started it, and the calls that control it."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

import httpx

from posttrain.errors import EngineError
from posttrain.rollout.config import VLLMServerEngineConfig

VLLM_VERSION = "0.32"
"""The routes and answers are those of this version; others differ in both."""


class ReplicaLost(EngineError):
    """A replica does not answer."""


class ServerProcess:
    """A replica that this process starts, on the loopback interface.

    Args:
        number: which of this process's replicas; chooses its port and device.
        log_path: where what it prints goes.
    """

    def __init__(self, model_path: str, config: VLLMServerEngineConfig, seed: int, number: int, log_path: Path) -> None:
        self.config = config
        self.log_path = log_path
        self.port = free_port(None if config.port is None else config.port + number)
        self.url = f"http://127.0.0.1:{self.port}"
        arguments = [model_path, config.model_dump_json(), str(seed), str(self.port)]
        self.command = [sys.executable, "-m", "posttrain.rollout.vllm_replica", *arguments]
        devices = config.devices[number] if config.devices else None
        self.environment = os.environ | ({} if devices is None else {"CUDA_VISIBLE_DEVICES": devices})
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, in place of one that ran before, and wait until it is ready.

        Raises:
            EngineError: it ended, or was not ready by the deadline; the message ends with what it printed last.
        """
        self.stop()
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + self.config.start_deadline_s
        while not self._ready():
            if self.process.poll() is not None:
                raise EngineError(f"vLLM could not be started ({self.url}): it ended with {self.last_words()}")
            if time.monotonic() > deadline:
                self.stop()
                limit = f"{self.config.start_deadline_s:g} s"
                raise EngineError(f"vLLM was not ready after {limit} ({self.url}); {self.last_words()}")
            time.sleep(0.2)

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=5).is_success
        except httpx.HTTPError:
            return False

    def last_words(self) -> str:
        """The last error that the server printed, or else its last line."""
        lines = [line for line in self.log_path.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if "Error" in line]
        return f"{(errors or lines or ['no output'])[-1].strip()} (all of it: {self.log_path})"

    def stop(self) -> None:
        """End the server and its children."""
        if self.process is None:
            return
        for signal, patience in ((SIGTERM, 10), (SIGKILL, None)):
            try:
                os.killpg(self.process.pid, signal)
                self.process.wait(patience)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process = None


def free_port(wanted: int | None) -> int:
    """``wanted``, or any port that nothing listens on.

    Raises:
        EngineError: ``wanted`` is in use.
    """
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", wanted or 0))
        except OSError as error:
            raise EngineError(f"port {wanted} is in use: choose another engine.port, or null for a free one") from error
        return int(probe.getsockname()[1])


class Replica:
    """A vLLM server and what the trainer knows of it. ``load`` counts the rollouts that it has to draw; ``lost`` is set
    once it does not answer."""

    def __init__(self, url: str, process: ServerProcess | None, timeout_s: float) -> None:
        self.url = url.rstrip("/")
        self.process = process
        self.load = 0
        self.lost = asyncio.Event()
        self.restarts_left = 1
        self.max_num_seqs = 1
        self.max_model_len = 0
        self._client = httpx.Client(base_url=self.url, timeout=timeout_s)

    def check(self, dtype: str) -> None:
        """Take the replica's settings.

        Raises:
            EngineError: it is another vLLM, or was not started in the way that training needs.
            ReplicaLost: it does not answer.
        """
        version = str(self.get("/version")["version"])
        if version.split(".")[:2] != VLLM_VERSION.split("."):
            raise EngineError(f"{self.url} runs vLLM {version}: start it with vllm=={VLLM_VERSION}.0, as posttrain has")
        try:
            (settings,) = self.call("posttrain_describe")
        except ReplicaLost:
            raise
        except EngineError as error:
            raise EngineError(
                f"{self.url} is no replica to train with: start it with VLLM_SERVER_DEV_MODE=1, --enable-scale-out and "
                f"--worker-extension-cls posttrain.rollout.vllm_worker.SyncExtension ({error})"
            ) from error
        wanted = {"dtype": dtype, "logprobs_mode": "processed_logprobs"}
        differing = [f"{key} {settings[key]}, not {value}" for key, value in wanted.items() if settings[key] != value]
        if differing:
            raise EngineError(f"{self.url} runs with {' and '.join(differing)}")
        self.max_num_seqs, self.max_model_len = settings["max_num_seqs"], settings["max_model_len"]

    def answers(self, timeout_s: float) -> bool:
        """Whether it is there."""
        try:
            return self._client.get("/health", timeout=timeout_s).is_success
        except httpx.HTTPError:
            return False

    def load_weights(self, folder: Path) -> None:
        """Replace the policy by that of ``folder``."""
        self.call("posttrain_load", str(folder))

    def enter_version(self, version: int) -> None:
        """Forget every key and value of the old weights, and stamp what is drawn from now on."""
        if not self.post("/reset_prefix_cache")["success"]:
            raise EngineError(f"{self.url} did not reset its prefix cache; its rollouts would mix two policies")
        self.post("/update_weight_version", new_version=str(version))

    def version(self) -> str:
        """The version that its rollouts are stamped with."""
        return str(self.get("/weight_info")["weight_version"])

    def fingerprint(self) -> dict[str, float]:
        """The number of every tensor in use."""
        (numbers,) = self.call("posttrain_fingerprint")
        return {name: float(number) for name, number in numbers.items()}

    def call(self, method: str, *arguments: str) -> list[Any]:
        """The result of a method on each of the replica's workers, of which there may be only one."""
        results: list[Any] = self.post("/collective_rpc", method=method, args=list(arguments))["results"]
        if len(results) != 1:
            raise EngineError(f"{self.url} has {len(results)} workers; run one GPU a replica, and more replicas")
        return results

    def get(self, path: str) -> Any:
        return self._answer("GET", path, None)

    def post(self, path: str, **body: Any) -> Any:
        return self._answer("POST", path, body)

    def _answer(self, verb: str, path: str, body: Mapping[str, Any] | None) -> Any:
        try:
            response = self._client.request(verb, path, json=body)
        except httpx.HTTPError as error:
            raise ReplicaLost(f"{self.url}{path}: {type(error).__name__} {error}") from error
        if not response.is_success:
            raise EngineError(f"{self.url}{path} answers {response.status_code}: {response.text[:300]}")
        return response.json()

    def close(self) -> None:
        """End the process, if there is one."""
        self._client.close()
        if self.process is not None:
            self.process.stop()
