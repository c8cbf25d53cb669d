"""Pairs are read as they stand, and a row that is none is named by line and field."""

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import DataError
from posttrain.evaluation.labelled_pairs import LabelledPairsConfig

ROW = {"prompt": "Why?", "answer_a": "a", "answer_b": "b", "label": "B", "references": ["x", "y", "z"]}


def write(folder: Path, *rows: dict[str, Any]) -> str:
    file = folder / "pairs.jsonl"
    file.write_text("\n" + "".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_a_pair(tmp_path: Path) -> None:
    first, second = LabelledPairsConfig(
        path=write(tmp_path, ROW, ROW | {"label": "tie (bothbad)", "model_a": "m"}), references=2
    ).pairs()
    assert (first.answers, first.label, first.example.references) == (("a", "b"), -1, ["x", "y"])
    assert (second.label, second.example.prompt, second.example.metadata["model_a"]) == (0, "Why?", "m")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "C"}, r"line 3: field 'label' is 'C', not one of A, B, tie, tie \(bothbad\)"),
        ({"label": ["A"]}, r"line 3: field 'label' is \['A'\], not one of"),
        ({"references": ["x"]}, "line 3: field 'references' has 1 of the 2 texts that data.references asks for"),
        ({"references": None}, "line 3: field 'references' has 0 of the 2 texts"),
        ({"references": ["x", " "]}, "line 3: field 'references' is empty"),
        ({"answer_b": None}, "line 3: field 'answer_b' is None, not text"),
        ({"prompt": ""}, "line 3: field 'prompt' is empty"),
    ],
)
def test_a_bad_row_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"pairs\.jsonl, " + message):
        LabelledPairsConfig(path=write(tmp_path, ROW, ROW | change), references=2).pairs()
