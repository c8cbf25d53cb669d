"""Several tasks in one data set: what has an answer, what is ranked, and what is open."""

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from posttrain.errors import DataError
from posttrain.rewards.composition import RouteReward
from posttrain.rewards.reward import Reward
from posttrain.tasks.file_task import prompt_key
from posttrain.tasks.task import ConfiguredTask, Task
from posttrain.types import Example

if TYPE_CHECKING:
    TaskConfig = Any

MixedKind = Literal["verifiable", "preference", "open"]


class MixtureConfig(ConfiguredTask):
    """``parts: {verifiable: {type: gsm8k}, preference: {type: preference, path: ...}, open: {type: rows, ...}}``.

    The examples of all parts; ``Example.task`` is the part's kind, and ids begin with it.

    Raises (asked for examples):
        DataError: a prompt is in preference and open data, or in preference data and another part's held-out data:
            who learned to rank its answers knows them.
    """

    type: Literal["mixture"] = "mixture"
    parts: dict[MixedKind, "TaskConfig"] = Field(min_length=1)

    def reward(self) -> Reward:
        """Each part's own; an example of a part without one cannot be judged."""
        rewards = {kind: part.reward() for kind, part in self._tasks.items() if kind != "preference"}
        return RouteReward({kind: reward for kind, reward in rewards.items() if reward is not None})

    @cached_property
    def _tasks(self) -> dict[MixedKind, Task]:
        return {kind: part.build() for kind, part in self.parts.items()}

    @cached_property
    def _split(self) -> tuple[list[Example], list[Example]]:
        train = [_of_kind(kind, each) for kind, part in self._tasks.items() for each in part.train_examples()]
        held_out = [_of_kind(kind, each) for kind, part in self._tasks.items() for each in part.eval_examples()]
        ranked = {prompt_key(example): example.id for example in train if example.task == "preference"}
        for example in [*(each for each in train if each.task == "open"), *held_out]:
            if (shared := ranked.get(prompt_key(example))) is not None:
                raise DataError(
                    f"preference example {shared!r} has the prompt of {example.id!r}: a referee that was trained on it "
                    "recognises the answers. Leave one of the two out"
                )
        return train, held_out


def _of_kind(kind: MixedKind, example: Example) -> Example:
    return replace(example, id=f"{kind}/{example.id}", task=kind)
