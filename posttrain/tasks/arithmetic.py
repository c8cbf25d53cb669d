"""Additions made from a seed, and preferences between ways to work them out; no download."""

import random
from collections.abc import Collection, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Literal

from pydantic import Field, model_validator

from posttrain.data.prompt_format import PromptFormat
from posttrain.errors import JobError
from posttrain.rewards.math.exact_integer import ExactIntegerReward
from posttrain.rewards.reward import Reward
from posttrain.tasks.task import ConfiguredTask
from posttrain.types import Example

MAX_MISSES = 20_000  # draws without a new problem, after which there are taken to be no more

Operands = tuple[int, ...]


class ArithmeticConfig(ConfiguredTask):
    """Which problems there are; the defaults are additions of two numbers of up to two digits.

    ``working`` is what a demonstration shows before the answer: nothing, the columns of an addition of two terms from
    the right, or the running totals. ``answers_only`` adds demonstrations without it: who imitates them all shows the
    working of one problem in ``1 + answers_only``.

    No held-out problem is a training problem, also not with its operands in another order. ``Example.metadata`` holds
    the ``operands`` and how many columns carry (``carries``).

    Raises (asked for examples):
        JobError: the settings do not allow that many different problems.
    """

    type: Literal["arithmetic"] = "arithmetic"
    min_operand: int = Field(default=0, ge=0)
    max_operand: int = Field(default=99, ge=1)
    terms: int = Field(default=2, ge=2, le=12, description="operands of a problem")
    max_carries: int | None = Field(default=None, ge=0, description="columns that carry, at most")
    working: Literal["none", "columns", "totals"] = "none"
    demonstrated: float = Field(default=1.0, ge=0, le=1, description="share of training problems with demonstrations")
    answers_only: int = Field(default=0, ge=0, description="demonstrations with the bare answer, beside the one above")
    train_size: int = Field(default=4000, ge=1)
    eval_size: int = Field(default=200, ge=1)
    seed: int = 0
    format: PromptFormat = Field(default_factory=PromptFormat)

    @model_validator(mode="after")
    def _keys_fit_together(self) -> "ArithmeticConfig":
        if self.min_operand > self.max_operand:
            raise ValueError(f"min_operand {self.min_operand} is above max_operand {self.max_operand}")
        if self.working == "columns" and self.terms != 2:
            raise ValueError("working: columns is for additions of two terms; use working: totals")
        return self

    def reward(self) -> Reward:
        """Exact match of the last integer."""
        return ExactIntegerReward()

    @cached_property
    def _split(self) -> tuple[list[Example], list[Example]]:
        """The held-out ones are drawn first, so they do not depend on ``train_size``."""
        rng = random.Random(f"arithmetic/{self.seed}")
        held_out = self._draw(rng, self.eval_size, "eval_size", excluded=set())
        keys = {tuple(sorted(operands)) for operands in held_out}
        train = self._draw(rng, self.train_size, "train_size", excluded=keys)
        examples = [self._example("train", each) for each in train]
        for example in examples[round(self.demonstrated * len(examples)) :]:
            example.demonstration = None
        return examples, [self._example("eval", each) for each in held_out]

    def _draw(self, rng: random.Random, size: int, key: str, excluded: Collection[Operands]) -> list[Operands]:
        """``size`` problems that differ, none of which is ``excluded`` in any order."""
        found: dict[Operands, None] = {}
        most, misses = self.max_carries, 0
        while len(found) < size:
            operands = self._operands(rng)
            too_hard = most is not None and carries(operands) > most
            if operands in found or tuple(sorted(operands)) in excluded or too_hard:
                misses += 1
            else:
                found[operands] = None
                misses = 0
            if misses == MAX_MISSES:
                raise JobError(
                    f"data.{key}: asked for {size} different problems, found {len(found)}; "
                    f"raise max_operand, terms or max_carries, or lower {key}"
                )
        return list(found)

    def _operands(self, rng: random.Random) -> Operands:
        low, high = self.min_operand, self.max_operand
        operands = [rng.randint(low, high)]
        while len(operands) < self.terms:
            rng.choice("+")  # draws: the problems of a seed, and what was measured on them, stay what they were
            operands.append(rng.randint(low, high))
        return tuple(operands)

    def _example(self, side: str, operands: Operands) -> Example:
        text, answer = "+".join(map(str, operands)), str(sum(operands))
        shown = {"none": answer, "columns": addition_columns(*operands[:2]), "totals": running_totals(operands)}
        return Example(
            id=f"{side}:{text}",
            prompt=self.format.prompt(f"{text}="),
            answer=answer,
            references=[answer],
            demonstration=[shown[self.working], *[answer] * self.answers_only],
            metadata={"operands": list(operands), "carries": carries(operands)},
        )


def carries(numbers: Sequence[int]) -> int:
    """How many columns carry when non-negative ``numbers`` are added one after another."""
    count, total = 0, numbers[0]
    for number in numbers[1:]:
        carry, place = 0, 1
        while place <= max(total, number):
            carry = int(total // place % 10 + number // place % 10 + carry > 9)
            count += carry
            place *= 10
        total += number
    return count


def addition_columns(a: int, b: int) -> str:
    """The addition of two non-negative numbers column by column from the right, carries included: ``57+68`` gives
    ``7+8=15 5+6+1=12 125``."""
    columns, carry, place = [], 0, 1
    while place <= max(a, b, 1):
        digits = [a // place % 10, b // place % 10] + [carry] * (carry > 0)
        columns.append(f"{'+'.join(map(str, digits))}={sum(digits)}")
        carry, place = sum(digits) // 10, place * 10
    return " ".join([*columns, str(a + b)])


def running_totals(numbers: Sequence[int]) -> str:
    """The sum after each further number: ``3+5+8+2`` gives ``8,16,18``."""
    return ",".join(map(str, [*accumulate(numbers)][1:]))


class TotalsPreferenceConfig(ConfiguredTask):
    """For ``3+5+8+2=``, ``8,16,18`` is preferred to ``8,14,16``: one total is wrong, and the rest follows from it. Each
    problem has one pair.

    A beginning of the dispreferred completion is as good as one of the preferred, up to the wrong total.
    """

    type: Literal["totals_preference"] = "totals_preference"
    problems: ArithmeticConfig = Field(default_factory=lambda: ArithmeticConfig(terms=5, max_operand=9))
    largest_error: int = Field(default=9, ge=1, description="most that the wrong total is off by")
    seed: int = Field(default=0, ge=0, description="of the errors")

    @cached_property
    def _split(self) -> tuple[list[Example], list[Example]]:
        problems = self.problems.build()
        train, held_out = problems.train_examples(), problems.eval_examples()
        return [self._pair(example) for example in train], [self._pair(example) for example in held_out]

    def _pair(self, example: Example) -> Example:
        rng = random.Random(f"{self.seed}/{example.id}")
        operands = example.metadata["operands"]
        wrong_step = rng.randrange(1, len(operands))
        error = rng.randint(1, self.largest_error) * rng.choice([-1, 1])
        wrong = [*operands[:wrong_step], operands[wrong_step] + error, *operands[wrong_step + 1 :]]
        example.candidates = [running_totals(operands), running_totals(wrong)]
        example.demonstration, example.task = example.candidates[0], "preference"
        return example
