"""Data files become examples, and every mistake in one is named by file, row and field."""

import csv
import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from posttrain.data.dataset import DatasetConfig, LoadedExamples
from posttrain.errors import DataError
from posttrain.types import Example

QUESTIONS = [{"question": "1+1=", "gold": "2", "level": 1}, {"question": "2+3=", "gold": "5", "level": 2}]
COLUMNS = {"prompt": "question", "answer": "gold"}


def load(path: Path | str, **keys: Any) -> LoadedExamples:
    return DatasetConfig.model_validate({"path": str(path), **keys}).load()


def refuse(path: Path | str, message: str, **keys: Any) -> None:
    with pytest.raises(DataError, match=message):
        load(path, **keys)


def write_lines(path: Path, *rows: Any) -> Path:
    """Rows as JSON lines; a text is written as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data.jsonl"


# ---- formats ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "json", "csv", "parquet", "folder"])
def test_every_format_gives_the_same_examples(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"data.{kind}"
    lines = "".join(json.dumps(row) + "\n" for row in QUESTIONS)
    match kind:
        case "jsonl":
            path.write_text(lines, encoding="utf-8-sig")
        case "jsonl.gz":
            path.write_bytes(gzip.compress(lines.encode()))
        case "json":
            path.write_text(json.dumps(QUESTIONS), encoding="utf-8")
        case "csv":
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, QUESTIONS[0])
                writer.writeheader()
                writer.writerows(QUESTIONS)
        case "parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(QUESTIONS), path)
        case "folder":
            path = tmp_path / "data"
            path.mkdir()
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(QUESTIONS), path / "train.parquet")
    level: tuple[Any, Any] = ("1", "2") if kind == "csv" else (1, 2)
    expected = [
        Example(id="data:1", prompt="1+1=", answer="2", metadata={"level": level[0]}),
        Example(id="data:2", prompt="2+3=", answer="5", metadata={"level": level[1]}),
    ]
    assert load(path, columns=COLUMNS).examples == expected


def test_csv_keeps_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text('prompt,answer\n"two\nlines, one comma",007\nb,18.00\nc,\n', encoding="utf-8")
    examples = load(path).examples
    assert [(e.prompt, e.answer) for e in examples] == [("two\nlines, one comma", "007"), ("b", "18.00"), ("c", None)]


def test_blank_lines_count_as_lines_but_are_no_rows(data: Path) -> None:
    data.write_text('{"prompt": "a"}\n\n  \n{"prompt": "b"}\n', encoding="utf-8")
    assert [example.id for example in load(data).examples] == ["data:1", "data:4"]


# ---- fields -------------------------------------------------------------------------------------------------------


def test_every_field(data: Path) -> None:
    row = {
        "key": 17,
        "prompt": [{"role": "system", "content": ""}, {"role": "user", "content": "hi", "name": None}],
        "answer": [1, "one"],
        "references": "one text",
        "demonstration": "do this",
        "candidates": ["a", "b"],
        "kind": "open",
        "task": "geometry",
        "metadata": {"skill": "greeting"},
    }
    (example,) = load(write_lines(data, row), columns={"id": "key", "task": "kind"}).examples
    assert example == Example(
        id="17",
        prompt=[{"role": "system", "content": ""}, {"role": "user", "content": "hi"}],
        answer=["1", "one"],
        references=["one text"],
        demonstration="do this",
        candidates=["a", "b"],
        task="open",
        metadata={"task": "geometry", "skill": "greeting"},
    )


def test_a_column_that_is_mapped_to_another_field_is_not_also_its_own(data: Path) -> None:
    write_lines(data, {"prompt": "1+1=", "answer": "it is 2"})
    (example,) = load(data, columns={"demonstration": "answer"}).examples
    assert (example.demonstration, example.answer) == ("it is 2", None)


def test_null_is_no_value_except_for_a_prompt(data: Path) -> None:
    write_lines(data, {"prompt": "a", "answer": None, "references": None})
    (example,) = load(data).examples
    assert (example.answer, example.references) == (None, [])
    refuse(write_lines(data, {"prompt": None}), r"line 1: field 'prompt' is empty \(null\), not text")


def test_format_puts_text_prompts_and_leaves_messages(data: Path) -> None:
    write_lines(data, {"prompt": "1+1="}, {"prompt": [{"role": "user", "content": "hi"}]})
    first, second = load(data, format={"chat": True, "template": "Q: {problem}"}).examples
    assert first.prompt == [{"role": "user", "content": "Q: 1+1="}]
    assert second.prompt == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": 5}, r"field 'prompt' is a number \(5\), not text"),
        ({"prompt": "  "}, "field 'prompt' is empty"),
        ({"prompt": "\ud800"}, "field 'prompt' is not valid Unicode"),
        ({"prompt": {"role": "user"}}, "field 'prompt' is an object"),
        ({"prompt": []}, "field 'prompt' is an empty list of messages"),
        (
            {"prompt": ["hi"]},
            r"field 'prompt' has a message 1 that is text \(hi\), not an object with role and content",
        ),
        ({"prompt": [{"role": "usr", "content": "x"}]}, "has a message 1 of role 'usr', not one of system"),
        ({"prompt": [{"role": "user", "content": None}]}, r"message 1 whose content is empty \(null\), not text"),
        (
            {"prompt": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
            "ends with an assistant message",
        ),
        ({"prompt": "a", "answer": True}, "field 'answer' is true or false"),
        ({"prompt": "a", "answer": float("nan")}, "field 'answer' is nan, not a finite number"),
        ({"prompt": "a", "answer": {"x": 1}}, "field 'answer' is an object"),
        ({"prompt": "a", "references": ["x", 3]}, r"field 'references' is a number \(3\), not text"),
        ({"prompt": "a", "answer": []}, "field 'answer' is an empty list"),
        ({}, "field 'prompt' is missing; the row has no columns"),
        ({"prompt": "a", "demonstration": 3}, "field 'demonstration' is a number"),
        ({"prompt": "a", "metadata": "x"}, r"field 'metadata' is text \(x\), not an object"),
        ({"prompt": "a", "id": ["x"]}, "field 'id' is a list"),
    ],
)
def test_values_of_the_wrong_type_are_named_by_line_and_field(data: Path, row: dict[str, Any], message: str) -> None:
    write_lines(data, {"prompt": "good"}, row)
    refuse(data, rf"data\.jsonl, line 2: {message}" if message.startswith("field") else rf"line 2: .*{message}")


def test_field_and_column_are_both_named_when_they_differ(data: Path) -> None:
    write_lines(data, {"question": 3, "gold": "2"})
    refuse(data, r"line 1: field 'prompt' \(column 'question'\) is a number", columns=COLUMNS)


def test_task_of_no_kind(data: Path) -> None:
    write_lines(data, {"prompt": "a", "kind": "math"})
    refuse(
        data, r"field 'task' \(column 'kind'\) is 'math', not one of verifiable, preference", columns={"task": "kind"}
    )


# ---- files --------------------------------------------------------------------------------------------------------


def test_missing_file(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", {"prompt": "a"})
    refuse(tmp_path / "trian.jsonl", r"there is no data file .*trian\.jsonl'; did you mean .*train\.jsonl'\?")
    refuse(tmp_path / "none" / "a.jsonl", r"there is no data file .*: there is no folder .*none'")
    refuse("train.jsnl.gz", "there is no data file 'train.jsnl.gz'")


def test_dataset_that_is_not_on_the_hub() -> None:
    refuse("nobody/nothing", "'nobody/nothing' is not a data file here, nor a dataset: ")


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.json", "empty.csv"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("\n" if name == "empty.jsonl" else "")
    refuse(tmp_path / name, "is empty: it has no rows")


def test_empty_parquet_and_csv_with_a_header_only(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"prompt": pyarrow.array([], pyarrow.string())}), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("prompt,answer\n")
    refuse(tmp_path / "a.parquet", "is empty: it has no rows")
    refuse(tmp_path / "a.csv", "is empty: it has no rows")


def test_kind_of_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_text("x")
    refuse(tmp_path / "a.xlsx", r"is of no kind that can be read; use one of \.jsonl")


def test_files_that_are_not_what_they_are_called(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("hello")
    (tmp_path / "a.jsonl.gz").write_text("hello")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "a"}\n' * 100)[:-12])
    (tmp_path / "a.json").write_text("[{")
    (tmp_path / "a.csv").write_bytes(b"prompt\n\xff\xfe\n")
    refuse(tmp_path / "a.parquet", r"cannot read .*a\.parquet: .*Parquet")
    refuse(tmp_path / "a.jsonl.gz", r"cannot read .*a\.jsonl\.gz: Not a gzipped file")
    refuse(tmp_path / "b.jsonl.gz", r"cannot read .*b\.jsonl\.gz: Compressed file ended")
    refuse(tmp_path / "a.json", r"a\.json is not JSON: ")
    refuse(tmp_path / "a.csv", r"a\.csv is not UTF-8 text")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a"', r"is not JSON: Expecting ',' delimiter"),
        ("prompt: a", "is not JSON: Expecting value"),
        ("[1, 2]", "is a JSON list, not an object with columns"),
        ("[" * 100_000, "is not JSON: "),
    ],
)
def test_line_that_is_not_json(data: Path, line: str, message: str) -> None:
    write_lines(data, {"prompt": "a"}, {"prompt": "b"}, line)
    refuse(data, rf"data\.jsonl, line 3 {message}")


def test_line_that_is_not_utf8(data: Path) -> None:
    data.write_bytes(b'{"prompt": "a"}\n{"prompt": "\xff"}\n')
    refuse(data, r"data\.jsonl, line 2 is not JSON: 'utf-8' codec can't decode")


def test_csv_row_with_too_many_fields(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,answer\na,1\nb,2,3\n")
    refuse(tmp_path / "a.csv", r"a\.csv, row 2 \(line 3\) has 3 fields where the header has 2")
    (tmp_path / "a.csv").write_text('prompt,answer\n"a,1\n')
    refuse(tmp_path / "a.csv", r"a\.csv, line 2: unexpected end of data")


# ---- columns ------------------------------------------------------------------------------------------------------


def test_mapped_column_that_is_in_no_row(data: Path) -> None:
    write_lines(data, *QUESTIONS)
    refuse(
        data,
        r"data\.jsonl has no column 'qestion', which columns\.prompt names; "
        r"its columns are 'question', 'gold', 'level'\. Did you mean 'question'\?",
        columns={"prompt": "qestion"},
    )


def test_no_column_for_the_prompt(data: Path) -> None:
    write_lines(data, *QUESTIONS)
    refuse(
        data, r"has no column 'prompt'; its columns are 'question', 'gold', 'level'\. Name the one .* columns\.prompt"
    )


def test_mapped_column_that_one_row_lacks(data: Path) -> None:
    write_lines(data, *QUESTIONS, {"question": "3+3="})
    refuse(data, r"line 3: field 'answer' \(column 'gold'\) is missing; the row has 'question'", columns=COLUMNS)


def test_repeated_id(data: Path) -> None:
    write_lines(data, {"prompt": "a", "id": "x"}, {"prompt": "b", "id": "y"}, {"prompt": "c", "id": "x"})
    refuse(data, "line 3: field 'id' is 'x', as in line 1; ids must differ")


# ---- the bad-row policy -------------------------------------------------------------------------------------------


def test_bad_rows_can_be_skipped_and_are_counted(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_lines(data, "{", {"prompt": "a", "id": "x"}, {"prompt": 3}, {"prompt": "b", "id": "x"}, {"prompt": "c"})
    with caplog.at_level(logging.WARNING):
        loaded = load(data, bad_rows="skip")
    assert [example.prompt for example in loaded.examples] == ["a", "c"]
    assert [reason.split(":")[0] for reason in loaded.skipped] == ["line 1 is not JSON", "line 3", "line 4"]
    assert "2 examples, 3 bad rows skipped, the first: line 1 is not JSON" in caplog.text


def test_stopping_says_how_to_skip(data: Path) -> None:
    refuse(write_lines(data, {"prompt": "a"}, "{"), r"line 2 is not JSON.*\(bad_rows: skip would leave bad rows out\)")


def test_no_good_row_is_an_error_even_when_skipping(data: Path) -> None:
    refuse(write_lines(data, "{", "}"), r"none of the 2 rows of .* can be used; the first: line 1", bad_rows="skip")


def test_real_files_load_whole() -> None:
    folder = Path(__file__).parents[2] / ".." / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data files are not beside this checkout")
    pairs = load(folder / "hh_rlhf" / "pairs.jsonl.gz")
    assert (len(pairs.examples), pairs.skipped) == (1156, [])
    aime = load(folder / "math" / "aime24.jsonl.gz", columns={"prompt": "problem"})
    assert len(aime.examples) == 30
    assert all(isinstance(example.answer, str) for example in aime.examples)
