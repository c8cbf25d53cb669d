"""Which rows are kept: each mode on scores that can be counted by hand, and on any scores."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.data.selection import SelectionMode, select_by_score
from posttrain.errors import DataError

SCORES = {"a": 0.5, "b": 0.1, "c": 0.9, "d": 0.3, "e": 0.7, "f": 0.2, "g": 0.8}  # ranked: c g e a d f b


@pytest.mark.parametrize(
    ("mode", "size", "expected"),
    [
        ("hard", 3, "dfb"),
        ("easy", 3, "cge"),
        ("medium", 3, "ead"),
        ("medium", 2, "ea"),  # start (7 - 2) // 2 = 2
        ("medium", 4, "gead"),  # start (7 - 4) // 2 = 1
        ("hard", 7, "cgeadfb"),
        ("easy", 7, "cgeadfb"),
    ],
)
def test_ranked_modes(mode: SelectionMode, size: int, expected: str) -> None:
    assert select_by_score(SCORES, mode, size) == list(expected)


def test_equal_scores_are_in_an_order_that_the_seed_draws() -> None:
    ids = [f"{n:02d}" for n in range(40)]
    scores = dict.fromkeys(ids, 0.25) | {"last": 0.0}
    drawn = select_by_score(scores, "hard", 11)
    assert drawn == select_by_score(dict(reversed(scores.items())), "hard", 11)
    assert drawn[-1] == "last"
    assert len(set(drawn) & set(ids[:20])) not in (0, 10)
    assert drawn != select_by_score(scores, "hard", 11, seed=43)


def test_random_is_drawn_by_the_seed_alone() -> None:
    ids = [f"{n:02d}" for n in range(50)]
    drawn = select_by_score(dict.fromkeys(ids, 0.0), "random", 10, seed=42)
    other_scores_and_order = {name: float(n) for n, name in enumerate(reversed(ids))}
    assert drawn == select_by_score(other_scores_and_order, "random", 10, seed=42)
    assert drawn == ["40", "07", "01", "17", "15", "14", "08", "06", "34", "05"]
    assert drawn != select_by_score(other_scores_and_order, "random", 10, seed=43)


def test_too_few_rows() -> None:
    with pytest.raises(DataError, match="8 rows are to be selected, and only 7 can be: lower it, or give more rows"):
        select_by_score(SCORES, "hard", 8)


@given(
    scores=st.dictionaries(st.text(max_size=3), st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=30),
    data=st.data(),
)
def test_hard_and_easy_are_the_two_ends(scores: dict[str, float], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(scores)))
    hard, easy = select_by_score(scores, "hard", size), select_by_score(scores, "easy", size)
    assert sorted(scores[name] for name in hard) == sorted(scores.values())[:size]
    assert sorted(scores[name] for name in easy) == sorted(scores.values())[-size:]
    for ids in (hard, easy, select_by_score(scores, "medium", size)):
        assert len(set(ids)) == size
        assert [scores[name] for name in ids] == sorted((scores[name] for name in ids), reverse=True)
