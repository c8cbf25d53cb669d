"""OREAL: clone what was right, push down what was wrong, where a token-level reward model says it mattered."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from posttrain.errors import JobError
from posttrain.objectives.advantages import leave_one_out
from posttrain.objectives.oreal import (
    OREALCounts,
    negative_shaping,
    oreal_loss,
    outcome_bce,
    outcome_token_weights,
    positive_shaping,
)
from posttrain.rollout.seeds import derive_seed
from posttrain.trainers.credit import scored, training_sample
from posttrain.trainers.oreal_config import OREALConfig
from posttrain.trainers.policy_trainer import PolicyTrainer
from posttrain.trainers.token_reward_model import TokenRewardModel
from posttrain.training.accelerator import gather_lists, zero_stage
from posttrain.training.model import PolicyModel, add_adapter, load_causal_lm
from posttrain.training.model_config import LoRAConfig
from posttrain.training.packing import MicroBatch
from posttrain.training.update import LossOutput
from posttrain.types import Rollout, RolloutGroup, TrainingSample

CLONE = "clone"
PUSH_DOWN = "push_down"


class OREALTrainer(PolicyTrainer):
    """Outcome REwArd-based reinforcement Learning (arXiv 2502.06781, Algorithm 1).

    ::

        L = L_pos + L_neg + L_kl                                                           (eq. 11)
        L_pos = c_pos / N_pos * sum_correct  A_i sum_t omega+_t * (-log p_t)
        L_neg = c_neg / N_neg * sum_wrong   -A_i sum_t omega-_t * exp(log p_t - sg(log p_t))
        omega+_t = max(2 sigmoid(c_t) - 1, 0), omega-_t = max(1 - 2 sigmoid(c_t), 0)       (eq. 10)
        L_w = mean_i BCE(sigmoid(mean_t s_t), outcome_i)                                   (eq. 12)

    where s_t are the token reward model's scores and c_t their running mean.
    """

    method: ClassVar[str] = "oreal"
    config_class = OREALConfig
    config: OREALConfig

    def __init__(self, model: str | Path, config: OREALConfig, **components: Any) -> None:
        super().__init__(model, config, **components)
        self.token_model = None
        if config.token_weighting != "none":
            scorer = TokenRewardModel(self._token_model_backbone(), config.token_reward_model.score_position)
            self.token_model = self.prepared(scorer, config.token_reward_model.max_grad_norm)

    def assign_credit(self, groups: Sequence[RolloutGroup]) -> list[TrainingSample]:
        """Per group with right and wrong rollouts: leave-one-out advantages, then one rollout of each kind (or all)."""
        samples: list[TrainingSample] = []
        for group in groups:
            rollouts = scored(group)
            if len(rollouts) < 2:
                continue
            correct = [self._is_correct(rollout) for rollout in rollouts]
            pass_rate = sum(correct) / len(correct)
            if self.config.drop_uniform_groups and pass_rate in (0.0, 1.0):
                continue
            right, wrong = self.config.reward_values
            rewards = torch.tensor([right if c else wrong for c in correct], dtype=torch.float64)
            advantages = leave_one_out(rewards)
            up = positive_shaping(advantages, self.config.positive_shaping)
            down = negative_shaping(advantages, rewards, pass_rate, self.config.negative_shaping)
            for i in self._chosen(correct, rollouts[0].request_id):
                weight = float(up[i]) if correct[i] else -float(down[i])
                samples.append(training_sample(rollouts[i], weight, CLONE if correct[i] else PUSH_DOWN))
        return samples

    def before_update(self, samples: list[TrainingSample]) -> tuple[list[TrainingSample], dict[str, float]]:
        """Weigh tokens by the token reward model as it is, then train it on this step's outcomes (lines 10 and 11)."""
        token_model = self.token_model
        if token_model is None or not samples:
            return samples, {}
        batches = token_model.micro_batches(samples)
        share = self._outcome_weights(samples)
        weights: dict[str, list[float]] = {}
        means: list[tuple[float, bool]] = []

        def loss(batch: MicroBatch) -> LossOutput:
            scores = token_model.model(batch)
            labels = torch.tensor([float(s.objective == CLONE) for s in batch.samples], device=scores.device)
            own_scores = scores.detach().split(batch.trained_lengths.tolist())
            for sample, own in zip(batch.samples, own_scores, strict=True):
                if len(own):  # a rank that has run out of samples idles on an empty one
                    weights[sample.id] = self._token_weights(own, sample.objective == CLONE).tolist()
                    means.append((float(own.mean()), sample.objective == CLONE))
            balance = torch.tensor([share[s.objective] for s in batch.samples], device=scores.device)
            return LossOutput(outcome_bce(scores, batch.sample_index, labels, len(samples), balance))

        result = token_model.run(batches, loss, self.rate(self.config.token_reward_model))
        self.guard(token_model, result)
        merged = dict(gather_lists(self.accelerator, list(weights.items())))
        weighted = [_weighted(sample, merged[sample.id]) for sample in samples]
        scores = gather_lists(self.accelerator, means)
        return weighted, {"oreal/token_model_loss": result.loss, **_token_model_metrics(weighted, samples, scores)}

    def update_policy(self, samples: list[TrainingSample]) -> dict[str, float]:
        """While the policy is frozen only the token reward model learns: its zero head would give no weights."""
        if self.step < self.config.frozen_steps:
            return {"policy/learning_rate": 0.0, "batch/samples": 0.0}
        metrics = super().update_policy(samples)
        kept = {f"oreal/{name}_rollouts": float(self.counts.of_objective(name).rollouts) for name in (CLONE, PUSH_DOWN)}
        return metrics | kept

    def loss(self, logprobs: Tensor, entropy: Tensor, batch: MicroBatch) -> LossOutput:
        """Eq. 11 on one micro-batch."""
        config = self.config
        positive = torch.tensor([sample.objective == CLONE for sample in batch.samples], device=logprobs.device)
        terms = oreal_loss(
            logprobs,
            batch.weights.abs(),
            positive[batch.sample_index],
            batch.reference_logprobs,
            self._counts(),
            positive_coef=config.positive_loss_coef,
            negative_coef=config.negative_loss_coef,
            kl_coef=config.kl_coef,
            kl_estimator=config.kl_estimator,
            positive_objective=config.positive_objective,
        )
        metrics = {"oreal/loss_positive": terms.positive, "oreal/loss_negative": terms.negative}
        if batch.reference_logprobs is not None:
            metrics["policy/kl"] = terms.kl / config.kl_coef
        return LossOutput(terms.total, metrics)

    def reference_model(self) -> nn.Module | None:
        """The initial policy; none where the KL term is off, or is to the policy of this very step.

        Raises:
            JobError: the token model is an adapter on it, and ZeRO-3 splits weights.
        """
        self._adapted_reference = None
        config = self.config.token_reward_model
        if self.config.token_weighting != "none" and config.sharing == "lora_on_reference":
            if zero_stage(self.accelerator) == 3:
                raise JobError(
                    "trainer.token_reward_model.sharing: lora_on_reference cannot run under ZeRO-3, which would split "
                    "the shared weights twice; use sharing=separate, or the launch config zero2.yaml"
                )
            frozen = load_causal_lm(self.model_path, self.model_config).requires_grad_(False)
            adapter = LoRAConfig(rank=config.lora_rank, alpha=2.0 * config.lora_rank)
            self._adapted_reference = add_adapter(frozen, adapter).to(self.accelerator.device)
        if self.config.kl_coef == 0 or self.config.kl_reference == "old":
            return None
        if self._adapted_reference is not None:
            return PolicyModel(self._adapted_reference, self.temperature, self.model_config.logits_chunk_size)
        return self.frozen(self.model_path)

    def save_model(self, folder: Path) -> None:
        """The policy, and the token reward model in the folder ``token_reward_model`` below it."""
        super().save_model(folder)
        if self.token_model is not None:
            scorer: TokenRewardModel = self.token_model.accelerator.unwrap_model(self.token_model.model)
            scorer.save(folder / "token_reward_model", self.tokenizer, self.accelerator.is_main_process)

    def _token_model_backbone(self) -> nn.Module:
        if self._adapted_reference is not None:
            return self._adapted_reference
        return load_causal_lm(self.config.token_reward_model.model or self.model_path, self.model_config)

    def _is_correct(self, rollout: Rollout) -> bool:
        if self.config.truncated_is_wrong and rollout.finish_reason == "length":
            return False
        return rollout.reward is not None and rollout.reward > self.config.correct_threshold

    def _chosen(self, correct: Sequence[bool], request_id: str) -> list[int]:
        """Indices of the rollouts that are trained; the draw depends only on seed, step and example."""
        if self.config.pair_selection == "all":
            return list(range(len(correct)))
        rng = random.Random(derive_seed(self.run.seed, "pair", request_id))
        kinds = [[i for i, c in enumerate(correct) if c is kind] for kind in (True, False)]
        return [rng.choice(kind) for kind in kinds if kind]

    def _token_weights(self, scores: Tensor, positive: bool) -> Tensor:
        config = self.config
        return outcome_token_weights(
            scores,
            positive=positive,
            source=config.token_weight_source,
            weighting=config.token_weighting,
            threshold=config.positive_threshold if positive else config.negative_threshold,
            top_k_ratio=config.top_k_ratio,
        )

    def _outcome_weights(self, samples: Sequence[TrainingSample]) -> dict[str, float]:
        """Factor of a rollout in the token model's loss: 1, or what makes both outcomes weigh half."""
        counts = {name: sum(sample.objective == name for sample in samples) for name in (CLONE, PUSH_DOWN)}
        if not self.config.token_reward_model.balance_outcomes or not all(counts.values()):
            return dict.fromkeys(("policy", CLONE, PUSH_DOWN), 1.0)
        return {name: len(samples) / (2.0 * count) for name, count in counts.items()} | {"policy": 0.0}

    def _counts(self) -> OREALCounts:
        clone, push_down = self.counts.of_objective(CLONE), self.counts.of_objective(PUSH_DOWN)
        return OREALCounts.of(
            self.config.loss_normalizer,
            positive_tokens=clone.tokens,
            negative_tokens=push_down.tokens,
            positive_rollouts=clone.rollouts,
            negative_rollouts=push_down.rollouts,
        )


