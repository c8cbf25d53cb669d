"""Preferences as data: for a prompt, completions ranked best first."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from posttrain.data.conversation import conversation
from posttrain.data.fields import FIELDS, ExampleField, FieldError, example_from_values
from posttrain.data.rows import Row
from posttrain.tasks.file_task import FileTask
from posttrain.types import Example


class PreferenceConfig(FileTask):
    """For example ``{type: preference, path: pairs.jsonl.gz, eval_fraction: 0.1}``.

    A row is one of: ``prompt``, ``chosen`` and ``rejected`` (texts, or lists with the assistant's message); two whole
    conversations ``chosen`` and ``rejected``, as messages or as text in the form of HH-RLHF (arXiv 2204.05862), that
    differ in the last answer; ``prompt`` and ``candidates``, best first. ``margin`` says by how much a pair differs,
    and stands in ``Example.metadata``. ``candidates`` are at least two and all different.
    """

    type: Literal["preference"] = "preference"
    chosen_column: str = "chosen"
    rejected_column: str = "rejected"
    margin_column: str = Field(default="margin", description="a number; rows without it have margin 0")

    def columns_of(self, rows: Sequence[Row]) -> dict[ExampleField, str]:
        return {name: name for name in FIELDS if name != "task"} | self.columns

    def example(self, values: Mapping[str, Any], columns: Mapping[ExampleField, str], default_id: str) -> Example:
        ranked = self._ranked(values, columns["prompt"], columns["candidates"])
        example = example_from_values(ranked, columns, {"prompt", "candidates"}, self.format, default_id)
        example.task = "preference"
        if len(set(example.candidates)) < max(2, len(example.candidates)):
            problem = "has two equal completions, or fewer than two: nothing is preferred"
            raise FieldError("candidates", columns["candidates"], problem)
        return example

    def _ranked(self, values: Mapping[str, Any], prompt: str, candidates: str) -> dict[str, Any]:
        """``values`` with the pair as two candidates, and a margin under that name."""
        chosen, rejected, margin = self.chosen_column, self.rejected_column, self.margin_column
        others = {name: value for name, value in values.items() if name not in (chosen, rejected, margin)}
        if values.get(margin) is not None:
            try:
                others["margin"] = float(values[margin])
            except (TypeError, ValueError) as error:
                raise FieldError("margin", margin, f"is {values[margin]!r}, not a number") from error
            if not math.isfinite(others["margin"]):
                raise FieldError("margin", margin, f"is {others['margin']}, not a finite number")
        if candidates in values:
            return others
        sides = [conversation(values.get(name), name) for name in (chosen, rejected)]
        if prompt not in values:
            shared = sides[0][:-1]
            if not shared or sides[1][:-1] != shared:
                raise FieldError(chosen, chosen, f"and {rejected!r} are not conversations that differ in one answer")
            others[prompt] = shared
        elif any(len(side) != 1 for side in sides):
            raise FieldError(chosen, chosen, f"or {rejected!r} has several turns beside a prompt; give one answer")
        return others | {candidates: [side[-1]["content"] for side in sides]}
