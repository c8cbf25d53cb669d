"""Which rows a data job works on."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from posttrain.data.fields import FieldError
from posttrain.data.rows import Row
from posttrain.data_jobs.pool import PoolConfig, asked, read_pool, references_of
from posttrain.errors import DataError


def pool_config(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> PoolConfig:
    (folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return PoolConfig(path=str(folder / "pool.jsonl"), **settings)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"a": "one", "b": ["two", "three"]}, (["one", "two", "three"], "")),
        ({"a": "one"}, ([], "b is missing")),
        ({"a": None, "b": "two"}, ([], "a is missing")),
        ({"a": float("nan"), "b": "two"}, ([], "a is missing")),
        ({"a": "one", "b": []}, ([], "b is missing")),
        ({"a": "one", "b": ["two", None]}, ([], "b is missing")),
        ({"a": " \n", "b": "two"}, ([], "a is blank")),
        ({"a": 7, "b": "two"}, ([], "a is no text")),
    ],
)
def test_references_are_all_there_or_none_is_used(values: dict[str, Any], found: tuple[list[str], str]) -> None:
    assert references_of(Row("line 1", 1, values), ["a", "b"]) == found


def test_what_is_asked_of_a_conversation() -> None:
    system, first, answer, second = (
        {"role": role, "content": role[0] + str(place)}
        for place, role in enumerate(("system", "user", "assistant", "user"))
    )
    conversation = [system, first, answer, second, answer]
    assert asked(conversation, "conversation") == [system, first, answer, second]
    assert asked(conversation, "first_user") == [first]
    assert asked("text", "first_user") == "text"
    with pytest.raises(FieldError, match="without a user's turn"):
        asked([system, answer], "conversation")


def test_incomplete_rows_are_dropped_and_counted(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "gold"}]
    rows = [
        {"id": "a", "messages": turns, "ref_output_x": "x1", "ref_output_y": "y1", "kept": 1},
        {"id": "b", "messages": turns, "ref_output_x": "x2", "ref_output_y": " "},
        {"id": "c", "messages": turns, "ref_output_x": None, "ref_output_y": "y3"},
        {"id": "d", "messages": 5, "ref_output_x": "x4", "ref_output_y": "y4"},
    ]
    config = pool_config(
        tmp_path, rows, columns={"prompt": "messages"}, reference_columns=["ref_output_*"], bad_rows="skip"
    )
    pool = read_pool(config)
    assert [(each.id, each.prompt, each.references) for each in pool.examples] == [("a", turns[:1], ["x1", "y1"])]
    assert pool.values == {"a": rows[0]}
    assert pool.dropped == Counter({"ref_output_y is blank": 1, "ref_output_x is missing": 1, "bad row": 1})
    with pytest.raises(DataError, match=r"pool.jsonl, line 4: field 'prompt' \(column 'messages'\) is a number"):
        read_pool(config.model_copy(update={"bad_rows": "stop"}))


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = pool_config(tmp_path, [{"prompt": "q", "ref_output_x": "r"}], reference_columns=["ref_outptu_x"])
    with pytest.raises(DataError, match=r"no column 'ref_outptu_x' of references.* Did you mean 'ref_output_x'\?"):
        read_pool(config)


def test_the_one_column_may_be_mapped_as_in_any_data_section(tmp_path: Path) -> None:
    config = pool_config(tmp_path, [{"prompt": "q", "gold": ["r", "s"]}], columns={"references": "gold"})
    assert read_pool(config).examples[0].references == ["r", "s"]


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "pool.jsonl").write_text("{not json\n")
    with pytest.raises(DataError, match="line 1 is not JSON"):
        read_pool(PoolConfig(path=str(tmp_path / "pool.jsonl")))


def test_no_row_is_left(tmp_path: Path) -> None:
    config = pool_config(tmp_path, [{"prompt": "q", "references": []}, {"prompt": "q", "references": ["", "a"]}])
    with pytest.raises(DataError, match="has all its references: references is missing 1, references is blank 1"):
        read_pool(config)
