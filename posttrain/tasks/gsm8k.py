"""Word problems as in GSM8K (arXiv 2110.14168): ``question``, and ``answer`` that ends in ``#### number``."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from posttrain.data.dataset import resolve_columns
from posttrain.data.fields import ExampleField, FieldError, example_from_values
from posttrain.data.prompt_format import PromptFormat
from posttrain.data.rows import Row
from posttrain.rewards.reward import Reward
from posttrain.tasks.file_task import FileTask
from posttrain.types import Example

CALCULATOR_NOTE = re.compile(r"<<[^<>]*>>")
NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:\s+\d+/\d+|/\d+)?")
NOT_THE_NUMBER = str.maketrans("", "", ",$€£%")

PROMPT = "{problem}\nThink step by step. Write the answer on the last line, as #### and the number."


class GSM8KConfig(FileTask):
    """For example ``{type: gsm8k, path: train.jsonl, eval_path: test.jsonl}``; the files are the user's own.

    ``columns`` is fixed: question and answer. The answer is the number after ``####``; the demonstration is the
    reasoning without calculator notes, and then the answer in the same form.
    """

    type: Literal["gsm8k"] = "gsm8k"
    format: PromptFormat = Field(default_factory=lambda: PromptFormat(chat=True, template=PROMPT))

    @model_validator(mode="after")
    def _columns_are_fixed(self) -> "GSM8KConfig":
        if self.columns:
            raise ValueError("the columns of type gsm8k are question and answer; use type rows for a mapping")
        return self

    def columns_of(self, rows: Sequence[Row]) -> dict[ExampleField, str]:
        return resolve_columns(self.path, rows, {"prompt": "question", "demonstration": "answer"})

    def example(self, values: Mapping[str, Any], columns: Mapping[ExampleField, str], default_id: str) -> Example:
        return with_gold(example_from_values(values, columns, {"prompt", "demonstration"}, self.format, default_id))

    def reward(self) -> Reward:
        """``math_answer``: equality of numbers and expressions, judged in worker processes."""
        from posttrain.rewards.math.math_answer import MathAnswerReward

        return MathAnswerReward()


def with_gold(example: Example) -> Example:
    """``example`` with its demonstration split into reasoning and answer.

    Raises:
        FieldError: it has no ``####``, or no number behind it.
    """
    solution = example.demonstration
    if not isinstance(solution, str):
        raise FieldError("answer", "answer", "is not one text")
    reasoning, mark, gold = solution.rpartition("####")
    if not mark:
        raise FieldError("answer", "answer", "has no #### before its number")
    example.answer = gold_number(gold)
    example.demonstration = f"{CALCULATOR_NOTE.sub('', reasoning).strip()}\n#### {example.answer}".lstrip()
    return example


def gold_number(text: str) -> str:
    """The number in what follows ``####``, without thousands commas, currency, percent sign and unit; ``1,200.50
    dollars.`` is ``1200.50``. Fractions and mixed numbers stay as they are.

    Raises:
        FieldError: there is none.
    """
    match = NUMBER.search(text.translate(NOT_THE_NUMBER))
    if match is None:
        raise FieldError("answer", "answer", f"has no number after ####, but {text.strip()[:40]!r}")
    return match.group()
