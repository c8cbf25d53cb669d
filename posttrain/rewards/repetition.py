"""A penalty for n-grams that come again: completions that loop."""

from collections.abc import Hashable, Sequence
from typing import Literal

from pydantic import Field

from posttrain.rewards.on_error import BaseRewardConfig
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput


class RepetitionConfig(BaseRewardConfig):
    """Between 0 and ``-max_penalty``; as a part of a weighted sum."""

    type: Literal["repetition"] = "repetition"
    ngram: int = Field(default=3, ge=1, description="n: how many units in a row count as the same")
    unit: Literal["word", "token", "character"] = Field(
        default="word", description="word: between white space, lower-cased; token: needs the completion's token ids"
    )
    max_penalty: float = Field(default=1.0, gt=0, description="where every n-gram is the same, nearly")

    def make(self) -> Reward:
        return RepetitionReward(ngram=self.ngram, unit=self.unit, max_penalty=self.max_penalty)


class RepetitionReward:
    """``-max_penalty · (1 - distinct n-grams / n-grams)``; 0 for a completion shorter than one n-gram.

    The form of Open-R1's ``get_repetition_penalty_reward``, after Yeo et al., 2025 (arXiv 2502.03373). Part
    ``repeated``: the share of n-grams that came before, in [0, 1).
    """

    name = "repetition"

    def __init__(
        self, *, ngram: int = 3, unit: Literal["word", "token", "character"] = "word", max_penalty: float = 1.0
    ) -> None:
        self.ngram = ngram
        self.unit = unit
        self.max_penalty = max_penalty

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return [self._score(item) for item in inputs]

    def _score(self, item: RewardInput) -> RewardOutput:
        if self.unit == "token" and item.completion and not item.completion_ids:
            return RewardOutput(None, error="invalid_input", message="the completion comes without its token ids")
        units: Sequence[Hashable] = item.completion
        if self.unit != "character":
            units = item.completion_ids if self.unit == "token" else item.completion.lower().split()
        repeated = repeated_share(units, self.ngram)
        return RewardOutput(-self.max_penalty * repeated + 0.0, {"repeated": repeated})

    def close(self) -> None:
        """Nothing to end."""


def repeated_share(units: Sequence[Hashable], n: int) -> float:
    """The share of the n-grams of ``units`` that are not the first of their kind."""
    count = len(units) - n + 1
    if count < 1:
        return 0.0
    distinct = {tuple(units[start : start + n]) for start in range(count)}
    return 1.0 - len(distinct) / count
