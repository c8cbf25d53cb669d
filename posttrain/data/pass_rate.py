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


# OREAL's released training set (arXiv 2502.06781, internlm/OREAL): hard prompts more often, above 0.8 never.
OREAL_REPEATS = (
    PassRateBucket(low=0.0, high=0.2, repeats=6),
    PassRateBucket(low=0.2, high=0.4, repeats=4),
    PassRateBucket(low=0.4, high=0.6, repeats=4),
    PassRateBucket(low=0.6, high=0.8, repeats=2),
)


def repeat_by_pass_rate(examples: Sequence[Example], table: Sequence[PassRateBucket] = OREAL_REPEATS) -> list[Example]:
    """``examples`` in order, each as often as the first bucket of ``table`` that holds its pass rate says; one that no
    bucket holds is dropped.

    Raises:
        DataError: an example has no pass rate.
    """
    return [example for example in examples for _ in range(_repeats(pass_rate(example), table))]


def filter_by_pass_rate(examples: Sequence[Example], low: float = 0.0, high: float = 0.8) -> list[Example]:
    """The examples with ``low`` <= pass rate <= ``high``; the default range is OREAL's (arXiv 2502.06781, section 3.2).

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


def _repeats(rate: float, table: Sequence[PassRateBucket]) -> int:
    return next((bucket.repeats for bucket in table if bucket.low <= rate < bucket.high), 0)
