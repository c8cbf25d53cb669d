"""Does a completion match a regular expression? The job's own, or each row's."""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

from pydantic import Field, model_validator

from posttrain.rewards.on_error import ConfiguredReward
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.rewards.workers.worker_pool import WorkerPool, WorkerResult

MATCHES = f"{__name__}:matches"  # what a worker runs


class RegexMatchReward(ConfiguredReward):
    """1 where the completion matches ``pattern``, or the pattern of its row in ``pattern_column``, else 0.

    A pattern runs in a worker process, because on some text one takes exponential time: ``timeout``. A row without a
    pattern, or with one that is not a regular expression, is ``invalid_input``.
    """

    type: Literal["regex_match"] = "regex_match"
    pattern: str | None = Field(default=None, description="regular expression; . matches newlines; (?i) ignores case")
    pattern_column: str | None = Field(default=None, description="column that holds each row's own pattern")
    whole: bool = Field(default=False, description="the whole completion must match, not a place in it")
    timeout_s: float = Field(default=1.0, gt=0, description="of the pattern on one completion")

    @model_validator(mode="after")
    def _one_pattern_that_compiles(self) -> "RegexMatchReward":
        if (self.pattern is None) == (self.pattern_column is None):
            raise ValueError("regex_match needs either pattern or pattern_column")
        if self.pattern is not None:
            check_pattern(self.pattern)
        return self

    @cached_property
    def _pool(self) -> WorkerPool:
        return WorkerPool(MATCHES, workers=1, timeout_s=self.timeout_s)

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        questions = [
            {"pattern": self._pattern_of(item), "text": item.completion, "whole": self.whole} for item in inputs
        ]
        return [_output(result) for result in self._pool.map(questions)]

    def _pattern_of(self, item: RewardInput) -> Any:
        return self.pattern if self.pattern_column is None else item.example.metadata.get(self.pattern_column)

    def close(self) -> None:
        self._pool.close()


def _output(result: WorkerResult) -> RewardOutput:
    if result.error is not None:
        return RewardOutput(None, error=result.error, message=result.message)
    if isinstance(result.value, str):
        return RewardOutput(None, error="invalid_input", message=result.value)
    return RewardOutput(float(result.value))


def check_pattern(pattern: Any) -> None:
    """Nothing, where ``pattern`` can be used.

    Raises:
        ValueError: it is not a regular expression.
    """
    try:
        re.compile(pattern)
    except (re.error, TypeError, RecursionError, OverflowError) as error:
        raise ValueError(f"the pattern {pattern!r:.200} is not a regular expression: {error}") from error


def matches(item: dict[str, Any]) -> bool | str:
    """Run by a worker: whether ``item["pattern"]`` is found in ``item["text"]`` (``whole``: is all of it); or, as
    text, why the pattern is not a regular expression."""
    try:
        check_pattern(item["pattern"])
    except ValueError as error:
        return str(error)
    match = re.fullmatch if item["whole"] else re.search
    return match(item["pattern"], item["text"], re.DOTALL) is not None
