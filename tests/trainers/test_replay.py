"""Which rollouts are kept, for how long, and with which advantage."""

from pathlib import Path

import pytest
import torch

from posttrain.trainers.replay import ReplayBuffer
from posttrain.types import Example, Origin, Rollout, RolloutGroup


def rollout(reward: float | None, step: int = 0) -> Rollout:
    ids, mask, logprobs = [5, 6, 7], [1, 0, 1], [-0.1, 0.0, -0.3]
    given = Origin.ENVIRONMENT
    return Rollout(f"{step:06d}/0", 0, [4], ids, mask, logprobs, "stop", step, "x", given=given, reward=reward)


def group(task: str, *rewards: float | None) -> RolloutGroup:
    return RolloutGroup(Example(task, task), [rollout(reward) for reward in rewards])


def kept(buffer: ReplayBuffer) -> dict[str, list[tuple[float | None, int]]]:
    return {task: [(each.reward, each.policy_version) for each in own] for task, own in buffer.rollouts.items()}


def test_the_best_of_a_task_are_kept_and_of_equals_the_newest() -> None:
    buffer = ReplayBuffer(size=9, per_task=2, recent=4)
    buffer.observe([group("a", 0.0, 0.0, 0.0, None)])
    for step, reward in enumerate([0.5, 1.0, 0.25, 0.5, 0.0]):
        buffer.keep("a", rollout(reward, step))
    assert kept(buffer) == {"a": [(0.5, 3), (1.0, 1)]}


def test_the_oldest_of_all_tasks_makes_room() -> None:
    buffer = ReplayBuffer(size=3, per_task=2, recent=4)
    buffer.observe([group("a", 0.0), group("b", 0.0), group("c", 0.0)])
    for step, task in ((4, "a"), (3, "b"), (6, "b"), (5, "c"), (7, "c")):
        buffer.keep(task, rollout(1.0, step))
    assert kept(buffer) == {"b": [(1.0, 6)], "c": [(1.0, 5), (1.0, 7)]}
    assert len(buffer) == 3


def test_what_is_no_better_than_usual_any_more_is_dropped_and_the_window_forgets() -> None:
    buffer = ReplayBuffer(size=9, per_task=2, recent=4)
    buffer.observe([group("a", 0.0, 0.0, 0.0, 1.0), group("b", 0.0)])
    for task, reward in (("a", 1.0), ("a", 0.5), ("b", 1.0)):
        buffer.keep(task, rollout(reward))
    assert {r.reward: a for r, a in buffer.draw(9, seed=0)} == {1.0: 1.0, 0.5: 0.5}
    buffer.observe([group("a", 1.0)])  # 0 0 1 1: the median is a half
    assert kept(buffer) == {"a": [(1.0, 0)], "b": [(1.0, 0)]}
    assert sorted(a for _, a in buffer.draw(9, seed=0)) == [0.5, 1.0]
    buffer.observe([group("a", 1.0)])  # 0 1 1 1
    assert kept(buffer) == {"b": [(1.0, 0)]}


def test_a_draw_depends_on_its_seed_and_is_without_repetition() -> None:
    buffer = ReplayBuffer(size=99, per_task=1, recent=4)
    for task in map(str, range(40)):
        buffer.observe([group(task, 0.0)])
        buffer.keep(task, rollout(1.0, int(task)))
    drawn = [[each.policy_version for each, _ in buffer.draw(8, seed)] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(set(versions)) == 8 for versions in drawn)
    assert len(buffer.draw(99, seed=1)) == 40


def test_a_checkpoint_has_all_of_it(tmp_path: Path) -> None:
    buffer, restored = (ReplayBuffer(size=9, per_task=2, recent=4) for _ in range(2))
    buffer.observe([group("b", 0.0, 0.0, 1.0), group("a", 0.0)])
    for task, reward in (("b", 1.0), ("a", 0.5), ("b", 0.5)):
        buffer.keep(task, rollout(reward))
    torch.save(buffer.state_dict(), tmp_path / "state.pt")
    restored.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert restored.draw(3, seed=5) == buffer.draw(3, seed=5)
    assert {type(each.given) for each, _ in restored.draw(3, seed=5)} == {Origin}
    for each in (buffer, restored):
        each.observe([group("b", 1.0, 1.0)])
    assert kept(restored) == kept(buffer) == {"a": [(0.5, 0)]}


@pytest.mark.parametrize("rewards", [(None, None), ()])
def test_a_group_that_could_not_be_judged_says_nothing(rewards: tuple[float | None, ...]) -> None:
    buffer = ReplayBuffer(size=9, per_task=2, recent=4)
    buffer.observe([group("a", 0.0)])
    buffer.keep("a", rollout(1.0))
    buffer.observe([group("a", *rewards), group("new", *rewards)])
    assert kept(buffer) == {"a": [(1.0, 0)]}
