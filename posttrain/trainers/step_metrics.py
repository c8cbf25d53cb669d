"""What a step's rollouts say, in numbers for ``metrics.jsonl``."""

import statistics
from collections.abc import Mapping, Sequence

from posttrain.trainers.credit import scored
from posttrain.types import RolloutGroup


def rollout_metrics(groups: Sequence[RolloutGroup], timings: Mapping[str, float]) -> dict[str, float]:
    """Rewards, lengths and speed of one step; ``timings`` holds the seconds of each phase."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    lengths = [len(rollout.completion_ids) for rollout in rollouts]
    spreads = [statistics.pstdev(r.reward for r in scored(group)) for group in groups if len(scored(group)) > 1]
    sampled = sum(sum(rollout.action_mask) for rollout in rollouts)
    metrics = {
        "reward/std_in_group": _mean(spreads),
        "reward/error_fraction": _mean([rollout.error is not None for rollout in rollouts]),
        "completion/length_mean": _mean(lengths),
        "completion/length_max": float(max(lengths)),
        "completion/truncated_fraction": _mean([rollout.finish_reason == "length" for rollout in rollouts]),
        "batch/rollouts": float(len(rollouts)),
        "batch/groups_without_spread": float(sum(spread == 0.0 for spread in spreads)),
        **_reward_means(groups),
        **{f"time/{phase}": seconds for phase, seconds in timings.items()},
    }
    if timings.get("generate"):
        metrics["speed/generated_tokens_per_second"] = sampled / timings["generate"]
    return metrics


def _reward_means(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    judged = [rollout for group in groups for rollout in scored(group)]
    if not judged:
        return {}
    parts: dict[str, list[float]] = {}
    for rollout in judged:
        for name, value in rollout.reward_parts.items():
            parts.setdefault(f"reward/part/{name}", []).append(value)
    means = {name: _mean(values) for name, values in parts.items()}
    return {"reward/mean": _mean([rollout.reward for rollout in judged if rollout.reward is not None]), **means}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
