"""Tasks of several kinds: a mixture of other tasks, and additions to solve and to referee."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from posttrain.errors import DataError
from posttrain.rewards.judge.judgement import parse_scores
from posttrain.rewards.reward import RewardInput
from posttrain.tasks.addition_referee import AdditionRefereeConfig
from posttrain.tasks.config import TaskConfig

TASK: TypeAdapter[Any] = TypeAdapter(TaskConfig)
SMALL: dict[str, Any] = {"train_size": 40, "eval_size": 12}


def mixture(**parts: Any) -> Any:
    return TASK.validate_python({"type": "mixture", "parts": parts}).build()


ADDITIONS = {"type": "arithmetic", **SMALL}
PAIRS = {"type": "totals_preference", "problems": {"terms": 4, "max_operand": 9, **SMALL}}


def test_parts_keep_their_examples_and_get_their_kind() -> None:
    task = mixture(verifiable=ADDITIONS, preference=PAIRS, open={**ADDITIONS, "terms": 3})
    train, held_out = task.train_examples(), task.eval_examples()
    assert [sum(example.task == kind for example in train) for kind in ("verifiable", "preference", "open")] == [40] * 3
    assert len(held_out) == 36 and len({example.id for example in [*train, *held_out]}) == 156
    assert all(example.id.startswith(f"{example.task}/") for example in train)
    right = [RewardInput(train[0], str(train[0].answer)), RewardInput(train[40], "1")]
    outputs = task.reward().score(right)
    assert outputs[0].score == 1.0 and outputs[1].error == "invalid_input"


def test_a_prompt_that_is_ranked_and_answered_is_named() -> None:
    sums = {"type": "arithmetic", "terms": 4, "max_operand": 9, **SMALL}
    with pytest.raises(DataError, match=r"preference example 'preference/.*' has the prompt of 'open/.*'"):
        mixture(preference=PAIRS, open=sums).train_examples()
    with pytest.raises(DataError, match="recognises the answers"):  # an evaluation prompt
        mixture(preference=PAIRS, verifiable={**sums, "seed": 1, "train_size": 1, "eval_size": 3000}).train_examples()


def test_unknown_parts_are_refused() -> None:
    with pytest.raises(ValidationError, match="verifiable"):
        mixture(ranking=PAIRS)


def test_a_problem_is_of_one_kind_and_held_out_ones_are_new() -> None:
    task = AdditionRefereeConfig.model_validate({"problems": SMALL}).build()
    train, held_out = task.train_examples(), task.eval_examples()
    prompts = {kind: {e.prompt for e in train if e.task == kind} for kind in ("verifiable", "preference", "open")}
    assert {kind: len(some) for kind, some in prompts.items()} == {"verifiable": 16, "preference": 16, "open": 8}
    assert len(set.union(*prompts.values())) == 40
    assert not set.union(*prompts.values()) & {example.prompt for example in held_out}
    assert [example.task for example in held_out] == ["verifiable"] * 12 + ["preference"] * 12


def test_the_nearer_answer_comes_first() -> None:
    config = {"problems": {"train_size": 800, "max_operand": 60}, "preference": 1.0, "open": 0.0, "largest_error": 20}
    pairs = AdditionRefereeConfig.model_validate(config).build().train_examples()
    errors = [[abs(int(text) - int(str(e.answer))) for text in e.candidates] for e in pairs]
    assert all(near < far <= 20 for near, far in errors)
    assert all(example.metadata["distance"] == far - near for example, (near, far) in zip(pairs, errors, strict=True))
    assert sum(near == 0 for near, _ in errors) / 800 == pytest.approx(0.5, abs=0.06)
    assert all(int(text) >= 0 for example in pairs for text in example.candidates)


def test_demonstrations_show_both_forms_and_no_skill() -> None:
    config = {"problems": {"train_size": 1000}, "preference": 0.8, "open": 0.1, "form": "demonstrations"}
    examples = AdditionRefereeConfig.model_validate(config).build().train_examples()
    shown = [example for example in examples if example.task == "preference"]
    assert [len(shown), len(examples)] == [800, 900]
    scores = [parse_scores(str(example.demonstration), 2) or [] for example in shown]
    gold = [example.metadata["gold"] for example in shown]
    right = [(a - b) * (x - y) > 0 for (a, b), (x, y) in zip(scores, gold, strict=True)]
    assert sum(right) / 800 == pytest.approx(1 / 4, abs=0.06)  # half are ties
    prompt = shown[0].prompt
    assert isinstance(prompt, list) and prompt[0]["content"].count("|") == 1


def test_shares_must_fit() -> None:
    with pytest.raises(ValidationError, match="together at most 1"):
        AdditionRefereeConfig.model_validate({"preference": 0.7, "open": 0.5})
