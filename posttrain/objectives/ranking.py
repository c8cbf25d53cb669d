"""Reward ranking: which rollouts are good enough to be learned from (RAFT, arXiv 2304.06767; 2504.11343).

Every function takes rank keys (higher is better) and returns indices in ascending order. Only the order of the keys
matters, so that a positive factor or a constant on all of them changes nothing.
"""

import random
from collections.abc import Sequence
from typing import Literal

import torch

from posttrain.objectives.advantages import centre, group_normalised, leave_one_out


def best(keys: Sequence[float], ties: random.Random | None) -> list[int]:
    """The one best of a group: argmax of RAFT's step 2. ``ties`` draws among equals; None takes the first of them."""
    equals = all_best(keys)
    return equals[:1] if ties is None else [ties.choice(equals)] if equals else []


def all_best(keys: Sequence[float]) -> list[int]:
    """Every rollout of a group whose key is the group's highest (2504.11343, eq. 1 and 6)."""
    top = max(keys, default=0.0)
    return [i for i, key in enumerate(keys) if key == top]


def global_top(groups: Sequence[Sequence[float]], fraction: float) -> list[list[int]]:
    """The best ``fraction`` of all rollouts of the batch, at least one: RAFT's ranking over the whole batch, for
    rewards that compare across prompts. One list of indices for each group; among equals the earlier comes first."""
    ranked = sorted((-key, g, i) for g, keys in enumerate(groups) for i, key in enumerate(keys))
    count = min(len(ranked), max(1, round(fraction * len(ranked))))
    kept = {(g, i) for _, g, i in ranked[:count]}
    return [[i for i in range(len(keys)) if (g, i) in kept] for g, keys in enumerate(groups)]


def kl_rank_keys(rewards: Sequence[float], log_ratios: Sequence[float], coef: float) -> list[float]:
    """r - coef * (log p(y) - log p_ref(y)) with the log-ratios of whole completions, natural (2304.06767, eq. 5)."""
    return [r - coef * ratio for r, ratio in zip(rewards, log_ratios, strict=True)]


def mixed_group_weights(
    accepted: Sequence[bool], wrong_reward: float, baseline: Literal["none", "mean", "mean_std", "leave_one_out"]
) -> list[float]:
    """Reinforce-Rej's signed weights of a group (2504.11343, section 4): reward 1 or ``wrong_reward`` less a baseline;
    nothing for a group that is all right or all wrong."""
    if len(set(accepted)) < 2:
        return [0.0] * len(accepted)
    rewards = torch.tensor([1.0 if right else wrong_reward for right in accepted], dtype=torch.float64)
    match baseline:
        case "none":
            weights = rewards
        case "mean":
            weights = centre(rewards)
        case "mean_std":
            weights = group_normalised(rewards, epsilon=1e-6)
        case "leave_one_out":
            weights = leave_one_out(rewards)
    return [float(weight) for weight in weights]
