"""Agreement with a ranking, and self-scores as rewards: worked numbers, and what must not change them."""

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pytest
import torch

from posttrain.objectives.advantages import group_normalised
from posttrain.objectives.agreement import (
    Agreement,
    agreement,
    agreement_reward,
    pair_counts,
    rank_shares,
    unpermuted,
)
from posttrain.rewards.judge.judgement import unit_score

TABLE = [
    ([4, 3, 2, 1], [9, 7, 5, 2], (6, 0, 0, 0, 0), 1, 1, 1, 1),
    ([4, 3, 2, 1], [2, 5, 7, 9], (0, 6, 0, 0, 0), -1, -1, -1, 0),
    ([4, 3, 2, 1], [7, 9, 5, 2], (5, 1, 0, 0, 0), 0.6666666667, 0.6666666667, 0.6666666667, 0.8333333333),
    ([4, 3, 2, 1], [9, 2, 7, 5], (4, 2, 0, 0, 0), 0.3333333333, 0.3333333333, 0.3333333333, 0.6666666667),
    ([4, 3, 2, 1], [9, 5, 5, 2], (5, 0, 1, 0, 0), 0.8333333333, 0.8333333333, 0.9128709292, 0.9166666667),
    ([4, 3, 2, 1], [9, 9, 9, 2], (3, 0, 3, 0, 0), 0.5, 0.5, 0.7071067812, 0.75),
    ([4, 3, 2, 1], [5, 5, 5, 5], (0, 0, 6, 0, 0), 0, 0, 0, 0.5),
    ([3, 2, 1], [6, 8, 1], (2, 1, 0, 0, 0), 0.3333333333, 0.3333333333, 0.3333333333, 0.6666666667),
    ([2, 1], [8, 3], (1, 0, 0, 0, 0), 1, 1, 1, 1),
    ([2, 1], [3, 8], (0, 1, 0, 0, 0), -1, -1, -1, 0),
    ([2, 1], [5, 5], (0, 0, 1, 0, 0), 0, 0, 0, 0.5),
    ([3, 3, 1], [9, 4, 2], (2, 0, 0, 1, 0), 1, 0.6666666667, 0.8164965809, 1),
    ([3, 3, 1], [5, 5, 1], (2, 0, 0, 0, 1), 1, 0.6666666667, 1, 1),
    ([2, 1, 1, 1], [9, 5, 3, 1], (3, 0, 0, 3, 0), 1, 0.5, 0.7071067812, 1),
    ([2, 1, 1, 1], [9, 9, 3, 1], (2, 0, 1, 3, 0), 0.6666666667, 0.3333333333, 0.5163977795, 0.8333333333),
]  # fmt: skip
MEASURES: list[Agreement] = ["tau_gold", "tau_a", "tau_b", "top1"]


@pytest.mark.parametrize(("gold", "scores", "counts", "tau_gold", "tau_a", "tau_b", "reward"), TABLE)
def test_worked_numbers(
    gold: list[float], scores: list[float], counts: tuple[int, ...], tau_gold: float, tau_a: float, tau_b: float,
    reward: float,
) -> None:  # fmt: skip
    found = pair_counts(gold, scores)
    assert (
        found.concordant, found.discordant, found.tied_in_scores, found.tied_in_gold, found.tied_in_both,
    ) == counts  # fmt: skip
    assert agreement(gold, scores, "tau_gold") == pytest.approx(tau_gold, abs=1e-9)
    assert agreement(gold, scores, "tau_a") == pytest.approx(tau_a, abs=1e-9)
    assert agreement(gold, scores, "tau_b") == pytest.approx(tau_b, abs=1e-9)
    assert agreement_reward(gold, scores) == pytest.approx(reward, abs=1e-9)
    assert (found.concordant + found.tied_in_scores / 2) / found.strict == pytest.approx(reward, abs=1e-9)
    signs = [np.sign(np.subtract.outer(row, row)) for row in (gold, scores)]  # the matrices of Kendall's definition
    assert agreement(gold, scores) == pytest.approx((signs[0] * signs[1]).sum() / (signs[0] ** 2).sum())


@pytest.mark.parametrize(
    ("scores", "value"), [([9, 1, 1], 1), ([9, 9, 1], 0), ([1, 9, 1], -1), ([5, 5, 5], -1 / 3)]
)  # fmt: skip
def test_top1_shares_a_tie(scores: list[float], value: float) -> None:
    assert agreement([3, 2, 1], scores, "top1") == pytest.approx(value)


@pytest.mark.parametrize("measure", MEASURES)
def test_the_order_of_candidates_does_not_count(measure: Agreement) -> None:
    gold, scores = [4.0, 3.0, 3.0, 1.0], [9.0, 5.0, 6.0, 5.0]
    value = agreement_reward(gold, scores, measure)
    for order in permutations(range(4)):
        assert agreement_reward([gold[i] for i in order], [scores[i] for i in order], measure) == pytest.approx(value)
    if measure != "top1":
        assert agreement_reward([-g for g in gold], scores, measure) == pytest.approx(1 - value)


@pytest.mark.parametrize("gold", [[1.0, 1.0], [1.0], []])
def test_gold_that_tells_nothing_apart_is_refused(gold: list[float]) -> None:
    with pytest.raises(ValueError, match="nothing to agree with"):
        agreement(gold, [5.0] * len(gold))


def advantages(rewards: Sequence[float]) -> list[float]:
    return group_normalised(torch.tensor(rewards, dtype=torch.float64)).tolist()


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([1, 5 / 6, 0, -0.5], [0.9426757271, 0.7070067953, -0.4713378636, -1.1783446589]),
        ([1, 0, 0, 1], [0.8658754298, -0.8658754298, -0.8658754298, 0.8658754298]),
        (list(map(unit_score, [8, 6, 6, 3])), [1.09093405, 0.1212148944, 0.1212148944, -1.3333638389]),
        (rank_shares([8, 6, 6, 3]), [1.2244449449, 0, 0, -1.2244449449]),
        ([0.8333333333, 0.5, 0.6111111111, 0.2777777778], [1.2004421472, -0.2400884294, 0.2400884294, -1.2004421472]),
    ],
)
def test_advantages_of_the_worked_groups(rewards: list[float], expected: list[float]) -> None:
    assert advantages(rewards) == pytest.approx(expected, abs=1e-8)


def test_a_constant_on_all_self_scores_changes_no_advantage() -> None:
    scores = [5, 3, 3, 1]
    plain = advantages(list(map(unit_score, scores)))
    assert advantages([unit_score(score + 4) for score in scores]) == pytest.approx(plain, abs=1e-12)
    assert advantages([unit_score(2 * score) for score in scores]) == pytest.approx(plain, abs=1e-3)


def test_ranks_share_ties() -> None:
    assert rank_shares([8, 6, 6, 3]) == [1, 0.5, 0.5, 0]
    assert rank_shares([4]) == [0.5]


def test_every_sample_is_put_back_in_order() -> None:
    orders = [[2, 0, 3, 1], [1, 3, 0, 2]]
    values = [list(map(unit_score, row)) for row in ([6, 8, 3, 6], [5, 4, 9, 7])]
    means = [sum(own) / len(own) for own in unpermuted(orders, values, 4)]
    assert means == pytest.approx([0.8333333333, 0.5, 0.6111111111, 0.2777777778])
    one = unpermuted(orders, [values[0], None], 4)
    assert [own[0] for own in one] == pytest.approx([7 / 9, 5 / 9, 5 / 9, 2 / 9])
    assert unpermuted(orders, [None, None], 4) == [[], [], [], []]
