"""A reward is held to its contract; a failure is a value; too many failures stop the run."""

import json
import math
from collections.abc import Callable, Sequence

import pytest

from posttrain.errors import RewardFailure
from posttrain.rewards.checked import ErrorBudget, score_checked
from posttrain.rewards.on_error import WithErrorPolicy
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput, part_name
from posttrain.types import ErrorKind, Example, Rollout, RolloutGroup


class ByFunction:
    """Scores with a function of one input."""

    def __init__(self, function: Callable[[RewardInput], RewardOutput]) -> None:
        self.function = function

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return [self.function(item) for item in inputs]

    def close(self) -> None:
        pass


class TooFew(ByFunction):
    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return super().score(inputs)[1:]


def inputs(count: int = 2) -> list[RewardInput]:
    return [RewardInput(Example(f"gsm8k-{number}", "question"), "completion") for number in range(count)]


def always(output: object) -> Reward:
    return ByFunction(lambda item: output)  # type: ignore[arg-type, return-value]


def test_a_score_becomes_a_float() -> None:
    outputs = score_checked(always(RewardOutput(True)), inputs())  # type: ignore[arg-type]
    assert [type(output.score) for output in outputs] == [float, float]


def test_no_inputs_no_call() -> None:
    assert score_checked(ByFunction(lambda item: RewardOutput(1 / 0)), []) == []


def test_an_exception_names_reward_examples_and_place() -> None:
    def fails(item: RewardInput) -> RewardOutput:
        raise KeyError("solution")

    with pytest.raises(RewardFailure) as failure:
        score_checked(ByFunction(fails), inputs(5))
    message = str(failure.value)
    assert message.startswith("ByFunction raised KeyError: 'solution' (at ")
    assert "test_checked.py:" in message
    assert "examples 'gsm8k-0', 'gsm8k-1', 'gsm8k-2' and 2 more" in message
    assert "RewardOutput(score=None, error=..." in message
    assert isinstance(failure.value.__cause__, KeyError)


def test_a_wrong_length_names_both_counts() -> None:
    with pytest.raises(RewardFailure, match=r"TooFew returned 1 outputs for 2 completions of examples 'gsm8k-0', 'gsm"):
        score_checked(TooFew(lambda item: RewardOutput(1.0)), inputs())


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (0.5, "for example 'gsm8k-0' a float, not a RewardOutput"),
        (RewardOutput("high"), "the score 'high', which is not a number"),  # type: ignore[arg-type]
        (RewardOutput(None, error="boom"), "the error 'boom'; the kinds are timeout, crashed"),  # type: ignore[arg-type]
        (RewardOutput(0.0, error="timeout"), "both the score 0.0 and the error 'timeout'"),
    ],
)
def test_what_is_no_reward_output_is_named(output: object, message: str) -> None:
    with pytest.raises(RewardFailure, match=message):
        score_checked(always(output), inputs())


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_an_error(score: float) -> None:
    output = score_checked(always(RewardOutput(score, {"part": 1.0})), inputs(1))[0]
    assert (output.score, output.error, output.parts) == (None, "not_finite", {"part": 1.0})
    assert output.message == f"ByFunction gave {score}"


def test_a_reward_that_does_not_apply_is_an_error_in_the_end() -> None:
    output = score_checked(always(RewardOutput(None)), inputs(1))[0]
    assert (output.score, output.error) == (None, "invalid_input")


def test_names() -> None:
    assert part_name(always(RewardOutput(1.0))) == "by_function"
    assert part_name(WithErrorPolicy(TooFew(lambda item: RewardOutput(1.0)), 0.0)) == "too_few"


def test_on_error_stop() -> None:
    assert WithErrorPolicy(always(RewardOutput(1.0)), None).score(inputs(1))[0].score == 1
    with pytest.raises(
        RewardFailure, match=r"by_function could not judge .*'gsm8k-0': timeout \(no result after 5 s\)"
    ):
        late = always(RewardOutput(None, error="timeout", message="no result after 5 s"))
        score_checked(WithErrorPolicy(late, None), inputs())


def test_on_error_score_keeps_the_kind_visible() -> None:
    crashed = always(RewardOutput(None, {"length": 3.0}, error="crashed"))
    output = score_checked(WithErrorPolicy(crashed, -1.0), inputs(1))[0]
    assert (output.score, output.error) == (-1.0, None)
    assert output.parts == {"length": 3.0, "error/crashed": 1.0}


def group(name: str, errors: Sequence[ErrorKind | None]) -> RolloutGroup:
    rollouts = [
        Rollout(
            name, index, [1], [2], [1], [0.0], "stop", 0, "text", reward=None if error else 1.0, error=error,
            error_message="no result after 5 s" if error else "",
        )
        for index, error in enumerate(errors)
    ]  # fmt: skip
    return RolloutGroup(Example(name, "question"), rollouts)


def test_the_budget_names_kinds_and_three_examples() -> None:
    budget = ErrorBudget(0.1)
    budget.record(0, [group("a", [None] * 9 + ["timeout"])])
    with pytest.raises(RewardFailure) as failure:
        budget.record(1, [group("b", ["crashed", "timeout", "timeout"]), group("c", ["timeout"] + [None] * 6)])
    message = str(failure.value)
    assert "5 of the 20 rewards of the last 2 steps failed" in message
    assert "trainer.max_error_fraction (0.1)" in message
    assert "timeout 4, crashed 1" in message
    assert message.count("step 1, example 'b'") == 3
    assert "step 1, example 'b': crashed (no result after 5 s)" in message


def test_one_failure_is_always_within_the_budget_unless_it_is_zero() -> None:
    ErrorBudget(0.1).record(0, [group("a", ["timeout", None])])
    with pytest.raises(RewardFailure):
        ErrorBudget(0.1).record(0, [group("a", ["timeout", "timeout"])])
    with pytest.raises(RewardFailure):
        ErrorBudget(0.0).record(0, [group("a", ["timeout"] + [None] * 99)])


def test_old_steps_leave_the_window() -> None:
    budget = ErrorBudget(0.25, window=2)
    budget.record(0, [group("a", ["timeout", "timeout"] + [None] * 6)])
    budget.record(1, [group("b", [None] * 8)])
    budget.record(2, [group("c", ["timeout"] * 3 + [None] * 5)])
    with pytest.raises(RewardFailure, match="6 of the 16"):
        budget.record(3, [group("d", ["timeout"] * 3 + [None] * 5)])


def test_the_budget_goes_on_where_it_was() -> None:
    before, after = ErrorBudget(0.25), ErrorBudget(0.25)
    before.record(0, [group("a", ["timeout", "timeout"] + [None] * 6)])
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert after.state_dict() == before.state_dict()
    with pytest.raises(RewardFailure, match=r"3 of the 10 .* step 1, example 'b'.* step 0, example 'a'"):
        after.record(1, [group("b", ["timeout", None])])
