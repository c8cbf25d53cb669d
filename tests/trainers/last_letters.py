"""A task of one's own that a policy of random weights solves about every second time."""

from collections.abc import Sequence

from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.types import Example


class LastLetters:
    """An answer is right where the code of its last letter is even, whatever is said before."""

    def train_examples(self) -> list[Example]:
        return [Example(name, f"{name}=") for name in "abcd"]

    def eval_examples(self) -> list[Example]:
        return [Example("e", "e=")]

    def reward(self) -> "LastLetters":
        return self

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return [RewardOutput(float(item.completion != "" and ord(item.completion[-1]) % 2 == 0)) for item in inputs]

    def close(self) -> None:
        pass
