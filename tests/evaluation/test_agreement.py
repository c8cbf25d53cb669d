"""Agreement counts ties as it says, and its intervals are those of theory."""

import math

import numpy as np
import pytest

from posttrain.evaluation.agreement import Estimate, credit, estimate, preferred, tie_free_credit, z_scores

# A, B, tie, A, B, tie by the labels; the metric says A, A, tie, tie, B, B.
LABELS = np.array([1, -1, 0, 1, -1, 0])
PICKS = preferred(np.array([2.0, 5.0, 1.0, 3.0, 0.0, 1.0]), np.array([1.0, 4.0, 1.0, 3.0, 7.0, 2.0]))


def test_ties_are_met_by_ties_or_left_out() -> None:
    assert PICKS.tolist() == [1, 1, 0, 0, -1, -1]
    assert credit(PICKS, LABELS).tolist() == [1, 0, 1, 0, 1, 0]
    np.testing.assert_array_equal(tie_free_credit(PICKS, LABELS), [1, 0, np.nan, 0.5, 1, np.nan])
    found = estimate(tie_free_credit(PICKS, LABELS), range(6))
    assert found is not None
    assert found.value == 2.5 / 4


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


def test_z_scores() -> None:
    np.testing.assert_allclose(z_scores(np.array([1.0, 3.0])), [-1, 1])
    assert z_scores(np.full(3, 7.0)).tolist() == [0, 0, 0]
