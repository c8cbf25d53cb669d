"""KL and chi-squared estimators: hand-computed values, unbiasedness, gradients."""

import math

import pytest
import torch
from torch import Tensor

from posttrain.objectives.divergences import KLEstimator, chi2_estimate, kl_estimate
from posttrain.objectives.logprobs import sums_over_samples

POLICY = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
REFERENCE = torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64)
KL = 0.0252671539


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("k1", [0.2231435513, -0.2876820725, 0.0]),
        ("k2", [0.0248965222, 0.0413804874, 0.0]),
        ("k3", [0.0231435513, 0.0456512609, 0.0]),
    ],
)
def test_per_token_values(estimator: KLEstimator, expected: list[float]) -> None:
    values = kl_estimate(POLICY.log(), REFERENCE.log(), estimator)
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_unbiased(estimator: KLEstimator) -> None:
    mean = (POLICY * kl_estimate(POLICY.log(), REFERENCE.log(), estimator)).sum()
    assert mean.item() == pytest.approx(KL, abs=1e-9)


@pytest.mark.parametrize(("estimator", "matches"), [("k1", False), ("k2", True)])
def test_expected_gradient_as_a_loss(estimator: KLEstimator, matches: bool) -> None:
    logits = POLICY.log().requires_grad_()

    def logprobs() -> Tensor:
        return torch.log_softmax(logits, dim=0)

    (exact,) = torch.autograd.grad((logprobs().exp() * (logprobs() - REFERENCE.log())).sum(), logits)
    (expected,) = torch.autograd.grad((POLICY * kl_estimate(logprobs(), REFERENCE.log(), estimator)).sum(), logits)
    torch.testing.assert_close(expected, exact if matches else torch.zeros_like(exact), rtol=0, atol=1e-12)


