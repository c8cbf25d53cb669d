"""Success, loops and recovery, counted by hand."""

import pytest

from posttrain.agents.reflection import REVISION_THOUGHTS
from posttrain.evaluation.agents import bad_steps_before_revision, evaluate_agents, has_loop, turns_of
from posttrain.evaluation.evaluator import evaluate
from posttrain.rewards.scoring.check import wilson
from posttrain.types import Example, Rollout, RolloutGroup


def episode(*parts: tuple[int, list[int]], outcome: float | None = 1.0) -> Rollout:
    """Parts (sampled, ids) after the prompt [9]."""
    ids = [token for _, part in parts for token in part]
    mask = [sampled for sampled, part in parts for _ in part]
    return Rollout("r", 0, [9], ids, mask, [0.0] * len(ids), "stop", 0, "", outcome=outcome, reward=outcome)


def group(name: str, outcomes: list[float | None], **metadata: str) -> RolloutGroup:
    example = Example(name, "p", task="environment", metadata=dict(metadata))
    return RolloutGroup(example, [episode((1, [5]), (0, [6]), (1, [7]), outcome=outcome) for outcome in outcomes])


def test_turns_are_what_was_seen_and_done() -> None:
    assert turns_of(episode((1, [1, 2]), (0, [3]), (1, [4]))) == [((9,), (1, 2)), ((3,), (4,))]


@pytest.mark.parametrize(
    ("turns", "loops"),
    [("ab", False), ("aaa", True), ("aabaa", False), ("baaab", True), ("", False)],
)
def test_a_loop_is_three_times_the_same_on_the_same(turns: str, loops: bool) -> None:
    assert has_loop([((1,), (ord(turn),)) for turn in turns]) is loops
    assert not has_loop([((number,), (ord(turn),)) for number, turn in enumerate(turns)])
    # between any two of them another observation was answered, each time otherwise
    assert (
        has_loop([t for number, turn in enumerate(turns) for t in (((1,), (ord(turn),)), ((2,), (number,)))]) is loops
    )


def test_success_recovery_and_their_intervals() -> None:
    groups = [
        group("a", [1.0, 1.0]),
        group("b", [1.0, 0.5]),
        group("c", [None, 0.0]),
        group("a+", [1.0, 0.0], mistake_in="a"),
        group("b+", [0.0, 0.0], mistake_in="b"),
        group("c+", [0.0, 0.0], mistake_in="c"),
    ]
    found = evaluate_agents(groups)
    assert found["eval/success"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert found["eval/recovery"] == pytest.approx(0.5 / 3)
    assert found["eval/mistake_cost"] == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert found["eval/mistake_cost_error"] == pytest.approx((1 / 12) ** 0.5 / 3**0.5)
    assert found["eval/steps"] == 2 and found["eval/loops"] == 0
    # Wilson, p = 1/2 of 3: centre 1/2, half width z sqrt(1/12 + z^2/36) / (1 + z^2/3)
    z = 1.959963984540054
    half = z * (1 / 12 + z * z / 36) ** 0.5 / (1 + z * z / 3)
    assert found["eval/success_high"] == pytest.approx(0.5 + half, abs=1e-6)
    assert found["eval/success_low"] == pytest.approx(0.5 - half, abs=1e-6)
    both = evaluate(groups)
    assert both["eval/accuracy"] == pytest.approx((1 + 0.75 + 0) / 3)  # episodes with a mistake are not part of it
    assert both["eval/recovery"] == found["eval/recovery"]


def test_without_injected_mistakes_there_is_no_recovery() -> None:
    assert "eval/recovery" not in evaluate_agents([group("a", [1.0])])


def test_steps_up_to_a_revision_thought() -> None:
    thought = f"{REVISION_THOUGHTS[3]}\nAction: wait"
    assert bad_steps_before_revision([thought, "Action: go"]) == 1  # the mistake alone
    assert bad_steps_before_revision(["Action: go", "Action: go", thought]) == 3
    assert bad_steps_before_revision(["Action: go"]) is None
    groups = [group(name, [0.0, 1.0]) for name in "ab"]
    groups += [group(f"{name}+", [0.0, 1.0], mistake_in=name) for name in "ab"]
    assert evaluate_agents(groups)["eval/revised"] == 0 and "eval/revision_length" not in evaluate_agents(groups)
    groups[0].rollouts[0].turns = [thought]  # without a mistake nothing is known to be bad
    groups[2].rollouts[1].turns = ["Action: go", thought]
    groups[3].rollouts[0].turns = [thought]
    found = evaluate_agents(groups)
    assert found["eval/revised"] == 0.5 and found["eval/revision_length"] == 1.5


def test_types_of_tasks_apart() -> None:
    groups = [
        group("a", [1.0, 1.0], task_id="lab/boil/1"),
        group("b", [1.0, 0.0], task_id="lab/boil/2"),
        group("c", [0.0, 0.0], task_id="lab/melt/1"),
        group("a+", [0.0, 1.0], task_id="lab/boil/1", mistake_in="a"),
    ]
    found = evaluate_agents(groups)
    assert (found["eval/success/lab/boil"], found["eval/success/lab/melt"]) == (0.75, 0.0)
    assert found["eval/recovery/lab/boil"] == 0.5 and "eval/recovery/lab/melt" not in found
    low, high = wilson(0.75, 2)
    assert (found["eval/success/lab/boil_low"], found["eval/success/lab/boil_high"]) == (low, high)
    assert found["eval/success/lab/melt_high"] == wilson(0.0, 1)[1] < 1
    assert not any("lab" in name for name in evaluate_agents(groups[:2]))  # one type is the whole
