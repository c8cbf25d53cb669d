"""The task protocol: where examples come from and how a completion of one is judged."""

from functools import cached_property
from typing import Protocol, Self

from posttrain.config import Config
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


class ConfiguredTask(Config):
    """A task and its config in one: its keys, and ``_split``, the training and held-out examples, which are made or
    loaded when they are first asked for."""

    def build(self) -> Self:
        """The task, which has made no examples yet."""
        return type(self)(**dict(self))

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
