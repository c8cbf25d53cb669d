"""In a worker process: the environments that episodes are in the middle of, and replay for all others."""

import math
from collections import OrderedDict
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter

from posttrain.agents.config import AnyEnvironmentConfig
from posttrain.agents.environment import Environment, StepResult

MOST_LIVE = 64

Place = tuple[str, str, int, tuple[str, ...]]


class LiveEnvironments:
    """The result of the last of ``turns`` in the episode of ``task_id`` and ``seed``; without turns, of its reset.

    An environment that already stands one turn before is stepped; else a fresh one replays the turns. So the answer
    depends on the question alone, whatever this process was asked before. At most ``most_live`` environments are kept,
    an attribute that an environment may have.
    """

    def __init__(self) -> None:
        self.live: OrderedDict[Place, Environment] = OrderedDict()
        self.adapter: TypeAdapter[Any] = TypeAdapter(AnyEnvironmentConfig)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        place = (item["environment"], item["task_id"], item["seed"], tuple(item["turns"]))
        environment, result = self._stepped(*place) or self._replayed(*place)
        if result.done or result.failed:
            environment.close()
        else:
            self._keep(place, environment)
        return asdict(result)

    def _stepped(
        self, kind: str, task_id: str, seed: int, turns: tuple[str, ...]
    ) -> tuple[Environment, StepResult] | None:
        """The environment that stands before the last turn, after it; None where there is none, or it raised. What it
        runs on may have died, with other environments: a replay finds out."""
        environment = self.live.pop((kind, task_id, seed, turns[:-1]), None) if turns else None
        if environment is None:
            return None
        try:
            return environment, checked(environment.step(turns[-1]))
        except Exception:
            environment.close()
            return None

    def _replayed(self, kind: str, task_id: str, seed: int, turns: tuple[str, ...]) -> tuple[Environment, StepResult]:
        """A fresh environment, after all turns."""
        environment: Environment = self.adapter.validate_json(kind).build()
        try:
            result = checked(StepResult(environment.reset(task_id, seed)))
            for turn in turns:
                if result.done:
                    raise ValueError("the episode was over before its last turn")
                result = checked(environment.step(turn))
        except Exception:
            environment.close()
            raise
        return environment, result

    def _keep(self, place: Place, environment: Environment) -> None:
        self.live[place] = environment
        if len(self.live) > getattr(environment, "most_live", MOST_LIVE):
            self.live.popitem(last=False)[1].close()


def checked(result: StepResult) -> StepResult:
    """``result`` where it keeps the contract. A negative score ends the episode with 0, as a fatal action does.

    Raises:
        ValueError: the observation is no text, or the reward no number of at most 1.
    """
    if not isinstance(result.observation, str):
        raise ValueError(f"the observation is {type(result.observation).__name__}, not text")
    if not isinstance(result.reward, int | float) or not math.isfinite(result.reward) or result.reward > 1:
        raise ValueError(f"the reward is {result.reward!r}, not a number in [0, 1]")
    if result.reward < 0:
        return StepResult(result.observation, 0.0, done=True)
    return result


reach = LiveEnvironments()