def test_gradient_of_k3() -> None:
    logprobs = torch.tensor([-0.5, -3.0, -1.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-0.6, -1.0, -1.0], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(kl_estimate(logprobs, reference, "k3").sum(), logprobs)
    torch.testing.assert_close(gradient, 1 - torch.exp(reference - logprobs.detach()), rtol=0, atol=1e-12)


def test_half_precision_is_raised_before_the_difference() -> None:
    logprobs = torch.tensor([-1.0], dtype=torch.bfloat16)
    reference = torch.tensor([-1.0078125], dtype=torch.bfloat16)
    value = kl_estimate(logprobs, reference, "k3")
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(math.expm1(-0.0078125) + 0.0078125, rel=1e-3)


CHI2 = 0.05
UNCLAMPED = 20.0


def log_ratios(policy: Tensor = POLICY) -> Tensor:
    return policy.log() - REFERENCE.log()


def test_chi2_values() -> None:
    values, clamped = chi2_estimate(POLICY.log(), log_ratios(), UNCLAMPED)
    torch.testing.assert_close(values, torch.tensor([0.25, -0.25, 0.0], dtype=torch.float64), rtol=0, atol=1e-12)
    assert not clamped.any()


def test_chi2_is_unbiased() -> None:
    mean = (POLICY * chi2_estimate(POLICY.log(), log_ratios(), UNCLAMPED)[0]).sum()
    assert mean.item() == pytest.approx((POLICY.square() / REFERENCE).sum().item() - 1, abs=1e-12)
    assert mean.item() == pytest.approx(CHI2, abs=1e-12)


def test_chi2_has_the_gradient_of_the_exact_divergence() -> None:
    logits = POLICY.log().requires_grad_()
    logprobs = torch.log_softmax(logits, dim=0)
    (exact,) = torch.autograd.grad((logprobs.exp().square() / REFERENCE).sum(), logits, retain_graph=True)
    (expected,) = torch.autograd.grad((POLICY * chi2_estimate(logprobs, log_ratios(), UNCLAMPED)[0]).sum(), logits)
    assert exact.abs().max() > 0.05
    torch.testing.assert_close(expected, exact, rtol=0, atol=1e-12)


def test_chi2_is_still_where_the_policy_is_the_reference() -> None:
    logprobs = REFERENCE.log().requires_grad_()
    values, _ = chi2_estimate(logprobs, log_ratios(REFERENCE), UNCLAMPED)
    (gradient,) = torch.autograd.grad(values.sum(), logprobs)
    assert values.tolist() == gradient.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("step", [1e-2, 1e-3])
def test_chi2_is_twice_the_kl_near_the_reference(step: float) -> None:
    """Both are quadratic there: chi2 = 2 KL + O(step^3)."""
    policy = REFERENCE + step * torch.tensor([1.0, -2.0, 1.0], dtype=torch.float64)
    chi2 = (policy * chi2_estimate(policy.log(), log_ratios(policy), UNCLAMPED)[0]).sum()
    kl = (policy * kl_estimate(policy.log(), REFERENCE.log(), "k1")).sum()
    assert chi2.item() > 10 * step**2
    assert abs(chi2.item() - 2 * kl.item()) < 50 * step**3


def test_chi2_of_whole_completions() -> None:
    """All completions of two tokens under a policy that looks at the first: the sequence form has the divergence, and
    the gradient, of their joint distribution; the sum of token forms has not."""
    logits = torch.tensor([[0.3, -0.5, 0.1], [1.0, 0.2, -1.0], [0.0, 0.4, 0.8], [-0.3, 0.1, 0.9]], dtype=torch.float64)
    logits.requires_grad_()
    table = torch.log_softmax(logits, dim=1)
    first, second = torch.arange(3).repeat_interleave(3), torch.arange(3).repeat(3)
    logprobs = torch.stack([table[0, first], table[1 + first, second]], dim=1).flatten()  # [18], two for each of nine
    joint = logprobs.view(9, 2).sum(1).exp()
    exact = (joint.square() * 9).sum() - 1  # the reference is uniform
    (exact_gradient,) = torch.autograd.grad(exact, logits, retain_graph=True)

    samples = torch.arange(9).repeat_interleave(2)
    of_tokens = logprobs.detach() + math.log(3)
    ratios = sums_over_samples(of_tokens, samples)
    weights = joint.detach()[samples]
    estimate = (weights * chi2_estimate(logprobs, ratios, UNCLAMPED)[0]).sum()
    (gradient,) = torch.autograd.grad(estimate, logits, retain_graph=True)
    assert estimate.item() / 2 == pytest.approx(exact.item(), abs=1e-12)  # each of the two tokens carries the value
    torch.testing.assert_close(gradient, exact_gradient, rtol=0, atol=1e-12)

    token_form = (weights * chi2_estimate(logprobs, of_tokens, UNCLAMPED)[0]).sum()
    assert abs(token_form.item() - exact.item()) > 0.05


def test_sequence_and_token_forms_of_one_completion() -> None:
    ratios = torch.tensor([0.2, -0.1, 0.05], dtype=torch.float64)
    whole = sums_over_samples(ratios, torch.zeros(3, dtype=torch.int64))
    values, _ = chi2_estimate(ratios, whole, UNCLAMPED)
    torch.testing.assert_close(values, torch.full((3,), 0.1618342427, dtype=torch.float64), rtol=0, atol=1e-10)
    assert chi2_estimate(ratios, ratios, UNCLAMPED)[0].sum().item() == pytest.approx(0.1775112726, abs=1e-10)


def test_chi2_beyond_the_largest_ratio() -> None:
    """The ratio is held; the penalty still pushes, as hard as at the bound. Float32 does not overflow."""
    logprobs = torch.zeros(3, requires_grad=True)
    values, clamped = chi2_estimate(logprobs, torch.tensor([200.0, 1.5, -200.0]), 2.0)
    (gradient,) = torch.autograd.grad(values.sum(), logprobs)
    expected = torch.tensor([math.expm1(2.0), math.expm1(1.5), math.expm1(-2.0)])
    torch.testing.assert_close(values.detach(), expected)
    torch.testing.assert_close(gradient, 2 * expected)
    assert clamped.tolist() == [True, False, True]
