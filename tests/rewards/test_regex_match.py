"""Regular expressions."""

from typing import Any

import pytest

from posttrain.rewards.checked import score_checked
from posttrain.rewards.format import RegexMatchReward
from posttrain.rewards.reward import RewardInput
from posttrain.types import Example


def scores(config: dict[str, Any], *texts: str) -> list[float | None]:
    reward = RegexMatchReward(**config, timeout_s=20).build()
    outputs = score_checked(reward, [RewardInput(Example("row", "q"), text) for text in texts])
    reward.close()
    return [output.score for output in outputs]


@pytest.mark.parametrize(
    ("config", "texts", "expected"),
    [
        ({"pattern": "a.b"}, ["xa\nbx", "AxB", "ab"], [1, 0, 0]),
        ({"pattern": "a.b", "whole": True}, ["a-b", "xa-b", "a-bx"], [1, 0, 0]),
        ({"pattern": "a|ab", "whole": True}, ["ab", "a", "abb"], [1, 1, 0]),
        ({"pattern": "(?i)a[^\n]b"}, ["A-B", "a\nb"], [1, 0]),
    ],
)
def test_ways_to_match(config: dict[str, Any], texts: list[str], expected: list[float]) -> None:
    assert scores(config, *texts) == expected


def test_a_pattern_that_explodes_costs_one_sample() -> None:
    reward = RegexMatchReward(pattern="^(a+)+$", timeout_s=1.0).build()
    texts = ["aaa", "a" * 60 + "1b", "b"]
    outputs = score_checked(reward, [RewardInput(Example("row", "q"), text) for text in texts])
    reward.close()
    assert [output.score for output in outputs] == [1, None, 0]
    assert outputs[1].error == "timeout" and "no result after 1 s" in outputs[1].message


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "Field required"),
        ({"pattern": "(a"}, "'\\(a' is not a regular expression"),
    ],
)
def test_mistakes_are_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RegexMatchReward(**config)
