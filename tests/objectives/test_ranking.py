"""Ranking against the numbers of RAFT and Reinforce-Rej, and what must not change it."""

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posttrain.objectives.policy_losses import clip_before_reward_loss, clipped_policy_loss
from posttrain.objectives.ranking import all_best, best, global_top, kl_rank_keys, mixed_group_weights

keys = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=8)


def test_the_best_of_a_group() -> None:
    assert best([0.0, 1.0, 1.0, 0.0], None) == [1]
    assert all_best([0.0, 1.0, 1.0, 0.0]) == [1, 2]
    assert best([], None) == best([], random.Random(0)) == all_best([]) == []


def test_ties_are_drawn_evenly() -> None:
    drawn = [best([2.0, 0.0, 2.0, 2.0], random.Random(seed))[0] for seed in range(3000)]
    counts = [drawn.count(i) for i in range(4)]
    assert counts[1] == 0
    # a third each, standard deviation of a count sqrt(3000 * 2 / 9) = 26: five of them
    assert all(abs(counts[i] - 1000) < 130 for i in (0, 2, 3))


def test_the_best_of_the_batch() -> None:
    assert global_top([[0.1, 0.9], [0.8, 0.2], [0.3, 0.4]], 1 / 2) == [[1], [0], [1]]
    assert global_top([[0.1, 0.9], [0.8, 0.95]], 1 / 4) == [[], [1]]
    assert global_top([[1.0, 1.0], [1.0, 1.0]], 1 / 2) == [[0, 1], []]
    assert global_top([[]], 0.5) == [[]]


@pytest.mark.parametrize(
    ("coef", "expected"), [(0.0, [1.0, 0.9, 0.2]), (0.01, [0.9, 0.89, 0.195]), (0.1, [0.0, 0.8, 0.15])]
)
def test_kl_in_the_rank_key(coef: float, expected: list[float]) -> None:
    ranked = kl_rank_keys([1.0, 0.9, 0.2], [-12.0 + 22.0, -20.0 + 21.0, -15.0 + 15.5], coef)
    assert ranked == pytest.approx(expected, abs=1e-12)
    assert best(ranked, None) == ([1] if coef == 0.1 else [0])


@given(keys, st.sampled_from([0.5, 2.0, 3.0]), st.integers(-5, 5))
def test_only_the_order_counts(values: list[float], factor: float, shift: int) -> None:
    changed = [factor * value + shift for value in values]
    assert all_best(changed) == all_best(values)
    assert best(changed, random.Random(1)) == best(values, random.Random(1))
    assert global_top([changed], 0.5) == global_top([values], 0.5)


RIGHT_AND_WRONG = {
    "1111": {"none": [0, 0, 0, 0], "mean": [0, 0, 0, 0], "mean_std": [0, 0, 0, 0]},
    "1000": {
        "none": [1, -1, -1, -1],
        "mean": [1.5, -0.5, -0.5, -0.5],
        "mean_std": [1.4999985, -0.4999995, -0.4999995, -0.4999995],
        "leave_one_out": [2, -2 / 3, -2 / 3, -2 / 3],
    },
    "0000": {"none": [0, 0, 0, 0]},
    "1100": {
        "none": [1, 1, -1, -1],
        "mean": [1, 1, -1, -1],
        "mean_std": [0.8660246538, 0.8660246538, -0.8660246538, -0.8660246538],
    },
}


@pytest.mark.parametrize(
    ("group", "baseline", "weights"),
    [(group, baseline, weights) for group, rows in RIGHT_AND_WRONG.items() for baseline, weights in rows.items()],
)
def test_reinforce_rej(group: str, baseline: str, weights: list[float]) -> None:
    accepted = [outcome == "1" for outcome in group]
    assert mixed_group_weights(accepted, -1, baseline) == pytest.approx(weights, abs=1e-7)  # type: ignore[arg-type]


def test_a_wrong_reward_of_nothing_leaves_the_positives() -> None:
    assert mixed_group_weights([True, False, False, False], 0, "none") == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("ratio", "printed", "ppo", "dual"),
    [
        (0.5, (0.5, 1), (0.8, 0), (0.8, 0)),
        (0.9, (0.9, 1), (0.9, 1), (0.9, 1)),
        (1.1, (1.1, 1), (1.1, 1), (1.1, 1)),
        (1.5, (1.2, 0), (1.5, 1), (1.5, 1)),
        (5.0, (1.2, 0), (5.0, 1), (3.0, 0)),
    ],
)
def test_clip_forms_of_a_negative(
    ratio: float, printed: tuple[float, float], ppo: tuple[float, float], dual: tuple[float, float]
) -> None:
    """Loss, and its slope by the ratio (the slope by the log-prob divided by the ratio)."""
    negative = torch.tensor([-1.0], dtype=torch.float64)
    behaviour = torch.zeros(1, dtype=torch.float64)
    for expected, form in ((printed, None), (ppo, (None,)), (dual, (3.0,))):
        logprobs = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
        if form is None:
            losses, _ = clip_before_reward_loss(logprobs, behaviour, negative, 0.2, 0.2)
        else:
            losses, _ = clipped_policy_loss(logprobs, behaviour, negative, 0.2, 0.2, *form)
        (slope,) = torch.autograd.grad(losses.sum(), logprobs)
        assert (losses.item(), slope.item() / ratio) == pytest.approx(expected, abs=1e-12)


def test_the_printed_clip_of_rewards_of_both_signs() -> None:
    behaviour, ratios = torch.tensor([-0.7, -0.2, -1.1], dtype=torch.float64), [0.7, 1.1, 1.6]
    logprobs = behaviour + torch.tensor(ratios, dtype=torch.float64).log()
    rewards = torch.tensor([2.0, 2.0, -0.5], dtype=torch.float64)
    losses, clipped = clip_before_reward_loss(logprobs, behaviour, rewards, 0.2, 0.3)
    assert losses.tolist() == pytest.approx([-1.4, -2.2, 0.65], abs=1e-12)
    assert clipped.tolist() == [False, False, True]


def test_coverage_and_the_expected_update() -> None:
    """Exact expectations by enumeration: R7 and R8 of a softmax policy [.2, .3, .5] whose action 0 is right."""
    policy = [0.2, 0.3, 0.5]
    for k, kept_only, clone_wrong in ((1, 0.16, 0.0), (2, 0.288, 0.16), (4, 0.47232, 0.3904)):
        totals = {"kept": 0.0, "wrong too": 0.0}
        for draw in range(3**k):
            actions = [draw // 3**i % 3 for i in range(k)]
            probability = math.prod(policy[action] for action in actions)
            rewards = [float(action == 0) for action in actions]
            equals = all_best(rewards)
            # mean over the draw among equals of the log-likelihood's gradient, first component
            gradient = sum(float(actions[i] == 0) - policy[0] for i in equals) / len(equals)
            totals["wrong too"] += probability * gradient
            totals["kept"] += probability * gradient * (max(rewards) > 0)
        assert totals["kept"] == pytest.approx(kept_only, abs=1e-9)
        assert totals["wrong too"] == pytest.approx(clone_wrong, abs=1e-9)
