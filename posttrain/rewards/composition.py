"""Rewards made of rewards: a weighted sum, a product, an ensemble, a gate, a route. Parts stay visible by their names.

A part's score is in ``parts`` under the part's name, and the part's own parts below it as ``name/part``. An error in
a part that is needed makes the whole an error of the same kind.

The config classes refer to ``RewardConfig``, the union of all rewards, and are completed by
``posttrain.rewards.config``.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from posttrain.config import Config
from posttrain.rewards.checked import outputs_of
from posttrain.rewards.on_error import BaseRewardConfig
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput, part_name

if TYPE_CHECKING:
    from posttrain.rewards.on_error import BaseRewardConfig as RewardConfig

Scores = dict[str, float]
Combine = Literal["mean", "min", "mean_minus_std"]


class WeightedPart(Config):
    """One reward of a weighted sum."""

    weight: float = 1.0
    reward: "RewardConfig"


class WeightedSumConfig(BaseRewardConfig):
    """``parts: {name: {weight: 1.0, reward: {type: ...}}, ...}``."""

    type: Literal["weighted_sum"] = "weighted_sum"
    parts: dict[str, WeightedPart] = Field(min_length=1)

    def make(self) -> Reward:
        return weighted_sum({name: (part.weight, part.reward.build()) for name, part in self.parts.items()})


class ProductConfig(BaseRewardConfig):
    """``parts: {name: {type: ...}, ...}``."""

    type: Literal["product"] = "product"
    parts: dict[str, "RewardConfig"] = Field(min_length=1)

    def make(self) -> Reward:
        return product({name: part.build() for name, part in self.parts.items()})


class EnsembleConfig(BaseRewardConfig):
    """Several rewards as one that trusts what they agree on, against reward hacking (arXiv 2310.02743).

    ``members: [{type: learned, model: A}, {type: learned, model: B}]``, or ``{name: {type: ...}, ...}``.
    """

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
        return ensemble({name: member.build() for name, member in members.items()}, self.combine, self.k)


class GateConfig(BaseRewardConfig):
    """``reward`` counts where ``condition`` scores at least ``threshold``; elsewhere the score is ``otherwise``."""

    type: Literal["gate"] = "gate"
    condition: "RewardConfig"
    threshold: float = 1.0
    reward: "RewardConfig"
    otherwise: float = 0.0

    def make(self) -> Reward:
        return GateReward(self.condition.build(), self.reward.build(), self.threshold, self.otherwise)


class RouteConfig(BaseRewardConfig):
    """``routes`` maps a value of ``by`` to the reward of such examples."""

    type: Literal["route"] = "route"
    by: str = Field(default="task", description="task, or a key of the example's metadata")
    routes: dict[str, "RewardConfig"] = Field(min_length=1)
    default: "RewardConfig | None" = Field(default=None, description="null: an example without a route is an error")

    def make(self) -> Reward:
        routes = {value: reward.build() for value, reward in self.routes.items()}
        return RouteReward(routes, self.by, self.default.build() if self.default else None)


class JoinedReward:
    """One output of the scores of named parts, by ``combine``. A part that does not apply to an example is left out;
    where none applies, neither does the whole. An error of one part is an error of the whole."""

    def __init__(self, name: str, parts: Mapping[str, Reward], combine: Callable[[Scores], RewardOutput]) -> None:
        self.name = name
        self.parts = dict(parts)
        self.combine = combine

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        columns = {name: outputs_of(reward, inputs) for name, reward in self.parts.items()}
        return [self._joined({name: outputs[row] for name, outputs in columns.items()}) for row in range(len(inputs))]

    def _joined(self, outputs: Mapping[str, RewardOutput]) -> RewardOutput:
        parts = {part: value for name, output in outputs.items() for part, value in parts_under(name, output).items()}
        for name, output in outputs.items():
            if output.error is not None:
                return replace(under(name, output), parts=parts)
        scores = {name: output.score for name, output in outputs.items() if output.score is not None}
        whole = self.combine(scores) if scores else RewardOutput(None)
        return replace(whole, parts=parts | whole.parts)

    def close(self) -> None:
        for reward in self.parts.values():
            reward.close()


def weighted_sum(parts: Mapping[str, tuple[float, Reward]]) -> JoinedReward:
    """Σ weight · score."""

    def combine(scores: Scores) -> RewardOutput:
        return RewardOutput(sum(parts[name][0] * score for name, score in scores.items()))

    return JoinedReward("weighted_sum", {name: reward for name, (_, reward) in parts.items()}, combine)


def product(parts: Mapping[str, Reward]) -> JoinedReward:
    """Π score: one part of 0 makes the whole 0."""
    return JoinedReward("product", parts, lambda scores: RewardOutput(math.prod(scores.values())))


def ensemble(members: Mapping[str, Reward], combine: Combine = "mean", k: float = 1.0) -> JoinedReward:
    """Mean, minimum, or mean - k * std of the scores; the part ``members_std`` is their population standard deviation
    (divided by n, not n - 1)."""

    def combined(scores: Scores) -> RewardOutput:
        values = list(scores.values())
        mean, std = fmean(values), pstdev(values)
        score = {"mean": mean, "min": min(values), "mean_minus_std": mean - k * std}[combine]
        return RewardOutput(score, {"members_std": std})

    return JoinedReward("ensemble", members, combined)


class GateReward:
    """The score of ``reward`` where ``condition`` scores at least ``threshold``, else ``otherwise``: format before
    correctness. ``reward`` is only asked where the gate is open."""

    name = "gate"

    def __init__(self, condition: Reward, reward: Reward, threshold: float = 1.0, otherwise: float = 0.0) -> None:
        self.condition = condition
        self.reward = reward
        self.threshold = threshold
        self.otherwise = otherwise
        self.names = (part_name(condition), part_name(reward))
        if self.names[0] == self.names[1]:
            self.names = ("condition", "reward")

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        conditions = outputs_of(self.condition, inputs)
        is_open = [condition.score is not None and condition.score >= self.threshold for condition in conditions]
        passed = iter(outputs_of(self.reward, [item for item, ok in zip(inputs, is_open, strict=True) if ok]))
        outputs = []
        for condition, ok in zip(conditions, is_open, strict=True):
            whole = under(self.names[0], condition)
            if ok:
                inside = under(self.names[1], next(passed))
                whole = replace(inside, parts=whole.parts | inside.parts)
            elif condition.score is not None:
                whole = replace(whole, score=self.otherwise)
            outputs.append(whole)
        return outputs

    def close(self) -> None:
        self.condition.close()
        self.reward.close()


class RouteReward:
    """Each example goes to the reward of its ``task``, or of the value of a metadata key."""

    name = "route"

    def __init__(self, routes: Mapping[str, Reward], by: str = "task", default: Reward | None = None) -> None:
        self.routes = dict(routes)
        self.by = by
        self.default = default

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        rows: dict[str, list[int]] = {}
        for row, item in enumerate(inputs):
            value = item.example.task if self.by == "task" else str(item.example.metadata.get(self.by))
            rows.setdefault(value, []).append(row)
        outputs: dict[int, RewardOutput] = {}
        for value, chosen in rows.items():
            outputs.update(zip(chosen, self._route(value, [inputs[row] for row in chosen]), strict=True))
        return [outputs[row] for row in range(len(inputs))]

    def _route(self, value: str, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        name = value if value in self.routes else "default"
        reward = self.routes.get(value, self.default)
        if reward is None:
            known = ", ".join(self.routes)
            message = f"no route for {self.by} {value!r} (routes: {known}; no default)"
            return [RewardOutput(None, error="invalid_input", message=message) for _ in inputs]
        return [under(name, output) for output in outputs_of(reward, inputs)]

    def close(self) -> None:
        for reward in self.routes.values():
            reward.close()
        if self.default is not None:
            self.default.close()


def parts_under(name: str, output: RewardOutput) -> dict[str, float]:
    """The part's score under ``name``, and its own parts below."""
    own = {} if output.score is None else {name: output.score}
    return own | {f"{name}/{part}": value for part, value in output.parts.items()}


def under(name: str, output: RewardOutput) -> RewardOutput:
    """The output of a whole that is what its part ``name`` is."""
    message = f"{name}: {output.message}" if output.error else ""
    return RewardOutput(output.score, parts_under(name, output), output.error, message)
