"""From a scored rollout to a training sample, and the counts that normalise a step's loss."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from posttrain.training.packing import MicroBatch
from posttrain.types import Origin, Rollout, RolloutGroup, TrainingSample


def scored(group: RolloutGroup) -> list[Rollout]:
    """The rollouts that could be judged: a failed reward takes no part in the group's baseline."""
    return [rollout for rollout in group.rollouts if rollout.reward is not None]


def training_sample(rollout: Rollout, weight: float, objective: str = "policy", **metadata: object) -> TrainingSample:
    """Prompt and completion with ``weight`` on every token that the policy sampled."""
    prompt = len(rollout.prompt_ids)
    sampled = rollout.action_mask
    return TrainingSample(
        id=f"{rollout.request_id}/{rollout.index}",
        input_ids=rollout.prompt_ids + rollout.completion_ids,
        origin=[Origin.PROMPT] * prompt + [Origin.POLICY if bit else rollout.given for bit in sampled],
        trained=[0] * prompt + sampled,
        token_weights=[0.0] * prompt + [weight * bit for bit in sampled],
        behaviour_logprobs=[0.0] * prompt + rollout.logprobs,
        objective=objective,
        metadata=dict(metadata),
    )


@dataclass(slots=True)
class Count:
    """Rollouts and their trained tokens."""

    rollouts: int = 0
    tokens: int = 0


@dataclass(slots=True)
class StepCounts:
    """What a step's loss is divided by: counted over all ranks, before samples without gradient are dropped."""

    total: Count = field(default_factory=Count)
    by_objective: dict[str, Count] = field(default_factory=dict)

    @classmethod
    def of(cls, samples: Sequence[TrainingSample]) -> "StepCounts":
        counts = cls()
        for sample in samples:
            tokens = sum(sample.trained)
            for count in (counts.total, counts.by_objective.setdefault(sample.objective, Count())):
                count.rollouts += 1
                count.tokens += tokens
        return counts

    def of_objective(self, name: str) -> Count:
        """The count of one objective; zero where the step has no sample of it."""
        return self.by_objective.get(name, Count())


@dataclass(slots=True)
class MiniBatch:
    """What one optimizer update runs: this rank's micro-batches, and over all ranks the counts that divide its loss,
    its samples with gradient and their trained tokens."""

    batches: list[MicroBatch]
    counts: StepCounts
    samples: int
    tokens: int
