"""Batches across requests, deadlines, and processes that end."""

import asyncio
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.rewards.service.batching import PendingRequest, QueueFull, RequestQueue, estimated_tokens
from posttrain.rewards.service.config import ServerConfig
from posttrain.types import Example


def item(completion: str) -> RewardInput:
    return RewardInput(Example(id="0", prompt=""), completion)


def wait_until(condition: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_requests_share_a_batch_up_to_its_tokens() -> None:
    async def batches() -> list[list[int]]:
        queue = RequestQueue(ServerConfig(batch_tokens=30, max_wait_ms=0))
        first, second = PendingRequest([item("a" * 36)] * 2), PendingRequest([item("a" * 36)] * 3)
        assert first.tokens == [10, 10]
        queue.put(first)
        queue.put(second)
        taken = [await queue.take(), await queue.take()]
        assert (queue.items, queue.tokens) == (0, 0)
        return [[1 if request is first else 2 for request, _ in batch] for batch in taken]

    assert asyncio.run(batches()) == [[1, 1, 2], [2, 2]]


def test_an_item_larger_than_a_batch_goes_alone_and_expired_requests_are_passed_over() -> None:
    async def sizes() -> list[int]:
        queue = RequestQueue(ServerConfig(batch_tokens=30, max_wait_ms=0))
        expired = PendingRequest([item("b")] * 5)
        for request in (PendingRequest([item("a")]), PendingRequest([item("a" * 4000)]), expired):
            queue.put(request)
        expired.expire()
        queue.put(PendingRequest([item("c")]))
        return [len(await queue.take()) for _ in range(3)]

    assert asyncio.run(sizes()) == [1, 1, 1]


def test_a_batch_waits_for_more_until_it_is_full() -> None:
    async def seconds(completions: list[str]) -> tuple[int, float]:
        queue = RequestQueue(ServerConfig(batch_tokens=30, max_wait_ms=300))
        queue.put(PendingRequest([item("a")]))
        started = time.monotonic()
        taking = asyncio.create_task(queue.take())
        await asyncio.sleep(0.05)
        for completion in completions:
            queue.put(PendingRequest([item(completion)]))
        return len(await taking), time.monotonic() - started

    items, waited = asyncio.run(seconds(["b"]))
    assert items == 2 and waited >= 0.29
    items, waited = asyncio.run(seconds(["b" * 200]))
    assert items == 1 and waited < 0.2


def test_a_queue_is_bounded_by_items_and_by_tokens() -> None:
    async def check() -> None:
        queue = RequestQueue(ServerConfig(max_queued_items=4, max_queued_tokens=1000))
        queue.put(PendingRequest([item("a")] * 3))
        queue.put(PendingRequest([item("a")]))
        with pytest.raises(QueueFull) as full:
            queue.put(PendingRequest([item("a")]))
        assert full.value.retry_after_s >= 1
        assert queue.items == 4
        other = RequestQueue(ServerConfig(max_queued_items=4, max_queued_tokens=1000))
        other.put(PendingRequest([item("a" * 8000)]))  # alone, so that a legal request can always be served
        with pytest.raises(QueueFull):
            other.put(PendingRequest([item("a")]))

    asyncio.run(check())


def test_answers_after_the_deadline_are_discarded() -> None:
    async def outputs() -> list[RewardOutput]:
        request = PendingRequest([item("a"), item("b")])
        request.answer(1, RewardOutput(2.0))
        request.expire()
        request.answer(0, RewardOutput(1.0))
        return await request.done

    late, early = asyncio.run(outputs())
    assert (late.error, early.score) == ("timeout", 2.0)


def test_tokens_are_counted_from_ids_where_there_are_some() -> None:
    example = Example(id="0", prompt=[{"role": "user", "content": "c" * 36}], answer=["d" * 20], references=["e" * 20])
    assert estimated_tokens(RewardInput(example, "f" * 40, list(range(100)))) == 1 + 100 + 80 // 4


def test_concurrent_requests_coalesce(start_server: Any) -> None:
    reward = {"type": "served_rewards:Commanded", "seconds_per_batch": 0.1}
    server = start_server({"slow": reward})
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda number: server.results("a" * number), range(1, 65)))
    assert [result[0]["score"] for result in results] == list(range(1, 65))
    assert max(result[0]["parts"]["batch"] for result in results) >= 8


def test_several_processes_share_the_work(start_server: Any) -> None:
    reward = {"type": "served_rewards:Commanded", "seconds_per_batch": 0.05}
    server = start_server({"pooled": reward}, "--workers", "2", "server.batch_tokens=1")
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: server.results("a"), range(16)))
    assert len({result[0]["parts"]["process"] for result in results}) == 2


def test_a_request_is_answered_at_its_deadline_and_the_server_goes_on(server: Any) -> None:
    started = time.monotonic()
    results = server.results("sleep 1.5", timeout_s=0.3)
    assert time.monotonic() - started < 1.0
    assert [(result["score"], result["error"]) for result in results] == [(None, "timeout")]
    assert server.results("abc")[0]["score"] == 3.0


def test_a_process_that_hangs_is_replaced(start_server: Any) -> None:
    server = start_server({"commanded": {"type": "served_rewards:Commanded"}}, "server.timeout_s=1")
    (before,) = server.workers()
    assert server.results("sleep 1000")[0]["error"] == "timeout"
    wait_until(lambda: server.workers() not in ([], [before]))
    wait_until(lambda: server.http.get("/ready").status_code == 200)
    assert server.results("abc")[0]["score"] == 3.0
    assert server.metric('posttrain_worker_restarts_total{reward="commanded"}') == 1


def has_ended(process: int) -> bool:
    return not Path(f"/proc/{process}").exists() or "State:\tZ" in Path(f"/proc/{process}/status").read_text()


def test_a_process_that_is_killed_while_idle_costs_nothing(start_server: Any) -> None:
    server = start_server({"commanded": {"type": "served_rewards:Commanded"}})
    (before,) = server.workers()
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: has_ended(before))
    assert server.results("abc")[0]["score"] == 3.0
    (after,) = server.workers()
    os.kill(after, signal.SIGKILL)
    wait_until(lambda: server.http.get("/ready").status_code == 503)
    wait_until(lambda: server.http.get("/ready").status_code == 200)  # without a request


def test_processes_end_with_the_server_even_where_it_is_killed(start_server: Any) -> None:
    server = start_server({"commanded": {"type": "served_rewards:Commanded"}})
    (worker,) = server.workers()
    server.process.kill()
    server.process.wait()
    wait_until(lambda: has_ended(worker))
