"""Choosing prompts by how often the initial policy solves them, read from ``metadata["pass_rate"]``."""

from collections.abc import Sequence

from pydantic import Field

from posttrain.config import Config
from posttrain.errors import DataError
from posttrain.types import Example


class PassRateBucket(Config):
    """Examples with ``low`` <= pass rate < ``high`` are seen ``repeats`` times an epoch."""

    low: float = Field(ge=0, le=1)
    high: float = Field(gt=0)
    repeats: int = Field(ge=0)


def repeat_by_pass_rate(examples: Sequence[Example], table: Sequence[PassRateBucket]) -> list[Example]:
    """``examples`` in order, each as often as the first bucket of ``table`` that holds its pass rate says; one that no
    bucket holds is dropped. OREAL's released set (arXiv 2502.06781): 6 below 0.2, 4 below 0.6, 2 below 0.8, else none.

    Raises:
        DataError: an example has no pass rate.
    """
    rates = [pass_rate(example) for example in examples]
    times = [next((each.repeats for each in table if each.low <= rate < each.high), 0) for rate in rates]
    return [example for example, number in zip(examples, times, strict=True) for _ in range(number)]


def filter_by_pass_rate(examples: Sequence[Example], low: float, high: float) -> list[Example]:
    """The examples with ``low`` <= pass rate <= ``high``; OREAL's range is 0 to 0.8 (section 3.2).

    Raises:
        DataError: an example has no pass rate.
    """
    return [example for example in examples if low <= pass_rate(example) <= high]


def pass_rate(example: Example) -> float:
    """The share of rollouts of the initial policy that solved ``example``, 0 to 1.

    Raises:
        DataError: it is missing, or not a number from 0 to 1.
    """
    value = example.metadata.get("pass_rate")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DataError(
            f"example {example.id!r} has pass_rate {value!r}, not a number from 0 to 1; measure pass rates first"
        )
    return float(value)
