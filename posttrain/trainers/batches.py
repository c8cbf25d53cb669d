"""What is sampled for the coming steps: when a step needs it, or while the policy is updated on an earlier batch."""

import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from posttrain.types import Example, Rollout, RolloutGroup


@dataclass(slots=True)
class Batch:
    """The scored groups of one step, and the seconds of each phase of their collection."""

    groups: list[RolloutGroup]
    timings: dict[str, float]

    def to_json(self) -> str:
        """For a checkpoint: the groups."""
        return json.dumps([asdict(group) for group in self.groups])

    @classmethod
    def from_json(cls, text: str) -> "Batch":
        """Undo ``to_json``."""
        rows = json.loads(text)
        return cls(
            [RolloutGroup(Example(**row["example"]), [Rollout(**r) for r in row["rollouts"]]) for row in rows], {}
        )


class BatchQueue:
    """The batches between collection and update.

    The batch of step s is sampled with the policy of step s - ``ahead`` (of step 0, for the first ones): one batch is
    collected while each step's update runs, and the engine is idle between steps.

    Args:
        collect: samples and scores the batch of the step whose number it gets.
        steps: of the run; nothing is collected beyond them.
    """

    def __init__(self, collect: Callable[[int], Batch], ahead: int, steps: int) -> None:
        self.collect = collect
        self.ahead = ahead
        self.steps = steps
        self.ready: deque[Batch] = deque()

    def take(self, step: int) -> Batch:
        """The batch of ``step``; at the start of a run, those up to the next ``ahead`` - 1 steps are collected too."""
        for number in range(step + len(self.ready), min(step + max(1, self.ahead), self.steps)):
            self.ready.append(self.collect(number))
        return self.ready.popleft()

    @contextmanager
    def running_ahead(self, step: int) -> Iterator[None]:
        """Collect the batch of ``step`` + ``ahead`` on a thread while the block runs."""
        if self.ahead == 0 or step + self.ahead >= self.steps:
            yield
            return
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="collect") as executor:
            future = executor.submit(self.collect, step + self.ahead)
            yield
            self.ready.append(future.result())
