"""Majority voting that drops rollouts on the way: their Q says that they will hardly end well (arXiv 2407.13887).

A rollout is dropped at the first token where the mean of its last ``window`` Q-values is below a threshold, which is
fitted on rollouts whose outcomes are known.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

MOST_THRESHOLDS = 100  # that fitting tries


@dataclass(frozen=True, slots=True)
class Ballot:
    """A whole rollout: its answer in a form that can be compared, and the Q-value of each of its tokens."""

    answer: str
    q_values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Vote:
    """The rollouts of one problem, and its right answer."""

    gold: str
    ballots: Sequence[Ballot]


@dataclass(frozen=True, slots=True)
class FilterOutcome:
    """What filtering costs and saves over a set of votes: accuracies and the share of tokens, in [0, 1]."""

    threshold: float
    accuracy_unfiltered: float
    accuracy: float
    tokens_saved: float


def running_means(values: Sequence[float], window: int) -> list[float]:
    """The mean of each ``window`` values in a row, the first at place ``window`` - 1: [len(values) - window + 1]."""
    sums = [0.0, *accumulate(values)]
    return [(sums[end] - sums[end - window]) / window for end in range(window, len(sums))]


def tokens_before_drop(values: Sequence[float], window: int, threshold: float) -> int | None:
    """How many tokens are sampled before a rollout with these Q-values is dropped; None: it is kept."""
    means = running_means(values, window)
    return next((place + window for place, mean in enumerate(means) if mean < threshold), None)


def filtered_majority(vote: Vote, window: int, threshold: float) -> tuple[str, int]:
    """The most frequent answer of the rollouts that are kept (of equals, the first), and the tokens sampled.

    Where all would be dropped, the one that lasted longest is kept.
    """
    drops = [tokens_before_drop(ballot.q_values, window, threshold) for ballot in vote.ballots]
    if None not in drops:
        drops[max(range(len(drops)), key=lambda index: drops[index] or 0)] = None
    answers = Counter(ballot.answer for ballot, drop in zip(vote.ballots, drops, strict=True) if drop is None)
    lengths = (len(ballot.q_values) for ballot in vote.ballots)
    tokens = sum(length if drop is None else drop for length, drop in zip(lengths, drops, strict=True))
    return answers.most_common(1)[0][0], tokens


def filter_outcome(votes: Sequence[Vote], window: int, threshold: float) -> FilterOutcome:
    """Majority voting with and without the filter, over ``votes``."""
    accuracies, tokens = [], []
    for limit in (-math.inf, threshold):
        majorities = [filtered_majority(vote, window, limit) for vote in votes]
        right = sum(answer == vote.gold for (answer, _), vote in zip(majorities, votes, strict=True))
        accuracies.append(right / len(votes))
        tokens.append(sum(count for _, count in majorities))
    return FilterOutcome(threshold, accuracies[0], accuracies[1], 1 - tokens[1] / tokens[0])


def fit_threshold(votes: Sequence[Vote], window: int, tolerance: float = 0.0) -> float:
    """The highest threshold, which saves most, whose accuracy on validation ``votes`` is within ``tolerance`` of the
    best that any threshold reaches; -inf drops nothing, and is one of them."""
    lowest = sorted({min(running_means(b.q_values, window), default=1.0) for vote in votes for b in vote.ballots})
    tried = [-math.inf, *lowest[:: max(1, len(lowest) // MOST_THRESHOLDS)]]
    outcomes = [filter_outcome(votes, window, threshold) for threshold in tried]
    best = max(outcome.accuracy for outcome in outcomes)
    return max(outcome.threshold for outcome in outcomes if outcome.accuracy >= best - tolerance)
