"""Raw rows of a data file or hub dataset, each with its number, so that a bad one can be pointed at."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from posttrain.errors import DataError


@dataclass(slots=True)
class Row:
    """One row: where it is ("line 3"), and its values by column, or why it could not be read."""

    place: str
    number: int
    values: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


def read_rows(path: str, name: str | None = None, split: str = "train", revision: str | None = None) -> list[Row]:
    """The rows of a local file (.jsonl, .json, .csv, these also .gz, .parquet), of a dataset folder or of the hub.

    ``name``, ``split`` and ``revision`` are for folders and the hub. Lines are numbered from 1 as an editor shows them;
    so are rows of the other formats.

    Raises:
        DataError: there is no such file or dataset, its kind is unknown, it cannot be read, or it has no rows.
    """
    local = Path(path).expanduser()
    if local.is_file():
        suffix = Path(local.name.lower().removesuffix(".gz")).suffix
        if suffix not in READERS:
            raise DataError(f"{path} is of no kind that can be read; use one of {', '.join(READERS)}, also .gz")
        rows = list(READERS[suffix](local))
    elif local.is_dir():
        rows = list(_dataset_rows(path, path=str(local), name=name, split=split, streaming=True))  # no copy in a cache
    elif not _looks_like_a_file(path):
        rows = list(_dataset_rows(path, path=path, name=name, split=split, revision=revision))
    else:
        raise DataError(f"there is no data file {path!r}{_similar_file(local)}")
    if not rows:
        raise DataError(f"{path} is empty: it has no rows")
    return rows


def _looks_like_a_file(path: str) -> bool:
    """Hub datasets are called ``name`` or ``owner/name``, without the suffix of a data file."""
    suffixes = (".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".gz", ".txt", ".tsv")
    return path.startswith(("/", ".", "~")) or path.count("/") > 1 or path.lower().endswith(suffixes)


def _similar_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f": there is no folder {str(path.parent)!r}"
    near = get_close_matches(path.name, [other.name for other in path.parent.iterdir()], n=1)
    return f"; did you mean {str(path.parent / near[0])!r}?" if near else ""


def _read_bytes(path: Path) -> bytes:
    try:
        if path.suffix.lower() == ".gz":
            with gzip.open(path) as file:
                return file.read()
        return path.read_bytes()
    except (OSError, EOFError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _json_lines(content: bytes) -> Iterator[Row]:
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield json_line(line, number)


def json_line(line: bytes, number: int) -> Row:
    """The row that line ``number`` of a file holds."""
    try:
        return _object_row(f"line {number}", number, json.loads(line))
    except (ValueError, RecursionError) as error:
        return Row(f"line {number}", number, problem=f"is not JSON: {error}")


def _json_array_or_lines(path: Path) -> Iterator[Row]:
    content = _read_bytes(path)
    if not content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        yield from _json_lines(content)
        return
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    for number, value in enumerate(values, start=1):
        yield _object_row(f"row {number}", number, value)


def _object_row(place: str, number: int, value: Any) -> Row:
    if isinstance(value, dict):
        return Row(place, number, value)
    return Row(place, number, problem=f"is a JSON {type(value).__name__}, not an object with columns")


def _csv_rows(path: Path) -> Iterator[Row]:
    """Every value stays the text it is: ``007`` and ``18.00`` are answers. An empty field is no value."""
    try:
        text = _read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        for number, fields in enumerate(reader, start=1):
            place = f"row {number} (line {reader.line_num})"
            if fields and len(fields) != len(header):
                yield Row(place, number, problem=f"has {len(fields)} fields where the header has {len(header)}")
            elif fields:
                yield Row(place, number, {column: value or None for column, value in zip(header, fields, strict=True)})
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow.parquet

    try:
        values = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    for number, row in enumerate(values, start=1):
        yield Row(f"row {number}", number, row)


def _dataset_rows(source: str, **arguments: Any) -> Iterator[Row]:
    import datasets

    try:
        for number, values in enumerate(datasets.load_dataset(**arguments), start=1):
            yield Row(f"row {number}", number, values)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{source!r} is not a data file here, nor a dataset: {error.__cause__ or error}") from error


READERS: dict[str, Callable[[Path], Iterable[Row]]] = {
    ".jsonl": lambda path: _json_lines(_read_bytes(path)),
    ".ndjson": lambda path: _json_lines(_read_bytes(path)),
    ".json": _json_array_or_lines,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}
