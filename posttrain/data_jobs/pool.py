"""The rows that a data job works on: each as it came, with what is asked of the model and the reference answers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import filter as matching
from typing import Any, Literal

from pydantic import Field

from posttrain.data.dataset import DatasetConfig, collect_examples, columns_there, resolve_columns
from posttrain.data.fields import FieldError, example_from_values
from posttrain.data.rows import Row, read_rows
from posttrain.errors import DataError
from posttrain.types import Example

PromptTurns = Literal["conversation", "first_user"]


class PromptRowsConfig(DatasetConfig):
    """Rows with a prompt, also conversations with their answers: what follows the last user's turn is not asked."""

    prompt_turns: PromptTurns = Field(
        default="conversation", description="of a conversation: all up to the last user's turn, or the first one alone"
    )


class PoolConfig(PromptRowsConfig):
    """Rows with references: ``{type: rows, path: pool.jsonl, reference_columns: [ref_output_*]}``."""

    type: Literal["rows"] = "rows"
    reference_columns: list[str] | None = Field(
        default=None, min_length=1, description="of texts or lists, * for any letters; null: the one of references"
    )


@dataclass(slots=True)
class Pool:
    """The rows that can be used as examples, their values as they came by id, and how many were dropped and why."""

    examples: list[Example]
    values: dict[str, dict[str, Any]]
    dropped: Counter[str] = field(default_factory=Counter)


def read_pool(config: PoolConfig) -> Pool:
    """The rows that have every reference asked for.

    Raises:
        DataError: a file, a column or a row cannot be used, or no row has all references.
    """
    rows = read_rows(config.path, config.name, config.split, config.revision)
    existing = list(dict.fromkeys(column for row in rows for column in row.values))
    patterns = config.reference_columns or [config.columns.get("references", "references")]
    for pattern in patterns:
        if existing and not matching(existing, pattern):
            problem = f"{config.path} has no column {pattern!r} of references"
            raise DataError(problem + columns_there(pattern, existing))
    columns = list(dict.fromkeys(name for pattern in patterns for name in matching(existing, pattern)))
    problems = ["" if row.problem else references_of(row, columns)[1] for row in rows]
    dropped = Counter(filter(None, problems))
    complete = [row for row, problem in zip(rows, problems, strict=True) if not problem]
    if not complete:
        raise DataError(f"no row of {config.path} has all its references: {reasons(dropped)}")
    pool = prompt_rows(config, complete, columns)
    return replace(pool, dropped=dropped + pool.dropped)


def prompt_rows(config: PromptRowsConfig, rows: Sequence[Row] | None = None, references: Sequence[str] = ()) -> Pool:
    """``rows``, or those of the file, as examples, with the texts of the columns ``references``.

    Raises:
        DataError: a row is bad and ``bad_rows`` is "stop", or none is good.
    """
    rows = read_rows(config.path, config.name, config.split, config.revision) if rows is None else rows
    columns = resolve_columns(config.path, rows, config.columns)
    columns.pop("references", None)
    values: dict[str, dict[str, Any]] = {}

    def convert(row: Row) -> Example:
        prompt = asked(row.values.get(columns["prompt"]), config.prompt_turns)
        given = row.values | {columns["prompt"]: prompt}
        example = example_from_values(given, columns, {"prompt"}, config.format, default_id=f"row {row.number}")
        values[example.id] = row.values
        return replace(example, references=references_of(row, references)[0])

    loaded = collect_examples(config.path, rows, convert, config.bad_rows)
    return Pool(loaded.examples, values, Counter({"bad row": len(loaded.skipped)} if loaded.skipped else {}))


def asked(prompt: Any, turns: PromptTurns) -> Any:
    """What of a conversation is put to the model; other values as they are.

    Raises:
        FieldError: the user says nothing in it.
    """
    if not isinstance(prompt, list):
        return prompt
    users = [place for place, each in enumerate(prompt) if isinstance(each, dict) and each.get("role") == "user"]
    if not users:
        raise FieldError("prompt", "prompt", "is a conversation without a user's turn")
    return [prompt[users[0]]] if turns == "first_user" else prompt[: users[-1] + 1]


def references_of(row: Row, columns: Sequence[str]) -> tuple[list[str], str]:
    """The references of a row, and what is wrong with the first that cannot be used; empty where none is."""
    texts: list[str] = []
    for column in columns:
        value = row.values.get(column)
        for text in value if isinstance(value, list) and value else [value]:
            if not isinstance(text, str):  # null, an empty list, or the NaN of a table
                return [], f"{column} is missing" if text in (None, []) or text != text else f"{column} is no text"
            if not text.strip():
                return [], f"{column} is blank"
            texts.append(text)
    return texts, ""


def reasons(counts: Counter[str]) -> str:
    """``references is blank 6, no output 4``."""
    return ", ".join(f"{reason} {number:,}" for reason, number in counts.most_common())
