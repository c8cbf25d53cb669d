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
        if self.on_error == "stop":
            return StopOnError(reward)
        if self.error_score is not None:
            return ScoreOnError(reward, self.error_score)
        return reward


class StopOnError:
    """A failure of ``reward`` ends the run."""

    def __init__(self, reward: Reward) -> None:
        self.reward = reward
        self.name = part_name(reward)

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        outputs = outputs_of(self.reward, inputs)
        for item, output in zip(inputs, outputs, strict=True):
            if output.error is not None:
                raise RewardFailure(
                    f"{self.name} could not judge a completion of example {item.example.id!r}: {output.error} "
                    f"({output.message}). The reward is configured with on_error: stop; drop leaves such rollouts out."
                )
        return outputs

    def close(self) -> None:
        self.reward.close()


class ScoreOnError:
    """A failure of ``reward`` scores ``error_score``, and the kind stays visible as the part ``error/<kind>``."""

    def __init__(self, reward: Reward, error_score: float) -> None:
        self.reward = reward
        self.error_score = error_score
        self.name = part_name(reward)

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return [
            output
            if output.error is None
            else replace(
                output, score=self.error_score, parts={**output.parts, f"error/{output.error}": 1.0}, error=None
            )
            for output in outputs_of(self.reward, inputs)
        ]

    def close(self) -> None:
        self.reward.close()
