"""Prefix sampling (arXiv 2507.01679): how much of a demonstration is given, which of its tokens are trained."""

import math
import random
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Selection = Literal["top", "bottom", "random", "all", "none"]
ROUNDING = 1e-9  # so that 0.2 * 5 counts as 1


def scheduled(
    schedule: Literal["constant", "linear", "cosine"], initial: float, final: float, progress: float
) -> float:
    """A value at ``progress`` in 0..1 of its schedule, held before and after.

    cosine: final + 0.5 (1 + cos(pi progress)) (initial - final).
    """
    progress = min(max(progress, 0.0), 1.0)
    match schedule:
        case "constant":
            return initial
        case "linear":
            return initial + progress * (final - initial)
        case "cosine":
            return final + 0.5 * (1 + math.cos(math.pi * progress)) * (initial - final)


def prefix_length(ratio: float, demonstration_tokens: int, min_tokens: int, max_tokens: int) -> int:
    """L = floor(ratio D), at least ``min_tokens``, at most ``max_tokens`` and D - 1: the policy has to finish.

    A demonstration of at most one token has no prefix.
    """
    if demonstration_tokens <= 1:
        return 0
    return min(max(math.floor(ratio * demonstration_tokens), min_tokens), demonstration_tokens - 1, max(0, max_tokens))


def trained_prefix_tokens(
    entropies: Sequence[float], fraction: float, selection: Selection, draw: random.Random
) -> list[int]:
    """Indices of the ceil(fraction L) prefix tokens that are trained, ascending: those of the highest entropy (``top``,
    the paper's), the lowest, or any. Among equals the earlier token comes first."""
    count = math.ceil(fraction * len(entropies) - ROUNDING)
    places = range(len(entropies))
    match selection:
        case "all":
            return list(places)
        case "none":
            return []
        case "random":
            return sorted(draw.sample(places, count))
        case "top":
            return sorted(sorted(places, key=lambda i: -entropies[i])[:count])
        case "bottom":
            return sorted(sorted(places, key=lambda i: entropies[i])[:count])


def prefix_baseline(rewards: Tensor, hybrid: Sequence[bool]) -> tuple[Tensor, Tensor]:
    """Weights [n] of sampled tokens and of prefix tokens under the release's second rule, each prefix having one
    rollout: the policy's own rollouts are centred among themselves, a hybrid's continuation weighs its reward, its
    prefix the reward less the mean of the policy's own (0 for those without a prefix)."""
    of_hybrids = torch.tensor(list(hybrid))
    own_mean = rewards[~of_hybrids].mean() if (~of_hybrids).any() else rewards.new_zeros(())
    above = rewards - own_mean
    return torch.where(of_hybrids, rewards, above), above * of_hybrids


def unclipped_expert_ratio(
    logprobs: Tensor, old_logprobs: Tensor, kind: Literal["old_policy", "one", "probability", "luffy"]
) -> Tensor:
    """The ratio [M] of a token that an expert wrote.

    ::

        old_policy   p / p_old       Prefix-RFT: without correction for who wrote it
        one          p / sg(p)       plain policy gradient on every update
        probability  p               the expert's probability taken as 1
        luffy        p / (p + 0.1)   policy shaping of LUFFY (arXiv 2504.14945)
    """
    match kind:
        case "old_policy":
            return torch.exp(logprobs - old_logprobs.detach())
        case "one":
            return torch.exp(logprobs - logprobs.detach())
        case "probability":
            return torch.exp(logprobs)
        case "luffy":
            return torch.exp(logprobs) / (torch.exp(logprobs) + 0.1)
