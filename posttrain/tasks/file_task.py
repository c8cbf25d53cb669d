"""Tasks whose examples are rows of data files: the held-out split, and prompts chosen by pass rate."""

import random
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

from pydantic import Field, model_validator

from posttrain.data.dataset import DatasetConfig
from posttrain.data.pass_rate import PassRateBucket, filter_by_pass_rate, repeat_by_pass_rate
from posttrain.errors import DataError
from posttrain.tasks.task import ConfiguredTask
from posttrain.types import Example


class FileTask(DatasetConfig, ConfiguredTask):
    """Training rows, where held-out rows come from (at most one of the three), and which prompts are trained on. A
    prompt that is held out is not trained on.

    Raises (asked for examples):
        DataError: a file or row cannot be used, or no training example is left.
    """

    eval_path: str | None = Field(default=None, description="another file or dataset")
    eval_split: str | None = Field(default=None, description="another split of the same dataset")
    eval_fraction: float = Field(default=0.0, ge=0, lt=1, description="share of the training rows' prompts")
    eval_seed: int = Field(default=0, description="of the prompts that eval_fraction chooses")
    pass_rate_range: tuple[float, float] | None = Field(
        default=None, description="train only on prompts with metadata pass_rate in this closed range"
    )
    pass_rate_repeats: list[PassRateBucket] | None = Field(
        default=None, description="train on a prompt as often as its pass rate's bucket says; in no bucket: never"
    )

    @model_validator(mode="after")
    def _one_held_out_set(self) -> "FileTask":
        if sum((self.eval_path is not None, self.eval_split is not None, self.eval_fraction > 0)) > 1:
            raise ValueError("give one of eval_path, eval_split and eval_fraction")
        return self

    def train_examples(self) -> list[Example]:
        """The training rows, filtered and repeated by pass rate as configured."""
        examples = self._split[0]
        if self.pass_rate_range is not None:
            examples = filter_by_pass_rate(examples, *self.pass_rate_range)
        if self.pass_rate_repeats is not None:
            examples = repeat_by_pass_rate(examples, self.pass_rate_repeats)
        if not examples:
            raise DataError(f"no training example of {self.path} is left by eval_fraction and pass rates")
        return list(examples)

    @cached_property
    def _split(self) -> tuple[list[Example], list[Example]]:
        train = self.load().examples
        if self.eval_path is not None:
            held_out = self.model_copy(update={"path": self.eval_path}).load().examples
        elif self.eval_split is not None:
            held_out = self.model_copy(update={"split": self.eval_split}).load().examples
        else:
            return split_by_prompt(train, self.eval_fraction, self.eval_seed)
        return self._without_shared_prompts(train, held_out), held_out

    def _without_shared_prompts(self, train: Sequence[Example], held_out: Sequence[Example]) -> list[Example]:
        prompts = {prompt_key(example): example.id for example in held_out}
        shared = [example for example in train if prompt_key(example) in prompts]
        if shared and self.bad_rows == "stop":
            raise DataError(
                f"{len(shared)} training rows of {self.path} have the prompt of a held-out row, the first "
                f"{shared[0].id!r} that of {prompts[prompt_key(shared[0])]!r} (bad_rows: skip leaves them out)"
            )
        return [example for example in train if prompt_key(example) not in prompts]


class RowsConfig(FileTask):
    """A user's own rows, without a judgement of their own: ``{type: rows, path: data.jsonl, columns: {prompt: q}}``."""

    type: Literal["rows"] = "rows"


def split_by_prompt(examples: Sequence[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Training and held-out examples, both in the given order; rows with equal prompts stay together.

    ``fraction`` of the different prompts, rounded, is held out.
    """
    prompts = list(dict.fromkeys(prompt_key(example) for example in examples))
    chosen = set(random.Random(f"eval/{seed}").sample(prompts, round(fraction * len(prompts))))
    train = [example for example in examples if prompt_key(example) not in chosen]
    return train, [example for example in examples if prompt_key(example) in chosen]


def prompt_key(example: Example) -> Any:
    """Equal for examples that ask the same."""
    if isinstance(example.prompt, str):
        return example.prompt
    return tuple((message["role"], message["content"]) for message in example.prompt)