def _weighted(sample: TrainingSample, omega: Sequence[float]) -> TrainingSample:
    """``sample`` with the weight of its k-th trained token multiplied by ``omega[k]``."""
    remaining = iter(omega)
    weights = [w * next(remaining) if t else 0.0 for w, t in zip(sample.token_weights, sample.trained, strict=True)]
    return replace(sample, token_weights=weights)


def _token_model_metrics(
    weighted: Sequence[TrainingSample], before: Sequence[TrainingSample], scores: Sequence[tuple[float, bool]]
) -> dict[str, float]:
    """Accuracy and AUC of the rollout scores, and how much of the weight the token model lets through."""
    right = [score for score, correct in scores if correct]
    wrong = [score for score, correct in scores if not correct]
    pairs = [(r > w) + 0.5 * (r == w) for r in right for w in wrong]
    metrics = {"oreal/token_model_accuracy": sum((s > 0) == c for s, c in scores) / len(scores)}
    if pairs:
        metrics["oreal/token_model_auc"] = sum(pairs) / len(pairs)
    for name in (CLONE, PUSH_DOWN):
        left = sum(abs(w) for s in weighted if s.objective == name for w in s.token_weights)
        full = sum(abs(w) for s in before if s.objective == name for w in s.token_weights)
        metrics[f"oreal/{name}_weight_share"] = left / full if full else 0.0
    return metrics
