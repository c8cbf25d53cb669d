"""Completions that some other generator wrote, to be ranked and learned from without it: offline RAFT."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from posttrain.data.rows import Row, read_rows
from posttrain.errors import DataError
from posttrain.rewards.checked import score_checked
from posttrain.rewards.reward import Reward
from posttrain.trainers.collection import record_scores, reward_inputs
from posttrain.types import Example, Message, Rollout, RolloutGroup, RolloutRequest


class CandidateRow(BaseModel):
    """A line of the file: the training prompt, by ``id`` or as it is, one completion, and its reward if it has one."""

    model_config = ConfigDict(extra="ignore", strict=True)

    id: str | None = None
    prompt: str | list[Message] | None = None
    completion: str
    reward: float | None = None


class Candidates:
    """The rows of a file, by the training example that they answer."""

    def __init__(self, rows: dict[str, list[CandidateRow]], examples: list[Example]) -> None:
        self.rows = rows
        self.examples = examples

    @classmethod
    def read(cls, path: str | Path, examples: Sequence[Example]) -> "Candidates":
        """Match every row to an example; the examples without candidates are left out of training.

        Raises:
            DataError: the file cannot be read or has no rows, a row is malformed, names no training prompt or one that
                has several examples, or repeats a completion of its prompt.
        """
        known: dict[str, list[Example]] = {}
        for example in examples:
            for key in (f"id {example.id}", f"prompt {json.dumps(example.prompt)}"):
                known.setdefault(key, []).append(example)
        rows: dict[str, list[CandidateRow]] = {}
        for line in read_rows(str(path)):
            where = f"{path}, {line.place}"
            row = _row(line, where)
            key = f"id {row.id}" if row.id is not None else f"prompt {json.dumps(row.prompt)}"
            found = known.get(key, [])
            if len(found) != 1:
                several = f"is that of {len(found)} training examples; name one by an id of its own"
                problem = several if found else "is no training prompt"
                raise DataError(f"{where}: {key} {problem}")
            of_example = rows.setdefault(found[0].id, [])
            if any(row.completion == other.completion for other in of_example):
                raise DataError(f"{where}: this completion of {key} is there twice; drop one")
            of_example.append(row)
        return cls(rows, [example for example in examples if example.id in rows])

    def groups(self, requests: Sequence[RolloutRequest], tokenizer: Any, reward: Reward) -> list[RolloutGroup]:
        """The candidates of each request as a scored group. ``reward`` judges where the file has no reward."""
        groups = []
        for request in requests:
            rows = self.rows[request.example.id]
            rollouts = [_rollout(request, number, row, tokenizer) for number, row in enumerate(rows)]
            group = RolloutGroup(request.example, [r for r in rollouts if r.reward is None])
            record_scores(group.rollouts, score_checked(reward, reward_inputs(group)))
            groups.append(RolloutGroup(request.example, rollouts))
        return groups


def _row(line: Row, where: str) -> CandidateRow:
    if line.problem is not None:
        raise DataError(f"{where} {line.problem}")
    try:
        row = CandidateRow.model_validate(line.values)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if row.id is None and row.prompt is None:
        raise DataError(f"{where}: neither id nor prompt says which training prompt this answers")
    return row


def _rollout(request: RolloutRequest, number: int, row: CandidateRow, tokenizer: Any) -> Rollout:
    """The completion with an end-of-sequence token, cut at the budget."""
    budget = request.sampling.max_completion_tokens
    ids = [*tokenizer.encode(row.completion, add_special_tokens=False), tokenizer.eos_token_id]
    return Rollout(
        request_id=request.id,
        index=number,
        prompt_ids=request.prompt_ids,
        completion_ids=ids[:budget],
        action_mask=[1] * min(len(ids), budget),
        logprobs=[0.0] * min(len(ids), budget),
        finish_reason="stop" if len(ids) <= budget else "length",
        policy_version=-1,
        text=row.completion,
        reward=row.reward,
    )
