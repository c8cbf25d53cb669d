"""What the scored groups of a set come to."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from posttrain.evaluation.evaluator import evaluate
from posttrain.evaluation.metrics import interval, majority_at_k, pass_at_k, win_rate_at_equal_length
from posttrain.evaluation.suite import SetConfig
from posttrain.rewards.instructions.multiple_choice import chosen_letter
from posttrain.rewards.math.answer_extraction import after_thinking, extract_answer
from posttrain.rewards.math.answer_form import plain_form
from posttrain.types import RolloutGroup

SOLVED = 0.5  # a score above it is a right answer

Groups = list[RolloutGroup]


def summary(config: SetConfig, groups: Groups, contaminated: Collection[str] | None) -> dict[str, Any]:
    """``metrics`` as in training, the means of the reward's ``parts`` where it gives them, ``estimates`` with
    intervals, and the scores by example. ``contaminated`` are ids, None if that was not asked."""
    metrics = evaluate(groups)
    whole = [group for group in groups if "mistake_in" not in group.example.metadata]
    rollouts = [(rollout, group.example) for group in whole for rollout in group.rollouts]
    scores = {group.example.id: [rollout.reward or 0.0 for rollout in group.rollouts] for group in whole}
    parts: dict[str, list[float]] = defaultdict(list)
    for rollout, _ in rollouts:
        for name, value in rollout.reward_parts.items():
            parts[name].append(value)
    estimates = {name: asdict(interval(values)) for name, values in repeated(config, whole, scores).items()}
    for name in metrics:
        if f"{name}_low" in metrics:  # of agents
            ends = {end: metrics[f"{name}_{end}"] for end in ("low", "high")}
            estimates[name.removeprefix("eval/")] = {"value": metrics[name], **ends}
    judged = [
        (r.reward, len(r.text) - len(e.references[0]))
        for r, e in rollouts
        if config.length_control and r.reward is not None
    ]
    if judged:
        estimates["win rate at equal length"] = asdict(win_rate_at_equal_length(*zip(*judged, strict=True)))
    clean = [fmean(own) for name, own in scores.items() if name not in (contaminated or ())]
    if contaminated is not None and clean:
        estimates["mean, uncontaminated"] = asdict(interval(clean))
    return {
        "prompts": len(whole),
        "rollouts": config.rollouts,
        "metrics": metrics,
        "parts": {name: fmean(own) for name, own in parts.items()},
        "estimates": estimates,
        "categories": by_category(config.category, whole, scores) if config.category is not None else None,
        "contaminated": None if contaminated is None else sorted(contaminated),
        "scores": scores,
    }


def by_category(column: str, groups: Groups, scores: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """The mean score of the prompts with each value of a column."""
    found: dict[str, list[float]] = defaultdict(list)
    for group in groups:
        found[str(group.example.metadata[column])].append(fmean(scores[group.example.id]))
    return {name: {"prompts": len(own), **asdict(interval(own))} for name, own in sorted(found.items())}


def repeated(config: SetConfig, groups: Groups, scores: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """mean@n, and of several rollouts pass@k and maj@k for powers of two and n: a value for each prompt."""
    n = config.rollouts
    found = {f"mean@{n}": [fmean(own) for own in scores.values()]}
    sizes = sorted({n, *(1 << power for power in range(n.bit_length()))}) if n > 1 else []
    for k in sizes:
        found[f"pass@{k}"] = [pass_at_k(n, sum(score > SOLVED for score in own), k) for own in scores.values()]
    votes = [[vote_of(config.vote, rollout.text) for rollout in group.rollouts] for group in groups]
    for k in sizes[1:] if config.vote else []:
        found[f"maj@{k}"] = [majority_at_k(own, scores[g.example.id], k) for own, g in zip(votes, groups, strict=True)]
    return found


def vote_of(kind: str | None, completion: str) -> str | None:
    """The answer that a completion votes for; None where it has none."""
    text = after_thinking(completion)
    if text is None or kind == "text":
        return None if text is None else text.strip()
    if kind == "letter":
        return chosen_letter(text)
    found = extract_answer(text)
    return None if found is None else plain_form(found.text)
