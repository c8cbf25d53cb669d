"""Requests become batches: one bounded queue for each reward, and the processes that take batches from it."""

import asyncio
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Sequence

from posttrain.errors import RewardFailure
from posttrain.rewards.on_error import BaseRewardConfig
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.rewards.scoring.reward_file import reward_digest
from posttrain.rewards.service.config import ServerConfig
from posttrain.rewards.service.metrics import Metrics
from posttrain.rewards.service.process import ScoringProcess

CHARACTERS_PER_TOKEN = 4
# An idle worker looks this often whether its process still lives.
IDLE_CHECK_S = 0.5
LONGEST_RESTART_WAIT_S = 10.0
LONGEST_RETRY_AFTER_S = 60

logger = logging.getLogger(__name__)


class QueueFull(Exception):
    """The queue has no room for a request; ``retry_after_s`` is about when it will."""

    def __init__(self, retry_after_s: int) -> None:
        self.retry_after_s = retry_after_s


def estimated_tokens(item: RewardInput) -> int:
    """Tokens of prompt, completion, answer and references, without a tokenizer."""
    example = item.example
    prompt = (
        example.prompt if isinstance(example.prompt, str) else "".join(map("".join, map(dict.values, example.prompt)))
    )
    answer = example.answer if isinstance(example.answer, list) else [example.answer or ""]
    others = len(prompt) + sum(map(len, answer)) + sum(map(len, example.references))
    completion = max(len(item.completion) // CHARACTERS_PER_TOKEN, len(item.completion_ids))
    return 1 + completion + others // CHARACTERS_PER_TOKEN


class PendingRequest:
    """The items of one request, and the outputs that have come so far."""

    def __init__(self, inputs: Sequence[RewardInput]) -> None:
        self.inputs = inputs
        self.outputs: list[RewardOutput | None] = [None] * len(inputs)
        self.tokens = list(map(estimated_tokens, inputs))
        self.done: asyncio.Future[list[RewardOutput]] = asyncio.get_running_loop().create_future()
        self._left = len(inputs)

    def answer(self, index: int, output: RewardOutput) -> None:
        """Keep the output of an item, unless its request has been answered already."""
        if self.done.done():
            return
        self.outputs[index] = output
        self._left -= 1
        if self._left == 0:
            self.expire()

    def expire(self) -> None:
        """Answer now; what has no output yet is a timeout."""
        if not self.done.done():
            self.done.set_result([output or RewardOutput(None, error="timeout") for output in self.outputs])


Batch = list[tuple[PendingRequest, int]]


class RequestQueue:
    """Items of waiting requests, first come first served. Those of requests that have expired are passed over."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.items = 0
        self.tokens = 0
        self.items_per_s = 0.0
        self._waiting: deque[tuple[PendingRequest, int, float]] = deque()
        self._filled = asyncio.Event()
        self._batch_full = asyncio.Event()
        self._taking = asyncio.Lock()

    def put(self, request: PendingRequest) -> None:
        """Raises: QueueFull."""
        items, tokens = self.items + len(request.inputs), self.tokens + sum(request.tokens)
        if self.items and (items > self.config.max_queued_items or tokens > self.config.max_queued_tokens):
            wait_s = math.ceil(self.items / self.items_per_s) if self.items_per_s else 1
            raise QueueFull(min(max(wait_s, 1), LONGEST_RETRY_AFTER_S))
        self.items, self.tokens = items, tokens
        now = time.monotonic()
        self._waiting.extend((request, index, now) for index in range(len(request.inputs)))
        self._filled.set()
        if tokens >= self.config.batch_tokens:
            self._batch_full.set()

    async def take(self) -> Batch:
        """Items for one batch: when there are enough, or when the first has waited long enough. Empty where none came
        for ``IDLE_CHECK_S``."""
        async with self._taking:
            try:
                async with asyncio.timeout(IDLE_CHECK_S):
                    await self._filled.wait()
                wait_s = self._waiting[0][2] + self.config.max_wait_ms / 1000 - time.monotonic()
                if wait_s > 0:
                    async with asyncio.timeout(wait_s):
                        await self._batch_full.wait()
            except TimeoutError:
                pass
            return self._pop()

    def _pop(self) -> Batch:
        batch: Batch = []
        tokens = 0
        while self._waiting:
            request, index, _ = self._waiting[0]
            size = request.tokens[index]
            if not request.done.done():
                if batch and tokens + size > self.config.batch_tokens:
                    break
                batch.append((request, index))
                tokens += size
            self._waiting.popleft()
            self.items -= 1
            self.tokens -= size
        if not self._waiting:
            self._filled.clear()
        if self.tokens < self.config.batch_tokens:
            self._batch_full.clear()
        return batch


class ServedReward:
    """A reward under the name by which requests choose it."""

    def __init__(self, name: str, reward: BaseRewardConfig, config: ServerConfig, metrics: Metrics) -> None:
        self.name = name
        self.config = config
        self.metrics = metrics
        self.digest = reward_digest(reward)
        self._queue = RequestQueue(config)
        self._processes = [ScoringProcess(reward.model_dump_json()) for _ in range(config.workers)]
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Raises: RewardFailure, where the reward cannot be made."""
        await asyncio.gather(*(process.start() for process in self._processes))
        self._tasks = [asyncio.create_task(self._work(process)) for process in self._processes]

    def is_ready(self) -> bool:
        return any(process.is_alive() for process in self._processes)

    async def score(self, inputs: Sequence[RewardInput], timeout_s: float) -> list[RewardOutput]:
        """One output for each input; the error ``timeout`` where there was none after ``timeout_s`` seconds.

        Raises:
            QueueFull: try again later.
        """
        request = PendingRequest(inputs)
        if inputs:
            self._queue.put(request)
            self._observe_queue()
        else:
            request.expire()
        expiry = asyncio.get_running_loop().call_later(timeout_s, request.expire)
        try:
            outputs = await request.done
        finally:
            request.done.cancel()
            expiry.cancel()
        for outcome, count in Counter(output.error or "scored" for output in outputs).items():
            self.metrics.items.labels(self.name, outcome).inc(count)
        return outputs

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(process.stop() for process in self._processes))

    async def _work(self, process: ScoringProcess) -> None:
        while True:
            if not process.is_alive():
                await self._restart(process)
            batch = await self._queue.take()
            if not batch:
                continue
            if not process.is_alive():  # it died while idle, and no item has been given to it
                await self._restart(process)
            self._observe_queue()
            for (request, index), output in zip(batch, await self._score_batch(process, batch), strict=True):
                request.answer(index, output)

    async def _score_batch(self, process: ScoringProcess, batch: Batch) -> list[RewardOutput]:
        started = time.monotonic()
        result = await process.score([request.inputs[index] for request, index in batch], self.config.timeout_s)
        if result.error is not None:
            logger.error("%s: %d items were not scored: %s", self.name, len(batch), result.message)
            return [RewardOutput(None, error=result.error)] * len(batch)
        seconds = time.monotonic() - started
        self.metrics.batch_seconds.labels(self.name).observe(seconds)
        self.metrics.batch_items.labels(self.name).observe(len(batch))
        speed = len(batch) * len(self._processes) / max(seconds, 1e-6)
        self._queue.items_per_s += 0.1 * (speed - self._queue.items_per_s)
        outputs: list[RewardOutput] = result.value
        return outputs

    async def _restart(self, process: ScoringProcess) -> None:
        wait_s = 0.1
        self.metrics.worker_restarts.labels(self.name).inc()
        while True:
            try:
                return await process.start()
            except RewardFailure as error:
                logger.error("%s: %s; trying again in %g s", self.name, error, wait_s)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_RESTART_WAIT_S)

    def _observe_queue(self) -> None:
        self.metrics.queued_items.labels(self.name).set(self._queue.items)
