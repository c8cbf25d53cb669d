"""A reward that an untrained model earns about every second time, so that groups have a spread."""

from collections.abc import Sequence

from posttrain.rewards.reward import RewardInput, RewardOutput


class ParityReward:
    """1 where the sum of the completion's token ids is even, else 0."""

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return [RewardOutput(float(sum(item.completion_ids) % 2 == 0)) for item in inputs]

    def close(self) -> None:
        """Nothing to end."""
