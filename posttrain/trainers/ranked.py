"""The ranking phase of RAFT: groups with their rank keys and weights, and the file that keeps them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from posttrain.trainers.credit import scored
from posttrain.training.run_log import replace_file
from posttrain.types import Example, Rollout, RolloutGroup


@dataclass(slots=True)
class RankedGroup:
    """The judged rollouts of an example, with a rank key (the reward, at first) and a weight (0: rejected) each."""

    example: Example
    rollouts: list[Rollout]
    keys: list[float]
    weights: list[float]

    @classmethod
    def of(cls, group: RolloutGroup, deduplicate: bool) -> "RankedGroup":
        """The judged rollouts of ``group``; of equal completions only the first, if so asked."""
        rollouts = scored(group)
        if deduplicate:
            rollouts = list({tuple(r.completion_ids): r for r in reversed(rollouts)}.values())[::-1]
        keys = [float(r.reward) for r in rollouts if r.reward is not None]
        return cls(group.example, rollouts, keys, [0.0] * len(rollouts))


def write_ranked(folder: Path, step: int, groups: Sequence[RankedGroup]) -> None:
    """Write ``step_000007.jsonl``: a row for each judged rollout, best first in its group.

    ``datasets.load_dataset("json", data_files="run/ranked/*.jsonl", streaming=True)`` reads the steps as one dataset;
    the rows with ``kept`` are what was trained on.
    """
    lines = []
    for group in groups:
        ranked = sorted(zip(group.rollouts, group.keys, group.weights, strict=True), key=lambda row: (-row[1], -row[2]))
        for rank, (rollout, key, weight) in enumerate(ranked):
            row = {
                "step": step,
                "id": group.example.id,
                "prompt": group.example.prompt,
                "completion": rollout.text,
                "reward": rollout.reward,
                "rank_key": key,
                "rank": rank,
                "kept": weight != 0.0,
                "weight": weight,
            }
            lines.append(json.dumps(row) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / f"step_{step:06d}.jsonl", "".join(lines).encode())
