"""SPEAR's formulas against numbers computed by hand."""

import pytest
import torch

from posttrain.objectives.prefix import scheduled
from posttrain.objectives.self_imitation import covariances, highest, recalibrated_advantage, reward_of_acting

LOGPROBS, ADVANTAGES = torch.tensor([-0.1, -1.2, -2.3, -0.05]).double(), torch.tensor([0.5, 0.5, -1.0, -1.0]).double()


def test_covariances_are_those_computed_by_hand() -> None:
    expected = [0.609375, -0.215625, 1.040625, -0.646875]
    assert covariances(LOGPROBS, ADVANTAGES).tolist() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("fraction", "clipped"),
    [(0.0, []), (2e-4, [2]), (0.25, [2]), (0.26, [0, 2]), (0.5, [0, 2]), (0.75, [0, 1, 2]), (1.0, [0, 1, 2, 3])],
)
def test_the_highest_go_first_and_their_number_is_rounded_up(fraction: float, clipped: list[int]) -> None:
    chosen = highest(covariances(LOGPROBS, ADVANTAGES), fraction)
    assert chosen.nonzero().squeeze(1).tolist() == clipped


def test_of_equals_the_earlier_are_clipped_and_rounding_adds_none() -> None:
    assert highest(torch.zeros(30), 0.1).nonzero().squeeze(1).tolist() == [0, 1, 2]  # 0.1 * 30 > 3 in floating point
    assert highest(torch.zeros(0), 0.5).tolist() == []


@pytest.mark.parametrize(
    ("reward", "recent", "advantage"),
    [(1.0, [0.0, 0.0, 1.0], 1.0), (1.0, [0.0, 1.0], 0.5), (1.0, [1.0, 0.0, 1.0], 0.0), (0.25, [0.5], 0.0)],
)
def test_an_advantage_is_over_the_recent_median_and_never_negative(
    reward: float, recent: list[float], advantage: float
) -> None:
    assert recalibrated_advantage(reward, recent) == advantage


@pytest.mark.parametrize(("valid", "earned"), [(0, 0.0), (1, 0.05), (4, 0.2), (9, 0.2)])
def test_acting_earns_up_to_a_cap(valid: int, earned: float) -> None:
    assert reward_of_acting(valid, cap=4, weight=0.2) == pytest.approx(earned, abs=1e-12)


def test_a_ramp_is_exactly_nothing_before_its_start() -> None:
    values = [scheduled("cosine", 0.0, 0.3, progress) for progress in (-1.0, 0.0, 0.25, 0.5, 1.0, 2.0)]
    assert values[:2] == [0.0, 0.0]
    assert values[2:] == pytest.approx([0.3 * 0.1464466094, 0.15, 0.3, 0.3], abs=1e-9)
