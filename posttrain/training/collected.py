"""Scored rollouts kept on disk while a step is still collecting, so that a run that dies loses none of them."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from posttrain.types import Rollout, RolloutGroup, RolloutRequest


class CollectedGroups:
    """The groups that one rank has collected for one step: ``collected/step_000007.rank0.jsonl``, a group a line.

    A request is drawn from its seed alone and the policy of a step is the same after a resume, so that a group that was
    saved equals the one that would be sampled again.
    """

    def __init__(self, folder: Path, step: int, rank: int) -> None:
        self.file = folder / f"step_{step:06d}.rank{rank}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"step_*.rank{rank}.jsonl"):
            if old != self.file:
                old.unlink(missing_ok=True)
        self._drop_half_a_line()

    def restore(self, requests: Sequence[RolloutRequest]) -> list[RolloutGroup]:
        """The saved groups of ``requests``."""
        rows = map(json.loads, self.file.read_text().splitlines()) if self.file.is_file() else []
        saved = {(row["request_id"], row["seed"]): row["rollouts"] for row in rows}
        return [
            RolloutGroup(request.example, [Rollout(**rollout) for rollout in saved[request.id, request.seed]])
            for request in requests
            if (request.id, request.seed) in saved
        ]

    def append(self, request: RolloutRequest, group: RolloutGroup) -> None:
        """Save a scored group, in one write."""
        row = {"request_id": request.id, "seed": request.seed, "rollouts": [asdict(r) for r in group.rollouts]}
        with self.file.open("a", encoding="ascii") as lines:
            lines.write(json.dumps(row) + "\n")

    def _drop_half_a_line(self) -> None:
        """What a process that was killed while it wrote left at the end."""
        if self.file.is_file():
            content = self.file.read_bytes()
            self.file.write_bytes(content[: content.rfind(b"\n") + 1])
