"""Completions that are known to be good or bad, read from pairs, RewardBench's rows, or rows with a label."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from posttrain.data.conversation import conversation
from posttrain.data.fields import FieldError
from posttrain.data.rows import Row, read_rows
from posttrain.errors import DataError
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.rewards.score_item import ScoreItem
from posttrain.types import Message

CHOSEN, REJECTED = "chosen", "rejected"
LABELS = ("label", "is_correct")


@dataclass(slots=True)
class LabelledCompletion:
    """A completion, whether it is a good one, and what a reward says of it."""

    input: RewardInput
    good: bool
    output: RewardOutput = field(default_factory=lambda: RewardOutput(None))

    @property
    def score(self) -> float:
        assert self.output.score is not None
        return self.output.score

    @property
    def length(self) -> float:
        return float(len(self.input.completion))


@dataclass(slots=True)
class LabelledGroup:
    """The completions of one prompt; ``place`` is where they begin in the file."""

    place: str
    completions: list[LabelledCompletion]


def read_labelled(path: str | Path) -> list[LabelledGroup]:
    """The groups of a data file. Its rows are one of:

    - ``chosen`` and ``rejected`` with a ``prompt``: texts, lists of texts (RewardBench 2, arXiv 2506.01937) or lists
      of messages; without one: whole conversations, as messages or in HH-RLHF's form;
    - ``prompt``, ``completion`` and ``label`` or ``is_correct`` (true, false, 1, 0); rows of one prompt are a group.

    Every further column reaches the reward, as in ``ScoreItem``; those that tell good from bad do not.

    Raises:
        DataError: there is no such file, or a row is of no such form; the message names file, row and column.
    """
    labelled: dict[str, LabelledGroup] = {}
    for row in read_rows(str(path)):
        try:
            if row.problem is not None:
                raise ValueError(row.problem)
            key, completions = _completions(row)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise DataError(f"{path}, {row.place}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        except ValueError as error:
            raise DataError(f"{path}, {row.place}: {error}") from None
        labelled.setdefault(key, LabelledGroup(row.place, [])).completions += completions
    for group in labelled.values():
        for each in group.completions:
            each.input.example.id = group.completions[0].input.example.id
    return list(labelled.values())


def _completions(row: Row) -> tuple[str, list[LabelledCompletion]]:
    """What a row holds, and which group it belongs to."""
    label = next((name for name in LABELS if name in row.values), None)
    columns = {name: value for name, value in row.values.items() if name not in (CHOSEN, REJECTED, *LABELS)}
    if CHOSEN in row.values or REJECTED in row.values:
        sides = {name: _answers(row.values.get(name), name, columns.get("prompt")) for name in (CHOSEN, REJECTED)}
        first = sides[CHOSEN][0][0]
        if any(prompt != first for side in sides.values() for prompt, _ in side):
            raise FieldError(CHOSEN, CHOSEN, f"and {REJECTED!r} are not answers to one prompt")
        return row.place, [
            _completion(row, {**columns, "prompt": prompt, "completion": text}, name == CHOSEN)
            for name, side in sides.items()
            for prompt, text in side
        ]
    if label is None:
        raise ValueError("has neither 'chosen' and 'rejected' nor a 'completion' with a 'label' (or 'is_correct')")
    if row.values[label] not in (0, 1):
        raise FieldError(label, label, f"is {row.values[label]!r}, not true or false (1 or 0)")
    completion = _completion(row, columns, bool(row.values[label]))
    return f"prompt {completion.input.example.prompt!r}", [completion]


def _completion(row: Row, values: Mapping[str, Any], good: bool) -> LabelledCompletion:
    return LabelledCompletion(ScoreItem.model_validate(values).reward_input(row.place), good)


def _answers(value: Any, column: str, prompt: Any) -> list[tuple[Any, str]]:
    """Prompt and completion of each answer of one side of a pair."""
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        return [answer for each in value for answer in _answers(each, column, prompt)]
    if isinstance(value, str) and prompt is not None:
        return [(prompt, value)]
    messages: list[Message] = conversation(value, column)
    if len(messages) > 1:
        return [(messages[:-1], messages[-1]["content"])]
    if prompt is None:
        raise FieldError("prompt", "prompt", f"is missing, and {column!r} is no whole conversation")
    return [(prompt, messages[0]["content"])]
