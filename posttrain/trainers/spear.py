"""SPEAR: agentic GRPO that also imitates the policy's own good episodes (arXiv 2509.22601)."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, compress, count
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from posttrain.objectives.prefix import scheduled
from posttrain.objectives.self_imitation import covariances, highest, reward_of_acting
from posttrain.rollout.seeds import derive_seed
from posttrain.trainers.credit import Count, scored
from posttrain.trainers.grpo import GRPOTrainer
from posttrain.trainers.replay import ReplayBuffer
from posttrain.trainers.spear_config import SPEARConfig
from posttrain.training.packing import MicroBatch
from posttrain.training.update import LossOutput
from posttrain.types import Rollout, RolloutGroup, TrainingSample

REPLAY = "replay"


class SPEARTrainer(GRPOTrainer):
    """GRPO (see there) on episodes of an environment, with four parts (arXiv 2509.22601)

    ::

        A_i   is of r_i + v min(valid actions, cap) / cap            v falls from ``valid_action_weight`` to 0
        A_e   = r_e - median of the task's recent rewards            of a kept rollout e, dropped where A_e <= 0
        loss  = GRPO's loss + w mean_e sum_t clipped(p_t / p_e,t, A_e)   w rises from 0 to ``imitation_weight``
        cov_t = (log p_t - mean log p) (A_t - mean A)                A_t = 0 on the tokens where it is highest

    with p_e the policy that sampled e. The paper has the parts; their forms are our choice, as are these: both weights
    move by a cosine; kept are rollouts of positive advantage that beat the median; a replayed rollout was kept in an
    earlier step; the means of cov_t are over the tokens of a step that have an advantage, replayed ones included, and
    p_t is the policy before the step's update (as the engine reports it, where the step sampled the token).
    """

    method: ClassVar[str] = "spear"
    config_class = SPEARConfig
    config: SPEARConfig

    def __init__(self, model: str | Path, config: SPEARConfig, **components: Any) -> None:
        super().__init__(model, config, **components)
        self.buffer = ReplayBuffer(config.buffer_size, config.kept_per_task, config.recent_rewards)

    @property
    def imitation_weight(self) -> float:
        """w at this step."""
        config = self.config
        ramp = config.imitation_ramp_steps or max(1, config.steps - config.imitation_start)
        return scheduled("cosine", 0.0, config.imitation_weight, (self.step - config.imitation_start) / ramp)

    @property
    def valid_action_weight(self) -> float:
        """v at this step."""
        steps = self.config.valid_action_steps or self.config.steps
        return scheduled("cosine", self.config.valid_action_weight, 0.0, self.step / steps)

    def advantages(self, groups: Sequence[Sequence[Rollout]]) -> list[Tensor]:
        """GRPO's, with what valid actions earn."""
        return super().advantages([[self._with_acting(rollout) for rollout in rollouts] for rollouts in groups])

    def _with_acting(self, rollout: Rollout) -> Rollout:
        assert rollout.reward is not None
        earned = reward_of_acting(rollout.valid_actions, self.config.valid_action_cap, self.valid_action_weight)
        return replace(rollout, reward=rollout.reward + earned)

    def assign_credit(self, groups: Sequence[RolloutGroup]) -> list[TrainingSample]:
        """GRPO's, and what is replayed. Then this step's good rollouts are kept."""
        self.buffer.observe(groups)
        replayed = self._replayed()
        samples = super().assign_credit(groups)
        judged = [(group.example.id, rollout) for group in groups for rollout in scored(group)]
        for (task, rollout), sample in zip(judged, samples, strict=True):
            if any(weight > 0 for weight in sample.token_weights):
                self.buffer.keep(task, rollout)
        return samples + replayed

    def _replayed(self) -> list[TrainingSample]:
        if not self.imitation_weight:
            return []
        drawn = self.buffer.draw(self.config.replays_per_step, derive_seed(self.run.seed, "replay", self.step))
        return [replace(self._sample(rollout, advantage), objective=REPLAY) for rollout, advantage in drawn]

    def before_update(self, samples: list[TrainingSample]) -> tuple[list[TrainingSample], dict[str, float]]:
        """Take the advantage of the tokens whose covariance is highest."""
        metrics = {
            "spear/imitation_weight": self.imitation_weight,
            "spear/valid_action_weight": self.valid_action_weight,
            "spear/kept": float(len(self.buffer)),
            "spear/replayed": float(sum(sample.objective == REPLAY for sample in samples)),
        }
        return self._clipped(samples) if self.config.cov_clip_fraction else samples, metrics

    def _clipped(self, samples: list[TrainingSample]) -> list[TrainingSample]:
        pushed = [sample for sample in samples if any(sample.token_weights)]
        if not pushed:
            return samples
        replayed = [sample for sample in pushed if sample.objective == REPLAY]
        now = self.update.token_values(replayed, self.trainer_logprobs)
        logprobs = [now.get(sample.id) or compress(sample.behaviour_logprobs, sample.trained) for sample in pushed]
        advantages = [compress(sample.token_weights, sample.trained) for sample in pushed]
        values = [torch.tensor(list(chain.from_iterable(each)), dtype=torch.float64) for each in (logprobs, advantages)]
        clipped = highest(covariances(*values), self.config.cov_clip_fraction)
        weights = {sample.id: list(sample.token_weights) for sample in samples}
        for sample, own in zip(pushed, clipped.split([sum(sample.trained) for sample in pushed]), strict=True):
            for place in compress(compress(count(), sample.trained), own.tolist()):
                weights[sample.id][place] = 0.0
        return [replace(sample, token_weights=weights[sample.id]) for sample in samples]

    def minibatches(self, samples: list[TrainingSample]) -> list[list[TrainingSample]]:
        """What is replayed is shared among them as the step's own rollouts are."""
        own = super().minibatches([sample for sample in samples if sample.objective != REPLAY])
        replayed = super().minibatches([sample for sample in samples if sample.objective == REPLAY])
        return [one + other for one, other in zip(own, replayed, strict=True)]

    def prepare(self, batch: MicroBatch) -> None:
        """GRPO's, but for replayed tokens: the policy that sampled them is long gone."""
        sampled = batch.behaviour_logprobs
        super().prepare(batch)
        batch.behaviour_logprobs = torch.where(is_replayed(batch), sampled, batch.behaviour_logprobs)

    def corrected_weights(self, old: Tensor, batch: MicroBatch) -> Tensor:
        """GRPO's; replayed tokens are not corrected."""
        return torch.where(is_replayed(batch), batch.weights, super().corrected_weights(old, batch))

    def old_logprobs(self, logprobs: Tensor, batch: MicroBatch) -> Tensor:
        """GRPO's; of replayed tokens, those of the policy that sampled them."""
        return torch.where(is_replayed(batch), batch.behaviour_logprobs, super().old_logprobs(logprobs, batch))

    def scales(self, batch: MicroBatch, counted: Count) -> Tensor:
        """The step's own rollouts and the replayed ones have a mean each."""
        own = super().scales(batch, self.counts.of_objective("policy"))
        replayed = super().scales(batch, self.counts.of_objective(REPLAY))
        return torch.where(is_replayed(batch), self.imitation_weight * replayed, own)

    def loss(self, logprobs: Tensor, entropy: Tensor, batch: MicroBatch) -> LossOutput:
        """GRPO's; an entropy bonus acts on the step's own rollouts only."""
        return super().loss(logprobs, entropy * ~is_replayed(batch), batch)

    def divergences(self, logprobs: Tensor, reference: Tensor, batch: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """GRPO's, of the step's own rollouts only."""
        penalties, logged = super().divergences(logprobs, reference, batch)
        own = ~is_replayed(batch)
        return penalties * own, {name: values * own for name, values in logged.items()}

    def state_dict(self) -> dict[str, Any]:
        """Also what is kept, and the recent rewards."""
        return super().state_dict() | {"replay": self.buffer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict``."""
        super().load_state_dict(state)
        self.buffer.load_state_dict(state["replay"])


def is_replayed(batch: MicroBatch) -> Tensor:
    """Which trained tokens [M] are of replayed rollouts."""
    replayed = torch.tensor([sample.objective == REPLAY for sample in batch.samples], device=batch.weights.device)
    return replayed[batch.sample_index]
