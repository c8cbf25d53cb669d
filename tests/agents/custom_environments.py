"""Environments of a user's own: one that any text plays, and one that breaks its contract."""

import os
import time
from typing import Any

from posttrain.agents.environment import StepResult


class Parity:
    """Three turns; the score is the share of those of an even number of bytes."""

    turns = 3

    def task_ids(self, split: str) -> list[str]:
        return [f"{split}-{number}" for number in range(6)]

    def reset(self, task_id: str, seed: int) -> str:
        self.even: list[bool] = []
        return f"Go {task_id}."

    def step(self, turn: str) -> StepResult:
        self.even.append(len(turn.encode()) % 2 == 0)
        return StepResult(f"ok {len(self.even)}", sum(self.even) / self.turns, len(self.even) == self.turns)

    def close(self) -> None:
        pass


class Endless(Parity):
    """It ends for no turn, and says a lot."""

    turns = 1000

    def step(self, turn: str) -> StepResult:
        return StepResult("more " * 10)


class Failing(Parity):
    """The task names how the first turn goes wrong."""

    def task_ids(self, split: str) -> list[str]:
        return ["raise", "hang", "nan", "high", "no text", "die", "says", "negative", "fine"]

    def reset(self, task_id: str, seed: int) -> str:
        self.how = task_id
        return super().reset(task_id, seed)

    def step(self, turn: str) -> Any:
        match self.how:
            case "raise":
                raise RuntimeError("it broke")
            case "hang":
                time.sleep(60)
            case "nan":
                return StepResult("x", float("nan"))
            case "high":
                return StepResult("x", 1.5)
            case "no text":
                return StepResult(None, 0.5)  # type: ignore[arg-type]
            case "die":
                os._exit(3)
            case "says":
                return StepResult("x", failed="the server is gone")
            case "negative":
                return StepResult("fatal", -1.0)
        return super().step(turn)
