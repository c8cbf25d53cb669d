"""Which process is asked, and that the answers come in the order of the questions."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from posttrain.agents.environment import StepResult
from posttrain.agents.environment_pool import EnvironmentPool, EnvironmentsConfig, Position


class Telling:
    """It says which process it is in, which one of its kind, and what it was told."""

    made = 0

    def __init__(self) -> None:
        Telling.made += 1
        self.number = Telling.made

    def reset(self, task_id: str, seed: int) -> str:
        self.turns: list[str] = []
        return f"{os.getpid()} {self.number} {task_id}"

    def step(self, turn: str) -> StepResult:
        self.turns.append(turn)
        return StepResult(f"{os.getpid()} {self.number} {' '.join(self.turns)}")

    def close(self) -> None:
        pass


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[EnvironmentPool]:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    settings = {"environment": {"type": f"{Path(__file__).stem}:Telling"}, "workers": 2}
    pool = EnvironmentPool(EnvironmentsConfig.model_validate(settings))
    yield pool
    pool.close()


def test_an_episode_goes_on_where_it_is(pool: EnvironmentPool) -> None:
    starts = [Position(f"task-{number}", 0, ("a",)) for number in range(8)]
    first = [result.observation.split() for result in pool.at(starts)]
    assert len({(process, number) for process, number, _ in first}) == 8
    assert len({process for process, _, _ in first}) == 2
    second = [result.observation.split() for result in pool.at([start.after("b") for start in starts])]
    assert second == [[*answer[:2], "a", "b"] for answer in first]  # stepped there, not replayed elsewhere
    (again,) = pool.at([starts[3].after("c")])  # a sibling: the environment has left, and is replayed
    process, number, *turns = again.observation.split()
    assert process == first[3][0] and number != first[3][1] and turns == ["a", "c"]


def test_answers_come_in_the_order_of_the_questions(pool: EnvironmentPool) -> None:
    positions = [Position(f"task-{number}", seed) for number in range(20) for seed in (0, 1)]
    assert [r.observation.split()[2] for r in pool.at(positions)] == [position.task_id for position in positions]
    assert pool.at([]) == []
