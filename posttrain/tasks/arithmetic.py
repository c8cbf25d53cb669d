"""Arithmetic problems made from a seed, no download: additions, and longer expressions."""

import random
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Literal

from pydantic import Field, model_validator

from posttrain.config import Config
from posttrain.data.prompt_format import PromptFormat
from posttrain.errors import JobError
from posttrain.rewards.math.exact_integer import ExactIntegerReward
from posttrain.rewards.reward import Reward
from posttrain.tasks.expression import (
    Operator,
    Token,
    addition_columns,
    carries,
    evaluate,
    random_expression,
    reduction_steps,
    running_totals,
    written,
)
from posttrain.types import Example

MAX_MISSES = 20_000  # draws without a new problem, after which there are taken to be no more

ProblemKey = tuple[Token, ...]


class ArithmeticConfig(Config):
    """Which problems there are; the defaults are additions of two numbers of up to two digits.

    ``working`` is what a demonstration shows before the answer: nothing, the columns of an addition from the right, the
    running totals of an addition, or the expression after each operation. ``answers_only`` adds demonstrations without
    it: who imitates them all shows the working of one problem in ``1 + answers_only``.
    """

    type: Literal["arithmetic"] = "arithmetic"
    min_operand: int = Field(default=0, ge=0)
    max_operand: int = Field(default=99, ge=1)
    terms: int = Field(default=2, ge=2, le=12, description="operands of a problem")
    operators: list[Operator] = Field(default=["+"], min_length=1)
    parentheses: bool = Field(default=False, description="one pair in every problem of three or more terms")
    min_carries: int = Field(default=0, ge=0, description="columns that carry; for additions")
    max_carries: int | None = Field(default=None, ge=0)
    working: Literal["none", "columns", "totals", "steps"] = "none"
    demonstrated: float = Field(default=1.0, ge=0, le=1, description="share of training problems with demonstrations")
    answers_only: int = Field(default=0, ge=0, description="demonstrations with the bare answer, beside the one above")
    train_size: int = Field(default=4000, ge=1)
    eval_size: int = Field(default=200, ge=1)
    seed: int = 0
    format: PromptFormat = Field(default_factory=PromptFormat)

    @model_validator(mode="after")
    def _keys_fit_together(self) -> "ArithmeticConfig":
        additions = set(self.operators) == {"+"}
        if self.min_operand > self.max_operand:
            raise ValueError(f"min_operand {self.min_operand} is above max_operand {self.max_operand}")
        if (self.min_carries or self.max_carries is not None) and not additions:
            raise ValueError("min_carries and max_carries are for additions: operators must be ['+']")
        if self.max_carries is not None and self.min_carries > self.max_carries:
            raise ValueError(f"min_carries {self.min_carries} is above max_carries {self.max_carries}")
        if self.working == "columns" and (not additions or self.terms != 2):
            raise ValueError("working: columns is for additions of two terms; use working: steps")
        if self.working == "totals" and not additions:
            raise ValueError("working: totals is for additions: operators must be ['+']; use working: steps")
        return self

    def build(self) -> "ArithmeticTask":
        """The task; its problems are made when they are first asked for."""
        return ArithmeticTask(self)


class ArithmeticTask:
    """No held-out problem is a training problem, also not with its operands in another order (where that is the same).

    ``Example.metadata`` holds ``operands``, ``difficulty`` (operations plus carries) and ``skill`` (operators, terms
    and carries, as text).
    """

    def __init__(self, config: ArithmeticConfig) -> None:
        self.config = config

    def train_examples(self) -> list[Example]:
        """``train_size`` different problems.

        Raises:
            JobError: the settings do not allow that many.
        """
        return list(self._problems[1])

    def eval_examples(self) -> list[Example]:
        """``eval_size`` different problems that are not trained on.

        Raises:
            JobError: the settings do not allow that many.
        """
        return list(self._problems[0])

    def reward(self) -> Reward:
        """Exact match of the last integer."""
        return ExactIntegerReward()

    @cached_property
    def _problems(self) -> tuple[list[Example], list[Example]]:
        """Held-out and training examples; the held-out ones come first, so they do not depend on ``train_size``."""
        rng = random.Random(f"arithmetic/{self.config.seed}")
        held_out = self._draw(rng, self.config.eval_size, "eval_size", excluded=set())
        keys = {problem_key(expression) for expression in held_out}
        train = self._draw(rng, self.config.train_size, "train_size", excluded=keys)
        examples = [self._example("train", each) for each in train]
        for example in examples[round(self.config.demonstrated * len(examples)) :]:
            example.demonstration = None
        return [self._example("eval", each) for each in held_out], examples

    def _draw(self, rng: random.Random, size: int, key: str, excluded: Collection[ProblemKey]) -> list[list[Token]]:
        """``size`` expressions that differ and are of no ``excluded`` problem."""
        found: dict[str, list[Token]] = {}
        misses = 0
        while len(found) < size:
            expression = self._expression(rng)
            if written(expression) in found or problem_key(expression) in excluded or not self._is_wanted(expression):
                misses += 1
            else:
                found[written(expression)] = expression
                misses = 0
            if misses == MAX_MISSES:
                raise JobError(
                    f"data.{key}: asked for {size} different problems, found {len(found)}; "
                    f"raise max_operand or terms, widen the range of carries, or lower {key}"
                )
        return list(found.values())

    def _expression(self, rng: random.Random) -> list[Token]:
        config = self.config
        operands = (config.min_operand, config.max_operand)
        return random_expression(rng, operands, config.terms, config.operators, config.parentheses)

    def _is_wanted(self, expression: Sequence[Token]) -> bool:
        config = self.config
        if not config.min_carries and config.max_carries is None:
            return True
        count = carries(operands_of(expression))
        return config.min_carries <= count and (config.max_carries is None or count <= config.max_carries)

    def _example(self, side: str, expression: list[Token]) -> Example:
        text, answer, operands = written(expression), str(evaluate(expression)), operands_of(expression)
        operators = operators_of(expression)
        carried = carries(operands) if operators == {"+"} else 0
        return Example(
            id=f"{side}:{text}",
            prompt=self.config.format.prompt(f"{text}="),
            answer=answer,
            references=[answer],
            demonstration=[self._demonstration(expression, answer), *[answer] * self.config.answers_only],
            metadata={
                "operands": operands,
                "difficulty": len(operands) - 1 + carried,
                "skill": f"{' '.join(sorted(operators))}, {len(operands)} terms, {carried} carries",
            },
        )

    def _demonstration(self, expression: list[Token], answer: str) -> str:
        match self.config.working:
            case "columns":
                return addition_columns(*operands_of(expression))
            case "totals":
                return running_totals(operands_of(expression))
            case "steps":
                return reduction_steps(expression)
            case _:
                return answer


def operands_of(expression: Sequence[Token]) -> list[int]:
    """The numbers of an expression, from the left."""
    return [token for token in expression if isinstance(token, int)]


def operators_of(expression: Sequence[Token]) -> set[str]:
    """The operators that occur in an expression."""
    return {token for token in expression if isinstance(token, str) and token in "+-*"}


def problem_key(expression: Sequence[Token]) -> ProblemKey:
    """Equal for expressions that pose one problem: a sum or a product is the same in any order of its operands."""
    if operators_of(expression) in ({"+"}, {"*"}):
        return (*sorted(operands_of(expression)), *operators_of(expression))
    return tuple(expression)
