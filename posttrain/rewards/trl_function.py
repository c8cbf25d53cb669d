"""TRL reward functions as rewards, and rewards as TRL reward functions.

TRL's form: ``f(prompts, completions, completion_ids, **columns) -> list[float | None]``, one list entry per
completion; a conversational completion is a list of messages; None says that the function does not apply to the row.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, Literal

from pydantic import Field, field_validator

from posttrain.config import load_object
from posttrain.errors import RewardFailure
from posttrain.rewards.checked import score_checked
from posttrain.rewards.on_error import ConfiguredReward
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput, part_name
from posttrain.types import Example

EXAMPLE_COLUMNS = ("id", "answer", "references", "demonstration", "task")


class TRLFunctionReward(ConfiguredReward):
    """A TRL reward function: ``function: trl.rewards:accuracy_reward`` with ``columns: {solution: answer}``.

    The columns it is given are the example's id, answer, references, demonstration and task, and every key of the
    metadata (None where a row has no such key). A function that takes no ``**kwargs`` is given what it names. None
    for a row becomes an output without score: a weighted sum leaves the part out of that row.
    """

    type: Literal["trl_function"] = "trl_function"
    function: str | Callable[..., Any] = Field(description="package.module:name")
    columns: dict[str, str] = Field(default_factory=dict, description="the function's column: our field or column")
    arguments: dict[str, Any] = Field(default_factory=dict, description="more keyword arguments, as they are")

    @field_validator("function")
    @classmethod
    def _can_be_called(cls, function: str | Callable[..., Any]) -> str | Callable[..., Any]:
        if isinstance(function, str) and not callable(load_object(function)):
            raise ValueError(f"{function!r} is not a function")
        return function

    @property
    def name(self) -> str:
        return str(getattr(self._loaded, "__name__", type(self._loaded).__name__))

    @cached_property
    def _loaded(self) -> Callable[..., Any]:
        return load_object(self.function) if isinstance(self.function, str) else self.function

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        scores = self._loaded(**self._keywords(inputs))
        if not isinstance(scores, Iterable):
            raise RewardFailure(f"reward function {self.name} returned {type(scores).__name__}, not a list of scores.")
        return [RewardOutput(None if score is None else float(score)) for score in scores]

    def _keywords(self, inputs: Sequence[RewardInput]) -> dict[str, Any]:
        metadata = dict.fromkeys(key for item in inputs for key in item.example.metadata)
        keywords: dict[str, Any] = {key: [item.example.metadata.get(key) for item in inputs] for key in metadata}
        keywords |= {name: [getattr(item.example, name) for item in inputs] for name in EXAMPLE_COLUMNS}
        keywords |= {
            "prompts": [item.example.prompt for item in inputs],
            "completions": [
                item.completion
                if isinstance(item.example.prompt, str)
                else [{"role": "assistant", "content": item.completion}]
                for item in inputs
            ],
            "completion_ids": [item.completion_ids for item in inputs],
        }
        for theirs, ours in self.columns.items():
            if ours not in keywords:
                raise RewardFailure(
                    f"reward function {self.name}: columns maps {theirs!r} to {ours!r}, which the examples do not "
                    f"have; they have {', '.join(sorted(keywords))}."
                )
            keywords[theirs] = keywords[ours]
        keywords |= self.arguments
        parameters = inspect.signature(self._loaded).parameters.values()
        takes_all = any(each.kind == each.VAR_KEYWORD for each in parameters)
        named = [each for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
        missing = [each.name for each in named if each.default is each.empty and each.name not in keywords]
        if missing:
            raise RewardFailure(
                f"reward function {self.name} needs {', '.join(missing)}; the examples have "
                f"{', '.join(sorted(keywords))}. Map a column with columns: {{{missing[0]}: NAME}}."
            )
        return keywords if takes_all else {each.name: keywords[each.name] for each in named if each.name in keywords}


def as_trl_function(reward: Reward) -> Callable[..., list[float | None]]:
    """``reward`` in TRL's form, named after it. A completion that could not be judged is None.

    The dataset's columns ``id``, ``answer``, ``references``, ``demonstration`` and ``task`` fill the fields of the
    examples, the others their metadata.

    Raises (the function):
        RewardFailure: the reward raised or broke its contract.
    """

    def function(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        rows = {
            name: values
            for name, values in columns.items()
            if isinstance(values, list | tuple) and len(values) == len(completions)
        }
        inputs = [
            RewardInput(
                _example(row, prompt, {name: values[row] for name, values in rows.items()}),
                completion
                if isinstance(completion, str)
                else "\n".join(message.get("content") or "" for message in completion),
                list(completion_ids[row]) if completion_ids is not None else [],
            )
            for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
        ]
        return [output.score for output in score_checked(reward, inputs)]

    function.__name__ = part_name(reward)
    return function


def _example(row: int, prompt: Any, columns: dict[str, Any]) -> Example:
    fields = {name: columns.pop(name) for name in EXAMPLE_COLUMNS if columns.get(name) is not None}
    fields["id"] = str(fields.get("id", row))
    return Example(prompt=prompt, metadata=columns, **fields)
