"""Losses over pairs and goal states: known numbers in float64, identities, calibration on data that has it."""

import math

import pytest
import torch
from torch import Tensor

from posttrain.objectives.preference import (
    bradley_terry_loss,
    contrastive_loss,
    expected_calibration_error,
    goal_state,
    goal_values,
    reliability,
)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


EXACT = {"abs": 1e-9, "rel": 0}
H, FUTURE, OTHER = vector(1, 2, 2), vector(2, 1, 2), vector(-1, 2, 0)


@pytest.mark.parametrize(
    ("margin", "centring", "loss"),
    [(0.0, 0.0, 0.4031860489), (0.3, 0.0, 0.5130152524), (0.0, 0.01, 0.4320860489)],
)
def test_bradley_terry(margin: float, centring: float, loss: float) -> None:
    value = bradley_terry_loss(vector(1.2), vector(0.5), vector(margin), centring)
    assert value.item() == pytest.approx(loss, **EXACT)


def test_bradley_terry_gradient() -> None:
    chosen = vector(1.2).requires_grad_()
    bradley_terry_loss(chosen, vector(0.5)).sum().backward()
    assert chosen.grad is not None
    assert chosen.grad.item() == pytest.approx(-0.3318122278, **EXACT)


@pytest.mark.parametrize(("temperature", "loss"), [(1.0, 1.2859266332), (0.1, 4.4836320007)])
def test_contrastive(temperature: float, loss: float) -> None:
    assert contrastive_loss(H, FUTURE, OTHER, temperature).item() == pytest.approx(loss, **EXACT)


def test_cosines() -> None:
    assert goal_values(H, FUTURE).item() == pytest.approx(0.8888888889, **EXACT)
    assert goal_values(H, OTHER).item() == pytest.approx(0.4472135955, **EXACT)


def test_both_losses_together() -> None:
    both = bradley_terry_loss(vector(1.2), vector(0.5)) + 0.5 * contrastive_loss(H, FUTURE, OTHER)
    assert both.item() == pytest.approx(1.0461493655, **EXACT)


def test_goal_is_the_mean_of_unit_vectors() -> None:
    goal = goal_state(torch.stack([vector(2, 1, 2), vector(1, 1, 1)]))
    assert goal_values(H, goal).item() == pytest.approx(0.9344302591, **EXACT)
    assert torch.allclose(goal, goal_state(torch.stack([vector(20, 10, 20), vector(0.1, 0.1, 0.1)])))


def test_equal_texts_have_an_expected_gradient_that_separates_nothing() -> None:
    """With one set of states on both sides, averaged over all draws, later and dispreferred states are pulled alike:
    the gradient with respect to a state as g+ and as g- cancels where sigmoid is even, to first order in 1/temperature.
    """
    states = torch.randn(6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    temperature = 1e4
    pairs = [(s, g) for s in range(6) for g in range(6) if s != g]
    source, goal = states[[s for s, _ in pairs]].requires_grad_(), states[[g for _, g in pairs]]
    contrastive_loss(source, goal, goal, temperature).sum().backward()
    assert source.grad is not None
    alone = source.detach().requires_grad_()
    contrastive_loss(alone, goal, torch.zeros_like(goal), temperature).sum().backward()
    assert alone.grad is not None
    assert source.grad.abs().max() < 1e-3 * alone.grad.abs().max()


def test_reliability_counts_each_pair_in_its_bin() -> None:
    differences = vector(*(math.log(p / (1 - p)) for p in (0.52, 0.58, 0.96)), -math.log(0.94 / 0.06), 50.0)
    table = reliability(differences, bins=5)
    assert table[:, 0].tolist() == [2, 0, 0, 0, 3]
    assert table[0].tolist() == pytest.approx([2, 0.55, 1.0])
    assert table[4].tolist() == pytest.approx([3, (0.96 + 0.94 + 1) / 3, 2 / 3])
    error = (2 * abs(1 - 0.55) + 3 * abs(2 / 3 - (0.96 + 0.94 + 1) / 3)) / 5
    assert expected_calibration_error(differences, bins=5) == pytest.approx(error)


def test_there_are_ten_bins_unless_told_otherwise() -> None:
    differences = vector(*(math.log(p / (1 - p)) for p in (0.51, 0.548, 0.5502)))  # in bins of 0.05: two and one
    assert reliability(differences)[:, 0].tolist() == [2, 1, *[0] * 8]
    last_is_wrong = torch.cat([differences[:2], -differences[2:]])  # of 11 bins one would hold the second and third
    error = (2 * abs(1 - (0.51 + 0.548) / 2) + 0.5502) / 3
    assert expected_calibration_error(last_is_wrong) == pytest.approx(error)


def test_a_tie_is_half_right() -> None:
    assert reliability(vector(0.0), bins=5)[0].tolist() == [1, 0.5, 0.5]
    assert expected_calibration_error(vector(0.0, 0.0)) == 0


def test_rewards_that_mean_what_they_say_are_calibrated() -> None:
    generator = torch.Generator().manual_seed(0)
    size = torch.rand(200_000, generator=generator, dtype=torch.float64) * 4
    preferred = torch.rand(200_000, generator=generator, dtype=torch.float64) < torch.sigmoid(size)
    differences = torch.where(preferred, size, -size)
    assert expected_calibration_error(differences) < 0.005  # four standard errors of a share in a tenth of the pairs
    assert expected_calibration_error(3 * differences) > 0.05
