"""Preferences: losses over pairs, a goal state, and how well probabilities of preference are calibrated."""

import torch
import torch.nn.functional as F
from torch import Tensor


def bradley_terry_loss(chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0, centring: float = 0.0) -> Tensor:
    """-log sigmoid(r_w - r_l - margin) + centring * (r_w + r_l)^2, for each pair.

    Bradley & Terry 1952; the margin as in Llama 2 (arXiv 2307.09288, eq. 2), the centring of arXiv 2312.09244, eq. 2.

    Args:
        chosen, rejected: rewards of the preferred and the dispreferred completions, float [B].
    """
    return -F.logsigmoid(chosen - rejected - margin) + centring * (chosen + rejected) ** 2


def contrastive_loss(source: Tensor, future: Tensor, other: Tensor, temperature: float = 1.0) -> Tensor:
    """-log sigmoid(q(h, g+)) - log sigmoid(-q(h, g-)) with q(a, g) = cos(a, g) / temperature, shape [...].

    Pulls a state of a preferred completion towards a later one of the same and away from one of the dispreferred
    completion: goal-conditioned representations of a reward model, arXiv 2407.13887.

    Args:
        source, future, other: hidden states h, g+ and g-, float [..., hidden].
    """
    near = F.cosine_similarity(source, future, dim=-1) / temperature
    far = F.cosine_similarity(source, other, dim=-1) / temperature
    return -F.logsigmoid(near) - F.logsigmoid(-far)


def goal_state(states: Tensor) -> Tensor:
    """The mean of unit-normalised ``states`` [N, hidden]: [hidden]."""
    return F.normalize(states, dim=-1).mean(0)


def goal_values(states: Tensor, goal: Tensor) -> Tensor:
    """Q of ``states`` [..., hidden]: their cosine to ``goal`` [hidden], in [-1, 1], shape [...]."""
    return F.cosine_similarity(states, goal, dim=-1)


def reliability(differences: Tensor, bins: int = 10) -> Tensor:
    """How often the completion with the higher reward is the preferred one, by how sure the rewards are of it.

    The confidence of a pair is sigmoid(|r_w - r_l|), in [0.5, 1]; ``bins`` intervals of equal width cover that range.

    Args:
        differences: r_w - r_l, float [N]. An exact tie counts as half right.

    Returns:
        [bins, 3]: pairs, mean confidence and share right of each bin (0 where there is no pair), float64.
    """
    differences = differences.double()
    confidence = torch.sigmoid(differences.abs())
    right = (differences.sign() + 1) / 2
    bin_of = ((confidence - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    sums = torch.zeros(bins, 3, dtype=torch.float64, device=differences.device)
    sums.index_add_(0, bin_of, torch.stack([torch.ones_like(confidence), confidence, right], dim=1))
    return torch.cat([sums[:, :1], sums[:, 1:] / sums[:, :1].clamp(min=1)], dim=1)


def expected_calibration_error(differences: Tensor, bins: int = 10) -> float:
    """Mean of |share right - mean confidence| over the bins of ``reliability``, weighted by pairs (arXiv 1706.04599,
    eq. 5)."""
    count, confidence, right = reliability(differences, bins).unbind(1)
    return float((count * (right - confidence).abs()).sum() / count.sum())
