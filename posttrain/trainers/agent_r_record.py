"""What an iteration of Agent-R may take, what it found and trained on: numbers, a message, and a dataset."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from posttrain.agents.reflection import NO_ACTION, SLACK
from posttrain.agents.revision import Revision
from posttrain.agents.search import environment_steps
from posttrain.agents.tree_search import Tree
from posttrain.data.chat import PromptEncoder
from posttrain.trainers.agent_r_config import AgentRConfig
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
    """Numbers for ``metrics.jsonl``; ``batch/sampled_turns`` are those of the search, equal ones too,
    ``agent_r/transition`` is t'/T, the kept share of the bad way, and ``agent_r/spliced_after_N`` the share of the
    pairs with N bad steps (the last: as many or more) whose replay reached the score of the good way."""
    searched = sum(tree.environment_steps for tree in trees)
    metrics = {
        "agent_r/alpha": alpha,
        "batch/sampled_turns": float(searched),
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


def arithmetic(config: AgentRConfig, max_steps: int, max_turn_tokens: int, ranks: int) -> Iterator[tuple[str, str]]:
    """What an iteration may take, where an episode has at most ``max_steps`` turns: lines for a plan."""
    search, reflection, trees = config.search, config.reflection, config.prompts_per_step
    depth = min(search.max_depth, max_steps)
    expansions = search.iterations * depth
    turns = trees * expansions * search.children
    revisions = 0 if config.train_on == "good_only" else reflection.max_pairs_per_task
    good = 0 if config.train_on == "revisions_only" else reflection.max_pairs_per_task
    replayed = trees * revisions * (depth + (reflection.revision_action != NO_ACTION))
    if reflection.on_replay_failure == "recover":
        replayed += trees * revisions * reflection.recovery_tries * depth
    yield "ranks", f"{ranks}"
    yield "trees", f"{trees:,} an iteration, {math.ceil(trees / ranks):,} on each rank"
    yield "expansions, at most", f"{search.iterations} walks x {depth} turns = {expansions:,} of a tree"
    searched = f"{trees * expansions:,} expansions x {search.children} children = {turns:,}"
    yield "environment steps, at most", f"{searched}, and {replayed:,} in revisions, an iteration"
    yield "tokens sampled, at most", f"{turns * max_turn_tokens:,} in the search of an iteration"
    if reflection.judge == "self" and revisions:
        yield "judgements, at most", f"{trees * revisions * depth:,} of {reflection.judgement_tokens} tokens"
    share = config.agent_fraction if config.general else 1.0
    mixed = f" / {share:g} for the general data" if share < 1 else ""
    sequences = f"{trees} x ({revisions} revisions + {good} good ways){mixed}"
    yield "sequences trained, at most", f"{sequences} = {round(trees * (revisions + good) / share):,} an iteration"
    updates = config.updates_per_step * config.minibatches_per_step
    yield "optimizer updates", f"{config.steps} iterations x {updates} = {config.steps * updates:,}"


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
    """Write ``step_000002.jsonl``: a row for each trajectory that is trained on, in parts of one origin. Its ``id``
    begins with the step and the number of its tree; ``good`` and ``bad`` are the tree's leaves of which a revision was
    made, and ``bad_steps`` of the ``steps`` to the bad one are in it.

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
        leaves = {"good": each.pair.good, "bad": each.pair.bad}
        about[each.name] = {"task": each.example.id, "reward": each.reward, **leaves, **counts}
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
