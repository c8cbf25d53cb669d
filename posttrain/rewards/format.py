"""Does a completion have the asked form? A boxed answer, tags in order, a regular expression."""

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

from pydantic import Field, field_validator, model_validator

from posttrain.rewards.instructions.regex_match import MATCHES, check_pattern
from posttrain.rewards.math.answer_extraction import boxed_contents
from posttrain.rewards.on_error import ConfiguredReward
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.rewards.workers.worker_pool import WorkerPool, WorkerResult


class FormatReward(ConfiguredReward):
    """1 where every condition that is given holds, else 0; each is a part of its own.

    A pattern runs in a worker process: on some text a regular expression takes exponential time.
    """

    type: Literal["format"] = "format"
    boxed: bool = Field(default=False, description=r"there is a \boxed{...} with something in it")
    tags: tuple[str, ...] = Field(default=(), description="[think, answer]: one pair of each tag, in this order")
    pattern: str | None = Field(default=None, description="regular expression, searched for; . matches newlines")
    timeout_s: float = Field(default=1.0, gt=0, description="of the pattern on one completion")

    @field_validator("pattern")
    @classmethod
    def _pattern_compiles(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            check_pattern(pattern)
        return pattern

    @model_validator(mode="after")
    def _asks_for_something(self) -> "FormatReward":
        if not (self.boxed or self.tags or self.pattern):
            raise ValueError("format asks for nothing: give boxed, tags or pattern")
        return self

    @cached_property
    def _pool(self) -> WorkerPool:
        return WorkerPool(MATCHES, workers=1, timeout_s=self.timeout_s)

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

    def close(self) -> None:
        self._pool.close()


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
