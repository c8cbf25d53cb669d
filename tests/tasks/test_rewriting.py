"""Rewriting: answers that follow the instruction, held-out sentences of their own, and the controls."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from posttrain.errors import DataError
from posttrain.rewards.reward import RewardInput
from posttrain.tasks.rewriting import REWRITE, Instruction, RewritingConfig, is_held_out


def task(**keys: Any) -> RewritingConfig:
    return RewritingConfig.model_validate({"train_size": 300, "eval_size": 50, **keys}).build()


@pytest.mark.parametrize(
    ("instruction", "rewritten"),
    [("reverse", "emu cat yak ant bat"), ("pairs", "ant bat cat yak emu"), ("riffle", "bat yak emu ant cat"),
     ("sort", "ant bat cat emu yak")],
)  # fmt: skip
def test_instructions(instruction: Instruction, rewritten: str) -> None:
    assert REWRITE[instruction](["bat", "ant", "yak", "cat", "emu"]) == rewritten.split()


def test_a_reference_earns_the_full_reward_and_a_copy_or_an_exchange_less() -> None:
    made = task(references=3, copies=1)
    examples = made.train_examples() + made.eval_examples()
    reward = made.reward()
    for example in examples:
        assert example.references == [
            style.format(" ".join(REWRITE[example.metadata["instruction"]](example.id.split())))
            for style in ("{}", "so {}", "{} now")
        ]
        assert example.demonstration == [*example.references, example.id]
        assert example.candidates[0] == example.references[0]
        outputs = reward.score([RewardInput(example, text) for text in [*example.references, example.candidates[1]]])
        *best, exchanged = [output.score or 0.0 for output in outputs]
        assert best == [1.0] * 3
        assert exchanged < 0.95
        assert sorted(example.candidates[1].split()) == sorted(example.id.split())
    assert {example.metadata["instruction"] for example in examples} == set(REWRITE)


def test_rows_are_of_the_seed_and_none_is_both_held_out_and_trained_on() -> None:
    made = [task(seed=seed) for seed in (0, 0, 1)]
    assert made[0].train_examples() == made[1].train_examples() != made[2].train_examples()
    for one in made:
        assert len({example.id for example in one.train_examples()}) == 300
        assert len({example.id for example in one.eval_examples()}) == 50
        assert all(is_held_out(example.id) for example in one.eval_examples())
        assert not any(is_held_out(example.id) for example in one.train_examples())
    assert task(train_size=100).eval_examples() == made[0].eval_examples()
    assert task(train_size=100).train_examples() == made[0].train_examples()[:100]


def test_shuffled_references_are_another_rows() -> None:
    plain, shuffled = task(), task(shuffled_references=True)
    assert shuffled.eval_examples() == plain.eval_examples()
    own = {example.id: example for example in plain.train_examples()}
    for example in shuffled.train_examples():
        assert example.references != own[example.id].references
        assert example.demonstration == own[example.id].demonstration
    references = [sorted(str(e.references) for e in t.train_examples()) for t in (plain, shuffled)]
    assert references[0] == references[1]


def test_ids_from_a_file(tmp_path: Path) -> None:
    rows, file = task().train_examples(), tmp_path / "selected.jsonl"
    file.write_text("".join(json.dumps({"id": rows[n].id, "score": 0.5}) + "\n" for n in (7, 2)))
    chosen = task(ids_from=str(file))
    assert chosen.train_examples() == [rows[7], rows[2]]
    assert chosen.eval_examples() == task().eval_examples()
    file.write_text('{"id": "no such row"}\n')
    with pytest.raises(DataError, match="names 'no such row', which is no training row"):
        task(ids_from=str(file)).train_examples()
    with pytest.raises(DataError, match="there is no data file"):
        task(ids_from=str(tmp_path / "absent.jsonl")).train_examples()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"min_words": 7}, "min_words 7 is above max_words 6"),
        ({"min_words": 2, "max_words": 3}, "train_size \\+ 10 eval_size is above 1680: raise max_words"),
        ({"references": 4}, "less than or equal to 3"),
        ({"instructions": ["translate"]}, "'reverse', 'pairs', 'riffle' or 'sort'"),
    ],
)
def test_what_cannot_be_made_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RewritingConfig.model_validate({"train_size": 4000, "eval_size": 50, **keys})
