"""An environment that any text plays, so that a policy of random weights has rewards to tell apart."""

import os
import signal

from posttrain.agents.environment import StepResult


class Letters:
    """Two turns; the score is the sum of all their bytes modulo 5, divided by 4. Task ``deadly`` ends the process after
    a third of its first turns."""

    def reset(self, task_id: str, seed: int) -> str:
        if task_id not in ("a", "b", "c", "d", "e", "f", "deadly"):
            raise KeyError(task_id)
        self.task_id, self.total, self.steps = task_id, 0, 0
        return f"{task_id}:"

    def step(self, turn: str) -> StepResult:
        self.steps += 1
        self.total += sum(turn.encode())
        if self.task_id == "deadly" and self.steps == 1 and self.total % 3 == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return StepResult("seen", self.total % 5 / 4, self.steps == 2)

    def close(self) -> None:
        pass
