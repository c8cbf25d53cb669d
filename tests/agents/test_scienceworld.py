"""ScienceWorld through its simulator, where that is installed."""

import os
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from posttrain.agents.environment import ACTION, WITHOUT_ACTION
from posttrain.agents.environment_pool import EnvironmentPool, EnvironmentsConfig, Position
from posttrain.agents.live_environments import LiveEnvironments
from posttrain.agents.scienceworld import ScienceWorldConfig, Simulator, simulator_of_this_process
from posttrain.errors import JobError

needs_simulator = pytest.mark.skipif(
    find_spec("scienceworld") is None or shutil.which("java") is None,
    reason="the extra posttrain[scienceworld] or a Java runtime is not installed",
)
LAMP = "scienceworld/power-component/0"


def ask(live: LiveEnvironments, config: ScienceWorldConfig, *actions: str) -> dict[str, Any]:
    turns = [f"{ACTION} {action}" for action in actions]
    return live({"environment": config.model_dump_json(), "task_id": LAMP, "seed": 0, "turns": turns})


@needs_simulator
@pytest.mark.slow
def test_types_take_turns_and_splits_share_nothing() -> None:
    config = ScienceWorldConfig(task_types=["boil", "power-component"])
    train, dev = config.task_ids("train"), config.task_ids("eval")
    test = config.model_copy(update={"eval_split": "test"}).task_ids("eval")
    assert train[:3] == ["scienceworld/boil/0", LAMP, "scienceworld/boil/1"]
    assert (len(train), len(dev), len(test)) == (14 + 10, 7 + 5, 9 + 5)
    assert len({*train, *dev, *test}) == 50


@needs_simulator
@pytest.mark.slow
def test_the_solution_solves_its_task_again_and_again() -> None:
    environment = ScienceWorldConfig().build()
    turns = environment.solution(LAMP, 0)
    episodes = []
    for _ in range(6):
        first = environment.reset(LAMP, 0)
        assert "turn on the red light bulb" in first and "connect OBJ to OBJ" in first
        episodes.append([environment.step(turn) for turn in turns])
    assert episodes[0][-1].reward == 1.0 and episodes[0][-1].done
    assert 0 < episodes[0][-2].reward < 1 and not episodes[0][-2].done
    assert all(episode == episodes[0] for episode in episodes)


@needs_simulator
@pytest.mark.slow
def test_a_world_is_taken_over_and_remembers_nothing() -> None:
    live, config = LiveEnvironments(), ScienceWorldConfig(max_steps=3)
    actions = ("open door to hallway", "go to hallway", "look around")
    simulator_of_this_process().idle.clear()
    fresh = ask(live, config, *actions)
    assert fresh["done"] and len(simulator_of_this_process().idle) == 1  # the episode is over, its world is free
    other = ScienceWorldConfig().build()
    other.reset("scienceworld/boil/3", 0)
    other.step(f"{ACTION} open door to hallway")
    assert simulator_of_this_process().idle == []
    other.close()
    other.close()
    assert len(simulator_of_this_process().idle) == 1
    assert ask(live, config, *actions) == fresh


@needs_simulator
@pytest.mark.slow
def test_a_killed_simulator_costs_one_rollout_at_most_and_instances_run_in_parallel() -> None:
    settings = {"environment": {"type": "scienceworld"}, "workers": 2, "deadline_s": 120}
    pool = EnvironmentPool(EnvironmentsConfig.model_validate(settings))
    starts = [Position(LAMP, 0, (f"{ACTION} {action}",)) for action in ("look around", "inventory", "wait1", "task")]
    before = pool.at(starts)
    assert not any(result.failed for result in before)
    simulators = simulators_of_workers()
    assert len(simulators) == 2
    os.kill(simulators[0], signal.SIGKILL)
    further = [start.after(f"{ACTION} inventory") for start in starts]
    after = pool.at(further)
    assert sum(bool(result.failed) for result in after) <= 1
    assert all(result.failed or result.observation.startswith("In your inventory") for result in after)
    assert pool.at(starts) == before
    pool.close()


def simulators_of_workers() -> list[int]:
    """The Java processes of this process's worker processes."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,comm="], capture_output=True, text=True, check=True).stdout
    rows = [
        (int(pid), int(parent), name.strip())
        for pid, parent, name in (line.split(None, 2) for line in listed.splitlines())
    ]
    workers = {pid for pid, parent, _ in rows if parent == os.getpid()}
    return [pid for pid, parent, name in rows if name == "java" and parent in workers]


@needs_simulator
@pytest.mark.slow
def test_a_turn_without_an_action_a_fatal_one_and_the_last_one() -> None:
    config = ScienceWorldConfig(max_steps=2)
    environment = config.build()
    environment.reset(LAMP, 0)
    assert environment.step("What now?").observation == WITHOUT_ACTION
    last = environment.step(f"{ACTION} dance")
    assert last.observation == "No known action matches that input." and last.done and not last.valid
    answer = ask(LiveEnvironments(), config, "focus on agent")
    told = {"observation": "You focus on the agent.", "reward": 0.0, "done": True, "failed": "", "valid": True}
    assert answer == told
    for unknown in ("scienceworld/power-component/20", "scienceworld/dance/0", "scienceworld/boil", "vault/1"):
        with pytest.raises(KeyError):
            environment.reset(unknown, 0)


@needs_simulator
@pytest.mark.slow
def test_a_dead_simulator_is_replaced_and_costs_no_episode() -> None:
    live, config = LiveEnvironments(), ScienceWorldConfig()
    before = ask(live, config, "open door to hallway", "look around")
    process = simulator_of_this_process().process
    process.kill()
    process.wait()
    assert ask(live, config, "open door to hallway", "look around", "inventory")["observation"].startswith("In your")
    assert simulator_of_this_process().process is not process
    assert ask(live, config, "open door to hallway", "look around") == before


@needs_simulator
def test_an_unknown_type_is_named() -> None:
    with pytest.raises(JobError, match="no 'boill'; it has boil, "):
        ScienceWorldConfig(task_types=["boill"]).task_ids("train")


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scienceworld", None)
    with pytest.raises(JobError, match=r"pip install 'posttrain\[scienceworld\]'.* default-jre-headless"):
        ScienceWorldConfig().task_ids("train")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(JobError, match="apt-get install default-jre-headless"):
        Simulator()
