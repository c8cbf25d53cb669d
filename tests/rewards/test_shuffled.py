"""The control keeps every group's scores and breaks their order, alike in every run."""

from posttrain.rewards.math.exact_integer import ExactIntegerReward
from posttrain.rewards.rescaling import ShuffledReward
from posttrain.rewards.reward import RewardInput
from posttrain.types import Example


def group(name: str, completions: list[str]) -> list[RewardInput]:
    return [RewardInput(Example(id=name, prompt="1+1=", answer="2"), text) for text in completions]


def scores(seed: int, inputs: list[RewardInput]) -> list[float | None]:
    return [output.score for output in ShuffledReward(reward=ExactIntegerReward(), seed=seed).score(inputs)]


def test_each_group_keeps_its_pass_rate() -> None:
    inputs = group("a", ["2"] * 3 + ["5"] * 5) + group("b", ["2"] * 1 + ["7"] * 7)
    dealt = scores(0, inputs)
    assert (sum(map(float, dealt[:8])), sum(map(float, dealt[8:]))) == (3.0, 1.0)


def test_the_seed_decides_and_another_batch_does_not() -> None:
    inputs = group("a", ["2"] * 8 + ["5"] * 8)
    assert scores(1, inputs) == scores(1, group("z", ["4"] * 4) + inputs)[4:]
    assert len({tuple(scores(seed, inputs)) for seed in range(5)}) > 1


def test_over_many_groups_a_right_completion_earns_what_a_wrong_one_does() -> None:
    inputs = [item for i in range(500) for item in group(f"g{i}", ["2", "2", "3", "3"])]
    dealt = scores(0, inputs)
    right = sum(float(score or 0) for score, item in zip(dealt, inputs, strict=True) if item.completion == "2")
    assert abs(right / 1000 - 0.5) < 0.05
