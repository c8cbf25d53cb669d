"""The parts of SPEAR (arXiv 2509.22601): what is imitated, what acting earns, which tokens are left out.

The paper says what each part is for; the forms are our choice.
"""

import math
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

ROUNDING = 1e-9  # so that 0.1 of 30 tokens is 3


def recalibrated_advantage(reward: float, recent_rewards: Sequence[float]) -> float:
    """max(0, r - median of the task's recent rewards): what was good once may be usual now.

    Raises:
        statistics.StatisticsError: there are no recent rewards.
    """
    return max(0.0, reward - statistics.median(recent_rewards))


def reward_of_acting(valid_actions: int, cap: int, weight: float) -> float:
    """w min(valid actions, cap) / cap, which is added to a reward."""
    return weight * min(valid_actions, cap) / cap


def covariances(logprobs: Tensor, advantages: Tensor) -> Tensor:
    """cov_t = (log p_t - mean log p) (A_t - mean A), the means over all M tokens.

    Args:
        logprobs: [M], nats.
        advantages: [M].

    Returns:
        [M], in their dtype. High where what is likely is praised, or what is unlikely blamed: there the entropy falls.
    """
    return (logprobs - logprobs.mean()) * (advantages - advantages.mean())


def highest(values: Tensor, fraction: float) -> Tensor:
    """Which of ``values`` [M] are among the ceil(fraction M) highest, bool [M]. Of equals, the earlier one."""
    count = math.ceil(fraction * len(values) - ROUNDING)
    chosen = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    chosen[values.argsort(descending=True, stable=True)[:count]] = True
    return chosen
