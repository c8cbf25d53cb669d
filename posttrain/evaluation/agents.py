"""How an agent does: success, steps, loops, and whether it recovers from a mistake."""

import math
import statistics
from collections.abc import Sequence
from itertools import groupby

from posttrain.rewards.scoring.check import wilson
from posttrain.types import Rollout, RolloutGroup

SOLVED = 1 - 1e-9
LOOP = 3  # times the same action on the same observation


def evaluate_agents(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """``eval/success`` (final score 1), ``eval/loops`` (share of episodes with a loop) and ``eval/recovery`` (success
    after an injected mistake), each with the ends of Wilson's 95 % interval, the tasks as trials; ``eval/steps``; and
    ``eval/mistake_cost``, the success that the same tasks lose by the mistake, with its standard error over tasks.

    Groups with a mistake have ``metadata["mistake_in"]``, the id of the example without it. An episode whose
    environment failed is not solved.
    """
    whole = {group.example.id: group for group in groups if "mistake_in" not in group.example.metadata}
    after = {group.example.metadata["mistake_in"]: group for group in groups if group.example.id not in whole}
    success = {name: _solved(group) for name, group in whole.items()}
    turns = [turns_of(rollout) for group in whole.values() for rollout in group.rollouts]
    loops = [statistics.fmean(has_loop(turns_of(rollout)) for rollout in group.rollouts) for group in whole.values()]
    metrics = _share("eval/success", list(success.values())) | _share("eval/loops", loops)
    metrics["eval/steps"] = statistics.fmean(map(len, turns))
    if after:
        metrics |= _share("eval/recovery", list(map(_solved, after.values())))
        lost = [success[name] - _solved(group) for name, group in after.items()]
        metrics["eval/mistake_cost"] = statistics.fmean(lost)
        metrics["eval/mistake_cost_error"] = statistics.stdev(lost) / math.sqrt(len(lost)) if len(lost) > 1 else 0.0
    return metrics


def turns_of(rollout: Rollout) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The tokens that were observed before each turn (the prompt, at first), and those of the turn."""
    turns, seen = [], tuple(rollout.prompt_ids)
    for sampled, tokens in groupby(zip(rollout.completion_ids, rollout.action_mask, strict=True), lambda pair: pair[1]):
        ids = tuple(token for token, _ in tokens)
        if sampled:
            turns.append((seen, ids))
        else:
            seen = ids
    return turns


def has_loop(turns: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> bool:
    """Whether an observation was answered by the same turn ``LOOP`` times in a row, whatever else was seen in between:
    a cycle of several turns is a loop too."""
    answers: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for seen, turn in turns:
        answers.setdefault(seen, []).append(turn)
    runs = [len(list(run)) for given in answers.values() for _, run in groupby(given)]
    return max(runs, default=0) >= LOOP


def _solved(group: RolloutGroup) -> float:
    return statistics.fmean(rollout.outcome is not None and rollout.outcome >= SOLVED for rollout in group.rollouts)


def _share(name: str, shares: Sequence[float]) -> dict[str, float]:
    mean = statistics.fmean(shares)
    low, high = wilson(mean, len(shares))
    return {name: mean, f"{name}_low": low, f"{name}_high": high}
