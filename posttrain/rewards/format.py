"""Does a completion have the asked form? A boxed answer, tags in order, a regular expression."""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from posttrain.rewards.math.answer_extraction import boxed_contents
from posttrain.rewards.on_error import ConfiguredReward
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.rewards.workers.worker_pool import WorkerPool, WorkerResult


class PatternReward(ConfiguredReward):
    """A pattern runs in a worker process, because on some text a regular expression takes exponential time."""

    pattern: str | None = Field(default=None, description="regular expression; . matches newlines; (?i) ignores case")
    timeout_s: float = Field(default=1.0, gt=0, description="of the pattern on one completion")

    @field_validator("pattern")
    @classmethod
    def _pattern_compiles(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            check_pattern(pattern)
        return pattern

    @cached_property
    def _pool(self) -> WorkerPool:
        return WorkerPool(f"{__name__}:matches", workers=1, timeout_s=self.timeout_s)

    def close(self) -> None:
        self._pool.close()


class FormatReward(PatternReward):
    """1 where every condition that is given holds, else 0; each is a part of its own. The pattern is searched for."""

    type: Literal["format"] = "format"
    boxed: bool = Field(default=False, description=r"there is a \boxed{...} with something in it")
    tags: tuple[str, ...] = Field(default=(), description="[think, answer]: one pair of each tag, in this order")

    @model_validator(mode="after")
    def _asks_for_something(self) -> "FormatReward":
        if not (self.boxed or self.tags or self.pattern):
            raise ValueError("format asks for nothing: give boxed, tags or pattern")
        return self

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        found: list[WorkerResult | None] = [None] * len(inputs)
        if self.pattern is not None:
            question = {"pattern": self.pattern, "whole": False}
            found = [*self._pool.map([question | {"text": item.completion} for item in inputs])]
        return [self._score(item.completion, match) for item, match in zip(inputs, found, strict=True)]

    def _score(self, completion: str, match: WorkerResult | None) -> RewardOutput:
        if match is not None and match.error is not None:
            return RewardOutput(None, error=match.error, message=f"pattern {self.pattern!r}: {match.message}")
        parts = {}
        if self.boxed:
            parts["boxed"] = float(bool(boxed_contents(completion)))
        if self.tags:
            parts["tags"] = float(tags_in_order(completion, self.tags))
        if match is not None:
            parts["pattern"] = float(match.value)
        return RewardOutput(min(parts.values(), default=1.0), parts)


class RegexMatchReward(PatternReward):
    """1 where the completion matches ``pattern``, or its row's own in ``pattern_column``, else 0. A row without a
    pattern, or with one that is not a regular expression, is ``invalid_input``."""

    type: Literal["regex_match"] = "regex_match"
    pattern_column: str | None = Field(default=None, description="column that holds each row's own pattern")
    whole: bool = Field(default=False, description="the whole completion must match, not a place in it")

    @model_validator(mode="after")
    def _one_pattern(self) -> "RegexMatchReward":
        if (self.pattern is None) == (self.pattern_column is None):
            raise ValueError("regex_match needs either pattern or pattern_column")
        return self

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        column = self.pattern_column
        patterns = [self.pattern if column is None else item.example.metadata.get(column) for item in inputs]
        texts = [item.completion for item in inputs]
        questions = [
            {"pattern": pattern, "text": text, "whole": self.whole}
            for pattern, text in zip(patterns, texts, strict=True)
        ]
        return [self._output(result) for result in self._pool.map(questions)]

    def _output(self, result: WorkerResult) -> RewardOutput:
        if result.error is not None:
            return RewardOutput(None, error=result.error, message=result.message)
        if isinstance(result.value, str):
            return RewardOutput(None, error="invalid_input", message=result.value)
        return RewardOutput(float(result.value))


def tags_in_order(text: str, tags: Sequence[str]) -> bool:
    """Whether each of ``tags`` is opened once and closed once, one pair after the other, with text inside."""
    position = 0
    for tag in tags:
        opening, closing = f"<{tag}>", f"</{tag}>"
        if text.count(opening) != 1 or text.count(closing) != 1:
            return False
        start, end = text.find(opening), text.find(closing)
        if not position <= start < end or not text[start + len(opening) : end].strip():
            return False
        position = end + len(closing)
    return True


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
