"""One vLLM server: its process, if this one started it, and the calls that control it."""

import asyncio
import os
import re
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

MOST_SHOWN = 400  # characters of an error: some list every architecture that vLLM knows


class ReplicaLost(EngineError):
    """A replica does not answer."""


class ServerProcess:
    """The ``number``-th replica that the job starts, on the loopback interface; ``log`` is what it prints.

    Raises:
        EngineError: its port is in use.
    """

    def __init__(self, model_path: str, config: VLLMServerEngineConfig, seed: int, number: int, log: Path) -> None:
        self.config, self.log = config, log
        wanted = 0 if config.port is None else config.port + number
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", wanted))
            except OSError as error:
                raise EngineError(f"port {wanted} is in use: choose another engine.port, or null for any") from error
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        arguments = [model_path, config.model_dump_json(), str(seed), str(self.port)]
        self.command = [sys.executable, "-m", "posttrain.rollout.vllm_replica", *arguments]
        self.environment = dict(os.environ)
        if config.devices:
            self.environment["CUDA_VISIBLE_DEVICES"] = config.devices[number]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, in place of one that ran before, and wait until it is ready.

        Raises:
            EngineError: it ended, or was not ready by the deadline; the message has the last error that it printed.
        """
        self.stop()
        with self.log.open("ab") as log:
            begun = log.tell()
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + self.config.start_deadline_s
        while not is_healthy(self.url, 5.0):
            ended = self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.stop()
                when = "ended before it was ready" if ended else f"was not ready in {self.config.start_deadline_s:g} s"
                said = last_error(self.log.read_bytes()[begun:].decode(errors="replace"))
                raise EngineError(f"vLLM could not be started: {self.url} {when}: {said} (all of it: {self.log})")
            time.sleep(0.2)

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
        self.process.communicate()
        self.process = None


def last_error(log: str) -> str:
    """The last error of ``log``, with the reason where pydantic tells it on the next lines; or else the last line."""
    told = (re.sub(r"^\([^)]* pid=\d+\)", "", line).strip() for line in log.splitlines())
    lines = [line for line in told if line] or ["nothing"]
    first = max((place for place, line in enumerate(lines) if "Error" in line), default=len(lines) - 1)
    until = first + 1
    if "validation error" in lines[first]:
        until = next((n for n in range(until, len(lines)) if lines[n].startswith("For further information")), until)
    return re.sub(r" \[type=\w+, .*", "", " ".join(lines[first:until]))[:MOST_SHOWN]


def is_healthy(url: str, timeout_s: float) -> bool:
    """Whether a server is there and ready."""
    try:
        return httpx.get(f"{url}/health", timeout=timeout_s).is_success
    except httpx.HTTPError:
        return False


class Replica:
    """A vLLM server and what the trainer knows of it: ``load`` rollouts that it has to draw, whether it is ``lost``,
    and its ``revival`` on another thread."""

    def __init__(self, url: str, process: ServerProcess | None, timeout_s: float) -> None:
        self.url = url.rstrip("/")
        self.process = process
        self.load = 0
        self.lost = asyncio.Event()
        self.revival: asyncio.Future[None] | None = None
        self.restarts_left = 1
        self.max_num_seqs, self.max_model_len, self.workers = 1, 0, 1
        self.adapter: str | None = None  # the name of the newest, for requests
        self.sender: Any = None  # of vLLM's weight transfer
        # every call on a connection of its own: the server closes those that are idle between weight updates
        self._client = httpx.Client(
            base_url=self.url, timeout=timeout_s, limits=httpx.Limits(max_keepalive_connections=0)
        )

    def check(self, needed: Mapping[str, Any], max_lora_rank: int) -> None:
        """Take the replica's settings, of which some must be as ``needed``.

        Raises:
            EngineError: it is another vLLM, or was not started in the way that training needs.
            ReplicaLost: it does not answer.
        """
        version = str(self.request("GET", "/version")["version"])
        if version.split(".")[:2] != VLLM_VERSION.split("."):
            raise EngineError(f"{self.url} runs vLLM {version}: start it with vllm=={VLLM_VERSION}.0, as posttrain has")
        try:
            settings = self.call("posttrain_describe")
        except ReplicaLost:
            raise
        except EngineError as error:
            raise EngineError(
                f"{self.url} is no replica to train with: start it with VLLM_SERVER_DEV_MODE=1, --enable-scale-out and "
                f"--worker-extension-cls posttrain.rollout.vllm_worker.SyncExtension ({error})"
            ) from error
        for key, wanted in needed.items():
            if settings[key] != wanted:
                raise EngineError(f"{self.url} runs with {key} {settings[key]}, not {wanted}")
        if settings["max_lora_rank"] < max_lora_rank:
            raise EngineError(
                f"{self.url} takes no adapter of rank {max_lora_rank}: start it with --enable-lora --max-lora-rank "
                f"{max_lora_rank} and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"
            )
        self.max_num_seqs, self.max_model_len = settings["max_num_seqs"], settings["max_model_len"]
        self.workers = settings["tensor_parallel"]
        self.sender = self.adapter = None

    def load_adapter(self, folder: Path) -> None:
        """Draw rollouts with the PEFT adapter in ``folder`` from now on, in place of the one before.

        Raises:
            EngineError: vLLM does not take it; the message says why.
        """
        self._send("POST", "/v1/load_lora_adapter", lora_name=folder.name, lora_path=str(folder))
        previous, self.adapter = self.adapter, folder.name
        if previous is not None:
            self._send("POST", "/v1/unload_lora_adapter", lora_name=previous)

    def enter_version(self, version: int) -> None:
        """Forget every key and value of the old weights, and stamp what is drawn from now on.

        Raises:
            EngineError: the replica did not do so.
        """
        deadline = time.monotonic() + 10  # a rollout that was aborted just now may hold a part of the cache
        while not self.request("POST", "/reset_prefix_cache")["success"]:
            if time.monotonic() > deadline:
                raise EngineError(f"{self.url} did not reset its prefix cache; its rollouts would mix two policies")
            time.sleep(0.1)
        self.request("POST", "/update_weight_version", new_version=str(version))
        reported = self.request("GET", "/weight_info")["weight_version"]
        if reported != str(version):
            raise EngineError(f"{self.url} reports policy version {reported} after a sync to {version}")

    def fingerprint(self) -> dict[str, float]:
        """The number of every tensor in use."""
        return {name: float(number) for name, number in self.call("posttrain_fingerprint").items()}

    def call(self, method: str, *arguments: str) -> Any:
        """What a method of ``SyncExtension`` answers, on all workers alike.

        Raises:
            EngineError: the workers differ, or the method fails.
        """
        first, *others = self.request("POST", "/collective_rpc", method=method, args=list(arguments))["results"]
        for key in (key for other in others for key in first if other[key] != first[key]):
            raise EngineError(f"{self.url}: its {len(others) + 1} workers do not agree on {key} ({method})")
        return first

    def request(self, verb: str, path: str, **body: Any) -> Any:
        """The JSON that the server answers.

        Raises:
            ReplicaLost: it does not answer.
            EngineError: it answers with an error.
        """
        return self._send(verb, path, **body).json()

    def _send(self, verb: str, path: str, **body: Any) -> httpx.Response:
        try:
            response = self._client.request(verb, path, json=body)
        except httpx.HTTPError as error:
            raise ReplicaLost(f"{self.url}{path}: {type(error).__name__} {error}") from error
        if not response.is_success:
            raise EngineError(f"{self.url}{path} answers {response.status_code}: {response.text[:300]}")
        return response

    def close(self) -> None:
        """End the process, if there is one."""
        self._client.close()
        if self.process is not None:
            self.process.stop()
