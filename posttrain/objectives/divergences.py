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


def chi2_estimate(logprobs: Tensor, log_ratios: Tensor, max_log_ratio: float) -> tuple[Tensor, Tensor]:
    """Per-token estimates of chi2(policy || reference) = E_p[p / q] - 1 from what the policy p sampled: the divergence
    of "Correlated Proxies" (arXiv 2403.03185, theorem 5.1), to be subtracted from the objective.

    With w = exp(log_ratio), the ratio p / q without gradient::

        value     w - 1                   unbiased
        gradient  2 (w - 1) grad log p    its mean is that of the divergence, 2 E_p[w grad log p]: E_p[grad log p] = 0

    Beyond ``max_log_ratio`` w is held, so that a rare sample does not outweigh the batch; both are then biased.

    Args:
        logprobs: [M], float32 or float64, the policy's, with gradient.
        log_ratios: [M], log p - log q of the token alone; or, on each of its tokens, of the whole completion.
        max_log_ratio: above 0; log-ratios are clamped to plus and minus this.

    Returns:
        Estimates [M], and which of them are clamped, [M] bool.
    """
    excess = torch.expm1(log_ratios.detach().clamp(-max_log_ratio, max_log_ratio))
    return excess * (1 + 2 * (logprobs - logprobs.detach())), log_ratios.abs() > max_log_ratio
