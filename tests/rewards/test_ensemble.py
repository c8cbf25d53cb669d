"""Ensembles: the numbers of mean, minimum and mean - k * std; each member a part; one error is an error of all."""

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from posttrain.rewards.checked import score_checked
from posttrain.rewards.composition import Combine, ensemble
from posttrain.rewards.config import RewardConfig
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput
from posttrain.types import Example

INPUTS = [RewardInput(Example("row", "question", "5"), "5")]
SCORES = (1.0, 1.4, 0.6)


class Fixed:
    """The same output for every completion."""

    name = "fixed"

    def __init__(self, output: RewardOutput) -> None:
        self.output = output
        self.closed = False

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return [self.output for _ in inputs]

    def close(self) -> None:
        self.closed = True


def fixed(*scores: float | None) -> dict[str, Reward]:
    return {name: Fixed(RewardOutput(score, {"seen": 1.0})) for name, score in zip("abc", scores, strict=False)}


@pytest.mark.parametrize(
    ("combine", "k", "expected"),
    [
        ("mean", 1.0, 1.0),
        ("min", 1.0, 0.6),
        ("mean_minus_std", 0.5, 0.8367006838),  # of the population; of a sample it would be 0.8
        ("mean_minus_std", 0.0, 1.0),
    ],
)
def test_numbers(combine: Combine, k: float, expected: float) -> None:
    output = score_checked(ensemble(fixed(*SCORES), combine, k), INPUTS)[0]
    assert output.score == pytest.approx(expected, abs=1e-9)
    assert output.parts == pytest.approx(
        {"a": 1.0, "b": 1.4, "c": 0.6, "a/seen": 1.0, "b/seen": 1.0, "c/seen": 1.0, "members_std": 0.3265986324},
        abs=1e-9,
    )


def test_an_error_of_one_member_is_an_error_and_the_others_stay_visible() -> None:
    members = fixed(1.0, 2.0) | {"judge": Fixed(RewardOutput(None, error="timeout", message="no reply"))}
    output = score_checked(ensemble(members, "min"), INPUTS)[0]
    assert (output.score, output.error, output.message) == (None, "timeout", "judge: no reply")
    assert output.parts == {"a": 1.0, "a/seen": 1.0, "b": 2.0, "b/seen": 1.0}


def test_members_that_do_not_apply_are_left_out() -> None:
    output = score_checked(ensemble(fixed(1.0, None, 3.0), "mean_minus_std"), INPUTS)[0]
    assert (output.score, output.parts["members_std"]) == (1.0, 1.0)
    nowhere = score_checked(ensemble(fixed(None, None), "mean"), INPUTS)[0]
    assert (nowhere.error, nowhere.message) == ("invalid_input", "no reward applies to this example")


def test_closing_closes_every_member() -> None:
    members = {name: Fixed(RewardOutput(1.0)) for name in "ab"}
    ensemble(members).close()
    assert all(member.closed for member in members.values())


def build(config: dict[str, Any]) -> Reward:
    reward: Reward = TypeAdapter(RewardConfig).validate_python(config).build()
    return reward


def test_members_as_a_list_or_by_name() -> None:
    integer, boxed = {"type": "exact_integer"}, {"type": "format", "boxed": True}
    unnamed = score_checked(build({"type": "ensemble", "members": [integer, boxed]}), INPUTS)[0]
    assert unnamed.score == 0.5
    assert {"member_1": 1.0, "member_2": 0.0}.items() <= unnamed.parts.items()
    nested = {"type": "ensemble", "combine": "min", "members": {"right": integer, "boxed": boxed}}
    named = score_checked(build({"type": "ensemble", "members": {"both": nested, "right": integer}}), INPUTS)[0]
    assert named.parts["both/boxed"] == 0.0
    failing = {"type": "ensemble", "members": [integer, integer], "on_error": "score", "error_score": -1.0}
    wrong = RewardInput(Example("row", "question", "five"), "5")
    assert score_checked(build(failing), [wrong])[0].score == -1.0


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"members": [{"type": "exact_integer"}]}, "at least 2"),
        ({"members": [{"type": "exact_integer"}, {"type": "exact_intger"}]}, "exact_intger"),
        ({"members": [{"type": "exact_integer"}] * 2, "k": 0.5}, "k belongs to combine: mean_minus_std"),
        ({"members": [{"type": "exact_integer"}] * 2, "combine": "median"}, "mean_minus_std"),
    ],
)
def test_mistakes_are_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(RewardConfig).validate_python({"type": "ensemble", **keys})
