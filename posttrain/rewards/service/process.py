"""The process that scores for the server."""

import asyncio
import atexit
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from posttrain.errors import RewardFailure, UserError
from posttrain.rewards.checked import score_checked
from posttrain.rewards.config import RewardConfig
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput
from posttrain.rewards.workers.worker_pool import Worker, WorkerResult

START_LIMIT_S = 600.0  # a large reward model is read from a slow disk
STOP_LIMIT_S = 5.0


class ScoringProcess:
    """The reward of a config as JSON, in a process of its own, one batch at a time; ``start`` again when it ended."""

    def __init__(self, config: str) -> None:
        self.config = config
        self._worker: Worker | None = None
        self._is_ready = False
        self._thread = ThreadPoolExecutor(1)

    def is_alive(self) -> bool:
        """Whether it can take a batch."""
        return self._is_ready and self._worker is not None and self._worker.is_alive()

    async def start(self) -> None:
        """Start the process and wait until the reward is made.

        Raises:
            RewardFailure: it could not be made; the message says why.
        """
        await self.stop()
        self._worker = Worker(f"{__name__}:score_batch", memory_mb=0)
        started = await self._waited_for(self._worker.reply, START_LIMIT_S)
        made = started if started.error is not None else await self.score([], START_LIMIT_S)
        if made.error is not None:
            await self.stop()
            raise RewardFailure(f"the reward cannot be served: {made.message}")
        self._is_ready = True

    async def score(self, inputs: Sequence[RewardInput], timeout_s: float) -> WorkerResult:
        """The outputs of ``inputs``, or why there are none; then the process is ended."""
        assert self._worker is not None
        (result,) = await self._waited_for(self._worker.run, [(self.config, inputs)], timeout_s)
        return result

    async def stop(self) -> None:
        """Let it close the reward and end, or end it."""
        worker, self._worker = self._worker, None
        if worker is not None:
            await asyncio.to_thread(worker.end, STOP_LIMIT_S if self._is_ready else 0)
            await self._waited_for(worker.dispose)
        self._is_ready = False

    async def _waited_for(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


def score_batch(item: tuple[str, Sequence[RewardInput]]) -> list[RewardOutput]:
    """Run by the process: one output for each input. Where the reward raises, the inputs are scored one by one, so that
    an item costs no other request its answer."""
    config, inputs = item
    reward = _reward(config)
    try:
        return score_checked(reward, inputs)
    except Exception as error:
        if len(inputs) == 1:
            traceback.print_exception(error.__cause__ or error)
            return [RewardOutput(None, error="crashed", message=str(error))]
        return [output for each in inputs for output in score_batch((config, [each]))]


@cache
def _reward(config: str) -> Reward:
    try:
        reward: Reward = TypeAdapter(RewardConfig).validate_json(config).build()
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        raise
    atexit.register(reward.close)
    return reward
