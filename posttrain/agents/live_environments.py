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
    depends on the question alone, whatever this process was asked before.
    """

    def __init__(self) -> None:
        self.live: OrderedDict[Place, Environment] = OrderedDict()
        self.adapter: TypeAdapter[Any] = TypeAdapter(AnyEnvironmentConfig)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        kind, task_id, seed, turns = item["environment"], item["task_id"], item["seed"], tuple(item["turns"])
        environment = self.live.pop((kind, task_id, seed, turns[:-1]), None) if turns else None
        if environment is not None:
            result = checked(environment.step(turns[-1]))
        else:
            environment = self.adapter.validate_json(kind).build()
            result = checked(StepResult(environment.reset(task_id, seed)))
            for turn in turns:
                if result.done:
                    raise ValueError("the episode was over before its last turn")
                result = checked(environment.step(turn))
        if result.done or result.failed:
            environment.close()
        else:
            self._keep((kind, task_id, seed, turns), environment)
        return asdict(result)

    def _keep(self, place: Place, environment: Environment) -> None:
        self.live[place] = environment
        if len(self.live) > MOST_LIVE:
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
