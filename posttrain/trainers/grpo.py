"""GRPO and its published variants: every rollout is weighed against the others of its group."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from posttrain.objectives.advantages import batch_normalised, centre, group_normalised
from posttrain.objectives.divergences import chi2_estimate, kl_estimate
from posttrain.objectives.logprobs import sums_over_samples
from posttrain.objectives.policy_losses import Aggregation, clipped_policy_loss, sample_scales
from posttrain.trainers.credit import Count, scored, training_sample
from posttrain.trainers.grpo_config import GRPOConfig
from posttrain.trainers.policy_trainer import PolicyTrainer
from posttrain.training.packing import MicroBatch
from posttrain.training.update import LossOutput
from posttrain.types import Example, Rollout, RolloutGroup, TrainingSample

AGGREGATIONS: dict[str, Aggregation] = {
    "grpo": "sequence",
    "bnpo": "token",
    "dapo": "token",
    "dr_grpo": "constant_length",
}


class GRPOTrainer(PolicyTrainer):
    """Group relative policy optimization (arXiv 2402.03300, eq. 3), with the loss aggregations of DAPO (2503.14476)
    and Dr. GRPO (2503.20783).

    ::

        A_i = (r_i - mean_j r_j) / (std_j r_j + 1e-4)
        ratio_t = exp(log p_t - log p_old,t)
        l_t = - min(ratio_t A_i, clip(ratio_t, 1 - clip_low, 1 + clip_high) A_i)
              + kl_coef KL_t + chi2_coef chi2_t - entropy_coef H_t
        loss = sum_t scale_t l_t
    """

    method: ClassVar[str] = "grpo"
    config_class = GRPOConfig
    config: GRPOConfig

    @property
    def staleness(self) -> int:
        """As configured."""
        return self.config.max_staleness

    def collect(self, examples: Sequence[Example]) -> list[RolloutGroup]:
        """Under ``dynamic_sampling``, new prompts replace those whose group has no spread (2503.14476, eq. 11)."""
        groups = super().collect(examples)
        if not self.config.dynamic_sampling:
            return groups
        kept = [group for group in groups if _has_spread(group)]
        for _ in range(self.config.max_resampling_rounds):
            missing = len(examples) - len(kept)
            if missing == 0:
                break
            fresh = super().collect(self.sampler.next(missing))
            kept += [group for group in fresh if _has_spread(group)]
        return kept or groups

    def assign_credit(self, groups: Sequence[RolloutGroup]) -> list[TrainingSample]:
        """Every judged rollout carries its advantage on all the tokens it sampled."""
        judged = [scored(group) for group in groups]
        return [
            self._sample(rollout, float(advantage))
            for rollouts, values in zip(judged, self.advantages(judged), strict=True)
            for rollout, advantage in zip(rollouts, values, strict=True)
        ]

    def advantages(self, groups: Sequence[Sequence[Rollout]]) -> list[Tensor]:
        """The advantages of each group's judged rollouts, float64."""
        rewards = [rewards_of(rollouts) for rollouts in groups]
        match self.config.advantage_scale:
            case "group":
                return [group_normalised(values) for values in rewards]
            case "batch":
                return batch_normalised(rewards)
            case "none":
                return [centre(values) for values in rewards]

    def _sample(self, rollout: Rollout, advantage: float) -> TrainingSample:
        """A masked rollout keeps its place in the mean over rollouts, and trains none of its tokens."""
        sample = training_sample(rollout, advantage)
        if self.config.mask_truncated and rollout.finish_reason == "length":
            nothing = [0] * len(sample.input_ids)
            return replace(sample, trained=nothing, token_weights=[0.0] * len(nothing))
        return sample

    def prepare(self, batch: MicroBatch) -> None:
        """Replace the engine's log-probs by the trainer's where they are not the old policy's exactly."""
        super().prepare(batch)
        if not self.old_logprobs_are_known:
            batch.behaviour_logprobs = self.trainer_logprobs(batch)

    def loss(self, logprobs: Tensor, entropy: Tensor, batch: MicroBatch) -> LossOutput:
        """The clipped objective above."""
        config = self.config
        losses, clipped = self.token_losses(logprobs, batch)
        metrics = {"policy/clip_fraction": clipped.sum() / max(1, self.counts.total.tokens)}
        if batch.reference_logprobs is not None:
            penalties, values = self.divergences(logprobs, batch.reference_logprobs, batch)
            losses = losses + penalties
            metrics |= {name: each.detach().sum() / max(1, self.counts.total.tokens) for name, each in values.items()}
        if config.entropy_coef:
            losses = losses - config.entropy_coef * entropy
        return LossOutput((losses * self.scales(batch, self.counts.total)).sum(), metrics)

    def scales(self, batch: MicroBatch, counted: Count) -> Tensor:
        """What makes a mean over ``counted`` of a sum over tokens, for each token [M]."""
        return sample_scales(
            batch.trained_lengths,
            AGGREGATIONS[self.config.loss],
            total_rollouts=counted.rollouts,
            total_tokens=counted.tokens,
            max_completion_tokens=self.config.sampling.max_completion_tokens,
        )[batch.sample_index]

    def divergences(self, logprobs: Tensor, reference: Tensor, batch: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted divergences [M] from the reference, and what is logged of each token."""
        config, log_ratios = self.config, logprobs.detach() - reference
        kl = kl_estimate(logprobs, reference, config.kl_estimator)
        if config.chi2_scope == "sequence":
            log_ratios = sums_over_samples(log_ratios, batch.sample_index)
        chi2, clamped = chi2_estimate(logprobs, log_ratios, config.chi2_max_log_ratio)
        logged = {"policy/kl": kl, "policy/chi2": chi2, "policy/chi2_clamped_fraction": clamped}
        return config.kl_coef * kl + config.chi2_coef * chi2, logged

    def token_losses(self, logprobs: Tensor, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """The clipped losses [M], and which tokens a clip holds."""
        config, old = self.config, self.old_logprobs(logprobs, batch)
        return clipped_policy_loss(logprobs, old, batch.weights, config.clip_low, config.clip_high, config.dual_clip)

    def reference_model(self) -> nn.Module | None:
        """The initial policy, or ``reference_model``, where a divergence from it is penalised."""
        config = self.config
        return self.frozen(config.reference_model or self.model_path) if config.kl_coef or config.chi2_coef else None

    def has_gradient(self, sample: TrainingSample) -> bool:
        """An entropy bonus acts on every token."""
        return (bool(self.config.entropy_coef) and any(sample.trained)) or super().has_gradient(sample)


def rewards_of(rollouts: Sequence[Rollout]) -> Tensor:
    """The rewards [n] of judged rollouts, float64."""
    return torch.tensor([rollout.reward for rollout in rollouts], dtype=torch.float64)


def _has_spread(group: RolloutGroup) -> bool:
    return len({rollout.reward for rollout in scored(group)}) > 1
