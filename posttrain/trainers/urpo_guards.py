"""What watches the referee of URPO: a gate before self-reward, numbers that show self-reward gone wrong, alarms."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, pstdev
from typing import Any

from posttrain.errors import TrainingDiverged
from posttrain.objectives.agreement import agreement, pair_counts
from posttrain.rewards.judge.judgement import parse_scores, unit_score
from posttrain.rewards.scoring.check import spearman
from posttrain.trainers.urpo_config import Alarm
from posttrain.types import Rollout, RolloutGroup, TrainingSample

MEMORY = 0.9  # of the running accuracy, each step


@dataclass(slots=True)
class RefereeGate:
    """Open while the referee is trusted with open answers. ``accuracy`` runs: 0.9 of itself and 0.1 of each step's."""

    min_accuracy: float
    close_accuracy: float
    close_steps: int
    accuracy: float = 0.5
    below: int = 0
    is_open: bool = False

    def observe(self, accuracy: float) -> bool:
        """Take in a step's pair accuracy; whether the gate has just closed again."""
        self.accuracy = MEMORY * self.accuracy + (1 - MEMORY) * accuracy
        self.below = self.below + 1 if self.accuracy < self.close_accuracy else 0
        was_open = self.is_open
        self.is_open = self.below < self.close_steps if was_open else self.accuracy >= self.min_accuracy
        return was_open and not self.is_open

    def mix(self, shares: Mapping[str, float]) -> dict[str, float]:
        """``shares`` with those of open prompts given to preferences while the gate is closed."""
        if self.is_open:
            return dict(shares)
        return {**shares, "preference": shares["preference"] + shares["open"], "open": 0.0}

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what the run so far decided, under this run's limits."""
        self.accuracy, self.below, self.is_open = state["accuracy"], state["below"], state["is_open"]


@dataclass(slots=True)
class Alarms:
    """Counts, for each alarm, the reports in a row that were out of range."""

    alarms: Sequence[Alarm]
    counts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = [0] * len(self.alarms)

    def check(self, step: int, metrics: Mapping[str, float]) -> None:
        """Count; a metric that is not there says nothing.

        Raises:
            TrainingDiverged: one was out of range ``steps`` times in a row.
        """
        for number, alarm in enumerate(self.alarms):
            value = metrics.get(alarm.metric)
            if value is None:
                continue
            high, low = alarm.above is not None and value > alarm.above, alarm.below is not None and value < alarm.below
            self.counts[number] = self.counts[number] + 1 if high or low else 0
            if self.counts[number] >= alarm.steps:
                limit = f"above {alarm.above:g}" if high else f"below {alarm.below:g}"
                raise TrainingDiverged(
                    f"{alarm.metric} is {value:.3g}, {limit} for {alarm.steps} reports in a row (step {step}): the "
                    "referee is no longer to be trusted with rewards. Look at its scores in the run page; give it "
                    "more preference data (trainer.task_mix) or samples, or change trainer.alarms."
                )


def accuracy_of(groups: Sequence[RolloutGroup]) -> float | None:
    """Pair accuracy over all pairs of preference ``groups`` that gold tells apart; malformed replies get none right."""
    pairs = [
        (pair_counts(gold, gold).strict, rollout.reward_parts["preference/pair_accuracy"])
        for group in groups
        if (gold := group.example.metadata.get("gold")) is not None
        for rollout in group.rollouts
    ]
    return sum(n * share for n, share in pairs) / sum(n for n, _ in pairs) if pairs else None


def step_metrics(groups: Sequence[RolloutGroup], samples: Mapping[str, Sequence[TrainingSample]]) -> dict[str, float]:
    """Means over a step; what there is nothing to tell from is left out. ``samples`` are those of each task."""
    of_task = {task: [group for group in groups if group.example.task == task] for task in samples}
    values: dict[str, list[float]] = {}
    for task, some in of_task.items():
        name = "referee/preference" if task == "preference" else f"player/{task}"
        rollouts = [rollout for group in some for rollout in group.rollouts]
        values[f"{name}_reward"] = [rollout.reward for rollout in rollouts if rollout.reward is not None]
        values[f"{name}_length"] = [float(len(rollout.completion_ids)) for rollout in rollouts]
        values[f"advantage/{task}"] = [abs(sample.token_weights[-1]) for sample in samples[task]]
    values["referee/malformed_fraction"] = [
        rollout.reward_parts["preference/malformed"] for group in of_task["preference"] for rollout in group.rollouts
    ]
    for group in of_task["open"]:
        _add_open(values, group.rollouts)
    for group in of_task["verifiable"]:
        correct = [rollout.reward for rollout in group.rollouts if "self_score" in rollout.reward_parts]
        gold = [reward for reward in correct if reward is not None]
        if len(set(gold)) > 1 and len(gold) == len(correct):
            own = [r.reward_parts["self_score"] for r in group.rollouts if "self_score" in r.reward_parts]
            values.setdefault("referee/audit_tau", []).append(agreement(gold, own))
    tokens = {task: sum(sum(sample.trained) for sample in some) for task, some in samples.items()}
    metrics = {name: fmean(column) for name, column in values.items() if column}
    return metrics | {f"batch/token_share_{task}": n / max(1, sum(tokens.values())) for task, n in tokens.items()}


def _add_open(values: dict[str, list[float]], rollouts: Sequence[Rollout]) -> None:
    """What one group of self-scored answers says of its referee."""
    scored = [rollout for rollout in rollouts if "self_score" in rollout.reward_parts]
    scores = [rollout.reward_parts["self_score"] for rollout in scored]
    report: dict[str, float | None] = {"referee/unjudged_fraction": 1 - len(scored) / len(rollouts)}
    if scores:
        report["referee/score_mean"], report["referee/score_std"] = fmean(scores), pstdev(scores)
        report["referee/saturated_fraction"] = fmean(score in (0.0, 1.0) for score in scores)
        report["referee/disagreement"] = fmean(rollout.reward_parts["disagreement"] for rollout in scored)
        report["referee/begging_fraction"] = fmean("scores:" in rollout.text.lower() for rollout in scored)
        report["referee/length_correlation"] = spearman(scores, [float(len(r.completion_ids)) for r in scored])
        report["referee/position_correlation"] = spearman(scores, [r.reward_parts["position"] for r in scored])
    if len({rollout.text for rollout in scored}) > 1:
        report["referee/constant_fraction"] = float(len(set(scores)) == 1)
    for name, value in report.items():
        if value is not None:
            values.setdefault(name, []).append(value)


def held_out_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Of held-out preferences, each shown in one order and in the reverse. ``eval/referee_position_bias`` is the mean
    of first-shown less last-shown unit scores, from -1 to 1: 0 for a referee that reads only the candidates."""
    rollouts = [(rollout, len(group.example.candidates)) for group in groups for rollout in group.rollouts]
    rows = [scores for rollout, number in rollouts if (scores := parse_scores(rollout.text, number)) is not None]
    metrics = {
        "eval/referee_accuracy": accuracy_of(groups) or 0.0,
        "eval/referee_malformed_fraction": fmean(r.reward_parts["preference/malformed"] for r, _ in rollouts),
    }
    if rows:
        bias = fmean(unit_score(scores[0]) - unit_score(scores[-1]) for scores in rows)
        metrics["eval/referee_position_bias"] = bias
    return metrics
