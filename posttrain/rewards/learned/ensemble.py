"""Several rewards as one that trusts what they agree on: an ensemble against reward hacking (arXiv 2310.02743).

The config class refers to ``RewardConfig`` and is completed by ``posttrain.rewards.config``.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from posttrain.rewards.checked import outputs_of
from posttrain.rewards.composition import failed_part, parts_under
from posttrain.rewards.on_error import BaseRewardConfig
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput

if TYPE_CHECKING:
    from posttrain.rewards.on_error import BaseRewardConfig as RewardConfig

Combine = Literal["mean", "min", "mean_minus_std"]


class EnsembleConfig(BaseRewardConfig):
    """``members: [{type: learned, model: A}, {type: learned, model: B}]``, or ``{name: {type: ...}, ...}``."""

    type: Literal["ensemble"] = "ensemble"
    members: "list[RewardConfig] | dict[str, RewardConfig]" = Field(
        min_length=2, description="two or more; those of a list are called member_1, member_2, ..."
    )
    combine: Combine = "mean"
    k: float = Field(default=1.0, ge=0, description="of mean_minus_std: mean - k * std")

    @model_validator(mode="after")
    def _k_is_for_the_deviation(self) -> "EnsembleConfig":
        if "k" in self.model_fields_set and self.combine != "mean_minus_std":
            raise ValueError(f"k belongs to combine: mean_minus_std, and combine is {self.combine}")
        return self

    def make(self) -> Reward:
        members = self.members
        if not isinstance(members, dict):
            members = {f"member_{number}": member for number, member in enumerate(members, start=1)}
        return EnsembleReward({name: member.build() for name, member in members.items()}, self.combine, self.k)


class EnsembleReward:
    """Mean, minimum, or mean - k * std of the members' scores, each of which is a part; ``members_std`` is their
    population standard deviation. An error of one member is an error of the ensemble; members that do not apply to an
    example are left out."""

    name = "ensemble"

    def __init__(self, members: Mapping[str, Reward], combine: Combine = "mean", k: float = 1.0) -> None:
        self.members = dict(members)
        self.combine = combine
        self.k = k

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        columns = {name: outputs_of(member, inputs) for name, member in self.members.items()}
        return [self._combined({name: outputs[row] for name, outputs in columns.items()}) for row in range(len(inputs))]

    def _combined(self, outputs: Mapping[str, RewardOutput]) -> RewardOutput:
        parts = {part: value for name, output in outputs.items() for part, value in parts_under(name, output).items()}
        for name, output in outputs.items():
            if output.error is not None:
                return failed_part(name, output, parts)
        scores = [output.score for output in outputs.values() if output.score is not None]
        if not scores:
            return RewardOutput(None, parts)
        return RewardOutput(combined(scores, self.combine, self.k), {**parts, "members_std": pstdev(scores)})

    def close(self) -> None:
        for member in self.members.values():
            member.close()


def combined(scores: Sequence[float], combine: Combine, k: float = 1.0) -> float:
    """One score of several; the deviation is that of the population (divided by n, not n - 1)."""
    match combine:
        case "mean":
            return fmean(scores)
        case "min":
            return min(scores)
        case "mean_minus_std":
            return fmean(scores) - k * pstdev(scores)
