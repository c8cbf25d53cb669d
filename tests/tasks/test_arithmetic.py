"""Arithmetic: the same problems for the same seed, none both held out and trained on, and a strict judgement."""

import random
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from posttrain.errors import JobError
from posttrain.rewards.math.exact_integer import ExactIntegerReward
from posttrain.rewards.reward import Reward, RewardInput
from posttrain.tasks.arithmetic import ArithmeticConfig, addition_columns, carries, running_totals
from posttrain.types import Example

SETTINGS: list[dict[str, Any]] = [
    {},
    {"max_operand": 999, "working": "columns"},
    {"max_operand": 9, "terms": 4, "working": "totals", "answers_only": 2},
    {"max_carries": 1, "max_operand": 999},
]


def task(**keys: Any) -> ArithmeticConfig:
    return ArithmeticConfig.model_validate({"train_size": 300, "eval_size": 50, **keys}).build()


def problem(example: Example) -> str:
    assert isinstance(example.prompt, str)
    return example.prompt.removesuffix("=")


def score(completion: str, answer: str = "46") -> float | None:
    (output,) = ExactIntegerReward().score([RewardInput(Example(id="e", prompt="p", answer=answer), completion)])
    return output.score


@pytest.mark.parametrize("keys", SETTINGS)
def test_answers_are_right_and_demonstrations_earn_the_full_reward(keys: dict[str, Any]) -> None:
    made = task(**keys)
    examples = made.train_examples() + made.eval_examples()
    assert [example.answer for example in examples] == [str(eval(problem(example))) for example in examples]
    assert all(example.references == [example.answer] for example in examples)
    shown = [(example, text) for example in examples for text in example.demonstration or []]
    outputs = made.reward().score([RewardInput(example, text) for example, text in shown])
    assert {output.score for output in outputs} == {1.0}
    assert len({example.id for example in examples}) == len(examples)
    assert (len(made.train_examples()), len(made.eval_examples())) == (300, 50)


def test_answers_only_are_further_demonstrations() -> None:
    for example in task(max_operand=9, terms=4, working="totals", answers_only=2).train_examples():
        assert isinstance(example.demonstration, list)
        working, *bare = example.demonstration
        assert working.count(",") == 2
        assert bare == [example.answer] * 2


@pytest.mark.parametrize("keys", SETTINGS)
def test_the_seed_alone_decides(keys: dict[str, Any]) -> None:
    random.seed(1)
    before = random.getstate()
    first = task(**keys)
    assert first.train_examples() == task(**keys).train_examples()
    assert first.eval_examples() == task(**keys).eval_examples()
    assert first.train_examples() != task(seed=1, **keys).train_examples()
    assert random.getstate() == before


def test_held_out_problems_do_not_depend_on_the_training_size() -> None:
    assert task(train_size=10).eval_examples() == task(train_size=1000).eval_examples()


def test_no_problem_is_on_both_sides() -> None:
    made = task(max_operand=19, train_size=200, eval_size=40)
    train = {problem(example) for example in made.train_examples()}
    assert len(train) == 200
    for text in map(problem, made.eval_examples()):
        assert text not in train
        assert "+".join(reversed(text.split("+"))) not in train


def test_examples_that_a_caller_changes_stay_in_the_task() -> None:
    made = task()
    made.train_examples().clear()
    assert len(made.train_examples()) == 300


def test_operands_and_carries() -> None:
    for example in task(max_operand=999, max_carries=1).train_examples():
        assert problem(example) == "+".join(map(str, example.metadata["operands"]))
        assert carries(example.metadata["operands"]) <= 1


def test_prompt_can_be_a_conversation() -> None:
    (example, *_) = task(format={"chat": True, "system": "Add.", "template": "What is {problem}?"}).train_examples()
    assert isinstance(example.prompt, list)
    assert [message["role"] for message in example.prompt] == ["system", "user"]
    assert example.prompt[1]["content"].startswith("What is ")


def test_operands_fill_their_range() -> None:
    operands = {
        number
        for e in task(min_operand=3, max_operand=20, train_size=200).train_examples()
        for number in e.metadata["operands"]
    }
    assert operands == set(range(3, 21))


