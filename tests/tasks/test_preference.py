"""Preference rows in every form become prompts with ranked candidates; rows that prefer nothing are named."""

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import DataError
from posttrain.tasks.arithmetic import TotalsPreferenceConfig
from posttrain.tasks.preference import PreferenceConfig
from posttrain.types import Example

HH_PAIRS = Path(__file__).parents[3] / "shared" / "data" / "hh_rlhf" / "pairs.jsonl.gz"
USER = {"role": "user", "content": "Hi"}


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def load(folder: Path, *rows: dict[str, Any], **config: Any) -> list[Example]:
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return PreferenceConfig(path=str(file), **config).build().train_examples()


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "Hi", "chosen": "good", "rejected": "bad"}, "Hi"),
        ({"prompt": [USER], "chosen": "good", "rejected": "bad"}, [USER]),
        ({"prompt": [USER], "chosen": [answer("good")], "rejected": [answer("bad")]}, [USER]),
        ({"chosen": [USER, answer("good")], "rejected": [USER, answer("bad")]}, [USER]),
        ({"chosen": "\n\nHuman: Hi\n\nAssistant: good", "rejected": "\n\nHuman: Hi\n\nAssistant: bad"}, [USER]),
        ({"prompt": "Hi", "candidates": ["good", "bad"]}, "Hi"),
    ],
    ids=["text", "messages", "TRL", "implicit prompt", "HH", "ranked"],
)
def test_every_form_of_a_pair(tmp_path: Path, row: dict[str, Any], prompt: object) -> None:
    (example,) = load(tmp_path, row)
    assert (example.prompt, example.candidates, example.task) == (prompt, ["good", "bad"], "preference")


def test_a_long_conversation_keeps_its_turns(tmp_path: Path) -> None:
    start = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: How?\n\nand why?\n\nAssistant: "
    (example,) = load(tmp_path, {"chosen": start + "So.\n\nThus.", "rejected": start + "No."})
    assert example.prompt == [USER, answer("Hello!"), {"role": "user", "content": "How?\n\nand why?"}]
    assert example.candidates == ["So.\n\nThus.", "No."]


def test_margin_and_other_columns_are_kept(tmp_path: Path) -> None:
    row = {"prompt": "Hi", "good": "a", "bad": "b", "gap": "0.5", "topic": "x"}
    columns = {"chosen_column": "good", "rejected_column": "bad", "margin_column": "gap"}
    (example,) = load(tmp_path, row, **columns)
    assert example.metadata == {"margin": 0.5, "topic": "x"}


def test_a_ranking_of_many(tmp_path: Path) -> None:
    (example,) = load(
        tmp_path, {"q": "Hi", "answers": ["a", "b", "c"]}, columns={"prompt": "q", "candidates": "answers"}
    )
    assert (example.prompt, example.candidates) == ("Hi", ["a", "b", "c"])


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "Hi", "chosen": "same", "rejected": "same"}, "two equal completions"),
        ({"prompt": "Hi", "candidates": ["one"]}, "fewer than two"),
        ({"prompt": "Hi", "chosen": "a"}, "field 'rejected' is missing"),
        ({"prompt": "Hi", "chosen": "a", "rejected": 3}, "'rejected' is neither text nor a list"),
        ({"prompt": "Hi", "chosen": "a", "rejected": "  "}, "is empty"),
        ({"prompt": "Hi", "chosen": "a", "rejected": "b", "margin": "big"}, "'margin' is 'big', not a number"),
        ({"chosen": [USER], "rejected": [answer("b")]}, "'chosen' does not end with the assistant's answer"),
        ({"chosen": "a", "rejected": "b"}, "not conversations that differ in one answer"),
        ({"chosen": [USER, answer("a"), USER, answer("b")], "rejected": [USER, answer("c")]}, "differ in one answer"),
        ({"prompt": "Hi", "chosen": [USER, answer("a")], "rejected": "b"}, "several turns beside a prompt"),
    ],
)
def test_rows_that_prefer_nothing_are_named(tmp_path: Path, row: dict[str, Any], problem: str) -> None:
    good = {"prompt": "Hi", "chosen": "a", "rejected": "b"}
    with pytest.raises(DataError, match=rf"pairs\.jsonl, line 2: .*{problem}"):
        load(tmp_path, good, row)
    assert len(load(tmp_path, good, row, bad_rows="skip")) == 1


def test_equal_prompts_are_held_out_together(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n % 5}", "chosen": f"a{n}", "rejected": f"b{n}"} for n in range(20)]
    load(tmp_path, *rows)
    task = PreferenceConfig(path=str(tmp_path / "pairs.jsonl"), eval_fraction=0.4).build()
    train, held_out = ({example.prompt for example in side} for side in (task.train_examples(), task.eval_examples()))
    assert (len(train), len(held_out), train & held_out) == (3, 2, set())


@pytest.mark.skipif(not HH_PAIRS.is_file(), reason="the HH-RLHF pairs are not on this machine")
def test_real_pairs() -> None:
    task = PreferenceConfig(path=str(HH_PAIRS), eval_fraction=0.5, bad_rows="skip").build()
    train, held_out = task.train_examples(), task.eval_examples()
    assert len(train) + len(held_out) == 1155  # one row has an empty answer
    assert all(len(example.candidates) == 2 and example.prompt[-1]["role"] == "user" for example in train + held_out)


def test_wrong_totals_go_on_from_the_error() -> None:
    config = TotalsPreferenceConfig(problems={"terms": 5, "max_operand": 9, "train_size": 200, "eval_size": 50})
    examples = config.build().train_examples()
    steps = set()
    for example in examples:
        operands = example.metadata["operands"]
        right, wrong = ([operands[0], *map(int, text.split(","))] for text in example.candidates)
        off = [right[n] + operands[n + 1] - right[n + 1] for n in range(4)]
        errors = [wrong[n] + operands[n + 1] - wrong[n + 1] for n in range(4)]
        assert off == [0] * 4
        assert sum(error != 0 for error in errors) == 1
        steps.add(next(n for n, error in enumerate(errors) if error))
    assert steps == {0, 1, 2, 3}
    again = config.build()
    assert [example.candidates for example in again.train_examples()] == [example.candidates for example in examples]
    assert not {example.id for example in again.eval_examples()} & {example.id for example in examples}
