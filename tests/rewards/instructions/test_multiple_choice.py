"""The letter that a completion chooses."""

import pytest

from posttrain.rewards.checked import score_checked
from posttrain.rewards.instructions.multiple_choice import MultipleChoiceReward
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.types import Example


def judge(completion: str, answer: str | list[str] | None = "B", letters: str = "ABCD") -> RewardOutput:
    reward = MultipleChoiceReward(letters=letters).build()
    return score_checked(reward, [RewardInput(Example("row", "q", answer), completion)])[0]


@pytest.mark.parametrize(
    "completion",
    [
        "B",
        " (b) ",
        "**B**",
        "B) Paris",
        "B. Paris",
        "It is a river, so the answer is B.",
        "The answer is (B).",
        "Answer: **B**",
        "A is wrong. Answer: B) Paris",
        r"\boxed{B}",
        r"Thus $\boxed{\text{B}}$",
        "#### B",
        "<answer>B</answer>",
        "<think>The answer is A.</think>The answer is B.",
    ],
)
def test_right(completion: str) -> None:
    assert judge(completion) == RewardOutput(1.0, {"answered": 1.0})


@pytest.mark.parametrize(
    ("completion", "answered"),
    [
        ("A", 1),
        ("The answer is B. No, wait: the answer is C.", 1),
        ("<answer>C</answer> or B", 1),
        ("E", 0),
        ("Paris", 0),
        ("Be careful", 0),
        ("B is not the one", 0),
        ("I think B", 0),
        ("The answer is better known.", 0),
        ("<think>The answer is B.", 0),
        ("", 0),
    ],
)
def test_not_right(completion: str, answered: float) -> None:
    output = judge(completion)
    assert (output.score, output.parts) == (0, {"answered": answered})


def test_the_examples_answer() -> None:
    assert judge("B", "(B)").score == 1
    assert judge("b", "b) Paris").score == 1
    for answer in (None, "", "Paris", "E", "2", ["B"]):
        output = judge("B", answer)
        assert (output.score, output.error) == (None, "invalid_input"), answer
    assert "is not one of the letters ABCD" in judge("B", "E").message
