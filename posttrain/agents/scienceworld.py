"""ScienceWorld (arXiv 2203.07540): thirty types of experiments in a house, simulated in Java."""

import logging
import shutil
from functools import cache
from itertools import zip_longest
from typing import Any, ClassVar, Literal

from pydantic import Field

from posttrain.agents.environment import ACTION, WITHOUT_ACTION, StepResult, parse_action
from posttrain.config import Config
from posttrain.errors import JobError

# Without equal identity hashes the order of sets, and with it a few observations and scores, differ between episodes
# of the same actions. The simulator is short-lived: its quick compiler alone is the faster one.
JAVA_OPTIONS = (
    *("-Xmx1g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
    *("-XX:+UnlockExperimentalVMOptions", "-XX:hashCode=2"),
)


class ScienceWorldConfig(Config):
    """Needs ``pip install 'posttrain[scienceworld]'`` and a Java runtime. The score is the simulator's, divided by 100;
    it is negative after a fatal action."""

    type: Literal["scienceworld"] = "scienceworld"
    task_types: list[str] = Field(default=[], description="such as boil; none: all thirty")
    eval_split: Literal["dev", "test"] = "dev"
    max_steps: int = Field(default=100, ge=1)

    def task_ids(self, split: str) -> list[str]:
        """``scienceworld/TYPE/VARIATION`` by the package's split; the types take turns, so that the first tasks are of
        all of them.

        Raises:
            JobError: a task type is unknown, or the simulator cannot start.
        """
        known = list(constants().ID2TASK.values())
        if unknown := [name for name in self.task_types if name not in known]:
            raise JobError(f"environment.task_types: ScienceWorld has no {unknown[0]!r}; it has {', '.join(known)}")
        simulator = Simulator()
        part = "train" if split == "train" else self.eval_split
        try:
            columns = [simulator.task_ids(name, part) for name in self.task_types or known]
        finally:
            simulator.close()
        return [task_id for row in zip_longest(*columns) for task_id in row if task_id is not None]

    def build(self) -> "ScienceWorld":
        return ScienceWorld(self)


class ScienceWorld:
    """An ``Environment``. The variation says how an episode begins, so ``seed`` has no part in it."""

    most_live: ClassVar[int] = 32  # a world takes about 10 MB of the heap

    def __init__(self, config: ScienceWorldConfig) -> None:
        self.config = config
        self.simulator = simulator_of_this_process()
        self.world = self.simulator.world()

    def reset(self, task_id: str, seed: int) -> str:
        self._load(task_id, with_solution=False)
        forms = ", ".join(self.world.getPossibleActions())
        commands = f"Commands, one a turn in a line '{ACTION} COMMAND': {forms}."
        return "\n".join([self.world.getTaskDescription(), commands, self.world.step("look around")])

    def step(self, turn: str) -> StepResult:
        self.steps += 1
        action = parse_action(turn)
        said = WITHOUT_ACTION if action is None else self.world.step(action)
        done = self.world.getCompleted() or self.steps >= self.config.max_steps
        valid = action is not None and not said.startswith("No known action")
        return StepResult(said, round(self.world.getScore(), 2), done, valid=valid)

    def close(self) -> None:
        """The next environment takes over the world."""
        if self.world is not None:
            self.simulator.idle.append(self.world)
            self.world = None

    def solution(self, task_id: str, seed: int) -> list[str]:
        """The turns of the simulator's own solution, which takes it seconds to find; the episode is played by them."""
        self._load(task_id, with_solution=True)
        turns: list[str] = []
        for action in self.world.getGoldActionSequence():
            turns.append(f"{ACTION} {action}")
            if self.step(turns[-1]).done:
                break
        return turns

    def _load(self, task_id: str, with_solution: bool) -> None:
        self.steps = 0
        kind, _, rest = task_id.partition("/")
        name, _, variation = rest.partition("/")
        if kind != "scienceworld" or name not in constants().ID2TASK.values():
            raise KeyError(task_id)
        if not variation.isdigit() or int(variation) >= self.world.getTaskMaxVariations(name):
            raise KeyError(task_id)
        self.world.load(name, int(variation), "", with_solution)


class Simulator:
    """A Java process. Its worlds know nothing of each other; it ends with this process."""

    def __init__(self) -> None:
        if shutil.which("java") is None:
            raise JobError("environment scienceworld needs a Java runtime: apt-get install default-jre-headless")
        from py4j.java_gateway import GatewayParameters, JavaGateway, launch_gateway
        from py4j.protocol import Py4JError

        logging.getLogger("py4j").setLevel(logging.CRITICAL)  # it tells of every object of a dead simulator
        jar = constants().JAR_PATH
        try:
            port, self.process = launch_gateway(
                classpath=jar, javaopts=list(JAVA_OPTIONS), die_on_exit=True, return_proc=True
            )
        except Py4JError as error:
            raise JobError(f"ScienceWorld's simulator cannot start (java {' '.join(JAVA_OPTIONS)}): {error}") from error
        self.gateway = JavaGateway(gateway_parameters=GatewayParameters(port=port))
        self.idle: list[Any] = []  # to make a world takes longer than to begin an episode in it

    def world(self) -> Any:
        """One that nobody uses. An episode does not depend on what was played in it before."""
        return self.idle.pop() if self.idle else self.gateway.jvm.scienceworld.runtime.pythonapi.PythonInterface()

    def task_ids(self, name: str, part: str) -> list[str]:
        """The tasks of type ``name`` in ``part``: train, dev or test."""
        world = self.world()
        world.load(name, 0, "", False)
        return [f"scienceworld/{name}/{number}" for number in getattr(world, f"getVariations{part.title()}")()]

    def close(self) -> None:
        with self.process:
            self.process.kill()


def simulator_of_this_process() -> Simulator:
    """The one that all environments of this process share; a new one where it died."""
    if _simulator().process.poll() is not None:
        _simulator.cache_clear()
    return _simulator()


@cache
def _simulator() -> Simulator:
    return Simulator()


def constants() -> Any:
    """The package's. Raises ``JobError`` where it is not installed."""
    try:
        from scienceworld import constants
    except ModuleNotFoundError as error:
        raise JobError(
            f"environment scienceworld needs {error.name}: pip install 'posttrain[scienceworld]'; and a Java runtime: "
            "apt-get install default-jre-headless"
        ) from None
    return constants
