"""Under load: a worker is killed, the server is told to stop, clients send garbage or vanish. Each request that was
accepted is answered once, and rightly."""

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from typing import Any

import httpx
import pytest

CLIENTS = 16


class Load:
    """Clients that keep asking for the length of different completions, and check each answer."""

    def __init__(self, server: Any, clients: int = CLIENTS) -> None:
        self.server = server
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[Any] = []
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, client: int) -> None:
        with httpx.Client(base_url=self.server.url, timeout=30.0, trust_env=False) as http:
            number = client
            while not self._stop.is_set():
                number += CLIENTS
                lengths = [number % 300 + 10, number % 70 + 10]
                try:
                    items = [{"completion": "a" * length} for length in lengths]
                    reply = http.post("/v1/score", json={"items": items})
                except httpx.TransportError as error:
                    self._count(type(error).__name__)
                    continue
                if reply.status_code != 200:
                    self._count(str(reply.status_code))
                    continue
                results = reply.json()["results"]
                if len(results) != 2:
                    self.wrong.append(results)
                for length, result in zip(lengths, results, strict=False):
                    self._count(result["error"] or "scored")
                    if result["error"] is None and result["score"] != length:
                        self.wrong.append((length, result))

    def _count(self, outcome: str) -> None:
        with self._lock:
            self.outcomes[outcome] += 1


@pytest.fixture
def fresh(start_server: Any) -> Any:
    return start_server({"commanded": {"type": "served_rewards:Commanded", "seconds_per_batch": 0.005}})


def test_workers_are_killed_under_load(fresh: Any) -> None:
    with Load(fresh) as load:
        for _ in range(3):
            time.sleep(1.0)
            for worker in fresh.workers():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
        time.sleep(3.0)
    assert load.wrong == []
    assert set(load.outcomes) <= {"scored", "crashed"}
    assert load.outcomes["scored"] > 50
    assert load.outcomes["crashed"] <= 3 * 2 * CLIENTS
    assert fresh.results("abc")[0]["score"] == 3.0


def test_sigterm_under_load_drains(fresh: Any) -> None:
    with Load(fresh) as load:
        time.sleep(1.5)
        asked_to_stop = time.monotonic()
        status = fresh.stop()
    assert (status, load.wrong) == (0, [])
    assert time.monotonic() - asked_to_stop < 20
    # Connections that had no request are closed, and new ones refused; what was accepted has its score.
    assert set(load.outcomes) <= {"scored", "ConnectError", "ReadError", "RemoteProtocolError", "WriteError"}
    assert load.outcomes["scored"] > 50
    assert "Traceback" not in fresh.log()


def test_a_request_that_runs_at_sigterm_is_answered(start_server: Any) -> None:
    server = start_server({"commanded": {"type": "served_rewards:Commanded"}})
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(server.score("sleep 2")))
    half_open = server.connect()
    half_open.sendall(b"POST /v1/score HTTP/1.1\r\n")
    asking.start()
    time.sleep(0.5)
    server.process.send_signal(signal.SIGTERM)
    asking.join()
    assert answers[0].json()["results"][0]["score"] == len("sleep 2")
    assert server.process.wait(10) == 0
    half_open.close()


BAD_BODIES: dict[str, bytes] = {
    "malformed": b'{"items": [',
    "nested": b"[" * 10_000 + b"]" * 10_000,
    "nested objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "wrong types": b'{"items": [{"completion": 7, "prompt": {"a": 1}, "references": "x"}]}',
    "not an object": b"[]",
    "nothing": b"",
    "NUL": b'{"items": [\x00]}',
    "invalid UTF-8": b'{"items": [{"completion": "\xff\xfe"}]}',
    "lone surrogate": b'{"items": [{"completion": "\\ud800"}]}',
    "lone surrogate key": b'{"items": [{"completion": "a", "\\udfff": 1}]}',
    "NaN": b'{"items": [{"completion": "a", "column": NaN}]}',
    "huge number": b'{"items": [{"completion": "a", "answer": 1' + b"0" * 5000 + b"}]}",
    "odd names": b'{"__class__": 1, "items": [{"completion": "a", "__init__": 1, "model_fields": 2}]}',
}
ROUTES = ("/v1/score", "/get_reward", "/slime", "/score", "/classify", "/pooling")


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
@pytest.mark.parametrize("route", ROUTES)
def test_bad_bodies(server: Any, route: str, body: bytes) -> None:
    reply = server.http.post(route, content=body, headers={"content-type": "application/json"})
    accepted = route == "/v1/score" and b"__class__" in body  # unknown keys of a request are read over
    assert reply.status_code in ((200,) if accepted else (400, 422))
    if not accepted:
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


def test_nul_characters_are_text(server: Any) -> None:
    assert server.results("a\x00b")[0]["score"] == 3.0


def test_garbage_vanishing_clients_and_a_body_of_100_mb_under_load(fresh: Any) -> None:
    with Load(fresh, clients=4) as load:
        for _ in range(20):
            half_open = fresh.connect()
            half_open.sendall(b"POST /v1/score HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n{")
            half_open.close()
            garbage = fresh.connect()
            garbage.sendall(os.urandom(200))
            garbage.close()
        asked = fresh.connect()  # a client that does not wait for its answer
        body = b'{"items":[{"completion":"abc"}]}'
        asked.sendall(b"POST /v1/score HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        asked.close()
        before = resident_mb(fresh.process.pid)
        large = fresh.http.post("/v1/score", content=b" " * 100_000_000, headers={"content-type": "application/json"})
        assert large.status_code == 413
        assert resident_mb(fresh.process.pid) < before + 40
        time.sleep(0.5)
    assert load.wrong == []
    assert set(load.outcomes) == {"scored"}
    assert fresh.http.get("/ready").status_code == 200


def resident_mb(pid: int) -> float:
    with open(f"/proc/{pid}/status") as status:
        line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024
