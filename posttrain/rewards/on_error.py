"""What becomes of a completion whose reward failed: the keys that every reward config shares."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field, model_validator

from posttrain.config import Config
from posttrain.errors import RewardFailure
from posttrain.rewards.checked import outputs_of
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput, part_name

ErrorPolicy = Literal["drop", "stop", "score"]


class BaseRewardConfig(Config):
    """``build`` makes the reward, with the error policy around it where one is set."""

    on_error: ErrorPolicy = Field(
        default="drop", description="drop: leave the rollout out; stop: end the run; score: give error_score"
    )
    error_score: float | None = Field(default=None, description="of on_error: score")

    @model_validator(mode="after")
    def _error_score_fits_the_policy(self) -> "BaseRewardConfig":
        if (self.on_error == "score") != (self.error_score is not None):
            raise ValueError("on_error: score and error_score belong together; set both or neither")
        return self

    @abstractmethod
    def make(self) -> Reward:
        """The reward itself, which says ``error`` where it cannot judge."""

    def build(self) -> Reward:
        """The reward as configured."""
        reward = self.make()
        return reward if self.on_error == "drop" else WithErrorPolicy(reward, self.error_score)


class WithErrorPolicy:
    """``reward`` whose failures end the run (``error_score`` None), or score ``error_score``: then the kind of failure
    stays visible as the part ``error/<kind>``."""

    def __init__(self, reward: Reward, error_score: float | None) -> None:
        self.reward = reward
        self.error_score = error_score
        self.name = part_name(reward)

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return [self._tolerated(*pair) for pair in zip(inputs, outputs_of(self.reward, inputs), strict=True)]

    def _tolerated(self, item: RewardInput, output: RewardOutput) -> RewardOutput:
        if output.error is None:
            return output
        if self.error_score is None:
            raise RewardFailure(
                f"{self.name} could not judge a completion of example {item.example.id!r}: {output.error} "
                f"({output.message}). The reward is configured with on_error: stop; drop leaves such rollouts out."
            )
        return replace(output, score=self.error_score, parts={**output.parts, f"error/{output.error}": 1.0}, error=None)

    def close(self) -> None:
        self.reward.close()


class ConfiguredReward(BaseRewardConfig):
    """A reward and its config in one: its keys, and how it judges. Only ``build`` puts the error policy around it."""

    type: str

    @property
    def name(self) -> str:
        return self.type

    def make(self) -> Reward:
        return self

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return [self.judged(item) for item in inputs]

    def judged(self, item: RewardInput) -> RewardOutput:
        """The output of one completion, for a reward that looks at each by itself."""
        raise NotImplementedError(f"{type(self).__name__} must define judged or score")

    def close(self) -> None:
        """Nothing to end."""
