"""Any task with answers to verify as an environment: a wrong answer is told so, and another one may be given."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from posttrain.agents.environment import StepResult
from posttrain.agents.environment_pool import Position
from posttrain.errors import JobError
from posttrain.rewards.checked import score_checked
from posttrain.rewards.composition import RouteReward
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput
from posttrain.tasks.environment import EnvironmentEngineConfig, EnvironmentReward
from posttrain.tasks.task import ConfiguredTask, Task
from posttrain.types import Example

if TYPE_CHECKING:
    TaskConfig = Any


class AttemptsTask(ConfiguredTask):
    """``{type: attempts, task: {type: gsm8k}}``. The first observation is the prompt of ``task``, a whole turn is an
    answer, and the score is 1 where the last answer is right.

    Training examples are those of ``task``, played as episodes: this is also the ``Environments`` that says where
    answers lead. Held-out examples are the task's own: one answer each, graded as the task grades it.
    """

    type: Literal["attempts"] = "attempts"
    task: "TaskConfig"
    attempts: int = Field(default=2, ge=1, description="answers of an episode, which ends with the first right one")
    wrong: str = Field(default="Wrong. Try again.", min_length=1, description="the observation after a wrong answer")
    max_turn_tokens: int = Field(default=500, ge=1, description="sampling.max_completion_tokens is for the episode")
    workers: int = Field(default=2, ge=1, description="threads that answers are graded on")

    def train_examples(self) -> list[Example]:
        """Raises ``JobError`` for an example that is not to be verified."""
        examples = self._inner.train_examples()
        if odd := next((example for example in examples if example.task != "verifiable"), None):
            raise JobError(
                f"data.task: example {odd.id!r} is {odd.task}; attempts are for answers that can be verified"
            )
        return [
            replace(each, task="environment", metadata={**each.metadata, "task_id": each.id, "seed": 0})
            for each in examples
        ]

    def eval_examples(self) -> list[Example]:
        return self._inner.eval_examples()

    def reward(self) -> Reward:
        """An episode's final score; the task's own judgement of a single answer."""
        return RouteReward({"environment": EnvironmentReward(), "verifiable": self._grader})

    def engine(self, inside: Any) -> EnvironmentEngineConfig:
        """Builds the engine of config ``inside`` with the attempts around it."""
        return EnvironmentEngineConfig(inside, self, self.max_turn_tokens)

    def at(self, positions: Sequence[Position]) -> list[StepResult]:
        """What the last answer of each position led to; all answers before it are taken to be wrong. ``failed`` where
        it could not be judged, or more answers were given than there are attempts."""
        inputs = [RewardInput(self._examples[each.task_id], each.turns[-1]) for each in positions if each.turns]
        outputs = iter(score_checked(self._grader, inputs))
        return [
            self._result(len(each.turns), next(outputs))
            if each.turns
            else StepResult(_text(self._examples[each.task_id]))
            for each in positions
        ]

    def went_wrong(self, task_id: str, seed: int, turns: Sequence[str]) -> bool:
        """Whether the last of ``turns`` is a wrong answer."""
        return self.at([Position(task_id, seed, tuple(turns))])[0].reward < 1

    def close(self) -> None:
        """End the grader's workers."""
        self._grader.close()

    def _result(self, given: int, output: RewardOutput) -> StepResult:
        if given > self.attempts:
            return StepResult("", failed="the attempts were used up before")
        if output.score is None:
            return StepResult("", failed=f"{output.error}: {output.message}")
        if output.score >= 1:
            return StepResult("Right.", 1.0, done=True)
        return StepResult(self.wrong, done=given == self.attempts)

    @cached_property
    def _inner(self) -> Task:
        return self.task.build()

    @cached_property
    def _grader(self) -> Reward:
        grader = self._inner.reward()
        if grader is None:
            raise JobError(f"data.task: {self.task.type} has no judgement of its own, which attempts are graded by")
        return grader

    @cached_property
    def _examples(self) -> dict[str, Example]:
        return {example.id: example for example in self._inner.train_examples()}


def _text(example: Example) -> str:
    return example.prompt if isinstance(example.prompt, str) else example.prompt[-1]["content"]
