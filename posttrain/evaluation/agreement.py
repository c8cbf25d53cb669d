"""How often a metric prefers the answer that a label prefers, with an interval; pure functions of arrays.

    picks = preferred(scores_of_first, scores_of_second)
    estimate(tie_free_credit(picks, labels), prompts)

Preferences are numbers: 1 the first answer is better, -1 the second, 0 a tie.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Preferences = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def preferred(first: Floats, second: Floats) -> Preferences:
    """The preferences of a metric that gives these scores: the higher one is better, equal scores are a tie."""
    return np.sign(first - second).astype(np.int64)


def credit(picks: Preferences, labels: Preferences) -> Floats:
    """1 where the pick is the label, else 0. Its mean is agreement with ties in the denominator, as BLEUBERI's study
    reports it (arXiv 2505.11080): a tied label is met by a tied pick alone, which few metrics ever give."""
    return (picks == labels).astype(np.float64)


def tie_free_credit(picks: Preferences, labels: Preferences) -> Floats:
    """The same of the pairs that have a better answer, NaN for the others; a tied pick counts half, as a coin would."""
    return np.where(labels == 0, np.nan, (1 + picks * labels) / 2)


def estimate(values: Floats, groups: Sequence[Hashable], resamples: int = 2000, seed: int = 0) -> Estimate | None:
    """The mean of ``values`` [N], NaN left out, with a percentile bootstrap interval (Efron, 1979).

    What is drawn with replacement are whole groups, for example all pairs of a prompt: values of one group tell of each
    other. Equal ``seed`` and ``groups`` draw the same, so that the difference of two metrics has its interval from the
    difference of their values. None where there is no value.

    Raises:
        ValueError: there are more or fewer groups than values.
    """
    members: dict[Hashable, list[float]] = {}
    for value, group in zip(values.tolist(), groups, strict=True):
        members.setdefault(group, []).append(value)
    sums = np.array([np.nansum(own) for own in members.values()])
    counts = np.array([np.count_nonzero(~np.isnan(own)) for own in members.values()])
    if not counts.any():
        return None
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(resamples):
        drawn = rng.integers(len(sums), size=len(sums))
        means.append(sums[drawn].sum() / max(counts[drawn].sum(), 1))
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(sums.sum() / counts.sum()), float(low), float(high))


def z_scores(values: Floats) -> Floats:
    """``values`` with mean 0 and standard deviation 1; zeros where all are equal."""
    spread = values.std()
    return (values - values.mean()) / spread if spread > 0 else np.zeros_like(values)
