"""Preferences made from a seed: sums worked out as running totals, right against wrong from one step on."""

import random
from functools import cached_property
from typing import Literal

from pydantic import Field, model_validator

from posttrain.config import Config
from posttrain.rewards.reward import Reward
from posttrain.tasks.arithmetic import ArithmeticConfig
from posttrain.tasks.expression import running_totals
from posttrain.types import Example


class TotalsPreferenceConfig(Config):
    """For ``3+5+8+2=``, ``8,16,18`` is preferred to ``8,14,16``: one total is wrong, and the rest follows from it.

    A beginning of the dispreferred completion is as good as one of the preferred, up to the wrong total.
    """

    type: Literal["totals_preference"] = "totals_preference"
    problems: ArithmeticConfig = Field(default_factory=lambda: ArithmeticConfig(terms=5, max_operand=9))
    largest_error: int = Field(default=9, ge=1, description="most that the wrong total is off by")
    seed: int = Field(default=0, ge=0, description="of the errors")

    @model_validator(mode="after")
    def _totals_are_of_sums(self) -> "TotalsPreferenceConfig":
        if set(self.problems.operators) != {"+"}:
            raise ValueError("problems.operators must be ['+']: the completions are running totals")
        return self

    def build(self) -> "TotalsPreferenceTask":
        """The task; its examples are made when they are first asked for."""
        return TotalsPreferenceTask(self)


class TotalsPreferenceTask:
    """Two candidates an example. ``metadata["difficulty"]`` and ``["skill"]`` are the problem's."""

    def __init__(self, config: TotalsPreferenceConfig) -> None:
        self.config = config

    def train_examples(self) -> list[Example]:
        """One pair for each training problem of ``problems``."""
        return list(self._examples[0])

    def eval_examples(self) -> list[Example]:
        """One pair for each held-out problem."""
        return list(self._examples[1])

    def reward(self) -> Reward | None:
        """None: preferences judge no new completion."""
        return None

    @cached_property
    def _examples(self) -> tuple[list[Example], list[Example]]:
        problems = self.config.problems.build()
        train, held_out = problems.train_examples(), problems.eval_examples()
        return [self._pair(example) for example in train], [self._pair(example) for example in held_out]

    def _pair(self, example: Example) -> Example:
        rng = random.Random(f"{self.config.seed}/{example.id}")
        operands = example.metadata["operands"]
        wrong_step = rng.randrange(1, len(operands))
        error = rng.randint(1, self.config.largest_error) * rng.choice([-1, 1])
        wrong = [*operands[:wrong_step], operands[wrong_step] + error, *operands[wrong_step + 1 :]]
        example.candidates = [running_totals(operands), running_totals(wrong)]
        example.demonstration, example.task = example.candidates[0], "preference"
        return example
