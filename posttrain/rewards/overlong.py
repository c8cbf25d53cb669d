"""DAPO's soft penalty for completions that come close to the length limit (arXiv 2503.14476, eq. 13)."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from posttrain.rewards.on_error import BaseRewardConfig
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput


class OverlongConfig(BaseRewardConfig):
    """The paper's values: a limit of 20,480 tokens, the last 4,096 of them penalised."""

    type: Literal["overlong"] = "overlong"
    max_completion_tokens: int = Field(ge=1, description="L_max; as a rule sampling.max_completion_tokens")
    buffer_tokens: int = Field(ge=1, description="L_cache: the last tokens before the limit, where the penalty grows")

    @model_validator(mode="after")
    def _buffer_fits(self) -> "OverlongConfig":
        if self.buffer_tokens > self.max_completion_tokens:
            raise ValueError(
                f"buffer_tokens ({self.buffer_tokens}) must be at most max_completion_tokens "
                f"({self.max_completion_tokens})"
            )
        return self

    def make(self) -> Reward:
        return OverlongReward(self.max_completion_tokens, self.buffer_tokens)


class OverlongReward:
    """A penalty between 0 and -1, added to the reward of correctness.

    With |y| completion tokens, the limit L_max and the buffer L_cache:

        0                                  |y| <= L_max - L_cache
        (L_max - L_cache - |y|) / L_cache  L_max - L_cache < |y| <= L_max
        -1                                 |y| > L_max
    """

    def __init__(self, max_completion_tokens: int, buffer_tokens: int) -> None:
        self.max_completion_tokens = max_completion_tokens
        self.buffer_tokens = buffer_tokens

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return [self._score(item) for item in inputs]

    def _score(self, item: RewardInput) -> RewardOutput:
        if item.completion and not item.completion_ids:
            return RewardOutput(None, error="invalid_input", message="the completion comes without its token ids")
        over = len(item.completion_ids) - (self.max_completion_tokens - self.buffer_tokens)
        return RewardOutput(-min(max(over / self.buffer_tokens, 0.0), 1.0) + 0.0)

    def close(self) -> None:
        """Nothing to end."""
