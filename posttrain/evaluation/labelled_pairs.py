"""Two answers to one prompt and a label that says which is better."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from posttrain.data.dataset import DatasetConfig, collect_examples
from posttrain.data.fields import ExampleField, FieldError, example_from_values
from posttrain.data.rows import Row, read_rows
from posttrain.types import Example

LABELS = {"A": 1, "B": -1, "tie": 0, "tie (bothbad)": 0}


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """Two answers to the prompt of ``example``; ``label`` is 1 where the first is better, -1 the second, 0 neither."""

    example: Example
    answers: tuple[str, str]
    label: int


class LabelledPairsConfig(DatasetConfig):
    """Rows with ``prompt``, ``answer_a``, ``answer_b``, ``label`` (A, B, tie, or tie (bothbad), as Chatbot Arena has
    it) and ``references``, a list of texts in the same order of models in every row."""

    type: Literal["pairs"] = "pairs"
    references: int = Field(default=0, ge=0, description="how many each row has at least; more are not used")

    def pairs(self) -> list[LabelledPair]:
        """The pairs of the file.

        Raises:
            DataError: there is no such file, or a row is not of this form; the message names file, line and field.
        """
        columns: dict[ExampleField, str] = {"id": "id", "prompt": "prompt", "references": "references"}
        columns |= self.columns
        stem = Path(self.path).name.split(".")[0]

        def convert(row: Row) -> Example:
            name = f"{stem}:{row.number}"
            example = example_from_values(row.values, columns, {"prompt"}, self.format, default_id=name)
            if len(example.references) < self.references:
                problem = f"has {len(example.references)} of the {self.references} texts that data.references asks for"
                raise FieldError("references", columns["references"], problem)
            return _checked(example)

        rows = read_rows(self.path, self.name, self.split, self.revision)
        return [
            LabelledPair(
                replace(example, references=example.references[: self.references]),
                (example.metadata["answer_a"], example.metadata["answer_b"]),
                LABELS[example.metadata["label"]],
            )
            for example in collect_examples(self.path, rows, convert, self.bad_rows).examples
        ]


def _checked(example: Example) -> Example:
    """``example``, if its further columns hold two answers and a label."""
    for column in ("answer_a", "answer_b"):
        if not isinstance(example.metadata.get(column), str):
            raise FieldError(column, column, f"is {example.metadata.get(column)!r}, not text")
    if (label := example.metadata.get("label")) not in [*LABELS]:
        raise FieldError("label", "label", f"is {label!r}, not one of {', '.join(LABELS)}")
    return example
