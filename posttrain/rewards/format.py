"""Does a completion have the asked form? A boxed answer, tags in order, a regular expression."""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from posttrain.rewards.math.answer_extraction import boxed_contents
from posttrain.rewards.on_error import ConfiguredReward
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.rewards.workers.worker_pool import WorkerPool

PATTERN = "regular expression; . matches newlines; (?i) ignores case"


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"the pattern {pattern!r:.200} is not a regular expression: {error}") from error
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]


class PatternReward(ConfiguredReward):
    """A pattern runs in a worker process, because on some text a regular expression takes exponential time."""

    timeout_s: float = Field(default=1.0, gt=0, description="of the pattern on one completion")

    @cached_property
    def _pool(self) -> WorkerPool:
        return WorkerPool(f"{__name__}:matches", workers=1, timeout_s=self.timeout_s)

    def matched(self, pattern: str, inputs: Sequence[RewardInput], whole: bool = False) -> list[RewardOutput]:
        """1 where ``pattern`` is found (``whole``: is all of the completion), else 0."""
        results = self._pool.map([{"pattern": pattern, "text": item.completion, "whole": whole} for item in inputs])
        return [
            RewardOutput(None, error=result.error, message=f"pattern {pattern!r}: {result.message}")
            if result.error is not None
            else RewardOutput(float(result.value))
            for result in results
        ]

    def close(self) -> None:
        self._pool.close()


class FormatReward(PatternReward):
    """1 where every condition that is given holds, else 0; each is a part of its own. The pattern is searched for."""

    type: Literal["format"] = "format"
    boxed: bool = Field(default=False, description=r"there is a \boxed{...} with something in it")
    tags: tuple[str, ...] = Field(default=(), description="[think, answer]: one pair of each tag, in this order")
    pattern: Pattern | None = Field(default=None, description=PATTERN)

    @model_validator(mode="after")
    def _asks_for_something(self) -> "FormatReward":
        if not (self.boxed or self.tags or self.pattern):
            raise ValueError("format asks for nothing: give boxed, tags or pattern")
        return self

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        found = [None] * len(inputs) if self.pattern is None else self.matched(self.pattern, inputs)
        return [self._score(item.completion, match) for item, match in zip(inputs, found, strict=True)]

    def _score(self, completion: str, match: RewardOutput | None) -> RewardOutput:
        parts = {}
        if self.boxed:
            parts["boxed"] = float(bool(boxed_contents(completion)))
        if self.tags:
            parts["tags"] = float(tags_in_order(completion, self.tags))
        if match is not None:
            if match.score is None:
                return match
            parts["pattern"] = match.score
        return RewardOutput(min(parts.values()), parts)


class RegexMatchReward(PatternReward):
    """1 where the completion matches ``pattern``, else 0."""

    type: Literal["regex_match"] = "regex_match"
    pattern: Pattern = Field(description=PATTERN)
    whole: bool = Field(default=False, description="the whole completion must match, not a place in it")

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return self.matched(self.pattern, inputs, self.whole)


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


def matches(item: dict[str, Any]) -> bool:
    """Run by a worker: whether ``item["pattern"]`` is found in ``item["text"]`` (``whole``: is all of it)."""
    match = re.fullmatch if item["whole"] else re.search
    return match(item["pattern"], item["text"], re.DOTALL) is not None
