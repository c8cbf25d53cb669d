"""The reference answers of training rows, checked when training starts."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from posttrain.data.chat import PromptEncoder
from posttrain.errors import DataError
from posttrain.types import Example

logger = logging.getLogger(__name__)


def with_references(examples: Sequence[Example], chosen: Sequence[int] | None) -> list[Example]:
    """``examples`` with the ``chosen`` of their references, counted from 0; with all of them where None.

    Raises:
        DataError: one of them is not there or blank, an example has none at all, or two have one id.
    """
    for name, count in Counter(example.id for example in examples).items():
        if count > 1:
            raise DataError(f"{count} training examples have the id {name!r}: ids must differ")
    return [replace(example, references=_chosen(example, chosen)) for example in examples]


def _chosen(example: Example, chosen: Sequence[int] | None) -> list[str]:
    numbers = range(len(example.references)) if chosen is None else chosen
    if not numbers:
        raise DataError(f"example {example.id!r} has no references: give it some, or leave the row out")
    for number in numbers:
        if not 0 <= number < len(example.references):
            raise DataError(
                f"example {example.id!r} has no reference {number} (it has {len(example.references)}, counted from 0): "
                "change trainer.references, or leave the row out"
            )
        if not example.references[number].strip():
            raise DataError(f"reference {number} of example {example.id!r} is blank: write it, or leave the row out")
    return [example.references[number] for number in numbers]


def reference_lengths(examples: Sequence[Example], encoder: PromptEncoder, max_tokens: int) -> dict[str, float]:
    """Mean tokens of each example's references, with the one that ends a turn, by its id.

    Warns of references that a completion of ``max_tokens`` cannot reach, of equal ones in a row, and of those that
    stand in their prompt.
    """
    lengths: dict[str, float] = {}
    too_long = 0
    for example in examples:
        texts = [text.strip() for text in example.references]
        tokens = [len(encoder.completion_ids(text)) for text in texts]
        lengths[example.id] = sum(tokens) / len(tokens) + 1
        too_long += sum(count > max_tokens for count in tokens)
    total = sum(len(example.references) for example in examples)
    for what, count in {f"longer than max_completion_tokens ({max_tokens})": too_long, **leaks(examples)}.items():
        if count:
            logger.warning("%d of %d references (%.1f %%) are %s", count, total, 100 * count / total, what)
    return lengths


def leaks(examples: Sequence[Example]) -> dict[str, int]:
    """How many references are equal to another of their row, and how many stand in their prompt."""
    equal, in_prompt = 0, 0
    for example in examples:
        texts = [text.strip() for text in example.references]
        prompt = example.prompt if isinstance(example.prompt, str) else "\n".join(m["content"] for m in example.prompt)
        equal += len(texts) - len(set(texts))
        in_prompt += sum(text in prompt for text in texts)
    return {"equal to another of their row": equal, "part of their prompt": in_prompt}
