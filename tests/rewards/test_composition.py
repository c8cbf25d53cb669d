"""Weighted sum, gate and route: scores, parts under their names, and errors that stay errors."""

from collections.abc import Mapping, Sequence

import pytest

from posttrain.errors import RewardFailure
from posttrain.rewards.checked import score_checked
from posttrain.rewards.composition import GateReward, RouteReward, product, weighted_sum
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.types import Example

FAILED = RewardOutput(None, {"seen": 1.0}, error="timeout", message="no result after 5 s")


class Table:
    """Gives each completion the output that the table holds for it, and remembers what it was asked."""

    def __init__(self, outputs: Mapping[str, RewardOutput | float | None], name: str = "table") -> None:
        self.outputs = outputs
        self.name = name
        self.asked: list[str] = []
        self.closed = False

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        self.asked += [item.completion for item in inputs]
        found = [self.outputs[item.completion] for item in inputs]
        return [output if isinstance(output, RewardOutput) else RewardOutput(output) for output in found]

    def close(self) -> None:
        self.closed = True


def completions(*texts: str, **fields: object) -> list[RewardInput]:
    return [RewardInput(Example(text, "question", **fields), text) for text in texts]  # type: ignore[arg-type]


def test_weighted_sum() -> None:
    answer = Table({"x": RewardOutput(1.0, {"by_box": 1.0}), "y": 0.0})
    length = Table({"x": -0.5, "y": -1.0})
    outputs = score_checked(weighted_sum({"answer": (2.0, answer), "length": (0.5, length)}), completions("x", "y"))
    assert outputs[0] == RewardOutput(1.75, {"answer": 1.0, "answer/by_box": 1.0, "length": -0.5})
    assert outputs[1] == RewardOutput(-0.5, {"answer": 0.0, "length": -1.0})


def test_weighted_sum_leaves_out_a_part_that_does_not_apply() -> None:
    reward = weighted_sum({"a": (2.0, Table({"x": 1.0, "y": None})), "b": (1.0, Table({"x": None, "y": None}))})
    first, second = score_checked(reward, completions("x", "y"))
    assert first == RewardOutput(2.0, {"a": 1.0})
    assert (second.score, second.error) == (None, "invalid_input")


def test_weighted_sum_with_a_failed_part_is_an_error() -> None:
    reward = weighted_sum({"a": (1.0, Table({"x": 1.0, "y": 1.0})), "b": (0.0, Table({"x": FAILED, "y": 0.0}))})
    failed, fine = score_checked(reward, completions("x", "y"))
    assert (failed.score, failed.error, failed.message) == (None, "timeout", "b: no result after 5 s")
    assert failed.parts == {"a": 1.0, "b/seen": 1.0}
    assert fine.score == 1


def test_a_part_that_is_not_finite_is_an_error() -> None:
    output = score_checked(weighted_sum({"a": (0.0, Table({"x": float("nan")}))}), completions("x"))[0]
    assert (output.score, output.error) == (None, "not_finite")


def test_an_inner_reward_that_breaks_its_contract_is_the_one_named() -> None:
    class Broken(Table):
        def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
            raise RuntimeError("no model")

    with pytest.raises(RewardFailure, match=r"^Broken 'table' raised RuntimeError: no model"):
        score_checked(weighted_sum({"a": (1.0, GateReward(Broken({}), Table({})))}), completions("x"))


def test_product() -> None:
    reward = product({"a": Table({"x": 0.5, "y": 0.0, "z": None}), "b": Table({"x": -4.0, "y": 3.0, "z": 2.0})})
    x, y, z = score_checked(reward, completions("x", "y", "z"))
    assert x == RewardOutput(-2.0, {"a": 0.5, "b": -4.0})
    assert y == RewardOutput(0.0, {"a": 0.0, "b": 3.0})
    assert z == RewardOutput(2.0, {"b": 2.0})


def test_product_with_a_failed_part_is_an_error_even_beside_a_0() -> None:
    output = score_checked(product({"a": Table({"x": 0.0}), "b": Table({"x": FAILED})}), completions("x"))[0]
    assert (output.score, output.error, output.parts) == (None, "timeout", {"a": 0.0, "b/seen": 1.0})


def test_gate_asks_for_the_reward_only_where_it_is_open() -> None:
    answer = Table({"good": RewardOutput(0.75, {"by_box": 1.0})}, name="math_answer")
    gate = GateReward(Table({"good": 1.0, "bad": 0.5}, name="format"), answer, threshold=0.6, otherwise=-1.0)
    bad, good = score_checked(gate, completions("bad", "good"))
    assert bad == RewardOutput(-1.0, {"format": 0.5})
    assert good == RewardOutput(0.75, {"format": 1.0, "math_answer": 0.75, "math_answer/by_box": 1.0})
    assert answer.asked == ["good"]


def test_gate_opens_at_the_threshold_itself() -> None:
    gate = GateReward(Table({"x": 1.0}, name="a"), Table({"x": 0.25}, name="b"))
    assert score_checked(gate, completions("x"))[0].score == 0.25


def test_gate_keeps_errors_on_either_side() -> None:
    table = {"failed condition": FAILED, "failed reward": 1.0, "shut": 0.0, "none": None}
    gate = GateReward(Table(table, name="format"), Table({"failed reward": FAILED}, name="answer"))
    condition, reward, shut, none = score_checked(gate, completions(*table))
    assert (condition.score, condition.error, condition.message) == (None, "timeout", "format: no result after 5 s")
    assert (reward.score, reward.error, reward.message) == (None, "timeout", "answer: no result after 5 s")
    assert reward.parts == {"format": 1.0, "answer/seen": 1.0}
    assert (shut.score, shut.error) == (0.0, None)
    assert (none.score, none.error) == (None, "invalid_input")


def test_gate_of_two_rewards_of_one_name_tells_them_apart() -> None:
    assert GateReward(Table({}), Table({})).names == ("condition", "reward")


def test_route_by_task_keeps_the_order() -> None:
    verifiable, openly = Table({"x": 1.0, "z": 0.0}), Table({"y": RewardOutput(0.3, {"bleu": 0.3})})
    inputs = [
        *completions("x", task="verifiable"),
        *completions("y", task="open"),
        *completions("z", task="verifiable"),
    ]
    outputs = score_checked(RouteReward({"verifiable": verifiable, "open": openly}), inputs)
    assert [output.score for output in outputs] == [1.0, 0.3, 0.0]
    assert outputs[1].parts == {"open": 0.3, "open/bleu": 0.3}
    assert verifiable.asked == ["x", "z"]


def test_route_by_metadata_with_and_without_default() -> None:
    inputs = completions("x", metadata={"source": "gsm8k"}) + completions("y")
    routes = {"gsm8k": Table({"x": 1.0})}
    routed, lost = score_checked(RouteReward(routes, by="source"), inputs)
    assert routed == RewardOutput(1.0, {"gsm8k": 1.0})
    assert (lost.score, lost.error) == (None, "invalid_input")
    assert lost.message == "no route for source 'None' (routes: gsm8k; no default)"
    outputs = score_checked(RouteReward(routes, by="source", default=Table({"y": 0.5})), inputs)
    assert outputs[1] == RewardOutput(0.5, {"default": 0.5})


def test_closing_closes_every_part() -> None:
    tables = [Table({}, name=str(number)) for number in range(5)]
    gate = GateReward(tables[0], tables[1])
    weighted_sum({"a": (1.0, gate), "b": (1.0, RouteReward({"x": tables[2]}, default=tables[3]))}).close()
    assert [table.closed for table in tables] == [True, True, True, True, False]
