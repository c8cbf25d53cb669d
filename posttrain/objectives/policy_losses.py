"""The clipped policy-gradient loss, its aggregations over tokens, and the correction for a different sampler."""

from typing import Literal

import torch
from torch import Tensor

from posttrain.objectives.logprobs import sums_over_samples
from posttrain.types import ImportanceMode

Aggregation = Literal["token", "sequence", "constant_length"]


def clipped_policy_loss(
    logprobs: Tensor,
    behaviour_logprobs: Tensor,
    advantages: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """PPO's pessimistic surrogate per token (arXiv 1707.06347, eq. 7), with a bound of its own on each side
    (clip-higher: DAPO, arXiv 2503.14476, eq. 10).

    With ratio = exp(log p - log p_behaviour)::

        l_t = max(-A ratio, -A clip(ratio, 1 - clip_low, 1 + clip_high))
        where A < 0 and ``dual_clip`` = c: l_t = min(l_t, -A c)            (dual clip, arXiv 1912.09729)

    Args:
        logprobs: [M], the policy's, with gradient.
        behaviour_logprobs: [M], of the policy that the ratio is taken to; a constant.
        advantages: [M].

    Returns:
        Losses [M], and whether a clip holds the token [M] bool: such a token has no gradient.
    """
    ratio = torch.exp(logprobs - behaviour_logprobs.detach())
    losses = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_low, 1 + clip_high))
    negative = advantages < 0
    clipped = ((advantages > 0) & (ratio > 1 + clip_high)) | (negative & (ratio < 1 - clip_low))
    if dual_clip is not None:
        losses = torch.where(negative, torch.minimum(losses, -advantages * dual_clip), losses)
        clipped = clipped | (negative & (ratio > dual_clip))
    return losses, clipped


def clip_before_reward_loss(
    logprobs: Tensor, behaviour_logprobs: Tensor, rewards: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """The clipped loss as eq. 5 of arXiv 2504.11343 prints it: ``-min(ratio, clip(ratio)) r``, the minimum taken before
    the reward, which holds a negative token where it should let go. Arguments and result as ``clipped_policy_loss``."""
    ratio = torch.exp(logprobs - behaviour_logprobs.detach())
    clipped = torch.minimum(ratio, ratio.clamp(1 - clip_low, 1 + clip_high))
    return -clipped * rewards, ratio > 1 + clip_high


def sample_scales(
    trained_lengths: Tensor,
    aggregation: Aggregation,
    *,
    total_rollouts: int,
    total_tokens: int,
    max_completion_tokens: int,
) -> Tensor:
    """What each token of a sample is multiplied by, so that the step's loss is the plain sum of ``scale * l_t``.

    ::

        token            1 / total_tokens                              DAPO (arXiv 2503.14476, eq. 12), BNPO
        sequence         1 / (total_rollouts * length)                 GRPO (arXiv 2402.03300, eq. 3)
        constant_length  1 / (total_rollouts * max_completion_tokens)  Dr. GRPO (arXiv 2503.20783)

    Args:
        trained_lengths: [S], the trained tokens of each sample of a micro-batch.
        total_rollouts, total_tokens: of the whole step, over all micro-batches and ranks.

    Returns:
        [S], in the dtype of ``trained_lengths`` or, where that is an integer type, in the default dtype.
    """
    lengths = trained_lengths.clamp(min=1)
    match aggregation:
        case "token":
            return 1.0 / (torch.ones_like(lengths) * max(1, total_tokens))
        case "sequence":
            return 1.0 / (lengths * max(1, total_rollouts))
        case "constant_length":
            return 1.0 / (torch.ones_like(lengths) * max(1, total_rollouts) * max_completion_tokens)


def importance_weights(
    trainer_logprobs: Tensor, engine_logprobs: Tensor, sample_index: Tensor, mode: ImportanceMode, cap: float
) -> Tensor:
    """Correction for tokens that an engine sampled with log-probs slightly unlike the trainer's, without gradient.

    ratio = exp(log p_trainer - log p_engine), of the token or, in the sequence modes, of the sample's trained tokens
    together. ``truncate`` takes min(ratio, cap) (truncated importance sampling, Ionides 2008); ``mask`` takes 0 where
    ratio > cap. TRL 1.16's ``vllm_importance_sampling_mode`` with ``vllm_importance_sampling_clip_max`` = cap; as
    there, a token whose engine log-prob is NaN has ratio 1.

    Args:
        trainer_logprobs, engine_logprobs: [M].
        sample_index: int64 [M], which sample a token belongs to.

    Returns:
        [M], the factor of the token's loss.
    """
    log_ratio = torch.nan_to_num(trainer_logprobs.detach() - engine_logprobs.detach(), nan=0.0)
    if mode in ("sequence_truncate", "sequence_mask"):
        log_ratio = sums_over_samples(log_ratio, sample_index)
    ratio = torch.exp(log_ratio)
    if mode in ("token_truncate", "sequence_truncate"):
        return ratio.clamp(max=cap)
    return ratio.masked_fill(ratio > cap, 0.0)
