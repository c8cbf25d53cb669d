"""The clients and the ``remote`` reward, against real servers that come and go."""

import asyncio
import math
import random
import signal
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from posttrain.errors import RewardFailure
from posttrain.rewards.remote.client import AsyncRewardClient, RewardClient
from posttrain.rewards.remote.remote import RemoteReward
from posttrain.rewards.reward import RewardInput
from posttrain.types import Example

COMMANDED = {"commanded": {"type": "served_rewards:Commanded"}}


def item(completion: str, **example: Any) -> RewardInput:
    return RewardInput(Example(id="7", prompt="p", **example), completion)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def remote(*urls: str, **settings: Any) -> Any:
    return RemoteReward(urls=list(urls), **settings).build()


def test_scores_in_order_over_several_requests(server: Any) -> None:
    reward = remote(server.url, items_per_request=7)
    outputs = reward.score([item("a" * (number + 1)) for number in range(50)])
    assert [output.score for output in outputs] == list(range(1, 51))
    assert reward.score([]) == []
    reward.close()
    assert reward.score([item("abc")])[0].score == 3.0  # connects again
    reward.close()


def test_the_whole_example_arrives(server: Any) -> None:
    reward = remote(server.url, model="integer")
    outputs = reward.score([item("42", answer="42"), item("41", answer="42", metadata={"answer": "no", "k": [1]})])
    assert [output.score for output in outputs] == [1.0, 0.0]
    reward.close()


def test_errors_of_single_items_are_kept(server: Any) -> None:
    reward = remote(server.url)
    bad = [item("raise"), item("nan"), item("path"), item("a", metadata={"x": float("nan")}), item("\ud800")]
    outputs = reward.score([item("abc"), *bad, item("tokens")])
    kinds = [None, "crashed", "not_finite", "unparseable", "invalid_input", "invalid_input", None]
    assert [output.error for output in outputs] == kinds
    assert outputs[0].score == 3.0
    assert "JSON" in outputs[4].message and "[path]" in outputs[3].message
    assert outputs[-1].parts["truncated_tokens"] == 3.0 and math.isinf(outputs[-1].parts["odd"]) is False
    reward.close()


def test_items_that_a_server_refuses_are_found(start_server: Any) -> None:
    server = start_server(COMMANDED, "server.max_item_tokens=100", "server.max_items=4")
    client = RewardClient([server.url], items_per_request=64)
    outputs = client.score([item("a" * 20) for _ in range(10)] + [item("a" * 1000)] + [item("b")])
    assert [output.score for output in outputs] == [20.0] * 10 + [None] + [1.0]
    assert outputs[10].error == "invalid_input" and "100 tokens" in outputs[10].message
    client.close()


def test_token_scores_when_asked(server: Any) -> None:
    client = RewardClient([server.url])
    assert client.score([item("tokens")])[0].token_scores == []
    scores = client.score([item("tokens")], token_scores=True)[0].token_scores
    assert scores[0] == 0.5 and math.isnan(scores[1])
    client.close()


def test_the_async_client_is_the_same(server: Any) -> None:
    async def scores() -> list[float | None]:
        client = AsyncRewardClient([server.url], connections=4)
        outputs = await asyncio.gather(*(client.score([item("a" * number)]) for number in range(1, 20)))
        await client.close()
        return [output.score for one in outputs for output in one]

    assert asyncio.run(scores()) == list(range(1, 20))


