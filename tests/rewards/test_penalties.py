"""Penalties: for n-grams that come again, and DAPO's for length."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.rewards.checked import score_checked
from posttrain.rewards.penalties import OverlongReward, RepetitionReward, repeated_share
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput
from posttrain.types import Example


def scored(reward: Reward, text: str, ids: Sequence[int] = ()) -> RewardOutput:
    return score_checked(reward, [RewardInput(Example("row", "q"), text, [*ids])])[0]


@pytest.mark.parametrize(
    ("text", "config", "repeated"),
    [
        ("the cat sat on the mat", {"ngram": 2}, 0),
        ("the cat and The Cat", {"ngram": 2}, 1 / 4),
        ("go go go go go", {"ngram": 2}, 3 / 4),
        ("go go go go go", {"ngram": 5}, 0),
        ("go go go go go", {"ngram": 6}, 0),
        ("", {"ngram": 1}, 0),
    ],
)
def test_repeated_share(text: str, config: dict[str, Any], repeated: float) -> None:
    output = scored(RepetitionReward(**config, max_penalty=0.5), text)
    assert output.parts == {"repeated": pytest.approx(repeated, abs=1e-15)}
    assert output.score == pytest.approx(-0.5 * repeated, abs=1e-15)


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 5))
def test_the_share_counts_what_came_before(units: list[int], n: int) -> None:
    ngrams = [units[start : start + n] for start in range(len(units) - n + 1)]
    again = sum(ngram in ngrams[:position] for position, ngram in enumerate(ngrams))
    assert repeated_share(units, n) == pytest.approx(again / max(len(ngrams), 1), abs=1e-15)


@pytest.mark.parametrize(
    ("tokens", "score"),
    [(0, 0), (79, 0), (80, 0), (81, -0.05), (90, -0.5), (99, -0.95), (100, -1), (101, -1), (500, -1)],
)
def test_overlong(tokens: int, score: float) -> None:
    output = scored(OverlongReward(max_completion_tokens=100, buffer_tokens=20), "x" * tokens, [7] * tokens)
    assert output.score == pytest.approx(score, abs=1e-15)


def test_overlong_needs_token_ids() -> None:
    output = scored(OverlongReward(max_completion_tokens=100, buffer_tokens=20), "text without ids")
    assert (output.score, output.error) == (None, "invalid_input")
