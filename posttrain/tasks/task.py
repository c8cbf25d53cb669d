"""The task protocol: where examples come from and how a completion of one is judged."""

from typing import Protocol

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
