"""Another range for a reward's scores: clipped, or normalised; and, as a control, another order.

The config classes refer to ``RewardConfig`` and are completed by ``posttrain.rewards.config``.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from posttrain.rewards.checked import outputs_of
from posttrain.rewards.composition import under
from posttrain.rewards.on_error import BaseRewardConfig, ConfiguredReward
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
        return clip(self.reward.build(), self.low, self.high)


class NormaliseConfig(BaseRewardConfig):
    """Scores on a common scale, so that a sum of several rewards weighs them as it says. BLEUBERI's ``bleu_rm`` (arXiv
    2505.11080) is the sum of two z-scores, 0.5 each."""

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
        return normalise(self.reward.build(), self.method, self.mean, self.std)


class RescaledReward:
    """The scores of ``reward`` by ``rescale``, group by group; the score as it was stays visible as a part.

    Trainers score whole groups, so neighbours of one example are a group; statistics within the group mean nothing
    where items come one by one, as through the scoring API. Failed rollouts take no part.
    """

    def __init__(self, name: str, reward: Reward, rescale: Callable[[list[float]], Sequence[float]]) -> None:
        self.name = name
        self.reward = reward
        self.rescale = rescale

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        name, rescaled = part_name(self.reward), list[RewardOutput]()
        for _, group in grouped(inputs, outputs_of(self.reward, inputs)):
            scores = iter(self.rescale([output.score for output in group if output.score is not None]))
            wholes = [under(name, output) for output in group]
            rescaled += [whole if whole.score is None else replace(whole, score=next(scores)) for whole in wholes]
        return rescaled

    def close(self) -> None:
        self.reward.close()


def clip(reward: Reward, low: float | None = None, high: float | None = None) -> RescaledReward:
    """min(max(score, low), high)."""
    least, most = -math.inf if low is None else low, math.inf if high is None else high
    return RescaledReward("clip", reward, lambda scores: [min(max(score, least), most) for score in scores])


def normalise(reward: Reward, method: Method = "z_score", mean: float = 0.0, std: float = 1.0) -> RescaledReward:
    """z-scores or [0, 1] within the group, or (score - mean) / std."""

    def fixed(scores: Sequence[float]) -> list[float]:
        return [(score - mean) / std for score in scores]

    return RescaledReward("normalise", reward, {"z_score": z_scores, "min_max": min_max, "fixed": fixed}[method])


class ShuffledReward(ConfiguredReward):
    """``reward`` judges; its scores are then dealt out at random inside each group. A control: keeps every group's pass
    rate and takes away what it means. The order depends on ``seed`` and on the completions of the group alone."""

    type: Literal["shuffled"] = "shuffled"
    reward: "RewardConfig"
    seed: int = Field(default=0, ge=0)

    def make(self) -> Reward:
        _ = self._judge  # built here
        return self

    @cached_property
    def _judge(self) -> Reward:
        return self.reward.build()

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        shuffled: list[RewardOutput] = []
        for items, dealt in grouped(inputs, outputs_of(self._judge, inputs)):
            texts = "\x1f".join(item.completion for item in items)
            random.Random(f"{self.seed}\x1f{items[0].example.id}\x1f{texts}").shuffle(dealt)
            shuffled += dealt
        return shuffled

    def close(self) -> None:
        self._judge.close()


def grouped(
    inputs: Sequence[RewardInput], outputs: Sequence[RewardOutput]
) -> Iterator[tuple[list[RewardInput], list[RewardOutput]]]:
    """Neighbours of one example, with their outputs."""
    for _, group in groupby(zip(inputs, outputs, strict=True), key=lambda pair: pair[0].example.id):
        pairs = list(group)
        yield [item for item, _ in pairs], [output for _, output in pairs]


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
