"""Rewards of a user's own, named by path in the tests of the reward config."""

from collections.abc import Sequence
from typing import Any

from posttrain.config import Config
from posttrain.rewards.reward import RewardInput, RewardOutput


class ConstantConfig(Config):
    value: float


class Constant:
    """Checked by a config class of its own."""

    config_class = ConstantConfig

    def __init__(self, config: ConstantConfig) -> None:
        self.value = config.value

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return [RewardOutput(self.value) for _ in inputs]

    def close(self) -> None:
        pass


class Failing:
    """Takes plain keyword arguments; judges nothing."""

    def __init__(self, reason: str = "no judge") -> None:
        self.reason = reason

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return [RewardOutput(None, error="unavailable", message=self.reason) for _ in inputs]

    def close(self) -> None:
        pass


def length_reward(completions: list[Any], scale: float = 1.0, **kwargs: Any) -> list[float]:
    """A reward function in TRL's form."""
    return [scale * len(completion) for completion in completions]
