"""What watches the referee of URPO: a gate before self-reward, numbers that show self-reward gone wrong, alarms."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

from posttrain.errors import TrainingDiverged
from posttrain.objectives.agreement import agreement, pair_counts
from posttrain.rewards.judge.judgement import parse_scores, unit_score
from posttrain.rewards.scoring.check import spearman
from posttrain.trainers.credit import scored
from posttrain.trainers.grpo import rewards_of
from posttrain.trainers.urpo_config import Alarm, URPOConfig
from posttrain.types import RolloutGroup, TrainingSample

logger = logging.getLogger(__name__)

MEMORY = 0.9  # of the running accuracy, each step


class RefereeGate:
    """Open while the referee is trusted with open answers. Its accuracy runs: 0.9 of itself and 0.1 of each step's."""

    def __init__(self, config: URPOConfig) -> None:
        self.config = config
        self.state: dict[str, Any] = {"accuracy": 0.5, "below": 0, "is_open": not config.gated}

    @property
    def metrics(self) -> dict[str, float]:
        """Where it stands."""
        return {"referee/running_accuracy": self.state["accuracy"], "referee/gate_open": float(self.state["is_open"])}

    @property
    def mix(self) -> dict[str, float]:
        """The shares of a step; while it is closed, those of open prompts are given to preferences."""
        shares: dict[str, float] = self.config.task_mix.model_dump()
        if self.state["is_open"]:
            return shares
        return {**shares, "preference": shares["preference"] + shares["open"], "open": 0.0}

    def observe(self, accuracy: float) -> None:
        """Take in a step's pair accuracy."""
        config, running = self.config, MEMORY * self.state["accuracy"] + (1 - MEMORY) * accuracy
        below = self.state["below"] + 1 if running < config.referee_close_accuracy else 0
        closes = config.gated and self.state["is_open"] and below >= config.referee_close_steps
        if closes:
            logger.warning("the referee's accuracy fell to %.3f: open prompts give way to preferences again", running)
        is_open = not closes and (self.state["is_open"] or running >= config.referee_min_accuracy)
        self.state = {"accuracy": running, "below": below, "is_open": is_open}


class Alarms:
    """Counts, for each alarm, the reports in a row that were out of range."""

    def __init__(self, alarms: Sequence[Alarm]) -> None:
        self.alarms = alarms
        self.counts = [0] * len(alarms)

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


def pair_accuracy(groups: Sequence[RolloutGroup]) -> float | None:
    """Over the pairs of preference ``groups`` that gold tells apart; malformed replies get none right."""
    pairs = [
        (pair_counts(gold, gold).strict, rollout.reward_parts["preference/pair_accuracy"])
        for group in groups
        if group.example.task == "preference" and (gold := group.example.metadata["gold"])
        for rollout in group.rollouts
    ]
    return sum(n * share for n, share in pairs) / sum(n for n, _ in pairs) if pairs else None


def step_metrics(groups: Sequence[RolloutGroup], samples: Mapping[str, Sequence[TrainingSample]]) -> dict[str, float]:
    """Means over a step; what there is nothing to tell from is left out. ``samples`` are those of each task."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    for group in groups:
        task = group.example.task
        name = "referee/preference" if task == "preference" else f"player/{task}"
        for rollout in group.rollouts:
            values[f"{name}_length"].append(len(rollout.completion_ids))
            if rollout.reward is not None:
                values[f"{name}_reward"].append(rollout.reward)
            if task == "preference":
                values["referee/malformed_fraction"].append(rollout.reward_parts["preference/malformed"])
        for name, value in self_score_metrics(group).items():
            if value is not None:
                values[name].append(value)
    tokens = {kind: sum(sum(sample.trained) for sample in some) for kind, some in samples.items()}
    for kind, some in samples.items():
        values[f"advantage/{kind}"] = [abs(sample.token_weights[-1]) for sample in some]
        values[f"batch/token_share_{kind}"] = [tokens[kind] / max(1, sum(tokens.values()))]
    return {name: fmean(column) for name, column in values.items() if column}


def self_score_metrics(group: RolloutGroup) -> dict[str, float | None]:
    """What a group of self-scored answers says of its referee; of an audited group, how they agree
    with correctness, and by how much their mean is above its mean."""
    rollouts = [rollout for rollout in scored(group) if "self_score" in rollout.reward_parts]
    scores = [rollout.reward_parts["self_score"] for rollout in rollouts]
    if group.example.task == "verifiable":
        correct = rewards_of(rollouts).tolist()
        gap: dict[str, float | None] = {"referee/audit_gap": fmean(scores) - fmean(correct)} if scores else {}
        return gap | ({"referee/audit_tau": agreement(correct, scores)} if len(set(correct)) > 1 else {})
    if group.example.task != "open" or len({rollout.text for rollout in group.rollouts}) == 1:
        return {}
    unjudged: dict[str, float | None] = {"referee/unjudged_fraction": 1 - len(scores) / len(group.rollouts)}
    if not scores:
        return unjudged
    return unjudged | {
        "referee/score_mean": fmean(scores),
        "referee/score_std": pstdev(scores),
        "referee/saturated_fraction": fmean(score in (0.0, 1.0) for score in scores),
        "referee/constant_fraction": float(len(set(scores)) == 1),
        "referee/disagreement": fmean(rollout.reward_parts["disagreement"] for rollout in rollouts),
        "referee/begging_fraction": fmean("scores:" in rollout.text.lower() for rollout in rollouts),
        "referee/length_correlation": spearman(scores, [float(len(r.completion_ids)) for r in rollouts]),
        "referee/position_correlation": spearman(scores, [r.reward_parts["position"] for r in rollouts]),
    }


def held_out_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Of held-out preferences, each shown in one order and in the reverse. ``eval/referee_position_bias`` is the mean
    of first-shown less last-shown unit scores, from -1 to 1: 0 for a referee that reads only the candidates."""
    rollouts = [(rollout, len(group.example.candidates)) for group in groups for rollout in group.rollouts]
    rows = [scores for rollout, number in rollouts if (scores := parse_scores(rollout.text, number)) is not None]
    bias = [unit_score(scores[0]) - unit_score(scores[-1]) for scores in rows]
    return {
        "eval/referee_accuracy": pair_accuracy(groups) or 0.0,
        "eval/referee_malformed_fraction": fmean(r.reward_parts["preference/malformed"] for r, _ in rollouts),
    } | ({"eval/referee_position_bias": fmean(bias)} if bias else {})
