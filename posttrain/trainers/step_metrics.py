"""What a step's rollouts say, in numbers for ``metrics.jsonl``."""

import statistics
from collections.abc import Mapping, Sequence

from posttrain.agents.episodes import count_turns
from posttrain.types import Origin, Rollout, RolloutGroup


def rollout_metrics(groups: Sequence[RolloutGroup], timings: Mapping[str, float], version: int) -> dict[str, float]:
    """Rewards, lengths and speed of one step; ``timings`` holds the seconds of each phase, ``version`` is the policy's
    that learns from the rollouts."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    lengths = [len(rollout.completion_ids) for rollout in rollouts]
    rewards = [[r.reward for r in group.rollouts if r.reward is not None] for group in groups]
    spreads = [statistics.pstdev(values) for values in rewards if len(values) > 1]
    sampled = sum(sum(rollout.action_mask) for rollout in rollouts)
    older = sum(
        bit and made_by < version
        for rollout in rollouts
        for bit, made_by in zip(rollout.action_mask, rollout.versions, strict=True)
    )
    metrics = {
        "reward/std_in_group": _mean(spreads),
        "reward/error_fraction": _mean([rollout.error is not None for rollout in rollouts]),
        "completion/length_mean": _mean(lengths),
        "completion/length_max": float(max(lengths)),
        "completion/truncated_fraction": _mean([rollout.finish_reason == "length" for rollout in rollouts]),
        "batch/rollouts": float(len(rollouts)),
        "batch/tokens_of_older_policies": float(older),
        "batch/older_token_fraction": older / max(1, sampled),
        "batch/groups_without_spread": float(sum(spread == 0.0 for spread in spreads)),
        **_reward_means(rollouts),
        **{f"time/{phase}": seconds for phase, seconds in timings.items()},
    }
    episodes = [rollout for rollout in rollouts if rollout.given == Origin.ENVIRONMENT]
    if episodes:
        metrics["batch/environment_steps"] = float(sum(count_turns(rollout.action_mask) for rollout in episodes))
    if timings.get("generate"):
        metrics["speed/generated_tokens_per_second"] = sampled / timings["generate"]
    return metrics


def _reward_means(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Means over the rollouts that could be judged; of a part, over those that have it."""
    values: dict[str, list[float]] = {}
    for rollout in rollouts:
        if rollout.reward is not None:
            values.setdefault("reward/mean", []).append(rollout.reward)
            for name, value in rollout.reward_parts.items():
                values.setdefault(f"reward/part/{name}", []).append(value)
    return {name: _mean(column) for name, column in values.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
