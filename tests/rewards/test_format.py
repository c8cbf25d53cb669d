"""The form of a completion."""

import pytest

from posttrain.rewards.checked import score_checked
from posttrain.rewards.format import FormatReward, tags_in_order
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput
from posttrain.types import Example


def judge(reward: Reward, completion: str) -> RewardOutput:
    return score_checked(reward, [RewardInput(Example("row", "question"), completion)])[0]


@pytest.mark.parametrize(
    ("completion", "score"),
    [(r"so \boxed{5}", 1), (r"\boxed{\frac{1}{2}}", 1), (r"\boxed{}", 0), (r"\boxed{5", 0), ("5", 0), ("", 0)],
)
def test_boxed(completion: str, score: float) -> None:
    assert judge(FormatReward(boxed=True), completion) == RewardOutput(score, {"boxed": score})


@pytest.mark.parametrize(
    ("completion", "ok"),
    [
        ("<think>a</think><answer>5</answer>", True),
        ("so <think>\na\n</think>\n\n<answer>5</answer> done", True),
        ("<answer>5</answer><think>a</think>", False),
        ("<think>a</think>", False),
        ("<think>a<answer>5</answer></think>", False),
        ("<think>a</think><think>b</think><answer>5</answer>", False),
        ("<think> </think><answer>5</answer>", False),
        ("</think>a<think><answer>5</answer>", False),
        ("<think>a</think><answer>5", False),
        ("", False),
    ],
)
def test_tags(completion: str, ok: bool) -> None:
    assert tags_in_order(completion, ["think", "answer"]) is ok


def test_every_condition_must_hold_and_is_a_part() -> None:
    reward = FormatReward(boxed=True, tags=("think",), pattern=r"\A<think>.*\Z", timeout_s=20)
    assert judge(reward, "<think>a\nb</think> \\boxed{5}").score == 1
    assert judge(reward, "<think>a</think> 5") == RewardOutput(0.0, {"boxed": 0.0, "tags": 1.0, "pattern": 1.0})
    reward.close()


def test_a_pattern_that_explodes_costs_one_sample() -> None:
    reward = FormatReward(pattern=r"^(a+)+$", timeout_s=1.0)
    example = Example("row", "question")
    outputs = score_checked(reward, [RewardInput(example, text) for text in ("aaa", "a" * 60 + "b", "b")])
    assert [output.score for output in outputs] == [1, None, 0]
    assert outputs[1].error == "timeout" and "no result after 1 s" in outputs[1].message
    reward.close()
