"""What an iteration of Agent-R found and trained on: numbers, a message, and a dataset."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from posttrain.agents.reflection import SLACK
from posttrain.agents.revision import Revision
from posttrain.agents.search import environment_steps
from posttrain.agents.tree_search import Tree
from posttrain.data.chat import PromptEncoder
from posttrain.training.run_log import write_rows
from posttrain.types import RolloutGroup, TrainingSample

MOST_COUNTED = 4  # bad steps


@dataclass(slots=True)
class TreeCounts:
    """The turns played for a tree, how many of their environments failed, and the children of each node that has any
    (equal turns count once)."""

    environment_steps: int
    failures: int
    children: list[int]

    @classmethod
    def of(cls, tree: Tree) -> "TreeCounts":
        return cls(environment_steps(tree), tree.failures, [len(node.children) for node in tree.nodes if node.children])


def iteration_metrics(
    alpha: float, trees: Sequence[TreeCounts], revisions: Sequence[Revision], without_verdict: int
) -> dict[str, float]:
    """Numbers for ``metrics.jsonl``; ``agent_r/transition`` is t'/T, the kept share of the bad way, and
    ``agent_r/spliced_after_N`` the share of the pairs with N bad steps (the last: as many or more) whose replay reached
    the score of the good way."""
    searched = sum(tree.environment_steps for tree in trees)
    metrics = {
        "agent_r/alpha": alpha,
        "batch/environment_steps": float(searched + sum(each.environment_steps for each in revisions)),
        "agent_r/environment_failures": float(sum(tree.failures for tree in trees)),
        "agent_r/children": statistics.fmean([number for tree in trees for number in tree.children] or [0]),
        "agent_r/pairs": float(len(revisions)),
        "agent_r/judgements_without_verdict": float(without_verdict),
    }
    if not revisions:
        return metrics
    for how in ("spliced", "recovered", "failed", "too_long"):
        metrics[f"agent_r/{how}"] = statistics.fmean([each.how == how for each in revisions])
    places = [each.bad_steps / each.steps for each in revisions]
    quartiles = statistics.quantiles(places, n=4, method="inclusive") if len(places) > 1 else places * 3
    metrics |= {f"agent_r/transition_q{number}": value for number, value in enumerate(quartiles, start=1)}
    for number in range(1, MOST_COUNTED + 1):
        kept = [each.how == "spliced" for each in revisions if min(each.bad_steps, MOST_COUNTED) == number]
        metrics |= {f"agent_r/spliced_after_{number}": statistics.fmean(kept)} if kept else {}
    metrics["agent_r/transition_at_end"] = statistics.fmean([place == 1.0 for place in places])
    return metrics


def what_was_found(groups: Sequence[RolloutGroup], alpha: float) -> str:
    """Of a search without a pair: how often the tasks were solved, how far they were searched, and what to change."""
    scores = [[rollout.reward or 0.0 for rollout in group.rollouts] for group in groups]
    once = sum(max(ends) >= alpha - SLACK for ends in scores)
    always = sum(min(ends) >= alpha - SLACK for ends in scores)
    single = sum(len(ends) == 1 for ends in scores)
    return (
        f"the search found no pair of a good and a bad way. Of {len(groups)} tasks {once} reached alpha = {alpha:g} at "
        f"least once, {always} at every end, and {single} have one end alone. Where one end is all: more "
        "trainer.search.iterations, or trainer.search.children; where none is good: easier tasks, a better start, more "
        "trainer.search.iterations, or a lower trainer.reflection.alpha; where all are: harder tasks, or a higher "
        "trainer.sampling.temperature; else a lower trainer.reflection.beta."
    )


def write_iteration(
    folder: Path,
    step: int,
    groups: Sequence[RolloutGroup],
    revisions: Sequence[Revision],
    samples: Sequence[TrainingSample],
    encoder: PromptEncoder,
) -> None:
    """Write ``step_000002.jsonl``: a row for each trajectory that is trained on, in parts of one origin.

    ``datasets.load_dataset("json", data_files="run/iterations/*.jsonl", streaming=True)`` reads the iterations as one
    dataset.
    """
    about: dict[str, dict[str, Any]] = {
        f"{rollout.request_id}/{rollout.index}": {"task": group.example.id, "reward": rollout.reward}
        for group in groups
        for rollout in group.rollouts
    }
    for each in revisions:
        counts = {"how": each.how, "bad_steps": each.bad_steps, "steps": each.steps}
        about[each.name] = {"task": each.example.id, "reward": each.reward, **counts}
    rows = [
        {
            "step": step,
            "id": sample.id,
            "objective": sample.objective,
            **about[sample.id],
            "parts": _parts(sample, encoder),
        }
        for sample in samples
    ]
    write_rows(folder / f"step_{step:06d}.jsonl", rows)


def _parts(sample: TrainingSample, encoder: PromptEncoder) -> list[dict[str, Any]]:
    tokens = zip(sample.input_ids, sample.origin, sample.trained, strict=True)
    return [
        {"origin": origin.name.lower(), "trained": bool(trained), "text": encoder.text([token[0] for token in part])}
        for (origin, trained), part in groupby(tokens, key=lambda token: token[1:])
    ]
