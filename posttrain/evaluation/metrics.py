"""Numbers of repeated answers to one prompt, and intervals and p-values over prompts; pure functions.

Intervals are at 95 %: Wilson's where every value is 0 or 1, else a bootstrap over prompts.
"""

import math
import random
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from posttrain.rewards.scoring.check import wilson

MOST_SUBSETS = 2000  # that maj@k goes through; of more, as many are drawn
MOST_ENUMERATED = 16  # paired differences whose every choice of signs is looked at
SIGN_FLIPS = 20_000  # drawn where the exact distribution is out of reach
FLIPS_AT_ONCE = 1000

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def pass_at_k(n: int, right: int, k: int) -> float:
    """The chance that of ``k`` of ``n`` answers, ``right`` of them right, at least one is right: the unbiased estimate
    of pass@k (arXiv 2107.03374, eq. 1).

    Raises:
        ValueError: k is not between 1 and n.
    """
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {n} answers")
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def majority_at_k(votes: Sequence[str | None], scores: Sequence[float], k: int) -> float:
    """The score of the answer that most of ``k`` completions give (arXiv 2203.11171), in the mean over the subsets of
    ``k``. Of equally frequent answers each has its share; None does not vote, and no vote at all scores 0."""
    n = len(votes)
    if math.comb(n, k) <= MOST_SUBSETS:
        return fmean(_majority(votes, scores, subset) for subset in combinations(range(n), k))
    rng = random.Random(f"maj@{k}/{n}")
    return fmean(_majority(votes, scores, rng.sample(range(n), k)) for _ in range(MOST_SUBSETS))


def _majority(votes: Sequence[str | None], scores: Sequence[float], subset: Sequence[int]) -> float:
    counts = Counter(votes[place] for place in subset if votes[place] is not None)
    winners = [vote for vote, times in counts.items() if times == max(counts.values())]
    if not winners:
        return 0.0
    return fmean(fmean(scores[place] for place in subset if votes[place] == winner) for winner in winners)


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


def interval(values: Sequence[float]) -> Estimate:
    """The mean of one value for each prompt."""
    if set(values) <= {0.0, 1.0}:
        mean = fmean(values)
        return Estimate(mean, *wilson(mean, len(values)))
    found = estimate(np.array(values), range(len(values)))
    assert found is not None
    return found


def sign_flip_p(differences: Sequence[float], grid: int) -> float:
    """The two-sided p-value of paired ``differences`` [N] under: each could as well have had the other sign.

    Of few, every choice of signs is looked at: p is exact, and at least ``2^(1-N)``, 0.25 for three. Where all are
    multiples of 1 / ``grid`` the distribution of their sum is exact, too; of differences of -1, 0 and 1 this is the
    exact McNemar test. Others have ``SIGN_FLIPS`` draws of a fixed seed, the observed one counted among them.
    """
    values = np.abs(np.array([each for each in differences if each != 0]))
    if not len(values):
        return 1.0
    observed = abs(math.fsum(differences))
    if len(values) <= MOST_ENUMERATED:
        choices = np.array(list(product((-1, 1), repeat=len(values))), dtype=np.int8)
        return float((np.abs(choices @ values) >= observed * (1 - 1e-12)).mean())  # rounding parts no equal sums
    steps = np.rint(values * grid).astype(int)
    if np.abs(values * grid - steps).max() < 1e-6:
        chances = np.array([1.0])  # of the sums, from the lowest, two steps apart
        for step in steps:
            padded = np.zeros(step)
            chances = (np.concatenate([chances, padded]) + np.concatenate([padded, chances])) / 2
        sums = np.abs(2 * np.arange(len(chances)) - steps.sum())
        return float(min(1.0, chances[sums >= round(observed * grid)].sum()))
    rng = np.random.default_rng(0)
    reached = 1
    for _ in range(SIGN_FLIPS // FLIPS_AT_ONCE):
        signs = rng.integers(2, size=(FLIPS_AT_ONCE, len(values)), dtype=np.int8) * 2 - 1
        reached += int((np.abs(signs @ values) >= observed - 1e-12).sum())
    return reached / (SIGN_FLIPS + 1)


def win_rate_at_equal_length(wins: Sequence[float], longer: Sequence[float]) -> Estimate:
    """The win rate [N] that a logistic model expects of answers as long as what they are compared with.

    P(win) = sigmoid(a + b x), where x is ``longer`` [N] (by how many characters the answer is longer) over its root
    mean square, fitted by least log-loss with a penalty of b²/2, one prior pair that keeps b finite where length alone
    tells the winners; and half a win and half a loss at x = 0 do the same for a. The estimate is sigmoid(a); its
    interval is that of a under the normal approximation. This is in the spirit of length-controlled AlpacaEval
    (arXiv 2404.04475), without its terms for models and prompts: numbers of the two are not to be compared.
    """
    scale = math.sqrt(fmean(each * each for each in longer)) or 1.0
    x = np.column_stack([np.ones(len(wins) + 1), [*(each / scale for each in longer), 0.0]])
    y, penalty = np.array([*wins, 0.5]), np.diag([0.0, 1.0])
    weights = np.zeros(2)
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ weights))
        curvature = x.T @ (x * (p * (1 - p))[:, None]) + penalty
        step = np.linalg.solve(curvature, x.T @ (y - p) - penalty @ weights)
        weights = weights + step
        if np.abs(step).max() < 1e-12:
            break
    half = 1.959963984540054 * math.sqrt(np.linalg.inv(curvature)[0, 0])
    value, low, high = (float(1 / (1 + math.exp(-(weights[0] + shift)))) for shift in (0.0, -half, half))
    return Estimate(value, low, high)
