"""Episodes of an environment as examples: the prompt is the first observation, the score is the environment's."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from posttrain.agents.config import AnyEnvironmentConfig
from posttrain.agents.environment_engine import EnvironmentEngine
from posttrain.agents.environment_pool import EnvironmentPool, Environments, EnvironmentsConfig, Position
from posttrain.data.prompt_format import PromptFormat
from posttrain.errors import DataError
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput
from posttrain.tasks.task import ConfiguredTask
from posttrain.types import Example


class EnvironmentTask(EnvironmentsConfig, ConfiguredTask):
    """``{type: environment, environment: {type: vault}}``. A task is an episode for each of ``seeds``.

    The environments run while the task is used, by its engine; or until ``close``.
    """

    type: Literal["environment"] = "environment"
    train_tasks: list[str] | PositiveInt = Field(default=200, description="ids, or how many of the environment's first")
    eval_tasks: list[str] | NonNegativeInt = Field(
        default=100, description="ids, or how many of the environment's held-out ones"
    )
    seeds: list[int] = Field(default=[0], min_length=1)
    max_turn_tokens: int = Field(default=500, ge=1, description="sampling.max_completion_tokens is for the episode")
    mistakes: bool = Field(
        default=True, description="evaluate each held-out task also after a mistake, where the environment knows one"
    )
    format: PromptFormat = Field(default_factory=lambda: PromptFormat(chat=True))

    def train_examples(self) -> list[Example]:
        """An example for each training task and seed.

        Raises:
            DataError: an id is not known, the environment cannot begin, or there is no task.
        """
        examples = self._examples("train", self.train_tasks)
        if not examples:
            raise DataError("data.train_tasks: there is no task to train on")
        return examples

    def eval_examples(self) -> list[Example]:
        """An example for each held-out task and seed, and one after a mistake in it; raises as ``train_examples``
        does."""
        examples = self._examples("eval", self.eval_tasks)
        mistake = getattr(self.environment, "mistake", None)
        if mistake is None or not self.mistakes or not self.format.chat:
            return examples
        starts = [Position(example.metadata["task_id"], example.metadata["seed"]) for example in examples]
        return examples + [
            self._after_mistake(example, start, mistake(start.task_id, start.seed))
            for example, start in zip(examples, starts, strict=True)
        ]

    def reward(self) -> Reward:
        """The environment's final score."""
        return EnvironmentReward()

    def engine(self, inside: Any) -> "EnvironmentEngineConfig":
        """Builds the engine of config ``inside`` with the environments around it."""
        return EnvironmentEngineConfig(inside, self._pool, self.max_turn_tokens)

    def close(self) -> None:
        """End the processes."""
        self._pool.close()

    @cached_property
    def _pool(self) -> EnvironmentPool:
        return EnvironmentPool(self.model_copy())

    def _examples(self, split: str, tasks: list[str] | int) -> list[Example]:
        ids = self.environment.task_ids(split)[:tasks] if isinstance(tasks, int) else tasks
        starts = [Position(task_id, seed) for task_id in ids for seed in self.seeds]
        examples: list[Example] = []
        for start, result in zip(starts, self._pool.at(starts), strict=True):
            if result.failed:
                raise DataError(f"data.environment: task {start.task_id!r} does not begin: {result.failed}")
            examples.append(
                Example(
                    id=f"{start.task_id}/{start.seed}",
                    prompt=self.format.prompt(result.observation),
                    task="environment",
                    metadata={"task_id": start.task_id, "seed": start.seed},
                )
            )
        return examples

    def _after_mistake(self, example: Example, start: Position, turns: Sequence[str]) -> Example:
        """The episode of ``example`` with ``turns`` taken already."""
        places = [replace(start, turns=tuple(turns[:number])) for number in range(1, len(turns) + 1)]
        assert not isinstance(example.prompt, str)
        messages = list(example.prompt)
        for turn, result in zip(turns, self._pool.at(places), strict=True):
            if result.failed:
                raise DataError(f"data.environment: task {start.task_id!r} fails after its mistake: {result.failed}")
            messages += [{"role": "assistant", "content": turn}, {"role": "user", "content": result.observation}]
        metadata = {**example.metadata, "turns": list(turns), "mistake_in": example.id}
        return replace(example, id=f"{example.id}/mistake", prompt=messages, metadata=metadata)


@dataclass(frozen=True)
class EnvironmentEngineConfig:
    """Makes the engine that plays episodes."""

    inside: Any
    pool: Environments
    max_turn_tokens: int

    def build(self, model_path: str | Path, seed: int) -> EnvironmentEngine:
        return EnvironmentEngine(self.inside.build(model_path=model_path, seed=seed), self.pool, self.max_turn_tokens)


class EnvironmentReward:
    """The score that the environment gave last."""

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        """``crashed`` for an episode without a score: the environment failed."""
        return [
            RewardOutput(None, error="crashed", message="no score: the environment failed, or was not played")
            if item.outcome is None
            else RewardOutput(item.outcome)
            for item in inputs
        ]

    def close(self) -> None:
        pass


class EnvironmentDemonstrationsConfig(ConfiguredTask):
    """For a supervised start in an environment that knows its solutions: an example for each turn of each solution, and
    none held out; what came before the turn is the prompt."""

    type: Literal["environment_demonstrations"] = "environment_demonstrations"
    environment: AnyEnvironmentConfig
    episodes: int = Field(default=400, ge=1, description="of the first training tasks")
    seed: int = 0
    format: PromptFormat = Field(default_factory=lambda: PromptFormat(chat=True))

    @model_validator(mode="after")
    def _turns_alternate(self) -> "EnvironmentDemonstrationsConfig":
        if not self.format.chat:
            raise ValueError("format.chat must be true: the turns of an episode are a conversation")
        return self

    @cached_property
    def _split(self) -> tuple[list[Example], list[Example]]:
        environment = self.environment.build()
        tasks = self.environment.task_ids("train")[: self.episodes]
        return [example for task_id in tasks for example in self._turns(environment, task_id)], []

    def _turns(self, environment: Any, task_id: str) -> list[Example]:
        turns = environment.solution(task_id, self.seed)
        prompt = self.format.prompt(environment.reset(task_id, self.seed))
        assert not isinstance(prompt, str)
        messages, examples = prompt, list[Example]()
        for number, turn in enumerate(turns):
            examples.append(Example(id=f"{task_id}/{number}", prompt=list(messages), demonstration=turn))
            observation = environment.step(turn).observation
            messages = [*messages, {"role": "assistant", "content": turn}, {"role": "user", "content": observation}]
        return examples
