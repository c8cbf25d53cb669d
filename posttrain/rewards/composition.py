"""Rewards made of rewards: a weighted sum, a product, a gate, a route. Every part stays visible under its name.

A part's score is in ``parts`` under the part's name, and the part's own parts below it as ``name/part``. An error in
a part that is needed makes the whole an error of the same kind.

The config classes refer to ``RewardConfig``, the union of all rewards, and are completed by
``posttrain.rewards.config``.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from posttrain.config import Config
from posttrain.rewards.checked import outputs_of
from posttrain.rewards.on_error import BaseRewardConfig
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput, part_name

if TYPE_CHECKING:
    from posttrain.rewards.on_error import BaseRewardConfig as RewardConfig


class WeightedPart(Config):
    """One reward of a weighted sum."""

    weight: float = 1.0
    reward: "RewardConfig"


class WeightedSumConfig(BaseRewardConfig):
    """``parts: {name: {weight: 1.0, reward: {type: ...}}, ...}``."""

    type: Literal["weighted_sum"] = "weighted_sum"
    parts: dict[str, WeightedPart] = Field(min_length=1)

    def make(self) -> Reward:
        return WeightedSumReward({name: (part.weight, part.reward.build()) for name, part in self.parts.items()})


class ProductConfig(BaseRewardConfig):
    """``parts: {name: {type: ...}, ...}``."""

    type: Literal["product"] = "product"
    parts: dict[str, "RewardConfig"] = Field(min_length=1)

    def make(self) -> Reward:
        return ProductReward({name: part.build() for name, part in self.parts.items()})


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


class WeightedSumReward:
    """Σ weight · score over the named parts. A part that does not apply to an example is left out of its sum."""

    name = "weighted_sum"

    def __init__(self, parts: Mapping[str, tuple[float, Reward]]) -> None:
        self.parts = dict(parts)

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        rewards = {name: reward for name, (_, reward) in self.parts.items()}
        return joined(
            rewards, inputs, lambda scores: sum(self.parts[name][0] * score for name, score in scores.items())
        )

    def close(self) -> None:
        for _, reward in self.parts.values():
            reward.close()


class ProductReward:
    """Π score over the named parts: one part of 0 makes the whole 0. A part that does not apply to an example is left
    out of its product."""

    name = "product"

    def __init__(self, parts: Mapping[str, Reward]) -> None:
        self.parts = dict(parts)

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return joined(self.parts, inputs, lambda scores: math.prod(scores.values()))

    def close(self) -> None:
        for reward in self.parts.values():
            reward.close()


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
        return [
            self._through(condition, next(passed)) if ok else self._stopped(condition)
            for condition, ok in zip(conditions, is_open, strict=True)
        ]

    def _through(self, condition: RewardOutput, output: RewardOutput) -> RewardOutput:
        parts = parts_under(self.names[0], condition) | parts_under(self.names[1], output)
        return failed_part(self.names[1], output, parts) if output.error else RewardOutput(output.score, parts)

    def _stopped(self, condition: RewardOutput) -> RewardOutput:
        parts = parts_under(self.names[0], condition)
        if condition.error is not None:
            return failed_part(self.names[0], condition, parts)
        return RewardOutput(None if condition.score is None else self.otherwise, parts)

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
            rows.setdefault(self._value(item), []).append(row)
        outputs: dict[int, RewardOutput] = {}
        for value, chosen in rows.items():
            outputs.update(zip(chosen, self._route(value, [inputs[row] for row in chosen]), strict=True))
        return [outputs[row] for row in range(len(inputs))]

    def _value(self, item: RewardInput) -> str:
        return item.example.task if self.by == "task" else str(item.example.metadata.get(self.by))

    def _route(self, value: str, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        name = value if value in self.routes else "default"
        reward = self.routes.get(value, self.default)
        if reward is None:
            known = ", ".join(self.routes)
            message = f"no route for {self.by} {value!r} (routes: {known}; no default)"
            return [RewardOutput(None, error="invalid_input", message=message) for _ in inputs]
        return [
            failed_part(name, output, parts_under(name, output))
            if output.error
            else RewardOutput(output.score, parts_under(name, output))
            for output in outputs_of(reward, inputs)
        ]

    def close(self) -> None:
        for reward in self.routes.values():
            reward.close()
        if self.default is not None:
            self.default.close()


def joined(
    rewards: Mapping[str, Reward], inputs: Sequence[RewardInput], combine: Callable[[dict[str, float]], float]
) -> list[RewardOutput]:
    """One score of the scores that apply, by ``combine``. An error of one part is an error of the whole; where no part
    applies, neither does the whole."""
    columns = {name: outputs_of(reward, inputs) for name, reward in rewards.items()}
    return [_joined({name: column[row] for name, column in columns.items()}, combine) for row in range(len(inputs))]


def _joined(outputs: Mapping[str, RewardOutput], combine: Callable[[dict[str, float]], float]) -> RewardOutput:
    parts = {part: value for name, output in outputs.items() for part, value in parts_under(name, output).items()}
    for name, output in outputs.items():
        if output.error is not None:
            return failed_part(name, output, parts)
    scores = {name: output.score for name, output in outputs.items() if output.score is not None}
    return RewardOutput(combine(scores) if scores else None, parts)


def parts_under(name: str, output: RewardOutput) -> dict[str, float]:
    """The part's score under ``name``, and its own parts below."""
    own = {} if output.score is None else {name: output.score}
    return own | {f"{name}/{part}": value for part, value in output.parts.items()}


def failed_part(name: str, output: RewardOutput, parts: dict[str, float]) -> RewardOutput:
    """The whole, where the part ``name`` is needed and failed."""
    return RewardOutput(None, parts, output.error, f"{name}: {output.message}")
