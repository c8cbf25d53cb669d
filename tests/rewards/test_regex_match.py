"""Regular expressions of the job and of each row."""

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


def test_rows_have_patterns_of_their_own_and_a_bad_one_costs_its_row() -> None:
    reward = RegexMatchReward(pattern_column="pattern", timeout_s=1.0).build()
    patterns: list[Any] = [r"\d+", None, "(a", "^(a+)+$", "b$"]
    text = "a" * 60 + "1b"
    outputs = score_checked(
        reward, [RewardInput(Example("row", "q", metadata={"pattern": pattern}), text) for pattern in patterns]
    )
    reward.close()
    assert [output.score for output in outputs] == [1, None, None, None, 1]
    assert [output.error for output in outputs] == [None, "invalid_input", "invalid_input", "timeout", None]
    assert "the pattern None is not" in outputs[1].message
    assert "'(a' is not a regular expression" in outputs[2].message
    assert "no result after 1 s" in outputs[3].message


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "either pattern or pattern_column"),
        ({"pattern": "a", "pattern_column": "b"}, "either pattern or pattern_column"),
        ({"pattern": "(a"}, "'\\(a' is not a regular expression"),
    ],
)
def test_mistakes_are_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RegexMatchReward(**config)
