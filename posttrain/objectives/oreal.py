"""The formulas of OREAL (arXiv 2502.06781), with their equation numbers.

p is the share of correct rollouts in a group, s_t the token reward model's score (a logit) of completion token t,
sg(x) is x with its gradient stopped.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from posttrain.objectives.advantages import z_score
from posttrain.objectives.divergences import KLEstimator, kl_estimate

PositiveShaping = Literal["rloo", "unit"]
NegativeShaping = Literal["rloo", "one_minus_p", "grpo", "unit"]
TokenWeighting = Literal["threshold", "top_k", "none"]
TokenWeightSource = Literal["prefix_mean", "token"]
LossNormalizer = Literal["class_tokens", "rollouts", "all_tokens"]
PositiveObjective = Literal["clone", "policy_gradient"]


def positive_shaping(advantages: Tensor, mode: PositiveShaping) -> Tensor:
    """Factors >= 0 that correct rollouts are cloned with.

    Args:
        advantages: leave-one-out advantages of the whole group, [n].
        mode: ``rloo``: A_i, as released; ``unit``: 1, as in eq. 11.

    Returns:
        [n]; only the entries of correct rollouts mean anything.
    """
    return advantages.clamp(min=0) if mode == "rloo" else torch.ones_like(advantages)


def negative_shaping(advantages: Tensor, rewards: Tensor, pass_rate: float, mode: NegativeShaping) -> Tensor:
    """Factors >= 0 that wrong rollouts are pushed down with.

    Args:
        advantages: leave-one-out advantages of the whole group, [n].
        rewards: their rewards, [n].
        pass_rate: p of the group.
        mode: ``rloo``: |A_i|, as released; ``one_minus_p``: 1 - p, the reward shaping R* = (1 - p) R of eq. 6;
            ``grpo``: |z-score of the reward|, the paper's example of F(1 - p); ``unit``: 1.

    Returns:
        [n]; only the entries of wrong rollouts mean anything.
    """
    match mode:
        case "rloo":
            return advantages.abs()
        case "one_minus_p":
            return torch.full_like(advantages, 1.0 - pass_rate)
        case "grpo":
            return z_score(rewards).abs()
        case "unit":
            return torch.ones_like(advantages)


def outcome_token_weights(
    scores: Tensor,
    *,
    positive: bool,
    source: TokenWeightSource = "prefix_mean",
    weighting: TokenWeighting = "threshold",
    threshold: float = 0.5,
    top_k_ratio: float = 0.5,
) -> Tensor:
    """omega, the share of one rollout's push that each of its tokens gets, in [0, 1] (eq. 10).

    q_t = sigmoid(c_t) of a correct rollout, 1 - sigmoid(c_t) of a wrong one, and ``threshold`` tau gives
    omega = clamp((q - tau) / (1 - tau), 0, 1): at tau = 0.5 it is max(2 q - 1, 0), eq. 10.

    Args:
        scores: the rollout's scores s_t, float [T]; their gradient is stopped here.
        positive: whether the rollout is correct.
        source: c_t is the mean of s_1..s_t (``prefix_mean``, as released) or s_t itself (``token``, eq. 10).
        weighting: ``threshold``; ``top_k``: the top_k_ratio * T tokens with the highest q (rounded down, at least
            one), rescaled from 0 to 1 among themselves, the rest 0; ``none``: 1 everywhere.

    Returns:
        [T], the dtype of ``scores``, without gradient.
    """
    credit = scores.detach()
    if weighting == "none":
        return torch.ones_like(credit)
    if source == "prefix_mean":
        credit = credit.cumsum(0) / torch.arange(1, len(credit) + 1, dtype=credit.dtype, device=credit.device)
    quality = torch.sigmoid(credit if positive else -credit)
    if weighting == "threshold":
        return ((quality - threshold) / (1.0 - threshold)).clamp(0.0, 1.0)
    return _top_k_weights(quality, top_k_ratio)


def _top_k_weights(quality: Tensor, ratio: float) -> Tensor:
    """The highest ``quality``, min-max rescaled among themselves (1 where all are equal); ties to the earlier token."""
    count = max(1, int(ratio * len(quality)))
    values, kept = quality.sort(descending=True, stable=True)
    values, kept = values[:count], kept[:count]
    weights = torch.zeros_like(quality)
    if len(values):
        spread = values[0] - values[-1]
        weights[kept] = torch.where(spread > 0, (values - values[-1]) / spread, torch.ones_like(values))
    return weights


@dataclass(frozen=True, slots=True)
class OREALCounts:
    """What the three terms of eq. 11 are divided by: counts over the whole step, all micro-batches and ranks together,
    taken before any token or rollout of weight 0 is dropped."""

    positive: int
    negative: int
    total: int

    @classmethod
    def of(
        cls,
        normalizer: LossNormalizer,
        *,
        positive_tokens: int,
        negative_tokens: int,
        positive_rollouts: int,
        negative_rollouts: int,
    ) -> "OREALCounts":
        """``class_tokens``: tokens of the class, as released; ``rollouts``: rollouts of the class (the expectation of
        eq. 11: sum over tokens, mean over rollouts); ``all_tokens``: the tokens of both classes for every term."""
        tokens = positive_tokens + negative_tokens
        match normalizer:
            case "class_tokens":
                return cls(positive_tokens, negative_tokens, tokens)
            case "rollouts":
                return cls(positive_rollouts, negative_rollouts, positive_rollouts + negative_rollouts)
            case "all_tokens":
                return cls(tokens, tokens, tokens)


@dataclass(frozen=True, slots=True)
class OREALTerms:
    """The terms of eq. 11, coefficients and denominators included; they add up over micro-batches and ranks."""

    positive: Tensor
    negative: Tensor
    kl: Tensor

    @property
    def total(self) -> Tensor:
        """L = L_pos + L_neg + L_kl."""
        return self.positive + self.negative + self.kl


def oreal_loss(
    logprobs: Tensor,
    weights: Tensor,
    is_positive: Tensor,
    reference_logprobs: Tensor | None,
    counts: OREALCounts,
    *,
    positive_coef: float = 1.0,
    negative_coef: float = 0.5,
    kl_coef: float = 0.01,
    kl_estimator: KLEstimator = "k3",
    positive_objective: PositiveObjective = "clone",
) -> OREALTerms:
    """The policy's loss (eq. 11).

    ::

        L_pos = positive_coef / N_pos * sum over tokens of correct rollouts of -w_t log p_t
        L_neg = negative_coef / N_neg * sum over tokens of wrong rollouts of    w_t exp(log p_t - sg(log p_t))
        L_kl  = kl_coef / N * sum over all tokens of the KL estimate

    The ratio of L_neg is 1 and its gradient plain REINFORCE. ``positive_objective="policy_gradient"`` gives the correct
    rollouts the same form, with the sign turned (the ablation without behaviour cloning: another value, the same
    gradient). A term without tokens is 0.

    Args:
        logprobs: [M], the policy's, with gradient.
        weights: [M], >= 0: the rollout's shaping factor times the token's omega.
        is_positive: bool [M], whether the token's rollout is correct.
        reference_logprobs: [M], of the reference model; None: no KL term.
        counts: N_pos, N_neg, N.
    """
    ratio = torch.exp(logprobs - logprobs.detach())
    gain = logprobs if positive_objective == "clone" else ratio
    positive = (weights * gain)[is_positive].sum() * (-positive_coef / max(1, counts.positive))
    negative = (weights * ratio)[~is_positive].sum() * (negative_coef / max(1, counts.negative))
    if reference_logprobs is None:
        return OREALTerms(positive, negative, logprobs.new_zeros(()))
    kl = kl_estimate(logprobs, reference_logprobs, kl_estimator).sum() * (kl_coef / max(1, counts.total))
    return OREALTerms(positive, negative, kl)


def outcome_bce(
    scores: Tensor, sample_index: Tensor, labels: Tensor, n_sequences: int, sample_weights: Tensor | None = None
) -> Tensor:
    """The token reward model's loss (eq. 12): the mean *logit* of a rollout, one sigmoid, one cross-entropy.

    ``1 / n_sequences * sum_i BCE(sigmoid(mean_t s_i,t), y_i)``

    Args:
        scores: s_t, [M], with gradient.
        sample_index: int64 [M], which rollout a token belongs to; one without tokens has no loss.
        labels: [S], 1 for a correct rollout and 0 for a wrong one.
        n_sequences: rollouts of the whole step, over all micro-batches and ranks.
        sample_weights: [S], factors of the rollouts' losses; None: 1, as in eq. 12.

    Returns:
        A scalar that adds up over micro-batches and ranks.
    """
    lengths = torch.bincount(sample_index, minlength=len(labels))
    sums = scores.new_zeros(len(labels)).index_add(0, sample_index, scores)
    means, outcomes = (sums / lengths.clamp(min=1))[lengths > 0], labels.to(scores.dtype)[lengths > 0]
    weights = None if sample_weights is None else sample_weights.to(scores.dtype)[lengths > 0]
    return binary_cross_entropy_with_logits(means, outcomes, weights, reduction="sum") / max(1, n_sequences)
