"""Examples from data files: rows are read, mapped to fields and checked, and every bad one is named."""

import logging
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from posttrain.config import Config
from posttrain.data.fields import FIELDS, ExampleField, FieldError, example_from_values
from posttrain.data.prompt_format import PromptFormat
from posttrain.data.rows import Row, read_rows
from posttrain.errors import DataError
from posttrain.types import Example

logger = logging.getLogger(__name__)


class LoadedExamples(NamedTuple):
    """Examples, and for every row that was skipped, why."""

    examples: list[Example]
    skipped: list[str]


class DatasetConfig(Config):
    """Where rows are, and which column holds which field of an ``Example``.

    A field that ``columns`` does not mention is read from the column of its own name, if there is one (``task``
    excepted, a common name for other things). All other columns are kept in ``metadata``.
    """

    path: str = Field(description="a .jsonl, .json, .csv or .parquet file, a dataset folder, or a hub dataset")
    name: str | None = Field(default=None, description="configuration of a hub dataset")
    split: str = Field(default="train", description="of a dataset folder or hub dataset")
    revision: str | None = Field(default=None, description="of a hub dataset")
    columns: dict[ExampleField, str] = Field(default_factory=dict, description="field: column")
    format: PromptFormat = Field(default_factory=PromptFormat, description="of prompts that are text")
    bad_rows: Literal["stop", "skip"] = "stop"

    def load(self) -> LoadedExamples:
        """Read and check every row of ``path``.

        Raises:
            DataError: the file is missing, empty or unreadable, a mapped column is in no row, a row is bad
                (``bad_rows: stop``), or none is good.
        """
        rows = read_rows(self.path, self.name, self.split, self.revision)
        columns, stem = self.columns_of(rows), Path(self.path).name.split(".")[0]
        return collect_examples(
            self.path, rows, lambda row: self.example(row.values, columns, f"{stem}:{row.number}"), self.bad_rows
        )

    def columns_of(self, rows: Sequence[Row]) -> dict[ExampleField, str]:
        """Which column holds a field."""
        return resolve_columns(self.path, rows, self.columns)

    def example(self, values: Mapping[str, Any], columns: Mapping[ExampleField, str], default_id: str) -> Example:
        """The example of a row. Raises ``FieldError`` for values that make none."""
        return example_from_values(values, columns, {"prompt", *self.columns}, self.format, default_id)


def collect_examples(
    source: str, rows: Sequence[Row], convert: Callable[[Row], Example], bad_rows: Literal["stop", "skip"]
) -> LoadedExamples:
    """Convert rows in order. A row is bad if it could not be read, ``convert`` refuses it, or its id was seen before.

    ``convert`` raises ``FieldError`` to refuse a row.

    Raises:
        DataError: a row is bad and ``bad_rows`` is "stop", or none is good.
    """
    examples, skipped = list[Example](), list[str]()
    places: dict[str, str] = {}
    for row in rows:
        try:
            problem = None if row.problem is None else f"{row.place} {row.problem}"
            if problem is None and (example := convert(row)).id in places:
                problem = f"{row.place}: field 'id' is {example.id!r}, as in {places[example.id]}; ids must differ"
        except FieldError as error:
            problem = f"{row.place}: {error}"
        if problem is not None:
            if bad_rows == "stop":
                raise DataError(f"{source}, {problem} (bad_rows: skip would leave bad rows out)")
            skipped.append(problem)
            continue
        places[example.id] = row.place
        examples.append(example)
    if not examples:
        raise DataError(f"none of the {len(rows)} rows of {source} can be used; the first: {skipped[0]}")
    if skipped:
        told = f"{source}: {len(examples)} examples, {len(skipped)} bad rows skipped, the first: {skipped[0]}"
        logger.warning("%s", told)
    return LoadedExamples(examples, skipped)


def resolve_columns(source: str, rows: Sequence[Row], mapped: Mapping[ExampleField, str]) -> dict[ExampleField, str]:
    """The column of every field that has one.

    Raises:
        DataError: a mapped column, or one for the prompt, is in no row; the message names those there are.
    """
    existing = list(dict.fromkeys(column for row in rows for column in row.values))
    readable = any(row.problem is None for row in rows)
    for name, column in mapped.items():
        if readable and column not in existing:
            raise DataError(
                f"{source} has no column {column!r}, which columns.{name} names{columns_there(column, existing)}"
            )
    columns: dict[ExampleField, str] = {
        name: name for name in FIELDS if name in existing and name != "task" and name not in mapped.values()
    }
    columns |= mapped
    if readable and "prompt" not in columns:
        raise DataError(
            f"{source} has no column 'prompt'{columns_there('prompt', existing)} "
            "Name the one that holds the prompt as columns.prompt."
        )
    return columns


def columns_there(column: str, existing: Sequence[str]) -> str:
    """The end of a message: which columns there are, and which may have been meant."""
    near = get_close_matches(column, existing, n=1)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    return f"; its columns are {', '.join(map(repr, existing))}.{guess}"
