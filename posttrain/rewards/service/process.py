"""The server's side of one scoring process."""

import asyncio
import os
import pickle
import sys
from collections.abc import Sequence
from typing import Any

from posttrain.errors import RewardFailure
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.rewards.service.worker import LENGTH

START_LIMIT_S = 600.0  # a large reward model is read from a slow disk
STOP_LIMIT_S = 5.0


class WorkerGone(Exception):
    """The process ended before it answered."""


class WorkerProcess:
    """The reward of a resolved config, in a process of its own, one batch at a time; ``start`` again when it ended."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self._process: asyncio.subprocess.Process | None = None
        self._is_ready = False

    def is_alive(self) -> bool:
        """Whether it can take a batch."""
        return self._is_ready and self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start the process and wait until the reward is made.

        Raises:
            RewardFailure: it could not be made; the message says why.
        """
        await self.stop()
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "posttrain.rewards.service.worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            limit=1 << 22,
        )
        try:
            async with asyncio.timeout(START_LIMIT_S):
                problem = await self._ask(self.config)
        except (WorkerGone, TimeoutError) as error:
            problem = "the process ended before it was ready" if isinstance(error, WorkerGone) else "it never answered"
        if problem is not None:
            await self.stop()
            raise RewardFailure(f"the reward cannot be served: {problem}")
        self._is_ready = True

    async def score(self, inputs: Sequence[RewardInput], timeout_s: float) -> list[RewardOutput]:
        """The outputs of ``inputs``. After an error the process is ended.

        Raises:
            WorkerGone: the process ended.
            TimeoutError: no answer after ``timeout_s`` seconds.
        """
        try:
            async with asyncio.timeout(timeout_s):
                outputs: list[RewardOutput] = await self._ask(inputs)
        except (WorkerGone, TimeoutError):
            self.kill()
            raise
        return outputs

    def kill(self) -> None:
        """End it at once."""
        self._is_ready = False
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def stop(self) -> None:
        """Let it close the reward and end, or end it."""
        self._is_ready = False
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _ask(self, value: Any) -> Any:
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        try:
            self._process.stdin.write(LENGTH.pack(len(data)) + data)
            await self._process.stdin.drain()
            length = LENGTH.unpack(await self._process.stdout.readexactly(LENGTH.size))[0]
            return pickle.loads(await self._process.stdout.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise WorkerGone from error
