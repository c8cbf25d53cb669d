"""Preferences made from a seed: sums worked out as running totals, right against wrong from one step on."""

import random
from functools import cached_property
from typing import Literal

from pydantic import Field

from posttrain.config import Config
from posttrain.tasks.arithmetic import ArithmeticConfig, running_totals
from posttrain.tasks.task import SplitTask
from posttrain.types import Example


class TotalsPreferenceConfig(Config):
    """For ``3+5+8+2=``, ``8,16,18`` is preferred to ``8,14,16``: one total is wrong, and the rest follows from it.

    A beginning of the dispreferred completion is as good as one of the preferred, up to the wrong total.
    """

    type: Literal["totals_preference"] = "totals_preference"
    problems: ArithmeticConfig = Field(default_factory=lambda: ArithmeticConfig(terms=5, max_operand=9))
    largest_error: int = Field(default=9, ge=1, description="most that the wrong total is off by")
    seed: int = Field(default=0, ge=0, description="of the errors")

    def build(self) -> "TotalsPreferenceTask":
        return TotalsPreferenceTask(self)


class TotalsPreferenceTask(SplitTask):
    """One pair of candidates for each problem."""

    config: TotalsPreferenceConfig

    @cached_property
    def _split(self) -> tuple[list[Example], list[Example]]:
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
