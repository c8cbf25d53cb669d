"""A control: the scores that another reward gives, dealt out at random inside each group."""

import random
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from posttrain.rewards.checked import outputs_of
from posttrain.rewards.on_error import BaseRewardConfig
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput

if TYPE_CHECKING:
    from posttrain.rewards.on_error import BaseRewardConfig as RewardConfig


class ShuffledConfig(BaseRewardConfig):
    """``reward`` judges; its scores are then dealt out at random inside each group."""

    type: Literal["shuffled"] = "shuffled"
    reward: "RewardConfig"
    seed: int = Field(default=0, ge=0)

    def make(self) -> Reward:
        return ShuffledReward(self.reward.build(), self.seed)


class ShuffledReward:
    """Keeps every group's pass rate and takes away what it means: who still learns is learning something else.

    The order depends on ``seed`` and on the completions of the group alone. Trainers score whole groups, so neighbours
    of one example are a group.
    """

    def __init__(self, reward: Reward, seed: int = 0) -> None:
        self.reward = reward
        self.seed = seed

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        outputs = outputs_of(self.reward, inputs)
        shuffled: list[RewardOutput] = []
        for example_id, items in groupby(inputs, key=lambda item: item.example.id):
            group = list(items)
            dealt = outputs[len(shuffled) : len(shuffled) + len(group)]
            texts = "\x1f".join(item.completion for item in group)
            random.Random(f"{self.seed}\x1f{example_id}\x1f{texts}").shuffle(dealt)
            shuffled += dealt
        return shuffled

    def close(self) -> None:
        """End what the inner reward has started."""
        self.reward.close()
