"""The share of n-grams that come again."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.rewards.checked import score_checked
from posttrain.rewards.repetition import RepetitionConfig, repeated_share
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.types import Example


def judge(text: str, ids: list[int] | None = None, **config: Any) -> RewardOutput:
    return score_checked(RepetitionConfig(**config).build(), [RewardInput(Example("row", "q"), text, ids or [])])[0]


@pytest.mark.parametrize(
    ("text", "config", "repeated"),
    [
        ("the cat sat on the mat", {"ngram": 2}, 0),
        ("the cat and The Cat", {"ngram": 2}, 1 / 4),
        ("go go go go go", {"ngram": 2}, 3 / 4),
        ("go go go go go", {"ngram": 5}, 0),
        ("go go go go go", {"ngram": 6}, 0),
        ("", {"ngram": 1}, 0),
        ("abab", {"ngram": 2, "unit": "character"}, 1 / 3),
    ],
)
def test_repeated_share(text: str, config: dict[str, Any], repeated: float) -> None:
    output = judge(text, **config, max_penalty=0.5)
    assert output.parts == {"repeated": pytest.approx(repeated, abs=1e-15)}
    assert output.score == pytest.approx(-0.5 * repeated, abs=1e-15)


def test_tokens() -> None:
    assert judge("x", [1, 2, 1, 2, 1], ngram=2, unit="token").score == -0.5
    assert judge("x", ngram=2, unit="token").error == "invalid_input"
    assert judge("", ngram=2, unit="token").score == 0


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 5))
def test_the_share_counts_what_came_before(units: list[int], n: int) -> None:
    ngrams = [units[start : start + n] for start in range(len(units) - n + 1)]
    again = sum(ngram in ngrams[:position] for position, ngram in enumerate(ngrams))
    assert repeated_share(units, n) == pytest.approx(again / max(len(ngrams), 1), abs=1e-15)
