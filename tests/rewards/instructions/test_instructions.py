"""The instruction reward: IFEval's scores and parts, its real prompts, hostile rows."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from posttrain.data.dataset import DatasetConfig
from posttrain.errors import JobError
from posttrain.rewards.checked import score_checked
from posttrain.rewards.instructions.instruction_checks import INSTRUCTIONS
from posttrain.rewards.instructions.instructions import InstructionsConfig, InstructionsReward, instructions_of
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.types import Example

PROMPTS = Path(__file__).parents[3] / ".." / "shared" / "data" / "ifeval" / "prompts.jsonl.gz"


@pytest.fixture(scope="module")
def reward() -> Iterator[InstructionsReward]:
    reward = InstructionsReward(InstructionsConfig(timeout_s=20, workers=1))
    yield reward
    reward.close()


def row(completion: str, *instructions: tuple[str, dict[str, Any] | None]) -> RewardInput:
    metadata = {
        "instruction_id_list": [name for name, _ in instructions],
        "kwargs": [arguments for _, arguments in instructions],
    }
    return RewardInput(Example("row", "question", metadata=metadata), completion)


WORDS = ("length_constraints:number_words", {"num_words": 3, "relation": "at least"})
FEWER_WORDS = ("length_constraints:number_words", {"num_words": 5, "relation": "less than", "num_bullets": None})
QUOTATION = ("startend:quotation", None)
COMMA = ("punctuation:no_comma", {})


def test_scores_and_parts(reward: InstructionsReward) -> None:
    strict = row("Sure, here it is:\n*one two three*", WORDS, FEWER_WORDS, COMMA)
    [output] = score_checked(reward, [strict])
    assert output == RewardOutput(
        pytest.approx(1 / 3),
        {
            "length_constraints:number_words": 0.5,
            "punctuation:no_comma": 0.0,
            "strict_prompt": 0.0,
            "strict_instruction": pytest.approx(1 / 3),
            "loose_prompt": 1.0,
            "loose_instruction": 1.0,
        },
    )


@pytest.mark.parametrize(
    ("score", "mode", "expected"),
    [
        ("instruction", "strict", [0.5, 1, 0.5, 0]),
        ("prompt", "strict", [0, 1, 0, 0]),
        ("instruction", "loose", [1, 1, 0.5, 0]),
        ("prompt", "loose", [1, 1, 0, 0]),
    ],
)
def test_every_way_to_score(score: Any, mode: Any, expected: list[float]) -> None:
    texts = ['Sure!\n"one two"', '"one two"', '"one, two"', " \n"]
    reward = InstructionsConfig(score=score, mode=mode, timeout_s=20, workers=1).build()
    outputs = score_checked(reward, [row(text, QUOTATION, COMMA) for text in texts])
    reward.close()
    assert [output.score for output in outputs] == expected


def test_ifevals_prompts_load_and_run(reward: InstructionsReward) -> None:
    if not PROMPTS.exists():
        pytest.skip("IFEval's prompts are not on this machine (../shared/data/ifeval)")
    loaded = DatasetConfig(path=str(PROMPTS), columns={"id": "key"}).load()
    assert len(loaded.examples) == 541 and not loaded.skipped
    instructions = [instruction for example in loaded.examples for instruction in instructions_of(example)]
    assert len(instructions) == 834
    assert {name for name, _ in instructions} == INSTRUCTIONS.keys()
    inputs = [RewardInput(example, f'"{example.prompt}"\n\nP.S. <<Done>> *so*') for example in loaded.examples]
    outputs = score_checked(reward, inputs)
    assert all(output.error is None for output in outputs)
    assert 0.1 < sum(output.score or 0.0 for output in outputs) / len(outputs) < 0.9
    assert score_checked(reward, inputs[::-1])[::-1] == outputs, "the same verdict in any order: langdetect is seeded"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "the column instruction_id_list must be a list of instruction ids, not None"),
        ({"instruction_id_list": [], "kwargs": []}, r"not \[\]"),
        ({"instruction_id_list": [["a"]], "kwargs": [{}]}, "must be a list of instruction ids"),
        ({"instruction_id_list": ["a"], "kwargs": []}, "one entry for each of the 1 instructions"),
        ({"instruction_id_list": ["a"], "kwargs": ["x"]}, "the entries of the column kwargs must be objects"),
        ({"instruction_id_list": ["a"], "kwargs": [{}]}, "unknown instruction 'a'"),
        ({"instruction_id_list": ["keywords:existence"], "kwargs": [{}]}, "the argument keywords is missing"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(reward: InstructionsReward, metadata: Any, message: str) -> None:
    bad = RewardInput(Example("bad", "question", metadata=metadata), "text")
    outputs = score_checked(reward, [row("text", COMMA), bad, row(",", COMMA)])
    assert [output.score for output in outputs] == [1, None, 0]
    assert outputs[1].error == "invalid_input"
    with pytest.raises(ValueError, match=message):
        instructions_of(bad.example)


def test_keywords_of_a_row_can_hurt_only_that_row() -> None:
    reward = InstructionsReward(InstructionsConfig(timeout_s=1.0, workers=1))
    hostile = ("keywords:existence", {"keywords": ["^(a+)+$"]})
    broken = ("keywords:forbidden_words", {"forbidden_words": ["(a"]})
    outputs = score_checked(reward, [row("a" * 60 + "b", hostile), row("x", broken), row("aaa", hostile)])
    reward.close()
    assert [(output.score, output.error) for output in outputs] == [
        (None, "timeout"),
        (None, "invalid_input"),
        (1.0, None),
    ]
    assert "checking keywords:existence: no result after 1 s" in outputs[0].message
    assert "is not a regular expression" in outputs[1].message and "forbidden_words" in outputs[1].message


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # An entry that is None makes find_spec raise; a module that is absent has no entry and is found nowhere.
    for library in ("langdetect", "nltk"):
        monkeypatch.delitem(sys.modules, library, raising=False)
    site_packages = [path for path in sys.path if not (Path(path) / "langdetect").is_dir()]
    monkeypatch.setattr(sys, "path", site_packages)
    with pytest.raises(JobError, match=r"needs langdetect and nltk.*posttrain\[instructions\]"):
        InstructionsConfig().build()
