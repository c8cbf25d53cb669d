"""The task protocol: where examples come from and how a completion of one is judged."""

from functools import cached_property
from typing import Any, Protocol

from posttrain.rewards.reward import Reward
from posttrain.types import Example


class Task(Protocol):
    """The same object serves training (its reward is the default reward) and evaluation (its reward is the grader).

    ``train_examples`` and ``eval_examples`` never share a problem. ``reward`` is None for a plain data set without
    a judgement of its own; the job must then name a reward.
    """

    def train_examples(self) -> list[Example]: ...

    def eval_examples(self) -> list[Example]: ...

    def reward(self) -> Reward | None: ...


class SplitTask:
    """A task whose examples are made, or loaded, when they are first asked for: ``_split``, training and held-out."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def train_examples(self) -> list[Example]:
        return list(self._split[0])

    def eval_examples(self) -> list[Example]:
        return list(self._split[1])

    def reward(self) -> Reward | None:
        """None: the job names the reward."""
        return None

    @cached_property
    def _split(self) -> tuple[list[Example], list[Example]]:
        raise NotImplementedError(f"{type(self).__name__} must define _split")
