"""Questions with lettered options: MMLU-Pro's rows (arXiv 2406.01574), or one's own."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from posttrain.data.dataset import resolve_columns
from posttrain.data.fields import ExampleField, FieldError, example_from_values
from posttrain.data.prompt_format import PromptFormat
from posttrain.data.rows import Row
from posttrain.rewards.instructions.multiple_choice import MultipleChoiceReward
from posttrain.rewards.reward import Reward
from posttrain.tasks.file_task import FileTask
from posttrain.types import Example

LETTERS = "ABCDEFGHIJ"
PROMPT = '{problem}\n\nThink step by step, and end with "The answer is (X)", where X is the letter of your choice.'


class MultipleChoiceTaskConfig(FileTask):
    """``{type: multiple_choice, path: TIGER-Lab/MMLU-Pro, split: test, columns: {prompt: question}}``. The options are
    a list of texts, which make lines ``A) text`` of the prompt; the answer is a letter, or an index from 0."""

    type: Literal["multiple_choice"] = "multiple_choice"
    options_column: str = "options"
    format: PromptFormat = Field(default_factory=lambda: PromptFormat(chat=True, template=PROMPT))

    def columns_of(self, rows: Sequence[Row]) -> dict[ExampleField, str]:
        return resolve_columns(self.path, rows, {"answer": "answer", **self.columns})

    def reward(self) -> Reward:
        """1 where the chosen letter is the answer."""
        return MultipleChoiceReward(letters=LETTERS).build()

    def example(self, values: Mapping[str, Any], columns: Mapping[ExampleField, str], default_id: str) -> Example:
        options = values.get(self.options_column)
        if not isinstance(options, list) or not 2 <= len(options) <= len(LETTERS):
            raise FieldError("options", self.options_column, f"is not a list of 2 to {len(LETTERS)} options")
        listed = "\n".join(f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
        if isinstance(question := values.get(columns["prompt"]), str):
            values = {**values, columns["prompt"]: f"{question}\n{listed}"}
        example = example_from_values(values, columns, {"prompt", "answer"}, self.format, default_id)
        answer = str(example.answer).strip().upper()
        letter = LETTERS[int(answer)] if answer.isdigit() and int(answer) < len(LETTERS) else answer
        if len(letter) != 1 or letter not in LETTERS[: len(options)]:
            raise FieldError("answer", columns["answer"], f"is {example.answer!r}, which is none of the options")
        return replace(example, answer=letter)
