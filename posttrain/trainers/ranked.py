"""The ranking phase of RAFT: groups with their rank keys and weights, and the file that keeps them. What was generated
may be text, or anything else that a reward judges."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from posttrain.trainers.credit import scored
from posttrain.training.run_log import write_rows
from posttrain.types import Rollout, RolloutGroup

Output = TypeVar("Output")


@dataclass(slots=True)
class RankedGroup(Generic[Output]):
    """The judged outputs for one prompt; each has a rank key (the reward, at first), a weight (0: rejected), and what
    ``write_ranked`` writes of it."""

    outputs: list[Output]
    rewards: list[float]
    keys: list[float]
    weights: list[float]
    columns: list[dict[str, Any]]

    @classmethod
    def of(
        cls, outputs: Sequence[Output], rewards: Sequence[float], columns: Sequence[dict[str, Any]]
    ) -> "RankedGroup[Output]":
        """Outputs that are ranked by their rewards, none of them kept so far."""
        return cls(list(outputs), list(rewards), list(rewards), [0.0] * len(outputs), list(columns))


def rank_rollouts(group: RolloutGroup, deduplicate: bool) -> RankedGroup[Rollout]:
    """The judged rollouts of ``group``; of equal completions only the first, if so asked."""
    rollouts = scored(group)
    if deduplicate:
        rollouts = list({tuple(r.completion_ids): r for r in reversed(rollouts)}.values())[::-1]
    rewards = [float(r.reward) for r in rollouts if r.reward is not None]
    same = {"id": group.example.id, "prompt": group.example.prompt}
    return RankedGroup.of(rollouts, rewards, [{**same, "completion": r.text} for r in rollouts])


def write_ranked(folder: Path, step: int, groups: Sequence[RankedGroup[Any]]) -> None:
    """Write ``step_000007.jsonl``: a row for each judged output, best first in its group.

    ``datasets.load_dataset("json", data_files="run/ranked/*.jsonl", streaming=True)`` reads the steps as one dataset;
    the rows with ``kept`` are what was trained on.
    """
    rows = []
    for group in groups:
        order = sorted(range(len(group.keys)), key=lambda i: (-group.keys[i], -group.weights[i]))
        for rank, i in enumerate(order):
            row = {
                "step": step,
                **group.columns[i],
                "reward": group.rewards[i],
                "rank_key": group.keys[i],
                "rank": rank,
                "kept": group.weights[i] != 0.0,
                "weight": group.weights[i],
            }
            rows.append(row)
    write_rows(folder / f"step_{step:06d}.jsonl", rows)
