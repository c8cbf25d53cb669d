"""RAFT: sample, rank by reward, fine-tune on the best (arXiv 2304.06767), and RAFT++ (arXiv 2504.11343)."""

import logging
import math
import random
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from posttrain.objectives.divergences import kl_estimate
from posttrain.objectives.policy_losses import clip_before_reward_loss, clipped_policy_loss, sample_scales
from posttrain.objectives.ranking import all_best, best, global_top, kl_rank_keys, mixed_group_weights
from posttrain.rollout.seeds import derive_seed
from posttrain.trainers.candidates import Candidates
from posttrain.trainers.credit import training_sample
from posttrain.trainers.policy_trainer import PolicyTrainer
from posttrain.trainers.raft_config import RAFTConfig
from posttrain.trainers.ranked import RankedGroup, rank_rollouts, write_ranked
from posttrain.training.collected import CollectedGroups
from posttrain.training.model import reference_logprobs
from posttrain.training.packing import MicroBatch
from posttrain.training.restart import InitialPolicy
from posttrain.training.update import LossOutput
from posttrain.types import Rollout, RolloutGroup, RolloutRequest, TrainingSample

logger = logging.getLogger(__name__)

KEPT, REJECTED = "kept", "rejected"


class RAFTTrainer(PolicyTrainer):
    """One step is one iteration of RAFT (2304.06767, algorithm 1): K rollouts of each prompt, ranked, and the policy
    fine-tuned on the kept set D.

    ::

        key  = r - kl_rank_coef (log p(y) - log p_ref(y))                                        (2304.06767, eq. 5)
        RAFT    L = - (1/Z) sum_{y in D} sum_t log p_t                                           (2504.11343, eq. 1)
        RAFT++  L = - (1/Z) sum_{y in D} sum_t min(s_t, clip(s_t, 1 - clip_low, 1 + clip_high))  (2504.11343, eq. 6)

    with s_t = p_t / p_old,t, and Z the tokens of D (``selected_tokens``), its rollouts of equal weight (``rollouts``,
    as eq. 6), or the tokens of everything sampled (``all_tokens``, as released).
    """

    method: ClassVar[str] = "raft"
    config_class = RAFTConfig
    config: RAFTConfig

    def __init__(self, model: str | Path, config: RAFTConfig, **components: Any) -> None:
        self.candidates = None
        if config.candidates is not None:
            self.candidates = Candidates.read(config.candidates, components["train_dataset"])
            components["train_dataset"] = self.candidates.examples
        super().__init__(model, config, **components)
        self.folder = Path(self.run.folder)
        self.kl_to_initial: float | None = None
        self.initial = InitialPolicy(self.update, "raft: restart initial") if config.restart == "initial" else None

    def sample(self, requests: Sequence[RolloutRequest]) -> list[RolloutGroup]:
        """Sample, or go on with what a run that died had collected; offline, take the candidates."""
        if self.candidates is not None:
            return self.candidates.groups(requests, self.tokenizer, self.reward)
        collected = CollectedGroups(self.folder / "collected", self.step, self.accelerator.process_index)
        restored = collected.restore(requests)[: self.stragglers.enough]  # fewer ranks may have left more
        done = {group.rollouts[0].request_id for group in restored}
        self.stragglers.enough -= len(done)
        missing = {request.id: request for request in requests if request.id not in done}
        return restored + self.draw_and_score(
            list(missing.values()), lambda group: collected.append(missing[group.rollouts[0].request_id], group)
        )

    def assign_credit(self, groups: Sequence[RolloutGroup]) -> list[TrainingSample]:
        """Rank and select. Under ``all_tokens`` the rejected come along without weight: they count in Z."""
        ranked = [rank_rollouts(group, self.config.deduplicate) for group in groups]
        if self.config.log_ratios_are_needed:
            ratios = self.log_ratios(groups)
            self.kl_to_initial = statistics.fmean(ratios.values())
            for group in ranked:
                own = [ratios[rollout.request_id, rollout.index] for rollout in group.outputs]
                group.keys = kl_rank_keys(group.keys, own, self.config.kl_rank_coef)
        self.select(ranked)
        if self.accelerator.is_main_process:
            write_ranked(self.folder / "ranked", self.step, ranked)
        samples = [
            training_sample(rollout, weight, KEPT if weight else REJECTED)
            for group in ranked
            for rollout, weight in zip(group.outputs, group.weights, strict=True)
        ]
        return samples if self.config.loss_normalizer == "all_tokens" else [s for s in samples if s.objective == KEPT]

    def before_update(self, samples: list[TrainingSample]) -> tuple[list[TrainingSample], dict[str, float]]:
        """Under ``restart: initial``, go back to the initial policy and an optimizer without memory, unless there is
        nothing to train on."""
        if self.initial is not None and any(sample.objective == KEPT for sample in samples):
            self.initial.restore()
        return samples, {} if self.kl_to_initial is None else {"raft/kl_to_initial": self.kl_to_initial}

    def log_ratios(self, groups: Sequence[RolloutGroup]) -> dict[tuple[str, int], float]:
        """log p(y) - log p_ref(y) of every rollout, by request and index. Their mean estimates the KL from the policy
        that sampled to the initial one, in nats a completion, without bias."""
        assert self.reference is not None
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        samples = [training_sample(rollout, 1.0) for rollout in rollouts]
        reference = self.update.token_values(samples, partial(reference_logprobs, self.reference))
        return {
            (rollout.request_id, rollout.index): math.fsum(rollout.logprobs) - math.fsum(reference[sample.id])
            for rollout, sample in zip(rollouts, samples, strict=True)
        }

    def select(self, ranked: Sequence[RankedGroup[Rollout]]) -> None:
        """Weight 1 for what ``selection`` keeps; Reinforce-Rej (2504.11343, section 4) also weighs the wrong ones.
        Nothing is kept where every key is the same and no threshold says whether that is good."""
        config, keys = self.config, [key for group in ranked for key in group.keys]
        if config.accept_threshold is None and len(set(keys)) == 1:
            said = "step %d: all %d rank keys are %g: no update (trainer.accept_threshold can say that this is good)"
            logger.warning(said, self.step, len(keys), keys[0])
            return
        for group, chosen in zip(ranked, self._chosen(ranked), strict=True):
            accepted = [self._accepted(rollout) for rollout in group.outputs]
            if config.drop_all_correct and all(accepted):
                continue
            if config.selection == "mixed_groups":
                group.weights = mixed_group_weights(accepted, config.wrong_reward, config.baseline)
                continue
            for i in [i for i in chosen if accepted[i]][: config.max_kept_per_prompt]:
                group.weights[i] = 1.0

    def _chosen(self, ranked: Sequence[RankedGroup[Rollout]]) -> list[list[int]]:
        """The indices that the ranking lets through, for each group."""
        config = self.config
        match config.selection:
            case "best":
                return [best(group.keys, self._ties(group)) for group in ranked]
            case "all_best":
                return [all_best(group.keys) for group in ranked]
            case "global_top":
                fraction = config.keep_fraction or 1 / config.rollouts_per_prompt
                return global_top([group.keys for group in ranked], fraction)
            case "threshold" | "mixed_groups":
                return [list(range(len(group.keys))) for group in ranked]

    def prepare(self, batch: MicroBatch) -> None:
        """The old policy's log-probs are the trainer's, from before the step's first update."""
        if self.config.kl_coef:
            super().prepare(batch)
        else:
            self.correct(batch)
        if self.config.importance_sampling == "token" and not self.old_logprobs_are_known:
            batch.behaviour_logprobs = self.trainer_logprobs(batch)

    def loss(self, logprobs: Tensor, entropy: Tensor, batch: MicroBatch) -> LossOutput:
        """The losses above, each token scaled by 1/Z."""
        config, metrics = self.config, {}
        if config.importance_sampling == "none":
            losses = -batch.weights * logprobs
        else:
            old = self.old_logprobs(logprobs, batch)
            high = math.inf if config.clip_high is None else config.clip_high
            if config.clip_form == "ppo":
                losses, clipped = clipped_policy_loss(
                    logprobs, old, batch.weights, config.clip_low, high, config.dual_clip
                )
            else:
                losses, clipped = clip_before_reward_loss(logprobs, old, batch.weights, config.clip_low, high)
            ratio_gap = (logprobs.detach() - old).expm1().abs()
            metrics = {
                "policy/clip_fraction": clipped.sum() / max(1, self.tokens_run),
                "raft/ratio_gap": ratio_gap.sum() / max(1, self.tokens_run),
            }
        if batch.reference_logprobs is not None:
            kl = kl_estimate(logprobs, batch.reference_logprobs, "k3")
            losses = losses + config.kl_coef * kl
            metrics["policy/kl"] = kl.detach().sum() / max(1, self.counts.total.tokens)
        losses = losses - config.entropy_coef * entropy
        return LossOutput((losses * self._scales(batch)).sum(), metrics)

    def reference_model(self) -> nn.Module | None:
        """The initial policy, where the rank key, a metric or the loss has a KL term."""
        config = self.config
        return self.frozen(self.model_path) if config.kl_coef or config.log_ratios_are_needed else None

    def has_gradient(self, sample: TrainingSample) -> bool:
        """A rejected rollout is run only where a KL term or an entropy bonus acts on it."""
        acts_on_all = bool(self.config.kl_coef or self.config.entropy_coef)
        return any(sample.token_weights) or (acts_on_all and any(sample.trained))

    def _accepted(self, rollout: Rollout) -> bool:
        threshold = self.config.accept_threshold
        return rollout.reward is not None and (threshold is None or rollout.reward > threshold)

    def _ties(self, group: RankedGroup[Rollout]) -> random.Random | None:
        """The draw among equals depends only on seed, step and example."""
        if self.config.tie_break == "first" or not group.outputs:
            return None
        return random.Random(derive_seed(self.run.seed, "tie", group.outputs[0].request_id))

    def _scales(self, batch: MicroBatch) -> Tensor:
        counted = self.counts.total if self.config.loss_normalizer == "all_tokens" else self.counts.of_objective(KEPT)
        return sample_scales(
            batch.trained_lengths,
            "sequence" if self.config.loss_normalizer == "rollouts" else "token",
            total_rollouts=counted.rollouts,
            total_tokens=counted.tokens,
            max_completion_tokens=self.config.sampling.max_completion_tokens,
        )[batch.sample_index]
