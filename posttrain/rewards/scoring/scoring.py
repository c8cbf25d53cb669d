"""Scoring a file of completions: in bounded memory, and going on behind what an earlier, killed run has written."""

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from posttrain.data.rows import json_line
from posttrain.errors import DataError
from posttrain.rewards.checked import score_checked
from posttrain.rewards.on_error import BaseRewardConfig
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput
from posttrain.rewards.score_item import ScoreItem, output_values
from posttrain.rewards.scoring.reward_file import reward_digest
from posttrain.training.append_file import OTHERWISE, opened_to_append

BATCH_ROWS = 256
# At least a batch, so that two parts of a larger group are never scored in one call.
LARGEST_GROUP = 1024


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """A line of the input; where ``item`` is None, ``problem`` says why it cannot be scored."""

    number: int
    id: str | int
    item: ScoreItem | None = None
    problem: str = ""


@dataclass(slots=True)
class FileScores:
    """What the output holds: how many rows, how many of them from an earlier run, and the failed ones by error."""

    rows: int = 0
    resumed: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def count(self, errors: list[str | None]) -> None:
        self.rows += len(errors)
        self.errors.update(error for error in errors if error is not None)


def score_file(
    config: BaseRewardConfig,
    input_path: Path,
    output_path: Path,
    batch_rows: int = BATCH_ROWS,
    on_progress: Callable[[int, int], None] = lambda rows, input_bytes: None,
) -> FileScores:
    """Score the rows of ``input_path`` (``ScoreItem`` as JSON lines, also .gz) into ``output_path``, in order.

    A row out has ``id`` (the line's number where it has none), ``score``, ``parts`` and ``error``, with a ``message``
    beside an error and ``token_scores`` where the reward gives them. A row that is malformed becomes the error
    ``invalid_input``. Neighbours of one prompt, answer and references are a group: they are scored in one call, under
    the id of the first, and at most ``LARGEST_GROUP`` of them. A call has about ``batch_rows`` rows.

    Rows that are in ``output_path`` already are kept; only a group that was cut off is scored as a whole again.

    Raises:
        DataError: the input cannot be read, or the existing output does not belong to it.
        JobError: the existing output was scored by another reward, or is being written by another process.
        RewardFailure: the reward broke its contract.
    """
    if output_path.exists() and input_path.exists() and output_path.samefile(input_path):
        raise DataError(f"{output_path} is the input as well; name another output")
    summary = FileScores()
    try:
        source = input_path.open("rb")
    except OSError as error:
        raise DataError(f"cannot read {input_path}: {error.strerror}") from error
    with (
        source,
        closing(config.build()) as reward,
        opened_to_append(output_path, {"reward_digest": reward_digest(config)}, by="another reward") as output,
        output_path.open("rb") as earlier,
    ):
        # A generator stays exhausted when the file grows, which it does only after the last earlier row was read.
        written = (numbered for numbered in enumerate(earlier, start=1))
        pending: list[tuple[list[ScoreRow], int]] = []
        for group in groups(read_score_rows(source, input_path)):
            kept = [
                _kept_error(line, number, row, output_path) for row, (number, line) in zip(group, written, strict=False)
            ]
            summary.count(kept)
            summary.resumed += len(kept)
            if len(kept) < len(group):
                pending.append((group, len(kept)))
            if sum(len(rows) for rows, _ in pending) >= batch_rows:
                summary.count(_append(reward, pending, output))
                pending.clear()
            on_progress(summary.rows, source.tell())
        summary.count(_append(reward, pending, output))
        on_progress(summary.rows, source.tell())
        if next(written, None) is not None:
            raise _foreign(output_path, f"has more rows than {input_path}")
    return summary


def read_score_rows(source: BinaryIO, path: Path) -> Iterator[ScoreRow]:
    """The rows of an open file, one at a time; lines are numbered from 1, and empty ones left out.

    Raises:
        DataError: the file cannot be read on.
    """
    lines = gzip.GzipFile(fileobj=source) if path.suffix == ".gz" else source
    try:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _score_row(line, number, path)
    except (OSError, EOFError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def groups(rows: Iterable[ScoreRow]) -> Iterator[list[ScoreRow]]:
    """Neighbours of one prompt (without one, of one id), answer and references, at most ``LARGEST_GROUP``; a malformed
    row belongs where it stands."""
    group: list[ScoreRow] = []
    key: tuple[Any, ...] | None = None
    for row in rows:
        own_key = key if (item := row.item) is None else (item.prompt or (row.id,), item.answer, item.references)
        if group and (len(group) == LARGEST_GROUP or (key is not None and own_key != key)):
            yield group
            group = []
        group.append(row)
        key = own_key
    if group:
        yield group


def _score_row(line: bytes, number: int, path: Path) -> ScoreRow:
    row = json_line(line, number)
    if row.problem is not None:
        return ScoreRow(number, number, problem=f"{path}, {row.place} {row.problem}")
    given = row.values.get("id")
    own_id = given if isinstance(given, str | int) and not isinstance(given, bool) else number
    try:
        return ScoreRow(number, own_id, ScoreItem.model_validate(row.values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        column = ".".join(map(str, first["loc"]))
        return ScoreRow(number, own_id, problem=f"{path}, {row.place}: {column}: {first['msg']}")


def _append(reward: Reward, pending: list[tuple[list[ScoreRow], int]], output: BinaryIO) -> list[str | None]:
    """Score ``pending`` groups and write all but the first rows of each, as many as it says; return their errors."""
    inputs = [_input(row, row.item, group[0]) for group, _ in pending for row in group if row.item is not None]
    scored = iter(score_checked(reward, inputs))
    lines, errors = [], []
    for group, kept in pending:
        outputs = [
            RewardOutput(None, error="invalid_input", message=row.problem) if row.item is None else next(scored)
            for row in group
        ]
        for row, judged in list(zip(group, outputs, strict=True))[kept:]:
            written = {"id": row.id, **output_values(judged)} | ({"message": judged.message} if judged.error else {})
            lines.append(json.dumps(written, allow_nan=False) + "\n")
            errors.append(judged.error)
    output.write("".join(lines).encode())
    output.flush()
    return list(errors)


def _input(row: ScoreRow, item: ScoreItem, first_of_group: ScoreRow) -> RewardInput:
    given = item.reward_input(str(row.number))
    return replace(given, example=replace(given.example, id=str(first_of_group.id)))


def _foreign(path: Path, problem: str) -> DataError:
    return DataError(f"{path} {problem}. {OTHERWISE}")


def _kept_error(line: bytes, number: int, row: ScoreRow, path: Path) -> str | None:
    """The error of a row that an earlier run has written.

    Raises:
        DataError: it is not the output of ``row``.
    """
    try:
        values = json.loads(line)
        own_id, error = values["id"], values["error"]
    except (ValueError, TypeError, KeyError):
        raise _foreign(path, f"has a line {number} that is no scored row") from None
    if own_id != row.id:
        raise _foreign(path, f"has the id {own_id!r} in line {number}, where the input has {row.id!r}")
    return None if error is None else str(error)
