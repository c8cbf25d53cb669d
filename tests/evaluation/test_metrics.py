"""Numbers of repeated answers: equal to enumeration, to closed forms, and to a fit of another kind."""

import math
from collections import Counter
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest

from posttrain.evaluation.metrics import (
    Estimate,
    estimate,
    interval,
    majority_at_k,
    pass_at_k,
    sign_flip_p,
    win_rate_at_equal_length,
)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(n: int) -> None:
    for right, k in product(range(n + 1), range(1, n + 1)):
        subsets = list(combinations([1] * right + [0] * (n - right), k))
        assert pass_at_k(n, right, k) == pytest.approx(sum(map(max, subsets)) / len(subsets), abs=1e-15)


def test_pass_at_k_of_many_answers_and_of_too_few() -> None:
    assert pass_at_k(200, 3, 100) == pytest.approx(float(1 - Fraction(math.comb(197, 100), math.comb(200, 100))))
    assert pass_at_k(8, 3, 1) == pytest.approx(3 / 8)
    with pytest.raises(ValueError, match="pass@3 of 2 answers"):
        pass_at_k(2, 1, 3)


def test_the_majority_by_hand() -> None:
    votes, scores = ["7", "7", "8", None, "9"], [1.0, 1.0, 0.0, 0.0, 0.0]
    assert majority_at_k(votes, scores, 5) == 1.0
    assert majority_at_k(votes, scores, 1) == pytest.approx(2 / 5), "the mean score"
    assert majority_at_k(["7", "8"], [1.0, 0.0], 2) == 0.5, "a tie is shared"
    assert majority_at_k([None, None], [1.0, 1.0], 2) == 0.0, "who gives no answer does not vote"
    # Of ten threes, the 3 with both 7 are right. With one 7, 7 8 9 is a tie of three (2 x 1/3), and 7 8 - and 7 9 - are
    # ties of two (4 x 1/2). The one without is wrong.
    assert majority_at_k(votes, scores, 3) == pytest.approx((3 + 2 / 3 + 2) / 10)


def test_the_majority_of_many_is_drawn() -> None:
    votes = ["right"] * 24 + ["wrong"] * 16
    # Hypergeometric: more right than wrong among 5 of 40.
    exact = sum(math.comb(24, r) * math.comb(16, 5 - r) for r in (3, 4, 5)) / math.comb(40, 5)
    drawn = majority_at_k(votes, [float(vote == "right") for vote in votes], 5)
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 2000))
    assert drawn == majority_at_k(votes, [float(vote == "right") for vote in votes], 5)


def test_intervals() -> None:
    # Wilson's for 8 of 10, by its formula: (0.8 + z²/20 ± z sqrt(0.016 + z²/400)) / (1 + z²/10).
    found = interval([1.0] * 8 + [0.0] * 2)
    assert (found.value, found.low, found.high) == pytest.approx((0.8, 0.4901625, 0.9433178))
    values = np.random.default_rng(0).normal(0.4, 0.1, size=400).tolist()
    found = interval(values)
    half = 1.96 * np.std(values) / 20
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=half / 5)


def enumerated(differences: list[float]) -> float:
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in product([1, -1], repeat=8)]
    return sum(each >= abs(sum(differences)) - 1e-12 for each in sums) / len(sums)


def test_sign_flips_of_one_answer_are_mcnemars_exact_test() -> None:
    for better, worse in [(9, 2), (3, 3), (0, 6), (250, 200)]:
        differences = [1.0] * better + [-1.0] * worse + [0.0] * 50
        total = better + worse
        tail = sum(math.comb(total, each) for each in range(min(better, worse) + 1))
        assert sign_flip_p(differences, 1) == pytest.approx(min(1.0, float(Fraction(2 * tail, 2**total))), rel=1e-9)


def test_sign_flips_are_those_of_an_enumeration() -> None:
    quarters = [0.25, 0.5, -0.25, 0.75, 0.25, 1.0, -0.5, 0.25]
    assert sign_flip_p(quarters, 4) == pytest.approx(enumerated(quarters), abs=1e-12)
    reals = [0.31, 0.12, -0.05, 0.4, 0.22, -0.17, 0.09, 0.33]
    exact = enumerated(reals)
    assert 0.01 < exact < 0.2
    assert sign_flip_p(reals, 1) == pytest.approx(exact, abs=4 * math.sqrt(exact / 20_000))
    assert sign_flip_p([0.0, 0.0], 1) == 1.0


