"""Is a reward fit to train on? What its scores of completions that are known to be good or bad say about it."""

import heapq
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from operator import attrgetter
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from posttrain.rewards.checked import score_checked
from posttrain.rewards.on_error import BaseRewardConfig
from posttrain.rewards.scoring.labelled import LabelledCompletion, LabelledGroup

BATCH_COMPLETIONS = 256
Z_95 = 1.959963984540054  # of the standard normal distribution, two-sided
WORST_PAIRS = 5
# Shares from which on a warning is due.
MUCH_WITHOUT_SPREAD = 0.5
MUCH_LENGTH = 0.5


@dataclass(frozen=True, slots=True)
class WrongPair:
    """A bad completion that scored higher than a good one of the same prompt, ``margin`` > 0 above it."""

    place: str
    margin: float
    good: str
    bad: str


@dataclass(frozen=True, slots=True)
class RewardCheck:
    """What is known of a reward; None where there was nothing to tell it by.

    ``accuracy``: mean over the ``prompts_compared``, of the share of pairs (good, bad) in which the good completion
    scores higher, a tie counting half; ``interval`` is Wilson's, 95 %, with the prompts as the number of trials.
    ``auroc``: the chance that a good completion scores above a bad one of any prompt. ``without_spread``: the share of
    prompts, of those with two scores or more, whose scores are all equal. ``length_correlation``: Spearman's, of
    scores and lengths in characters; ``length_accuracy``: the accuracy of preferring the longer completion.
    """

    prompts: int
    completions: int
    prompts_compared: int
    accuracy: float | None
    interval: tuple[float, float] | None
    auroc: float | None
    without_spread: float | None
    length_correlation: float | None
    length_accuracy: float | None
    errors: dict[str, int]
    error_example: str
    completions_per_second: float
    good_scores: list[float]
    bad_scores: list[float]
    worst: list[WrongPair]

    @property
    def error_rate(self) -> float:
        return sum(self.errors.values()) / self.completions

    def warnings(self) -> Iterator[str]:
        """What to look at before training on this reward."""
        if self.errors:
            yield f"{self.error_rate:.1%} of the completions could not be scored, for example {self.error_example}"
        if self.interval is None:
            yield "no prompt has scores of both a good and a bad completion: nothing to compare"
        elif self.interval[1] < 0.5:
            yield "it prefers the bad completions: is its sign the wrong way round?"
        elif self.interval[0] <= 0.5:
            yield "it cannot be told from guessing on these pairs"
        if self.without_spread is not None and self.without_spread >= MUCH_WITHOUT_SPREAD:
            share = f"{self.without_spread:.0%}"
            yield f"the scores of a prompt are all equal for {share} of the prompts: no spread, nothing to learn from"
        if self.length_correlation is not None and abs(self.length_correlation) >= MUCH_LENGTH:
            correlation = f"{self.length_correlation:+.2f}"
            yield f"its scores follow length (rank correlation {correlation}): a policy learns that first"


def check_reward(
    config: BaseRewardConfig,
    groups: Sequence[LabelledGroup],
    on_progress: Callable[[int], None] = lambda completions: None,
) -> RewardCheck:
    """Score ``groups``, each as a whole; their completions keep the outputs.

    Raises:
        RewardFailure: the reward broke its contract.
    """
    with closing(config.build()) as reward:
        started = time.perf_counter()
        batches: list[list[LabelledCompletion]] = [[]]
        for group in groups:
            if len(batches[-1]) >= BATCH_COMPLETIONS:
                batches.append([])
            batches[-1].extend(group.completions)
        for batch in batches:
            outputs = score_checked(reward, [each.input for each in batch])
            for each, output in zip(batch, outputs, strict=True):
                each.output = output
            on_progress(len(batch))
        seconds = time.perf_counter() - started
    return summarise(groups, seconds)


def summarise(groups: Sequence[LabelledGroup], seconds: float) -> RewardCheck:
    """The check of ``groups`` that were scored in ``seconds``."""
    everything = [each for group in groups for each in group.completions]
    scored = _scored(everything)
    failed = [each for each in everything if each.output.error is not None]
    good = [each.score for each in scored if each.good]
    bad = [each.score for each in scored if not each.good]
    compared = [pairs for group in groups if (pairs := _pairs(group))]
    accuracy = fmean(_share_right(pairs, attrgetter("score")) for pairs in compared) if compared else None
    spreads = [len({each.score for each in own}) > 1 for group in groups if len(own := _scored(group.completions)) > 1]
    return RewardCheck(
        prompts=len(groups),
        completions=len(everything),
        prompts_compared=len(compared),
        accuracy=accuracy,
        interval=None if accuracy is None else wilson(accuracy, len(compared)),
        auroc=auroc(good, bad),
        without_spread=1 - fmean(spreads) if spreads else None,
        length_correlation=spearman([each.score for each in scored], [each.length for each in scored]),
        length_accuracy=fmean(_share_right(pairs, attrgetter("length")) for pairs in compared) if compared else None,
        errors=dict(Counter(str(each.output.error) for each in failed).most_common()),
        error_example=f"{failed[0].output.error} ({failed[0].output.message})" if failed else "",
        completions_per_second=len(everything) / max(seconds, 1e-9),
        good_scores=good,
        bad_scores=bad,
        worst=_worst(groups),
    )


def wilson(share: float, trials: int, z: float = Z_95) -> tuple[float, float]:
    """The score interval of a proportion (Wilson 1927): the shares that ``share`` of ``trials`` does not refute."""
    scale = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def auroc(good: Sequence[float], bad: Sequence[float]) -> float | None:
    """P(good > bad) + P(good = bad) / 2 (Mann & Whitney 1947); None where one of them is empty."""
    if not good or not bad:
        return None
    above = ranks([*good, *bad])[: len(good)].sum() - len(good) * (len(good) + 1) / 2
    return float(above / (len(good) * len(bad)))


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """The correlation of ranks; None where one of the two does not vary."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(np.corrcoef(ranks(first), ranks(second))[0, 1])


def ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """From 1 for the lowest; equal values share the mean of their ranks. float64 [N]."""
    _, place, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    shared: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return shared


Pair = tuple[LabelledCompletion, LabelledCompletion]


def _pairs(group: LabelledGroup) -> list[Pair]:
    """Every good completion with every bad one, of those that have scores."""
    scored = _scored(group.completions)
    return [(good, bad) for good in scored if good.good for bad in scored if not bad.good]


def _scored(completions: Sequence[LabelledCompletion]) -> list[LabelledCompletion]:
    return [each for each in completions if each.output.score is not None]


def _share_right(pairs: Sequence[Pair], measure: Callable[[LabelledCompletion], float]) -> float:
    return fmean((np.sign(measure(good) - measure(bad)) + 1) / 2 for good, bad in pairs)


def _worst(groups: Sequence[LabelledGroup]) -> list[WrongPair]:
    wrong = [
        WrongPair(group.place, bad.score - good.score, good.input.completion, bad.input.completion)
        for group in groups
        for good, bad in _pairs(group)
        if bad.score > good.score
    ]
    return heapq.nlargest(WORST_PAIRS, wrong, key=lambda pair: pair.margin)
