"""Multiple choice: the options are in the prompt, and the answer is a letter however the row says it."""

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import DataError
from posttrain.rewards.reward import RewardInput
from posttrain.tasks.multiple_choice import MultipleChoiceTaskConfig

ROW = {"question": "Which is a bird?", "options": ["cat", "owl", "elk"], "answer": "B", "category": "animals"}


def examples(folder: Path, *rows: dict[str, Any], **keys: Any) -> list[Any]:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = MultipleChoiceTaskConfig(path=str(file), columns={"prompt": "question"}, **keys)
    return config.build().train_examples()


def test_the_options_are_put_to_the_model(tmp_path: Path) -> None:
    [example] = examples(tmp_path, ROW)
    [message] = example.prompt
    assert message["content"].startswith("Which is a bird?\nA) cat\nB) owl\nC) elk\n\nThink step by step")
    assert (example.answer, example.metadata["category"]) == ("B", "animals")
    reward = MultipleChoiceTaskConfig(path="rows.jsonl").build().reward()
    texts = ["It flies. The answer is (B).", "The answer is (C).", "an owl"]
    assert [output.score for output in reward.score([RewardInput(example, text) for text in texts])] == [1, 0, 0]


@pytest.mark.parametrize("answer", ["B", "b", 1, "1"])
def test_forms_of_answers(tmp_path: Path, answer: Any) -> None:
    row = {"question": "?", "choices": ["cat", "owl", "elk"], "answer": answer}
    [example] = examples(tmp_path, row, options_column="choices")
    assert example.answer == "B" and "B) owl" in example.prompt[0]["content"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "D"}, r"line 1: field 'answer' is 'D', which is none of the options"),
        ({"answer": 3}, r"line 1: field 'answer' is '3', which is none of the options"),
        ({"answer": "owl"}, r"line 1: field 'answer' is 'owl', which is none of the options"),
        ({"options": ["owl"]}, r"line 1: field 'options' is not a list of 2 to 10 options"),
        ({"options": "cat, owl"}, r"line 1: field 'options' is not a list of 2 to 10 options"),
        ({"question": None}, r"line 1: field 'prompt' \(column 'question'\)"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        examples(tmp_path, ROW | change)
