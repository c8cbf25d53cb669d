"""Expectations of a comparison, as people write them: ``oreal end > positives-only end + 0.02``."""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
MEASURES = ("start", "end", "gain", "seconds")

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_VALUE = rf"([\w.-]+) +({'|'.join(MEASURES)})"
_PATTERN = re.compile(rf"{_VALUE} *(>=|<=|>|<) *(?:({_NUMBER})|{_VALUE}(?: *([-+]) *({_NUMBER}))?)")

# arm -> measure -> seed -> value
Measurements = Mapping[str, Mapping[str, Mapping[int, float]]]


@dataclass(frozen=True, slots=True)
class Expectation:
    """``arm measure`` compared with a number, or with another arm's on the same seeds, plus a number.

    A measure is of one run: ``start`` and ``end`` of the metric, ``gain`` = end - start, ``seconds`` of wall clock with
    the warm start. Its mean over seeds is compared.
    """

    text: str
    left: tuple[str, str]
    comparison: str
    right: tuple[str, str] | None
    number: float

    @classmethod
    def parse(cls, text: str) -> "Expectation":
        """Read ``ARM MEASURE >= NUMBER`` or ``ARM MEASURE > ARM MEASURE [+ NUMBER]``.

        Raises:
            ValueError: ``text`` is neither.
        """
        match = _PATTERN.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                f"expect: {text!r} is not of the form `ARM MEASURE >= NUMBER` or `ARM MEASURE > ARM MEASURE + NUMBER`, "
                f"where a measure is {', '.join(MEASURES)}"
            )
        arm, measure, comparison, alone, other, other_measure, sign, margin = match.groups()
        if other is None:
            return cls(text, (arm, measure), comparison, None, float(alone))
        number = float(margin or 0) * (-1 if sign == "-" else 1)
        return cls(text, (arm, measure), comparison, (other, other_measure), number)

    @property
    def arms(self) -> list[str]:
        return [self.left[0]] if self.right is None else [self.left[0], self.right[0]]

    def measured(self, measurements: Measurements) -> float | None:
        """The mean over seeds of the left side, less the other arm's; None if no seed has what it needs."""
        left = measurements[self.left[0]][self.left[1]]
        if self.right is None:
            return _mean(list(left.values()))
        right = measurements[self.right[0]][self.right[1]]
        return _mean([left[seed] - right[seed] for seed in left if seed in right])

    def holds(self, measurements: Measurements) -> bool:
        """Whether the measured mean is on the right side of the number."""
        value = self.measured(measurements)
        return value is not None and COMPARISONS[self.comparison](value, self.number)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
