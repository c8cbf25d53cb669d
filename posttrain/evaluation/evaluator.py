"""Numbers from scored groups of held-out prompts."""

import math
from collections.abc import Sequence

from posttrain.evaluation.agents import evaluate_agents
from posttrain.types import RolloutGroup


def evaluate(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """mean@k: the mean score over all completions of all prompts; one that could not be judged counts as not solved.

    ``eval/pass_at_k`` is the share of prompts of which at least one completion scores above one half, and
    ``eval/standard_error`` that of the accuracy over prompts. Episodes of an environment have more (see
    ``evaluate_agents``); those with an injected mistake count there alone.
    """
    if groups[0].example.task == "environment":
        without_mistake = [group for group in groups if "mistake_in" not in group.example.metadata]
        return _completions(without_mistake) | evaluate_agents(groups)
    return _completions(groups)


def _completions(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    scores = [[rollout.reward or 0.0 for rollout in group.rollouts] for group in groups]
    means = [sum(group) / len(group) for group in scores]
    lengths = [len(rollout.completion_ids) for group in groups for rollout in group.rollouts]
    mean = sum(means) / len(means)
    variance = sum((value - mean) ** 2 for value in means) / max(1, len(means) - 1)
    return {
        "eval/accuracy": mean,
        "eval/standard_error": math.sqrt(variance / len(means)),
        "eval/pass_at_k": sum(max(group) > 0.5 for group in scores) / len(scores),
        "eval/error_fraction": sum(r.error is not None for group in groups for r in group.rollouts) / len(lengths),
        "eval/length_mean": sum(lengths) / len(lengths),
        "eval/truncated": sum(r.finish_reason == "length" for group in groups for r in group.rollouts) / len(lengths),
    }
