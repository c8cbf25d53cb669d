"""Tasks on data files: the held-out split, GSM8K's format, selection by pass rate, and the choice by ``type``."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from posttrain.errors import DataError
from posttrain.rewards.reward import RewardInput
from posttrain.tasks.arithmetic import ArithmeticConfig
from posttrain.tasks.config import TaskConfig
from posttrain.tasks.file_task import FileTask, RowsConfig, prompt_key
from posttrain.tasks.gsm8k import GSM8KConfig, gold_number
from posttrain.types import Example

SHARED_GSM8K = Path(__file__).parents[2] / ".." / "shared" / "data" / "gsm8k"


def write_lines(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def rows_task(path: str, **keys: Any) -> FileTask:
    return RowsConfig.model_validate({"path": path, **keys}).build()


def ids(examples: list[Example]) -> list[str]:
    return [example.id for example in examples]


# ---- rows ---------------------------------------------------------------------------------------------------------


def test_rows_have_no_judgement_of_their_own(tmp_path: Path) -> None:
    made = rows_task(write_lines(tmp_path / "a.jsonl", {"prompt": "x"}))
    assert made.reward() is None
    assert (ids(made.train_examples()), made.eval_examples()) == (["a:1"], [])


def test_a_share_of_the_prompts_is_held_out_and_never_trained_on(tmp_path: Path) -> None:
    rows = [{"prompt": [{"role": "user", "content": f"question {number % 50}"}]} for number in range(80)]
    path = write_lines(tmp_path / "a.jsonl", *rows)
    made = rows_task(path, eval_fraction=0.1)
    train, held_out = made.train_examples(), made.eval_examples()
    assert len({prompt_key(example) for example in held_out}) == 5
    assert not {prompt_key(example) for example in held_out} & {prompt_key(example) for example in train}
    assert sorted(ids(train) + ids(held_out)) == sorted(f"a:{number}" for number in range(1, 81))
    assert ids(rows_task(path, eval_fraction=0.1).eval_examples()) == ids(held_out)
    assert ids(rows_task(path, eval_fraction=0.1, eval_seed=1).eval_examples()) != ids(held_out)


def test_a_file_is_held_out(tmp_path: Path) -> None:
    train = write_lines(tmp_path / "train.jsonl", {"prompt": "a"}, {"prompt": "b"})
    test = write_lines(tmp_path / "test.jsonl", {"prompt": "c"})
    made = rows_task(train, eval_path=test)
    assert (ids(made.train_examples()), ids(made.eval_examples())) == (["train:1", "train:2"], ["test:1"])


def test_a_split_is_held_out(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_lines(folder / "train.jsonl", {"prompt": "a"}, {"prompt": "b"})
    write_lines(folder / "test.jsonl", {"prompt": "c"})
    made = rows_task(str(folder), eval_split="test")
    assert [example.prompt for example in made.train_examples()] == ["a", "b"]
    assert [example.prompt for example in made.eval_examples()] == ["c"]


def test_a_prompt_in_both_files(tmp_path: Path) -> None:
    train = write_lines(tmp_path / "train.jsonl", {"prompt": "a"}, {"prompt": "b"})
    test = write_lines(tmp_path / "test.jsonl", {"prompt": "b"})
    with pytest.raises(DataError, match=r"1 training rows of .* the first 'train:2' that of 'test:1' \(bad_rows: skip"):
        rows_task(train, eval_path=test).train_examples()
    skipping = rows_task(train, eval_path=test, bad_rows="skip")
    assert (ids(skipping.train_examples()), ids(skipping.eval_examples())) == (["train:1"], ["test:1"])


def test_one_source_of_held_out_rows() -> None:
    with pytest.raises(ValidationError, match="give one of eval_path, eval_split and eval_fraction"):
        RowsConfig(path="a.jsonl", eval_path="b.jsonl", eval_fraction=0.1)


def test_training_prompts_are_chosen_by_pass_rate_and_held_out_ones_are_not(tmp_path: Path) -> None:
    rates = [0.0, 0.5, 0.9, 1.0]
    train = write_lines(tmp_path / "train.jsonl", *({"prompt": str(rate), "pass_rate": rate} for rate in rates))
    test = write_lines(tmp_path / "test.jsonl", {"prompt": "x"})
    filtered = rows_task(train, eval_path=test, pass_rate_range=[0.0, 0.8])
    assert ids(filtered.train_examples()) == ["train:1", "train:2"]
    assert ids(filtered.eval_examples()) == ["test:1"]
    repeats = [{"low": 0, "high": 0.2, "repeats": 2}, {"low": 0.2, "high": 0.8, "repeats": 1}]
    assert ids(rows_task(train, pass_rate_repeats=repeats).train_examples()) == ["train:1", "train:1", "train:2"]
    with pytest.raises(DataError, match=r"no training example of .* is left"):
        rows_task(train, pass_rate_range=[0.1, 0.2]).train_examples()
    with pytest.raises(DataError, match="example 'test:1' has pass_rate None"):
        rows_task(test, pass_rate_range=[0.1, 0.2]).train_examples()


# ---- gsm8k --------------------------------------------------------------------------------------------------------


def gsm8k_task(path: str, **keys: Any) -> GSM8KConfig:
    return GSM8KConfig.model_validate({"path": path, **keys}).build()


def test_gsm8k_row(tmp_path: Path) -> None:
    answer = "She sold 48/2 = <<48/2=24>>24 clips.\nIn all 48+1,152 = <<48+1152=1200>>1,200.\n#### 1,200"
    made = gsm8k_task(write_lines(tmp_path / "train.jsonl", {"question": "How many?", "answer": answer, "grade": 3}))
    (example,) = made.train_examples()
    assert (example.answer, example.metadata) == ("1200", {"grade": 3})
    assert example.demonstration == "She sold 48/2 = 24 clips.\nIn all 48+1,152 = 1,200.\n#### 1200"
    assert isinstance(example.prompt, list)
    assert example.prompt[0]["content"].startswith("How many?\n")


def test_gsm8k_prompt_format_is_the_users(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "train.jsonl", {"question": "How many?", "answer": "#### 1"})
    (example,) = gsm8k_task(path, format={"template": "Q: {problem}\nA:"}).train_examples()
    assert example.prompt == "Q: How many?\nA:"
    assert example.demonstration == "#### 1"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (" 72", "72"),
        ("$1,200.50 ", "1200.50"),
        ("-5", "-5"),
        ("18.00", "18.00"),
        ("50%", "50"),
        ("12 dollars.", "12"),
        ("3.", "3"),
        (".5", ".5"),
        ("1/2", "1/2"),
        ("2 1/2 cups", "2 1/2"),
    ],
)
def test_gold_number(text: str, number: str) -> None:
    assert gold_number(text) == number


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "q", "answer": "just 72"}, "line 2: field 'answer' has no #### before its number"),
        ({"question": "q", "answer": "#### none"}, "line 2: field 'answer' has no number after ####, but 'none'"),
        ({"question": "q", "answer": ["#### 1"]}, "line 2: field 'answer' is not one text"),
        ({"question": 7, "answer": "#### 1"}, r"line 2: field 'prompt' \(column 'question'\) is a number \(7\)"),
        ({"question": "q"}, r"line 2: field 'demonstration' \(column 'answer'\) is missing"),
    ],
)
def test_bad_gsm8k_rows(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = write_lines(tmp_path / "train.jsonl", {"question": "ok", "answer": "#### 1"}, row)
    with pytest.raises(DataError, match=rf"train\.jsonl, {message}"):
        gsm8k_task(path).train_examples()
    assert len(gsm8k_task(path, bad_rows="skip").train_examples()) == 1


def test_gsm8k_file_without_its_columns(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "train.jsonl", {"problem": "q", "answer": "#### 1"})
    with pytest.raises(
        DataError, match=r"has no column 'question', which columns\.prompt names; its columns are 'prob"
    ):
        gsm8k_task(path).train_examples()


def test_gsm8k_columns_are_fixed() -> None:
    with pytest.raises(ValidationError, match="use type rows for a mapping"):
        GSM8KConfig(path="train.jsonl", columns={"prompt": "problem"})


@pytest.mark.skipif(not SHARED_GSM8K.is_dir(), reason="the real GSM8K files are not beside this checkout")
def test_the_real_gsm8k_loads_whole() -> None:
    made = gsm8k_task(str(SHARED_GSM8K / "train.jsonl.gz"), eval_path=str(SHARED_GSM8K / "test.jsonl.gz"))
    train, held_out = made.train_examples(), made.eval_examples()
    assert (len(train), len(held_out)) == (7473, 1319)
    assert (train[0].answer, held_out[0].answer) == ("72", "18")
    for example in train + held_out:
        assert isinstance(example.answer, str)
        assert str(int(example.answer)) == example.answer
        assert "<<" not in str(example.demonstration)
        assert str(example.demonstration).endswith(f"\n#### {example.answer}")


@pytest.mark.skipif(not SHARED_GSM8K.is_dir(), reason="the real GSM8K files are not beside this checkout")
def test_real_demonstrations_earn_the_full_reward_and_a_wrong_number_none() -> None:
    made = gsm8k_task(str(SHARED_GSM8K / "test.jsonl.gz"))
    examples = made.train_examples()[:50]
    reward = made.reward()
    try:
        right = reward.score([RewardInput(example, str(example.demonstration)) for example in examples])
        wrong = reward.score([RewardInput(example, f"#### {int(str(example.answer)) + 1}") for example in examples])
    finally:
        reward.close()
    assert [output.score for output in right] == [1.0] * 50
    assert [output.score for output in wrong] == [0.0] * 50


# ---- the choice ---------------------------------------------------------------------------------------------------


def test_type_chooses_the_task() -> None:
    adapter = TypeAdapter(TaskConfig)
    assert isinstance(adapter.validate_python({"type": "arithmetic", "terms": 3}), ArithmeticConfig)
    assert isinstance(adapter.validate_python({"type": "gsm8k", "path": "a.jsonl"}), GSM8KConfig)
    assert isinstance(adapter.validate_python({"type": "rows", "path": "a.jsonl"}), RowsConfig)
    with pytest.raises(ValidationError, match="type"):
        adapter.validate_python({"type": "arithmetics"})


def test_a_users_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_task.py").write_text(
        "from posttrain.types import Example\n"
        "class Mine:\n"
        "    def __init__(self, prompt):\n"
        "        self.prompt = prompt\n"
        "    def train_examples(self):\n"
        "        return [Example(id='1', prompt=self.prompt)]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = TypeAdapter(TaskConfig).validate_python({"type": "my_task:Mine", "prompt": "hello"})
    assert config.build().train_examples()[0].prompt == "hello"


def test_the_configs_import_without_torch_or_datasets() -> None:
    code = (
        "import sys, posttrain.tasks.config as c\n"
        "sys.exit(bool({'torch', 'transformers', 'datasets', 'pyarrow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
