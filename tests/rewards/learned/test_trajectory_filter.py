"""Voting with rollouts dropped on the way: what is dropped, when, and what a fitted threshold promises."""

import math
import random
import runpy
from pathlib import Path
from typing import Any

import pytest

RECIPE = runpy.run_path(str(Path(__file__).parents[3] / "recipes/reward_model/trajectory_filter.py"))
Ballot: Any = RECIPE["Ballot"]
Vote: Any = RECIPE["Vote"]
filter_outcome, fit_threshold = RECIPE["filter_outcome"], RECIPE["fit_threshold"]
filtered_majority, running_means = RECIPE["filtered_majority"], RECIPE["running_means"]
tokens_before_drop = RECIPE["tokens_before_drop"]


def test_running_means_need_a_whole_window() -> None:
    assert running_means([1, 2, 3, 6], 2) == [1.5, 2.5, 4.5]
    assert running_means([1], 2) == []


@pytest.mark.parametrize(
    ("window", "threshold", "tokens"), [(1, 0.5, 3), (2, 0.5, 4), (2, 0.3, None), (5, 1.0, None), (1, -1.0, None)]
)
def test_a_rollout_is_dropped_where_its_running_mean_falls(window: int, threshold: float, tokens: int | None) -> None:
    assert tokens_before_drop([0.9, 0.8, 0.4, 0.2], window, threshold) == tokens


def test_only_kept_rollouts_vote() -> None:
    vote = Vote("7", [Ballot("6", [0.9, 0.1, 0.1]), Ballot("6", [0.2, 0.2, 0.2]), Ballot("7", [0.9, 0.9, 0.9])])
    assert filtered_majority(vote, 1, -math.inf) == ("6", 9)
    assert filtered_majority(vote, 1, 0.5) == ("7", 2 + 1 + 3)


def test_the_one_that_lasted_longest_is_never_dropped() -> None:
    vote = Vote("a", [Ballot("b", [0.1, 0.1]), Ballot("a", [0.9, 0.1, 0.1])])
    assert filtered_majority(vote, 1, 0.5) == ("a", 1 + 3)


def noisy_votes(count: int, informative: bool, seed: int) -> list[Vote]:
    """Right rollouts (0.4 of them) end at Q around 0.8, wrong ones around 0.2; or Q says nothing."""
    rng = random.Random(seed)
    votes = []
    for _ in range(count):
        ballots = []
        for _ in range(8):
            right = rng.random() < 0.4
            mean = (0.8 if right else 0.2) if informative else 0.5
            values = [rng.gauss(0.5 + (mean - 0.5) * min(1, place / 5), 0.05) for place in range(20)]
            ballots.append(Ballot("gold" if right else rng.choice(["x", "y"]), values))
        votes.append(Vote("gold", ballots))
    return votes


def test_a_fitted_threshold_saves_tokens_and_gains_accuracy_on_other_votes() -> None:
    threshold = fit_threshold(noisy_votes(60, True, seed=0), window=3)
    outcome = filter_outcome(noisy_votes(200, True, seed=1), 3, threshold)
    assert outcome.tokens_saved > 0.3
    assert outcome.accuracy > outcome.accuracy_unfiltered + 0.3


def test_fitting_never_loses_accuracy_on_its_own_votes() -> None:
    votes = noisy_votes(60, False, seed=2)
    outcome = filter_outcome(votes, 3, fit_threshold(votes, window=3))
    assert outcome.accuracy >= outcome.accuracy_unfiltered


def test_tolerance_buys_tokens() -> None:
    votes = noisy_votes(60, True, seed=4)
    strict, lax = (filter_outcome(votes, 3, fit_threshold(votes, 3, tolerance)) for tolerance in (0.0, 0.1))
    assert lax.tokens_saved > strict.tokens_saved
    assert lax.accuracy >= strict.accuracy - 0.1
