"""Advantages: how much better a rollout is than the others of its group.

Every function takes the rewards of one group's *judged* rollouts (float [n]) and returns advantages of the same shape
and dtype. A group of fewer than two rollouts has nothing to be compared with: its advantages are 0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def centre(rewards: Tensor) -> Tensor:
    """A_i = r_i - mean(r). Dr. GRPO (arXiv 2503.20783), TRL's ``scale_rewards="none"``.

    Exactly 0 where all are equal: what rounding leaves of them would be trained on.
    """
    if len(rewards) < 2 or rewards.min() == rewards.max():
        return torch.zeros_like(rewards)
    return rewards - rewards.mean()


def group_normalised(rewards: Tensor, epsilon: float = 1e-4) -> Tensor:
    """A_i = (r_i - mean(r)) / (std(r) + epsilon), std with n - 1.

    GRPO (arXiv 2402.03300, section 4.1.2) with TRL 1.16's epsilon.
    """
    if len(rewards) < 2:
        return torch.zeros_like(rewards)
    return centre(rewards) / (rewards.std() + epsilon)


def batch_normalised(groups: Sequence[Tensor], epsilon: float = 1e-4) -> list[Tensor]:
    """Centred in the group, scaled by the standard deviation (n - 1) of all rewards of the step.

    Arguments and result hold one tensor per group. TRL 1.16's ``scale_rewards="batch"`` (arXiv 2508.08221).
    """
    if not groups:
        return []
    rewards = torch.cat(list(groups))
    deviation = rewards.std() if len(rewards) > 1 else rewards.new_zeros(())
    return [centre(group) / (deviation + epsilon) for group in groups]


def leave_one_out(rewards: Tensor) -> Tensor:
    """A_i = r_i - mean of the other rewards = n / (n - 1) * (r_i - mean(r)). RLOO (arXiv 2402.14740)."""
    if len(rewards) < 2:
        return torch.zeros_like(rewards)
    return centre(rewards) * (len(rewards) / (len(rewards) - 1))


def z_score(rewards: Tensor, epsilon: float = 1e-8) -> Tensor:
    """(r_i - mean(r)) / (std(r) + epsilon), std with n - 1: the "GRPO" example of OREAL's F (arXiv 2502.06781)."""
    return group_normalised(rewards, epsilon)
