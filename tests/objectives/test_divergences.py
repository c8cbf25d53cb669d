"""KL estimators: hand-computed values, unbiasedness, gradients."""

import math

import pytest
import torch
from torch import Tensor

from posttrain.objectives.divergences import KLEstimator, kl_estimate

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
