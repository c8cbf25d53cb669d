"""What must hold of OREAL's formulas for any numbers: limits, cuts, empty classes, who gets a gradient."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from posttrain.objectives.advantages import leave_one_out
from posttrain.objectives.oreal import (
    OREALCounts,
    PositiveObjective,
    negative_shaping,
    oreal_loss,
    outcome_bce,
    outcome_token_weights,
    positive_shaping,
)

score_lists = st.lists(st.floats(-30, 30), min_size=1, max_size=12)


def float64(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def prefix_means(scores: list[float]) -> Tensor:
    return float64([sum(scores[: t + 1]) / (t + 1) for t in range(len(scores))])


@given(score_lists)
def test_token_weights_are_half_tanh_and_never_both(scores: list[float]) -> None:
    up = outcome_token_weights(float64(scores), positive=True)
    down = outcome_token_weights(float64(scores), positive=False)
    means = prefix_means(scores)
    torch.testing.assert_close(up, torch.relu(torch.tanh(means / 2)), rtol=0, atol=1e-9)
    torch.testing.assert_close(down, torch.relu(-torch.tanh(means / 2)), rtol=0, atol=1e-9)
    assert not (up * down).any()
    for weights in (up, down):
        assert weights.min() >= 0 and weights.max() <= 1


@given(score_lists, st.sampled_from([0.1, 0.3, 0.5, 1.0]), st.booleans())
def test_top_k_weights(scores: list[float], ratio: float, positive: bool) -> None:
    weights = outcome_token_weights(float64(scores), positive=positive, weighting="top_k", top_k_ratio=ratio)
    kept = max(1, math.floor(ratio * len(scores)))
    assert (weights > 0).sum() <= kept
    assert weights.max() == 1 and weights.min() >= 0


@given(score_lists, score_lists, score_lists)
def test_a_shared_prefix_is_pushed_one_way_at_most(prefix: list[float], right: list[float], wrong: list[float]) -> None:
    up = outcome_token_weights(float64(prefix + right), positive=True)[: len(prefix)]
    down = outcome_token_weights(float64(prefix + wrong), positive=False)[: len(prefix)]
    assert not (up * down).any()


def test_constant_and_extreme_scores() -> None:
    for c in (-2.0, 0.0, 0.7):
        constant = torch.full((5,), c, dtype=torch.float64)
        expected = torch.full((5,), max(0.0, math.tanh(c / 2)), dtype=torch.float64)
        torch.testing.assert_close(outcome_token_weights(constant, positive=True), expected, rtol=0, atol=1e-12)
    high = torch.full((3,), 800.0, dtype=torch.float64)
    assert outcome_token_weights(high, positive=True).tolist() == [1.0] * 3
    assert outcome_token_weights(high, positive=False).tolist() == [0.0] * 3


@given(st.integers(2, 64))
def test_shaping_at_the_ends_of_the_pass_rate(k: int) -> None:
    for correct in (1, k - 1):
        rewards = float64([1.0] * correct + [-1.0] * (k - correct))
        p = correct / k
        advantages = leave_one_out(rewards)
        up = positive_shaping(advantages, "rloo")[0].item()
        down = negative_shaping(advantages, rewards, p, "rloo")[-1].item()
        assert up == pytest.approx(2 * (1 - p) * k / (k - 1), abs=1e-9)
        assert down == pytest.approx(2 * p * k / (k - 1), abs=1e-9)
        assert negative_shaping(advantages, rewards, p, "one_minus_p")[-1].item() == pytest.approx(1 - p)
        assert (
            min(positive_shaping(advantages, "rloo").min(), negative_shaping(advantages, rewards, p, "rloo").min()) >= 0
        )


@pytest.mark.parametrize("reward", [1.0, -1.0])
def test_a_uniform_group_pushes_nothing(reward: float) -> None:
    advantages = leave_one_out(torch.full((8,), reward, dtype=torch.float64))
    assert not positive_shaping(advantages, "rloo").any()
    assert not negative_shaping(advantages, advantages, 0.0, "rloo").any()


def random_tokens(seed: int = 0, rollouts: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (rollouts,), generator=generator)
    sample_index = torch.repeat_interleave(torch.arange(rollouts), lengths)
    correct = torch.arange(rollouts) % 2 == 0
    tokens = len(sample_index)
    return {
        "logprobs": -3 * torch.rand(tokens, generator=generator, dtype=torch.float64),
        "weights": torch.rand(tokens, generator=generator, dtype=torch.float64),
        "is_positive": correct[sample_index],
        "reference_logprobs": -3 * torch.rand(tokens, generator=generator, dtype=torch.float64),
        "sample_index": sample_index,
        "correct": correct,
    }


def loss_arguments(tokens: dict[str, Tensor], chosen: Tensor) -> tuple[Tensor, ...]:
    return tuple(tokens[name][chosen] for name in ("logprobs", "weights", "is_positive", "reference_logprobs"))


def counts_of(tokens: dict[str, Tensor]) -> OREALCounts:
    positive = int(tokens["is_positive"].sum())
    return OREALCounts(positive, len(tokens["is_positive"]) - positive, len(tokens["is_positive"]))


@pytest.mark.parametrize("objective", ["clone", "policy_gradient"])
def test_micro_batches_add_up_and_order_does_not_matter(objective: PositiveObjective) -> None:
    tokens = random_tokens()
    counts = counts_of(tokens)
    tokens["logprobs"].requires_grad_()
    everything = torch.arange(len(tokens["logprobs"]))
    whole = oreal_loss(*loss_arguments(tokens, everything), counts, positive_objective=objective)
    (gradient,) = torch.autograd.grad(whole.total, tokens["logprobs"])

    shuffled = everything[torch.randperm(len(everything), generator=torch.Generator().manual_seed(1))]
    parts = [
        oreal_loss(*loss_arguments(tokens, part), counts, positive_objective=objective)
        for part in shuffled.tensor_split(4)
    ]
    summed = sum((part.total for part in parts), torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(summed, whole.total, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(summed, tokens["logprobs"])[0], gradient, rtol=0, atol=1e-12)


def test_outcome_loss_adds_up_over_micro_batches() -> None:
    tokens = random_tokens()
    scores, index = tokens["logprobs"].requires_grad_(), tokens["sample_index"]
    labels = tokens["correct"].double()
    whole = outcome_bce(scores, index, labels, n_sequences=6)
    first = index < 4
    parts = outcome_bce(scores[first], index[first], labels[:4], n_sequences=6) + outcome_bce(
        scores[~first], index[~first] - 4, labels[4:], n_sequences=6
    )
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)
    for a, b in zip(torch.autograd.grad(parts, scores), torch.autograd.grad(whole, scores), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    naive = sum(math.log1p(math.exp(-(1 if labels[i] else -1) * scores[index == i].mean().item())) for i in range(6))
    assert whole.item() == pytest.approx(naive / 6, abs=1e-12)


@pytest.mark.parametrize("kept_class", [True, False])
def test_a_class_without_rollouts_contributes_zero(kept_class: bool) -> None:
    tokens = random_tokens()
    tokens["logprobs"].requires_grad_()
    kept = (tokens["is_positive"] == kept_class).nonzero().squeeze(1)
    count = len(kept)
    counts = OREALCounts(count, 0, count) if kept_class else OREALCounts(0, count, count)
    loss = oreal_loss(*loss_arguments(tokens, kept), counts)
    assert (loss.negative if kept_class else loss.positive).item() == 0.0
    assert torch.autograd.grad(loss.total, tokens["logprobs"])[0].isfinite().all()


def test_no_tokens_at_all() -> None:
    tokens = random_tokens()
    tokens["logprobs"].requires_grad_()
    loss = oreal_loss(*loss_arguments(tokens, torch.arange(0)), OREALCounts(0, 0, 0))
    assert loss.total.item() == 0.0
    assert not torch.autograd.grad(loss.total, tokens["logprobs"])[0].any()
    nothing = torch.zeros(0, dtype=torch.int64)
    assert outcome_bce(torch.zeros(0), nothing, torch.zeros(0), n_sequences=0).item() == 0.0


def test_constant_scores_scale_the_unweighted_loss() -> None:
    tokens = random_tokens()
    everything = torch.arange(len(tokens["logprobs"]))
    counts = counts_of(tokens)
    logprobs, weights, is_positive, _ = loss_arguments(tokens, everything)
    omega = math.tanh(0.8 / 2)
    plain = oreal_loss(logprobs, weights, is_positive, None, counts)
    scaled = oreal_loss(logprobs, weights * omega, is_positive, None, counts)
    torch.testing.assert_close(scaled.total, omega * plain.total, rtol=0, atol=1e-12)


def test_policy_and_token_model_do_not_train_each_other() -> None:
    scores = torch.tensor([0.5, -0.2, 1.0], requires_grad=True)
    logprobs = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    for weighting in ("threshold", "top_k", "none"):
        omega = outcome_token_weights(scores, positive=True, weighting=weighting)
        assert not omega.requires_grad
        omega.add_(1.0)  # and it is a copy
        assert scores.tolist() == pytest.approx([0.5, -0.2, 1.0])
    loss = oreal_loss(
        logprobs,
        outcome_token_weights(scores, positive=True),
        torch.ones(3, dtype=torch.bool),
        None,
        OREALCounts(3, 0, 3),
    )
    loss.total.backward()
    assert scores.grad is None and logprobs.grad is not None
    logprobs.grad = None
    outcome_bce(scores, torch.zeros(3, dtype=torch.int64), torch.ones(1), n_sequences=1).backward()
    assert scores.grad is not None and logprobs.grad is None


def area_under_curve(right: Tensor, wrong: Tensor) -> float:
    difference = right[:, None] - wrong[None]
    return ((difference > 0).double() + 0.5 * (difference == 0).double()).mean().item()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_outcomes_alone_teach_which_token_is_wrong(seed: int) -> None:
    """A score per id, trained on whole sequences: 200 right ones of ids 0..6, 200 with one id replaced by 7."""
    generator = torch.Generator().manual_seed(seed)
    sequences = torch.randint(0, 7, (400, 6), generator=generator)
    position = torch.randint(0, 6, (200,), generator=generator)
    sequences[200:].scatter_(1, position[:, None], 7)
    labels = (torch.arange(400) < 200).double()
    sample_index = torch.repeat_interleave(torch.arange(400), 6)
    table = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    for _ in range(300):
        loss = outcome_bce(table[sequences.flatten()], sample_index, labels, n_sequences=400)
        (gradient,) = torch.autograd.grad(loss, table)
        table = (table - 5.0 * gradient).detach().requires_grad_()

    scores = table.detach()[sequences]
    assert loss.item() < 0.15
    assert area_under_curve(scores[:200].mean(1), scores[200:].mean(1)) > 0.99
    assert table.argmin() == 7 and table.min() < -15 and table[:7].min() > 0.5 and table[:7].max() < 5

    after, before = torch.zeros(2, 200)
    for row, wrong in enumerate(scores[200:]):
        at = torch.arange(6)
        weights = outcome_token_weights(wrong, positive=False)
        after[row] = ((weights > 0) == (at >= position[row])).all()
        earlier = torch.cat([torch.zeros(1, dtype=torch.float64), wrong[:-1]])  # read from the state before the token
        before[row] = ((outcome_token_weights(earlier, positive=False) > 0) == (at > position[row])).all()
    assert after.mean() >= 0.99
    assert before.mean() >= 0.99