def test_more_problems_than_there_are() -> None:
    with pytest.raises(JobError, match=r"data\.train_size: asked for 300 different problems, found \d+; raise max_op"):
        task(max_operand=9).train_examples()
    with pytest.raises(JobError, match=r"data\.eval_size: asked for 50 different problems, found 0; "):
        task(min_operand=9, max_operand=9, max_carries=0).eval_examples()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"min_operand": 10, "max_operand": 9}, "min_operand 10 is above max_operand 9"),
        ({"terms": 3, "working": "columns"}, "use working: totals"),
        ({"operand": 3}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_cannot_be(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ArithmeticConfig.model_validate(keys)


# ---- the working --------------------------------------------------------------------------------------------------


def test_running_totals() -> None:
    assert running_totals([3, 5, 8, 2]) == "8,16,18"


@pytest.mark.parametrize(
    ("numbers", "count"),
    [([12, 34], 0), ([57, 68], 2), ([99, 1], 2), ([5, 5], 1), ([0, 0], 0), ([999, 1], 3), ([95, 5, 100], 2), ([7], 0)],
)
def test_carries(numbers: list[int], count: int) -> None:
    assert carries(numbers) == count


@pytest.mark.parametrize(
    ("a", "b", "columns"),
    [
        (57, 68, "7+8=15 5+6+1=12 125"),
        (12, 34, "2+4=6 1+3=4 46"),
        (5, 120, "5+0=5 0+2=2 0+1=1 125"),
        (0, 0, "0+0=0 0"),
        (99, 1, "9+1=10 9+0+1=10 100"),
    ],
)
def test_addition_columns(a: int, b: int, columns: str) -> None:
    assert addition_columns(a, b) == columns


@given(a=st.integers(0, 10**6), b=st.integers(0, 10**6))
def test_every_column_is_a_true_sum_and_the_answer_is_last(a: int, b: int) -> None:
    *columns, answer = addition_columns(a, b).split(" ")
    assert int(answer) == a + b
    assert len(columns) == len(str(max(a, b)))
    for column in columns:
        left, right = column.split("=")
        assert eval(left) == int(right)


# ---- the judgement ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("completion", "answer", "expected"),
    [
        ("46", "46", 1.0),
        ("046", "46", 1.0),
        ("2+4=6 1+3=4 46", "46", 1.0),
        ("46 or 47", "46", 0.0),
        ("-46", "46", 0.0),
        ("", "46", 0.0),
        ("forty-six", "46", 0.0),
        ("5-(-4)=9", "9", 1.0),
        ("3-7=-4", "-4", 1.0),
        ("50-4", "-4", 0.0),
        ("(50)-4", "4", 1.0),
        ("-0", "0", 1.0),
        ("000", "0", 1.0),
        ("٤٦", "46", 0.0),
        ("146", "46", 0.0),
        ("4 6", "46", 0.0),
    ],
)
def test_the_last_integer_is_judged(completion: str, answer: str, expected: float) -> None:
    assert score(completion, answer) == expected


def test_more_digits_than_python_converts() -> None:
    assert score("9" * 10_000) == 0.0
    assert score("0" * 10_000 + "46") == 1.0


@pytest.mark.parametrize("answer", [None, "x", "1.5", ["46"]])
def test_an_answer_that_is_no_integer_is_an_error_and_not_a_zero(answer: Any) -> None:
    (output,) = ExactIntegerReward().score([RewardInput(Example(id="e", prompt="p", answer=answer), "46")])
    assert (output.score, output.error) == (None, "invalid_input")
    assert "is not an integer" in output.message


def test_the_judgement_is_a_reward_and_costs_microseconds() -> None:
    reward = task().reward()
    assert isinstance(reward, Reward)
    inputs = [RewardInput(Example(id="e", prompt="p", answer="46"), "2+4=6 1+3=4 46")] * 10_000
    start = time.process_time()
    reward.score(inputs)
    assert (time.process_time() - start) / len(inputs) < 1e-4
    reward.close()
