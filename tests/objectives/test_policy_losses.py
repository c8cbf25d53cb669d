"""The clipped loss, its aggregations and the sampler correction against naive loops in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from posttrain.objectives.policy_losses import Aggregation, clipped_policy_loss, importance_weights, sample_scales
from posttrain.types import ImportanceMode

numbers = st.floats(-3, 0)


def float64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def naive_loss(
    logprob: float, behaviour: float, advantage: float, low: float, high: float, dual: float | None
) -> tuple[float, float, bool]:
    """Loss, its derivative by the log-prob, and whether a clip holds it, case by case."""
    ratio = math.exp(logprob - behaviour)
    if advantage > 0 and ratio > 1 + high:
        return -advantage * (1 + high), 0.0, True
    if advantage < 0 and ratio < 1 - low:
        return -advantage * (1 - low), 0.0, True
    if advantage < 0 and dual is not None and ratio > dual:
        return -advantage * dual, 0.0, True
    return -advantage * ratio, -advantage * ratio, False


@given(
    st.lists(st.tuples(numbers, numbers, st.sampled_from([-1.3, -0.2, 0.0, 0.7])), min_size=1, max_size=8),
    st.sampled_from([(0.2, 0.2), (0.2, 0.28), (0.1, 0.5)]),
    st.sampled_from([None, 3.0]),
)
def test_clipped_loss_equals_the_case_by_case_form(
    tokens: list[tuple[float, float, float]], clips: tuple[float, float], dual: float | None
) -> None:
    columns = [float64(*column) for column in zip(*tokens, strict=True)]
    logprobs = columns[0].requires_grad_()
    losses, clipped = clipped_policy_loss(logprobs, columns[1], columns[2], *clips, dual)
    (gradient,) = torch.autograd.grad(losses.sum(), logprobs)
    expected = [naive_loss(*token, *clips, dual) for token in tokens]
    torch.testing.assert_close(losses.detach(), float64(*[e[0] for e in expected]), rtol=0, atol=1e-9)
    torch.testing.assert_close(gradient, float64(*[e[1] for e in expected]), rtol=0, atol=1e-9)
    assert clipped.tolist() == [e[2] for e in expected]


@pytest.mark.parametrize(
    ("ratio", "plain", "dual", "has_gradient"),
    [(0.5, 0.8, 0.8, 0), (0.9, 0.9, 0.9, 1), (1.1, 1.1, 1.1, 1), (1.5, 1.5, 1.5, 1), (5.0, 5.0, 3.0, 1)],
)
def test_a_negative_advantage(ratio: float, plain: float, dual: float, has_gradient: int) -> None:
    logprobs = float64(math.log(ratio)).requires_grad_()
    losses, _ = clipped_policy_loss(logprobs, float64(0.0), float64(-1.0), 0.2, 0.2)
    assert losses.item() == pytest.approx(plain, abs=1e-12)
    (gradient,) = torch.autograd.grad(losses.sum(), logprobs)
    assert gradient.item() == pytest.approx(ratio * has_gradient, abs=1e-12)
    assert clipped_policy_loss(logprobs, float64(0.0), float64(-1.0), 0.2, 0.2, 3.0)[0].item() == pytest.approx(dual)


def test_clip_higher_of_a_positives_only_batch() -> None:
    """Two rollouts, advantage 1 throughout, mean of their means; the lower clip does not act on positives."""
    behaviour = float64(-0.5, -1.2, -0.1, -0.7, -0.3, -2.0, -0.8)
    updated = float64(-0.4, -0.9, -0.15, -0.9, -0.3, -1.7, -1.2)
    scales = sample_scales(
        float64(4, 3), "sequence", total_rollouts=2, total_tokens=7, max_completion_tokens=16
    ).repeat_interleave(torch.tensor([4, 3]))
    for low, high, expected in [(0.2, 0.2, -0.9877780613), (0.9, 0.2, -0.9877780613), (0.2, 0.28, -1.0111113946)]:
        logprobs = updated.clone().requires_grad_()
        losses, clipped = clipped_policy_loss(logprobs, behaviour, torch.ones_like(behaviour), low, high)
        loss = (scales * losses).sum()
        assert loss.item() == pytest.approx(expected, abs=1e-9)
        assert clipped.tolist() == [False, True, False, False, False, True, False]
        (gradient,) = torch.autograd.grad(loss, logprobs)
        first = [-0.1381463648, 0, -0.1189036781, -0.1023413441]
        second = [-0.1666666667, 0, -0.1117200077]
        torch.testing.assert_close(gradient, float64(*first, *second), rtol=0, atol=1e-9)


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant_length"])
@given(st.lists(st.lists(st.floats(-5, 5), min_size=1, max_size=6), min_size=1, max_size=5), st.integers(1, 5))
def test_aggregations_are_sums_over_any_cut(
    aggregation: Aggregation, rollouts: list[list[float]], samples_per_batch: int
) -> None:
    tokens = sum(map(len, rollouts))
    total = 0.0
    for start in range(0, len(rollouts), samples_per_batch):
        batch = rollouts[start : start + samples_per_batch]
        lengths = torch.tensor([len(rollout) for rollout in batch])
        scales = sample_scales(
            lengths.double(),
            aggregation,
            total_rollouts=len(rollouts),
            total_tokens=tokens,
            max_completion_tokens=32,
        )
        losses = float64(*[value for rollout in batch for value in rollout])
        total += (scales.repeat_interleave(lengths) * losses).sum().item()
    expected = {
        "token": sum(map(sum, rollouts)) / tokens,
        "sequence": sum(sum(rollout) / len(rollout) for rollout in rollouts) / len(rollouts),
        "constant_length": sum(map(sum, rollouts)) / (len(rollouts) * 32),
    }[aggregation]
    assert total == pytest.approx(expected, abs=1e-9)


def test_scales_of_integer_lengths_are_floats_and_an_empty_step_divides_by_nothing() -> None:
    scales = sample_scales(torch.tensor([2, 0]), "sequence", total_rollouts=2, total_tokens=2, max_completion_tokens=8)
    assert scales.dtype == torch.float32 and scales.tolist() == [0.25, 0.5]
    empty = torch.zeros(0, dtype=torch.int64)
    for aggregation in ("token", "sequence", "constant_length"):
        assert sample_scales(empty, aggregation, total_rollouts=0, total_tokens=0, max_completion_tokens=8).shape == (
            0,
        )


TRAINER = float64(-1.0, -0.5, -2.0, -0.3, -1.0)
ENGINE = float64(-1.2, -0.4, -4.0, -0.6, -0.5)
SAMPLE = torch.tensor([0, 0, 1, 2, 2])
SUMS = [0.1, 0.1, 2.0, -0.2, -0.2]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("token_truncate", [math.exp(0.2), math.exp(-0.1), 3.0, math.exp(0.3), math.exp(-0.5)]),
        ("token_mask", [math.exp(0.2), math.exp(-0.1), 0.0, math.exp(0.3), math.exp(-0.5)]),
        ("sequence_truncate", [min(3.0, math.exp(total)) for total in SUMS]),
        ("sequence_mask", [math.exp(total) if math.exp(total) <= 3.0 else 0.0 for total in SUMS]),
    ],
)
def test_importance_weights(mode: ImportanceMode, expected: list[float]) -> None:
    trainer = TRAINER.clone().requires_grad_()
    weights = importance_weights(trainer, ENGINE, SAMPLE, mode, cap=3.0)
    assert not weights.requires_grad
    torch.testing.assert_close(weights, float64(*expected), rtol=0, atol=1e-9)


def test_an_unknown_engine_logprob_is_not_corrected() -> None:
    engine = ENGINE.clone()
    engine[0] = float("nan")
    assert importance_weights(TRAINER, engine, SAMPLE, "token_truncate", cap=3.0)[0].item() == 1.0
    sequence = importance_weights(TRAINER, engine, SAMPLE, "sequence_mask", cap=3.0)
    assert sequence[0].item() == pytest.approx(math.exp(-0.1), abs=1e-9)


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_equal_logprobs_have_weight_one_and_no_tokens_have_none(mode: ImportanceMode) -> None:
    assert importance_weights(TRAINER, TRAINER, SAMPLE, mode, cap=3.0).tolist() == [1.0] * 5
    assert importance_weights(TRAINER[:0], TRAINER[:0], SAMPLE[:0], mode, cap=3.0).shape == (0,)
