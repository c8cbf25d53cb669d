"""Many environments in worker processes: where a sequence of turns leads, asked as a pure function."""

import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

from pydantic import Field

from posttrain.agents.config import AnyEnvironmentConfig
from posttrain.agents.environment import StepResult
from posttrain.config import Config
from posttrain.rewards.workers.worker_pool import WorkerPool


@dataclass(slots=True, frozen=True)
class Position:
    """A place in an episode: the task, the seed, and the turns taken so far."""

    task_id: str
    seed: int
    turns: tuple[str, ...] = ()

    def after(self, turn: str) -> "Position":
        return replace(self, turns=(*self.turns, turn))


class Environments(Protocol):
    """Says where turns lead. ``workers`` threads may ask at a time. ``went_wrong(task_id, seed, turns)``, where
    there is one, judges the last of ``turns``."""

    @property
    def workers(self) -> int: ...

    @property
    def went_wrong(self) -> Callable[[str, int, Sequence[str]], bool] | None: ...

    def at(self, positions: Sequence[Position]) -> list[StepResult]: ...

    def close(self) -> None: ...


class EnvironmentsConfig(Config):
    """An environment, and the processes that it runs in."""

    environment: AnyEnvironmentConfig
    workers: int = Field(default=2, ge=1, description="processes")
    deadline_s: float = Field(
        default=30.0, gt=0, description="of a step, with the replay of those before it, and the start of a simulator"
    )
    memory_mb: int = Field(default=4096, ge=0, description="address space of a process; 0: no limit")


class EnvironmentPool:
    """Results of positions. A process that hangs or dies costs what it was asked, and is replaced.

    Positions that share the beginning of an episode, up to the first turn, are asked of the same process: it may still
    have the environment that stands there, and where it has not, it replays the turns.
    """

    def __init__(self, config: EnvironmentsConfig) -> None:
        self.config, self.workers = config, config.workers
        self._kind = config.environment.model_dump_json()
        self._workers = [
            WorkerPool(
                "posttrain.agents.live_environments:reach",
                workers=1,
                timeout_s=config.deadline_s,
                memory_mb=config.memory_mb,
            )
            for _ in range(config.workers)
        ]

    def at(self, positions: Sequence[Position]) -> list[StepResult]:
        """What the last turn of each position led to; the first observation of one without turns.

        ``failed`` where the environment raised, hung, died, or broke its contract. May be called from several threads.
        """
        shares: dict[int, list[int]] = defaultdict(list)
        for index, position in enumerate(positions):
            beginning = f"{position.task_id}/{position.seed}/{position.turns[:1]}"
            shares[zlib.crc32(beginning.encode()) % self.workers].append(index)
        if len(shares) == 1:
            (worker,) = shares
            return self._asked(worker, positions)
        results: dict[int, StepResult] = {}
        with ThreadPoolExecutor(self.workers) as executor:
            answers = executor.map(lambda worker: self._asked(worker, [positions[i] for i in shares[worker]]), shares)
            for indices, found in zip(shares.values(), answers, strict=True):
                results |= zip(indices, found, strict=True)
        return [results[index] for index in range(len(positions))]

    @property
    def went_wrong(self) -> Callable[[str, int, Sequence[str]], bool] | None:
        """The environment's own."""
        return getattr(self.config.environment, "went_wrong", None)

    def close(self) -> None:
        """End the processes."""
        for workers in self._workers:
            workers.close()

    def _asked(self, worker: int, positions: Sequence[Position]) -> list[StepResult]:
        items = [
            {"environment": self._kind, "task_id": position.task_id, "seed": position.seed, "turns": position.turns}
            for position in positions
        ]
        return [
            StepResult(**result.value) if result.error is None else StepResult("", failed=result.message)
            for result in self._workers[worker].map(items)
        ]
