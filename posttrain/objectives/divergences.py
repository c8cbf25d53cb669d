"""Estimates of the divergence from the policy to a reference model, one per sampled token."""

from typing import Literal

import torch
from torch import Tensor

KLEstimator = Literal["k1", "k2", "k3"]


def kl_estimate(logprobs: Tensor, reference_logprobs: Tensor, estimator: KLEstimator) -> Tensor:
    """Per-token estimates of KL(policy || reference) from tokens that the policy sampled (Schulman 2020).

    With d = log p_ref - log p::

        k1 = -d                 unbiased; as a loss its expected gradient is 0, so use it to measure or in rewards
        k2 = d^2 / 2            biased; as a loss its expected gradient is that of the KL
        k3 = exp(d) - d - 1     unbiased, never negative; GRPO's (arXiv 2402.03300, eq. 4)

    Args:
        logprobs, reference_logprobs: [M]. Half precision is raised to float32: exp(d) - d - 1 cancels.

    Returns:
        [M], float32 or float64, with gradients to ``logprobs``.
    """
    dtype = torch.promote_types(logprobs.dtype, torch.float32)
    log_ratio = reference_logprobs.to(dtype) - logprobs.to(dtype)
    match estimator:
        case "k1":
            return -log_ratio
        case "k2":
            return log_ratio.square() / 2
        case "k3":
            return torch.expm1(log_ratio) - log_ratio