def test_a_wrong_key_or_name_stops(start_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start_server(COMMANDED, env={"POSTTRAIN_API_KEYS": "right"})
    reward = remote(server.url)
    with pytest.raises(RewardFailure, match="API key"):
        reward.score([item("a")])
    reward.close()
    monkeypatch.setenv("POSTTRAIN_API_KEY", "right")
    assert reward.score([item("a")])[0].score == 1.0
    reward.close()
    nobody = remote(server.url, model="nobody")
    with pytest.raises(RewardFailure, match="no reward of that name"):
        nobody.score([item("a")])
    nobody.close()


def test_servers_of_different_rewards_are_told(server: Any, start_server: Any) -> None:
    other = start_server({"commanded": {"type": "served_rewards:Commanded", "seconds_per_batch": 0.001}})
    reward = remote(server.url, other.url, items_per_request=1)
    with pytest.raises(RewardFailure, match="another reward"):
        reward.score([item("a") for _ in range(40)])
    reward.close()


def test_while_no_server_can_be_reached_it_waits_up_to_the_deadline() -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    reward = remote(url, deadline_s=1.0)
    started = time.monotonic()
    outputs = reward.score([item("a"), item("b")])
    assert 0.9 < time.monotonic() - started < 3.0
    assert [output.error for output in outputs] == ["unavailable"] * 2
    assert url in outputs[0].message and "ConnectError" in outputs[0].message
    reward.close()


def test_a_server_that_is_away_for_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked at waits that double, and what was asked for is scored when it is back."""
    monkeypatch.setattr("posttrain.rewards.remote.client.jitter", SimpleNamespace(uniform=max, random=float))
    away, asked = 30.0, []

    async def pass_time(seconds: float) -> None:
        nonlocal away
        away -= seconds
        for server in client._servers:
            server.away_until -= seconds

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(30.0 - away)
        if away > 0:
            raise httpx.ConnectError("refused", request=request)
        return httpx.Response(200, json={"results": [{"score": 1.0, "parts": {}, "error": None}], "digest": "d"})

    async def score() -> Any:
        nonlocal client
        client = AsyncRewardClient(["http://away"])
        client._http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
        monkeypatch.setattr(asyncio, "sleep", pass_time)
        return await client.score([item("a")])

    client: Any = None
    assert asyncio.run(score())[0].score == 1.0
    waits = [after - before for before, after in pairwise(asked)]
    assert waits == pytest.approx([0.375, 0.75, 1.5, 3.0, 6.0, 12.0, 22.5], abs=0.2)


def test_a_server_that_never_answers_is_unavailable_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        reward = remote(f"http://127.0.0.1:{silent.getsockname()[1]}", deadline_s=1.0)
        started = time.monotonic()
        assert reward.score([item("a")])[0].error == "unavailable"
        assert time.monotonic() - started < 3.0
        reward.close()


class Scripted(BaseHTTPRequestHandler):
    """Answers with the statuses of ``script``, then with a score."""

    script: tuple[tuple[int, str], ...] = ()
    times: list[float]

    def do_POST(self) -> None:
        type(self).times.append(time.monotonic())
        self.rfile.read(int(self.headers["content-length"]))
        step = len(type(self).times) - 1
        status, retry_after = type(self).script[step] if step < len(type(self).script) else (200, "")
        if status == 0:  # the connection breaks
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        result = b'{"results":[{"score":1.0,"parts":{},"error":null,"truncated":false}],"digest":"d"}'
        body = result if status == 200 else b'{"error":{"message":"not now"}}'
        self.send_response(status)
        if retry_after:
            self.send_header("retry-after", retry_after)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def scripted(serve: Any) -> Any:
    class Handler(Scripted):
        times: list[float] = []  # noqa: RUF012

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serve(http)
    return Handler, f"http://127.0.0.1:{http.server_port}"


def test_what_may_pass_is_tried_again_after_the_time_that_the_server_names(scripted: Any) -> None:
    handler, url = scripted
    handler.script = ((429, "1"), (503, ""), (0, ""), (500, ""))
    reward = remote(url)
    assert reward.score([item("a")])[0].score == 1.0
    gaps = [later - earlier for earlier, later in zip(handler.times, handler.times[1:], strict=False)]
    assert len(gaps) == 4
    assert 1.0 <= gaps[0] < 2.5
    assert gaps[1] > 0.4 and gaps[2] > 0.9 and gaps[3] > 1.9  # each wait is twice the one before
    reward.close()


@pytest.mark.parametrize("header", ["0", "soon", "\u00b2"])
def test_a_retry_after_that_names_no_time_is_read_over(scripted: Any, header: str) -> None:
    handler, url = scripted
    handler.script = ((503, header),)
    reward = remote(url)
    assert reward.score([item("a")])[0].score == 1.0
    assert handler.times[1] - handler.times[0] > 0.2
    reward.close()


def test_a_body_that_came_too_slowly_is_sent_again(scripted: Any) -> None:
    handler, url = scripted
    handler.script = ((408, ""),)
    reward = remote(url)
    assert reward.score([item("a")])[0].score == 1.0
    reward.close()


def test_the_generator_of_the_process_is_not_drawn_from(scripted: Any) -> None:
    handler, url = scripted
    handler.script = ((503, ""),)
    before = random.getstate()
    reward = remote(url)
    reward.score([item("a")])
    reward.close()
    assert random.getstate() == before


def test_an_empty_key_is_none(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTTRAIN_API_KEY", "")
    reward = remote(server.url, deadline_s=5.0)
    assert reward.score([item("a")])[0].score == 1.0
    reward.close()


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_what_cannot_pass_is_not_tried_again(scripted: Any, status: int) -> None:
    handler, url = scripted
    handler.script = ((status, ""),) * 3
    reward = remote(url)
    with pytest.raises(RewardFailure, match="not now"):
        reward.score([item("a")])
    assert len(handler.times) == 1
    reward.close()


def test_an_answer_of_something_else_stops(scripted: Any) -> None:
    handler, url = scripted
    handler.script = ((200, ""),)
    reward = remote(url, items_per_request=2)
    with pytest.raises(RewardFailure, match="1 results for 2 items"):
        reward.score([item("a"), item("b")])
    reward.close()


def test_one_of_two_servers_dies_and_another_comes_back(start_server: Any) -> None:
    reward = {"commanded": {"type": "served_rewards:Commanded", "seconds_per_batch": 0.01}}
    first, second = start_server(reward), start_server(reward)
    client = RewardClient([first.url, second.url], items_per_request=2, deadline_s=60.0)
    stop = time.monotonic() + 3.0
    killer = threading.Timer(1.0, first.process.send_signal, (signal.SIGKILL,))
    killer.start()
    wrong: list[Any] = []
    shares: Counter[float] = Counter()

    def ask(number: int) -> None:
        while time.monotonic() < stop:
            output = client.score([item("a" * (number + 1))])[0]
            shares[output.parts.get("process", 0.0)] += 1
            if output.score != number + 1:
                wrong.append(output)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    assert wrong == []
    assert len(shares) == 2 and min(shares.values()) > 10  # both worked, and the second alone after the first died
    client.close()


def test_a_server_that_is_restarted_is_found_again(start_server: Any) -> None:
    first = start_server(COMMANDED)
    port, url = first.port, first.url
    reward = remote(url, deadline_s=60.0)
    assert reward.score([item("abc")])[0].score == 3.0
    first.stop()
    scores: list[Any] = []
    waiting = threading.Thread(target=lambda: scores.extend(reward.score([item("abcd")])))
    waiting.start()
    start_server(COMMANDED, f"server.port={port}")
    waiting.join()
    assert scores[0].score == 4.0
    reward.close()
