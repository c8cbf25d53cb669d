"""Another range for a reward's scores: clipped, or normalised. The score as it was stays visible as a part.

The config classes refer to ``RewardConfig`` and are completed by ``posttrain.rewards.config``.
"""

from collections.abc import Sequence
from itertools import groupby
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from posttrain.rewards.checked import outputs_of
from posttrain.rewards.composition import failed_part, parts_under
from posttrain.rewards.on_error import BaseRewardConfig
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput, part_name

if TYPE_CHECKING:
    from posttrain.rewards.on_error import BaseRewardConfig as RewardConfig

Method = Literal["z_score", "min_max", "fixed"]


class ClipConfig(BaseRewardConfig):
    """No score below ``low`` or above ``high``."""

    type: Literal["clip"] = "clip"
    reward: "RewardConfig"
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _is_a_range(self) -> "ClipConfig":
        if self.low is None and self.high is None:
            raise ValueError("clip asks for nothing: set low, high or both")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        return self

    def make(self) -> Reward:
        return ClipReward(self.reward.build(), self.low, self.high)


class NormaliseConfig(BaseRewardConfig):
    """Scores on a common scale, so that a sum of several rewards weighs them as it says."""

    type: Literal["normalise"] = "normalise"
    reward: "RewardConfig"
    method: Method = Field(
        default="z_score",
        description="z_score or min_max within the group of one example, or fixed: (score - mean) / std",
    )
    mean: float = Field(default=0.0, description="of fixed")
    std: float = Field(default=1.0, gt=0, description="of fixed")

    @model_validator(mode="after")
    def _statistics_fit_the_method(self) -> "NormaliseConfig":
        if (self.method == "fixed") != bool({"mean", "std"} & self.model_fields_set):
            raise ValueError("mean and std belong to method: fixed, which needs them")
        return self

    def make(self) -> Reward:
        return NormaliseReward(self.reward.build(), self.method, self.mean, self.std)


class ClipReward:
    """min(max(score, low), high)."""

    name = "clip"

    def __init__(self, reward: Reward, low: float | None = None, high: float | None = None) -> None:
        self.reward = reward
        self.low = float("-inf") if low is None else low
        self.high = float("inf") if high is None else high

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        outputs = outputs_of(self.reward, inputs)
        scores = [output.score for output in outputs if output.score is not None]
        return _rescored(self.reward, outputs, [min(max(score, self.low), self.high) for score in scores])

    def close(self) -> None:
        self.reward.close()


class NormaliseReward:
    """Scores as z-scores or on [0, 1] within their group, or by a mean and standard deviation that were fixed before.

    Trainers score whole groups, so neighbours of one example are a group; statistics within the group mean nothing
    where items come one by one, as through the scoring API. Failed rollouts take no part. BLEUBERI's ``bleu_rm``
    (arXiv 2505.11080) is the sum of two z-scores, 0.5 each.
    """

    name = "normalise"

    def __init__(self, reward: Reward, method: Method = "z_score", mean: float = 0.0, std: float = 1.0) -> None:
        self.reward = reward
        self.method = method
        self.mean = mean
        self.std = std

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        outputs = outputs_of(self.reward, inputs)
        pairs = zip(inputs, outputs, strict=True)
        rescaled: list[float] = []
        for _, group in groupby(pairs, key=lambda pair: pair[0].example.id):
            rescaled += self._normalised([output.score for _, output in group if output.score is not None])
        return _rescored(self.reward, outputs, rescaled)

    def _normalised(self, scores: list[float]) -> list[float]:
        match self.method:
            case "z_score":
                return z_scores(scores)
            case "min_max":
                return min_max(scores)
            case "fixed":
                return [(score - self.mean) / self.std for score in scores]

    def close(self) -> None:
        self.reward.close()


def z_scores(scores: Sequence[float]) -> list[float]:
    """(s - mean) / std with n - 1; all 0 where there is no spread."""
    if len(set(scores)) < 2:
        return [0.0] * len(scores)
    mean, std = fmean(scores), stdev(scores)
    return [(score - mean) / std for score in scores]


def min_max(scores: Sequence[float]) -> list[float]:
    """(s - min) / (max - min); all 0 where there is no spread."""
    if len(set(scores)) < 2:
        return [0.0] * len(scores)
    low, high = min(scores), max(scores)
    return [(score - low) / (high - low) for score in scores]


def _rescored(reward: Reward, outputs: Sequence[RewardOutput], scores: Sequence[float]) -> list[RewardOutput]:
    """``outputs`` with ``scores`` in place of their own, in order, where they have one."""
    name, remaining = part_name(reward), iter(scores)
    return [
        failed_part(name, output, parts_under(name, output))
        if output.error
        else RewardOutput(None if output.score is None else next(remaining), parts_under(name, output))
        for output in outputs
    ]