def test_sign_flips_keep_their_size() -> None:
    """Of experiments without a difference, one in twenty has p <= 0.05."""
    rng = np.random.default_rng(1)
    values = [sign_flip_p((rng.integers(5, size=40) - rng.integers(5, size=40)).tolist(), 1) for _ in range(400)]
    assert 0.02 < np.mean(np.array(values) <= 0.05) < 0.08


def test_the_win_rate_at_equal_length_by_hand() -> None:
    found = win_rate_at_equal_length([1.0, 1.0, 1.0, 0.0], [0.0] * 4)
    assert found.value == pytest.approx(3.5 / 5), "one win in two comparisons more, and no length to control for"
    curvature = 5 * 0.7 * 0.3
    ends = [1 / (1 + math.exp(-(math.log(0.7 / 0.3) + side * 1.959964 / math.sqrt(curvature)))) for side in (-1, 1)]
    assert [found.low, found.high] == pytest.approx(ends, abs=1e-6)


def test_the_win_rate_at_equal_length_minimises_its_loss() -> None:
    rng = np.random.default_rng(3)
    longer = rng.normal(50, 100, size=200)
    wins = (rng.random(200) < 1 / (1 + np.exp(-longer / 100))).astype(float)
    found = win_rate_at_equal_length(wins.tolist(), longer.tolist())
    x, scale = longer, math.sqrt(np.mean(longer**2))

    def loss(a: float, b: float) -> float:
        z = a + b * x / scale
        return float(np.sum(np.logaddexp(0, z) - wins * z) + np.logaddexp(0, a) - 0.5 * a + b * b / 2)

    a = math.log(found.value / (1 - found.value))
    b = min(np.linspace(-5, 5, 10001), key=lambda each: loss(a, each))
    assert all(loss(a, b) < loss(a + step, b + other) for step in (-0.02, 0.02) for other in (-0.02, 0, 0.02))
    assert found.low < 0.5 < found.high < np.mean(wins), "what length wins is not counted"


def test_length_alone_keeps_the_fit_finite() -> None:
    found = win_rate_at_equal_length([1.0, 1.0, 0.0, 0.0], [10.0, 20.0, -10.0, -20.0])
    assert found.value == pytest.approx(0.5)
    assert 0 < found.low < found.high < 1
    assert Counter(map(math.isfinite, (found.low, found.high))) == {True: 2}


def test_the_interval_is_that_of_the_normal_approximation() -> None:
    values = np.repeat([1.0, 0.0], [1200, 800])
    found = estimate(values, range(2000), resamples=4000)
    half = 1.96 * math.sqrt(0.6 * 0.4 / 2000)
    assert found is not None
    assert found.value == 0.6
    assert (found.low, found.high) == pytest.approx((0.6 - half, 0.6 + half), abs=0.002)


def test_copies_of_a_prompts_value_narrow_nothing() -> None:
    """200 prompts with 10 equal values each tell as much as 200 values."""
    values = np.repeat([1.0, 0.0], [120, 80])
    copied = estimate(np.repeat(values, 10), np.repeat(np.arange(200), 10).tolist())
    assert copied == estimate(values, range(200))
    alone = estimate(np.repeat(values, 10), range(2000))
    assert copied is not None
    assert alone is not None
    assert (copied.high - copied.low) / (alone.high - alone.low) == pytest.approx(math.sqrt(10), rel=0.1)


def test_groups_weigh_by_their_size() -> None:
    found = estimate(np.array([1.0, 1.0, 1.0, 0.0, np.nan]), ["a", "a", "a", "b", "b"])
    assert found == Estimate(0.75, 0.0, 1.0)


def test_what_has_no_value_has_no_estimate() -> None:
    assert estimate(np.array([np.nan, np.nan]), "ab") is None
    with pytest.raises(ValueError, match="argument 2"):
        estimate(np.zeros(2), "abc")
