"""Penalties to add to a reward: for completions close to the length limit, and for completions that loop."""

from collections.abc import Hashable, Sequence
from typing import Literal

from pydantic import Field, model_validator

from posttrain.rewards.on_error import ConfiguredReward
from posttrain.rewards.reward import RewardInput, RewardOutput


class OverlongReward(ConfiguredReward):
    """DAPO's soft penalty, between 0 and -1 (arXiv 2503.14476, eq. 13; there 20,480 and 4,096 tokens).

    With |y| completion tokens, the limit L_max and the buffer L_cache:

        0                                  |y| <= L_max - L_cache
        (L_max - L_cache - |y|) / L_cache  L_max - L_cache < |y| <= L_max
        -1                                 |y| > L_max
    """

    type: Literal["overlong"] = "overlong"
    max_completion_tokens: int = Field(ge=1, description="L_max; as a rule sampling.max_completion_tokens")
    buffer_tokens: int = Field(ge=1, description="L_cache: the last tokens before the limit, where the penalty grows")

    @model_validator(mode="after")
    def _buffer_fits(self) -> "OverlongReward":
        most = self.max_completion_tokens
        if self.buffer_tokens > most:
            raise ValueError(f"buffer_tokens ({self.buffer_tokens}) must be at most max_completion_tokens ({most})")
        return self

    def judged(self, item: RewardInput) -> RewardOutput:
        if item.completion and not item.completion_ids:
            return RewardOutput(None, error="invalid_input", message="the completion comes without its token ids")
        over = len(item.completion_ids) - (self.max_completion_tokens - self.buffer_tokens)
        return RewardOutput(-min(max(over / self.buffer_tokens, 0.0), 1.0) + 0.0)


class RepetitionReward(ConfiguredReward):
    """``-max_penalty · (1 - distinct n-grams / n-grams)``; 0 for a completion shorter than one n-gram.

    The form of Open-R1's ``get_repetition_penalty_reward``, after Yeo et al., 2025 (arXiv 2502.03373). Part
    ``repeated``: the share of n-grams that came before, in [0, 1).
    """

    type: Literal["repetition"] = "repetition"
    ngram: int = Field(default=3, ge=1, description="n: how many words in a row count as the same")
    max_penalty: float = Field(default=1.0, gt=0, description="where every n-gram is the same, nearly")

    def judged(self, item: RewardInput) -> RewardOutput:
        repeated = repeated_share(item.completion.lower().split(), self.ngram)
        return RewardOutput(-self.max_penalty * repeated + 0.0, {"repeated": repeated})


def repeated_share(units: Sequence[Hashable], n: int) -> float:
    """The share of the n-grams of ``units`` that are not the first of their kind."""
    count = len(units) - n + 1
    if count < 1:
        return 0.0
    return 1.0 - len({tuple(units[start : start + n]) for start in range(count)}) / count
