"""Keys, sizes, paces: what the server refuses, and that it says so."""

import contextlib
import json
import socket
import time
from typing import Any

import pytest

REWARDS = {"commanded": {"type": "served_rewards:Commanded"}}
LIMITS = (
    "server.max_body_mb=1", "server.max_items=8", "server.max_item_tokens=1000", "server.max_nesting=4",
    "server.body_timeout_s=1.5", "server.idle_timeout_s=1", "server.timeout_s=5",
)  # fmt: skip
KEYS = ("first-key", "second-key")


@pytest.fixture(scope="module")
def limited(start_server: Any) -> Any:
    return start_server(REWARDS, *LIMITS)


@pytest.fixture(scope="module")
def locked(start_server: Any) -> Any:
    return start_server(REWARDS, env={"POSTTRAIN_API_KEYS": ",".join(KEYS)})


def closed_after(connection: socket.socket) -> tuple[float, bytes]:
    """Seconds until the server closes, and what it sent before."""
    started, received = time.monotonic(), b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(1 << 16):
            received += data
    return time.monotonic() - started, received


@pytest.mark.parametrize("key", KEYS)
def test_each_key_opens(locked: Any, key: str) -> None:
    for scheme in ("Bearer", "bearer"):
        reply = locked.http.post("/v1/score", json={"items": []}, headers={"authorization": f"{scheme} {key}"})
        assert reply.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer"}, {"authorization": "Basic first-key"},
     {"authorization": "Bearer first-ke"}, {"authorization": b"Bearer \xff\xfe"}, {"x-api-key": "first-key"}],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/score", "/get_reward", "/slime", "/score", "/classify", "/pooling", "/metrics"])
def test_no_route_that_scores_or_measures_opens_without_a_key(locked: Any, path: str, headers: dict[str, Any]) -> None:
    method = "GET" if path == "/metrics" else "POST"
    reply = locked.http.request(method, path, headers=headers)
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"] == "Bearer"


def test_probes_need_no_key_and_keys_are_not_logged(locked: Any) -> None:
    assert locked.http.get("/health").status_code == locked.http.get("/ready").status_code == 200
    headers = {"authorization": f"Bearer {KEYS[0]}", "content-type": "application/json"}
    locked.http.post("/v1/score", content=b"{", headers=headers)
    assert not any(key in locked.log() + locked.http.get("/metrics", headers=headers).text for key in KEYS)


def test_too_large_a_body(limited: Any) -> None:
    assert limited.score("a" * 4000).status_code == 413  # tokens of an item
    assert limited.score(*"abcdefghi").status_code == 413  # items
    body = b'{"items":[{"completion":"' + b"a" * (1 << 20) + b'"}]}'
    reply = limited.http.post("/v1/score", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 413
    assert "1 MB" in reply.json()["error"]["message"]

    def stream() -> Any:
        for _ in range(64):
            yield b" " * (1 << 15)

    reply = limited.http.post("/v1/score", content=stream(), headers={"content-type": "application/json"})
    assert reply.status_code == 413


def test_nesting(limited: Any) -> None:
    def status(column: Any) -> int:
        reply = limited.http.post("/v1/score", json={"items": [{"completion": "a", "column": column}]})
        return int(reply.status_code)

    assert status([[{"a": [1]}]]) == 200
    assert status([[{"a": [[1]]}]]) == 422
    deep = b'{"items":[{"completion":"a","column":' + b"[" * 10_000 + b"]" * 10_000 + b"}]}"
    reply = limited.http.post("/v1/score", content=deep, headers={"content-type": "application/json"})
    assert reply.status_code == 400


def test_a_slow_body_is_cut_off(limited: Any) -> None:
    with limited.connect() as connection:
        connection.sendall(b"POST /v1/score HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n")
        for _ in range(2):
            time.sleep(0.4)
            connection.sendall(b" ")
        seconds, received = closed_after(connection)
    assert b"408" in received.split(b"\r\n")[0]
    assert seconds < 5


@pytest.mark.parametrize("start", [b"", b"POST /v1/sco", b"POST /v1/score HTTP/1.1\r\nhost: a\r\nx-slow: "])
def test_a_connection_without_a_whole_head_is_cut_off(limited: Any, start: bytes) -> None:
    with limited.connect() as connection:
        connection.sendall(start)
        seconds, received = closed_after(connection)
    assert received == b""
    assert 1 < seconds < 5


def test_a_head_that_trickles_is_cut_off_too_also_after_an_answer(limited: Any) -> None:
    with limited.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
        time.sleep(0.3)
        assert b'{"status":"ok"}' in connection.recv(1 << 16)
        started = time.monotonic()
        connection.sendall(b"GET /health HTTP/1.1\r\nx: ")
        with contextlib.suppress(OSError):  # the second send after the close fails
            while time.monotonic() - started < 10:
                connection.sendall(b"y")
                time.sleep(0.2)
        assert 1 < time.monotonic() - started < 5


def test_an_idle_connection_is_closed(limited: Any) -> None:
    with limited.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
        seconds, received = closed_after(connection)
    assert received.startswith(b"HTTP/1.1 200")
    assert 0.5 < seconds < 5


def test_a_head_without_end_is_refused(limited: Any) -> None:
    with limited.connect() as connection:
        with contextlib.suppress(OSError):
            connection.sendall(b"GET /health HTTP/1.1\r\n" + b"x: y\r\n" * 40_000)
        seconds, received = closed_after(connection)
    assert seconds < 1.4
    assert received.startswith(b"HTTP/1.1 400") or received == b""


def test_a_full_queue_says_when_to_come_back(start_server: Any) -> None:
    slow = {"slow": {"type": "served_rewards:Commanded", "seconds_per_batch": 0.5}}
    server = start_server(slow, "server.max_items=4", "server.max_queued_items=4", "server.batch_tokens=1")
    connections = [server.connect() for _ in range(6)]
    body = json.dumps({"items": [{"completion": "a"}] * 4}).encode()
    head = b"POST /v1/score HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nconnection: close\r\n"
    for connection in connections:
        connection.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        time.sleep(0.05)
    answers = [closed_after(connection)[1] for connection in connections]
    statuses = [int(answer.split()[1]) for answer in answers]
    assert statuses[0] == 200
    assert statuses.count(429) >= 3
    assert set(statuses) == {200, 429}
    refused = answers[statuses.index(429)].lower()
    assert b"retry-after: " in refused
    for connection in connections:
        connection.close()


def test_too_many_requests_at_once(start_server: Any) -> None:
    server = start_server(REWARDS, "server.max_requests=1")
    with server.connect() as connection:
        connection.sendall(b"POST /v1/score HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n")
        time.sleep(0.3)
        reply = server.score("a")
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")
    time.sleep(0.3)
    assert server.score("a").status_code == 200
