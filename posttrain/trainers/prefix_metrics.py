"""What Prefix-RFT reports of a step: how its hybrids do beside the policy's own rollouts."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from posttrain.trainers.credit import scored
from posttrain.types import Origin, RolloutGroup, TrainingSample


def prefix_metrics(
    groups: Sequence[RolloutGroup],
    samples: Sequence[TrainingSample],
    statistics: Mapping[str, tuple[list[float], list[float]]],
) -> dict[str, float]:
    """Means over the step; those of hybrids are left out where there is none.

    ``prefix/entropy_kept`` and ``prefix/entropy_dropped`` are of prefix tokens that are trained and that are not.
    """
    rollouts = [rollout for group in groups for rollout in scored(group)]
    own = [r for r in rollouts if all(r.action_mask)]
    hybrids = [r for r in rollouts if not all(r.action_mask)]
    without = sum(all(all(r.action_mask) for r in group.rollouts) for group in groups)
    metrics = {"prefix/hybrid_rollouts": float(len(hybrids)), "prefix/groups_without_prefix": float(without)}
    metrics |= _mean("prefix/own_reward", [float(r.reward or 0.0) for r in own])
    metrics |= _mean("prefix/hybrid_reward", [float(r.reward or 0.0) for r in hybrids])
    metrics |= _mean("prefix/length_mean", [float(r.action_mask.count(0)) for r in hybrids])
    kept: list[float] = []
    dropped: list[float] = []
    for sample in samples:
        if sample.id in statistics:
            start = sample.origin.index(Origin.EXPERT)
            for token, entropy in enumerate(statistics[sample.id][1]):
                (kept if sample.trained[start + token] else dropped).append(entropy)
    metrics |= _mean("prefix/entropy_kept", kept) | _mean("prefix/entropy_dropped", dropped)
    metrics |= _mean("prefix/expert_logprob", [value for logprobs, _ in statistics.values() for value in logprobs])
    pushed_down = [float(s.token_weights[-1] < 0) for s in samples if Origin.EXPERT in s.origin]
    return metrics | _mean("prefix/pushed_down_fraction", pushed_down)


def _mean(name: str, values: Sequence[float]) -> dict[str, float]:
    return {name: fmean(values)} if values else {}
