"""Advantages: closed forms, TRL's epsilon, groups too small to compare."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from posttrain.objectives.advantages import (
    batch_normalised,
    centre,
    group_normalised,
    leave_one_out,
    z_score,
)

COMPARING = [centre, group_normalised, leave_one_out, z_score]
groups = st.lists(st.floats(-10, 10), min_size=2, max_size=16)


def float64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def assert_equal(actual: Tensor, *expected: float) -> None:
    torch.testing.assert_close(actual, float64(*expected), rtol=0, atol=1e-9)


@pytest.mark.parametrize("function", COMPARING)
def test_equal_rewards_have_advantages_of_exactly_0(function: Callable[[Tensor], Tensor]) -> None:
    rewards = float64(0.1, 0.1, 0.1)
    assert (rewards - rewards.mean()).any(), "rounding must leave something"
    assert not function(rewards).any()
    assert not torch.cat(batch_normalised([rewards, float64(0.2, 0.2, 0.2)])).any()


def test_leave_one_out_numbers() -> None:
    assert_equal(leave_one_out(float64(1, 1, 1, -1)), 2 / 3, 2 / 3, 2 / 3, -2.0)
    assert_equal(leave_one_out(float64(1, 1, 1, 0)), 1 / 3, 1 / 3, 1 / 3, -1.0)
    assert_equal(leave_one_out(float64(1, -1, -1, -1)), 2.0, -2 / 3, -2 / 3, -2 / 3)


@pytest.mark.parametrize(
    ("correct", "positive", "negative"),
    [
        (1, 2.0, -0.1333333333),
        (4, 1.6, -0.5333333333),
        (8, 1.0666666667, -1.0666666667),
        (12, 0.5333333333, -1.6),
        (15, 0.1333333333, -2.0),
    ],
)
def test_leave_one_out_of_sixteen(correct: int, positive: float, negative: float) -> None:
    rewards = float64(*[1.0] * correct, *[-1.0] * (16 - correct))
    advantages = leave_one_out(rewards)
    assert_equal(advantages[:correct], *[positive] * correct)
    assert_equal(advantages[correct:], *[negative] * (16 - correct))
    p = correct / 16
    assert advantages[0].item() == pytest.approx(2 * (1 - p) * 16 / 15, abs=1e-12)
    assert advantages[-1].item() == pytest.approx(-2 * p * 16 / 15, abs=1e-12)
    assert advantages.sum().item() == pytest.approx(0, abs=1e-12)


def test_leave_one_out_of_four_in_sixteen_balances() -> None:
    advantages = leave_one_out(float64(*[1.0] * 4, *[-1.0] * 12))
    assert advantages[:4].sum().item() == pytest.approx(6.4, abs=1e-9)
    assert advantages[4:].sum().item() == pytest.approx(-6.4, abs=1e-9)


@given(groups)
def test_leave_one_out_is_the_reward_less_the_mean_of_the_others(values: list[float]) -> None:
    rewards = float64(*values)
    expected = [r - (sum(values) - r) / (len(values) - 1) for r in values]
    torch.testing.assert_close(leave_one_out(rewards), float64(*expected), rtol=0, atol=1e-9)


@given(groups, st.floats(-5, 5), st.randoms(use_true_random=False))
def test_a_constant_changes_nothing_and_order_travels(values: list[float], shift: float, rng) -> None:  # type: ignore[no-untyped-def]
    rewards = float64(*values)
    order = list(range(len(values)))
    rng.shuffle(order)
    for function in (centre, leave_one_out):
        torch.testing.assert_close(function(rewards + shift), function(rewards), rtol=0, atol=1e-9)
        torch.testing.assert_close(function(rewards[order]), function(rewards)[order], rtol=0, atol=1e-9)


def test_z_score_numbers() -> None:
    assert_equal(z_score(float64(1, -1, -1, -1)), 1.4999999850, *[-0.4999999950] * 3)


def test_group_normalised_uses_n_minus_one_and_epsilon() -> None:
    rewards = float64(1, 0, 0, 1)
    deviation = (4 * 0.25 / 3) ** 0.5
    value = 0.5 / (deviation + 1e-4)
    assert_equal(group_normalised(rewards), value, -value, -value, value)
    two = 0.5 / (0.5**0.5 + 1e-4)
    assert_equal(group_normalised(float64(1, 0)), two, -two)


def test_batch_normalised_centres_in_the_group_and_scales_by_the_batch() -> None:
    first, second = batch_normalised([float64(1, 0, 0), float64(5, 3)])
    mean = 9 / 5
    deviation = (sum((r - mean) ** 2 for r in (1, 0, 0, 5, 3)) / 4) ** 0.5
    assert_equal(first * (deviation + 1e-4), 2 / 3, -1 / 3, -1 / 3)
    assert_equal(second * (deviation + 1e-4), 1.0, -1.0)


def test_batch_normalised_of_two_rewards() -> None:
    (only,) = batch_normalised([float64(1, 0)])
    two = 0.5 / (0.5**0.5 + 1e-4)
    assert_equal(only, two, -two)


def test_batch_normalised_without_anything_to_compare() -> None:
    assert batch_normalised([]) == []
    assert [g.tolist() for g in batch_normalised([float64(), float64(3)])] == [[], [0.0]]


@pytest.mark.parametrize("function", COMPARING)
def test_a_group_of_fewer_than_two_and_a_group_without_spread_give_zeros(function) -> None:  # type: ignore[no-untyped-def]
    assert function(float64()).tolist() == []
    assert function(float64(3.0)).tolist() == [0.0]
    assert function(float64(2.0, 2.0, 2.0)).tolist() == [0.0, 0.0, 0.0]


def test_centre() -> None:
    assert_equal(centre(float64(1, 2, 6)), -2.0, -1.0, 3.0)
