"""Prefix-RFT: one rollout of the group starts from a demonstration's prefix (arXiv 2507.01679)."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from posttrain.objectives.prefix import (
    prefix_baseline,
    prefix_length,
    scheduled,
    trained_prefix_tokens,
    unclipped_expert_ratio,
)
from posttrain.rollout.seeds import derive_seed
from posttrain.trainers.credit import scored
from posttrain.trainers.demonstrations import Demonstrations
from posttrain.trainers.grpo import GRPOTrainer, rewards_of
from posttrain.trainers.prefix_metrics import prefix_metrics
from posttrain.trainers.prefix_rft_config import PrefixRFTConfig
from posttrain.training.packing import MicroBatch
from posttrain.training.update import LossOutput
from posttrain.types import Example, Origin, Rollout, RolloutGroup, RolloutRequest, TrainingSample


class PrefixRFTTrainer(GRPOTrainer):
    """GRPO in which H of the N rollouts of a prompt continue a demonstration.

    ::

        L = floor(l D),  l = low_k + (high_k - low_k) u,  u ~ Beta(a, b),  low_k falls by cosine over the steps
        A_i = R_i - mean_j R_j                                     over all N rollouts, hybrids included
        w_t = A_i on sampled tokens and on the ceil(rho L) prefix tokens of the highest entropy, 0 on the other prefix
        loss: GRPO's, with the policy's own old probabilities in the ratio of prefix tokens too

    so that a demonstration is imitated only as far as its prefix led to more reward than the policy gets alone. Prompts
    without demonstration are GRPO's.
    """

    method: ClassVar[str] = "prefix_rft"
    config_class = PrefixRFTConfig
    config: PrefixRFTConfig

    def __init__(self, model: str | Path, config: PrefixRFTConfig, **components: Any) -> None:
        super().__init__(model, config, **components)
        self.prefix_metrics: dict[str, float] = {}
        self.demonstrations = Demonstrations.encode(
            components["train_dataset"],
            self.encoder,
            max_tokens=config.sampling.max_completion_tokens,
            stop_token_ids=config.sampling.stop_token_ids,
            fraction=config.demonstration_fraction,
            seed=self.run.seed,
        )

    def plan(self, examples: Sequence[Example]) -> list[RolloutRequest]:
        """GRPO's requests, of which ``prefix_rollouts_per_prompt`` rollouts start from a prefix of their own."""
        planned = []
        for request in super().plan(examples):
            hybrids = [self._hybrid(request, number) for number in range(self.config.prefix_rollouts_per_prompt)]
            hybrids = [hybrid for hybrid in hybrids if hybrid.prefix_ids]
            planned += [replace(request, n=request.n - len(hybrids)), *hybrids]
        return planned

    def _hybrid(self, request: RolloutRequest, number: int) -> RolloutRequest:
        draw = random.Random(derive_seed(request.seed, "prefix", number))
        demonstration = self.demonstrations.draw(request.example, draw)
        low, high = sorted(self._bounds(self.collecting))
        ratio = low + (high - low) * draw.betavariate(*self.config.prefix_ratio_beta)
        room = request.sampling.max_completion_tokens - self.config.min_continuation_tokens
        length = prefix_length(ratio, len(demonstration), self.config.min_prefix_tokens, room) if high > 0 else 0
        seed = derive_seed(request.seed, "hybrid", number)
        prefix = demonstration[:length]
        return replace(request, id=f"{request.id}.prefix{number}", n=1, seed=seed, prefix_ids=prefix)

    def _bounds(self, step: int) -> list[float]:
        """low_k and high_k of ``step``."""
        return [
            scheduled(bound.schedule, bound.initial, bound.final, step / (bound.steps or self.config.steps))
            for bound in (self.config.prefix_ratio_low, self.config.prefix_ratio_high)
        ]

    def advantages(self, groups: Sequence[Sequence[Rollout]]) -> list[Tensor]:
        """``joint``: GRPO's, over all rollouts. ``prefix_baseline``: the policy's own among themselves, and a hybrid's
        sampled tokens weigh its reward."""
        if self.config.advantage == "joint":
            return super().advantages(groups)
        return [prefix_baseline(rewards_of(rollouts), is_hybrid(rollouts))[0] for rollouts in groups]

    def assign_credit(self, groups: Sequence[RolloutGroup]) -> list[TrainingSample]:
        """GRPO's advantages on the sampled tokens, then the prefix tokens that join them."""
        samples = super().assign_credit(groups)
        weights = self._prefix_weights(samples, groups)
        statistics = self.prefix_statistics([s for s in samples if weights.get(s.id)])
        finished = [
            self._with_prefix(s, weights[s.id], *statistics[s.id]) if s.id in statistics else s for s in samples
        ]
        bounds = zip(("prefix/ratio_low", "prefix/ratio_high"), self._bounds(self.step), strict=True)
        self.prefix_metrics = prefix_metrics(groups, finished, statistics) | dict(bounds)
        return finished

    def prefix_statistics(self, samples: Sequence[TrainingSample]) -> dict[str, tuple[list[float], list[float]]]:
        """Log-probs and entropies (nats) of each sample's prefix tokens under the policy as it is, by sample id."""
        prefixes = [replace(s, trained=[int(origin == Origin.EXPERT) for origin in s.origin]) for s in samples]
        values = self.update.token_values(prefixes, lambda batch: torch.stack(self.update.model(batch), dim=1))
        return {name: ([p for p, _ in pairs], [h for _, h in pairs]) for name, pairs in values.items()}

    def before_update(self, samples: list[TrainingSample]) -> tuple[list[TrainingSample], dict[str, float]]:
        """Only metrics: the samples are ready."""
        return samples, self.prefix_metrics

    def _prefix_weights(self, samples: Sequence[TrainingSample], groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """What the trained prefix tokens of each hybrid weigh, by sample id."""
        weights = {s.id: s.token_weights[-1] for s in samples if Origin.EXPERT in s.origin and any(s.trained)}
        if self.config.advantage == "prefix_baseline":
            for rollouts in map(scored, groups):
                of_prefix = prefix_baseline(rewards_of(rollouts), is_hybrid(rollouts))[1].tolist()
                ids = [f"{rollout.request_id}/{rollout.index}" for rollout in rollouts]
                weights |= {i: weight for i, weight in zip(ids, of_prefix, strict=True) if i in weights}
        if self.config.expert_weight is not None:
            weights = dict.fromkeys(weights, self.config.expert_weight)
        if self.config.expert_negative == "zero":
            weights = {name: max(weight, 0.0) for name, weight in weights.items()}
        return weights

    def _with_prefix(
        self, sample: TrainingSample, weight: float, logprobs: list[float], entropies: list[float]
    ) -> TrainingSample:
        """Train the chosen prefix tokens, with the old policy's log-probs of them in the ratio."""
        config, start = self.config, sample.origin.index(Origin.EXPERT)
        draw = random.Random(derive_seed(self.run.seed, "prefix tokens", sample.id))
        trained, weights, behaviour = sample.trained[:], sample.token_weights[:], sample.behaviour_logprobs[:]
        for token in trained_prefix_tokens(
            entropies, config.prefix_entropy_top_fraction, config.prefix_entropy_selection, draw
        ):
            trained[start + token], weights[start + token], behaviour[start + token] = 1, weight, logprobs[token]
        return replace(sample, trained=trained, token_weights=weights, behaviour_logprobs=behaviour)

    def token_losses(self, logprobs: Tensor, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """GRPO's; an expert's tokens may have a ratio of their own, without clip."""
        losses, clipped = super().token_losses(logprobs, batch)
        if self.config.expert_clip and self.config.expert_ratio == "old_policy":
            return losses, clipped
        expert = batch.origins == Origin.EXPERT
        ratio = unclipped_expert_ratio(logprobs, self.old_logprobs(logprobs, batch), self.config.expert_ratio)
        return torch.where(expert, -batch.weights * ratio, losses), clipped & ~expert

    def loss(self, logprobs: Tensor, entropy: Tensor, batch: MicroBatch) -> LossOutput:
        """GRPO's; an entropy bonus acts on sampled tokens only."""
        return super().loss(logprobs, entropy * (batch.origins == Origin.POLICY), batch)


def is_hybrid(rollouts: Sequence[Rollout]) -> list[bool]:
    """Which rollouts start from a prefix."""
    return [not all(rollout.action_mask) for rollout in rollouts]
