"""How well a referee's scores agree with a known ranking, and what its scores of a group are worth as rewards.

Nothing here knows of prompts or models: numbers in, numbers out (URPO, arXiv 2507.17515; the abstract names the
agreement with a ranking, the measures and their ties are this project's).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Literal

Agreement = Literal["tau_gold", "tau_a", "tau_b", "top1"]
SelfReward = Literal["score", "rank"]


@dataclass(frozen=True, slots=True)
class PairCounts:
    """Pairs of candidates by what gold and scores say: the same order, the other one, or a tie in one or both."""

    concordant: int
    discordant: int
    tied_in_scores: int
    tied_in_gold: int
    tied_in_both: int

    @property
    def strict(self) -> int:
        """Pairs that gold tells apart."""
        return self.concordant + self.discordant + self.tied_in_scores


def pair_counts(gold: Sequence[float], scores: Sequence[float]) -> PairCounts:
    """Count the pairs of two lists of one length, in both of which higher is better."""
    kinds = [0] * 5
    for (gold_a, score_a), (gold_b, score_b) in combinations(zip(gold, scores, strict=True), 2):
        if gold_a == gold_b:
            kinds[4 if score_a == score_b else 3] += 1
        elif score_a == score_b:
            kinds[2] += 1
        else:
            kinds[(gold_a > gold_b) != (score_a > score_b)] += 1
    return PairCounts(*kinds)


def agreement(gold: Sequence[float], scores: Sequence[float], measure: Agreement = "tau_gold") -> float:
    """From -1 (reversed) to 1, with C, D and T pairs concordant, discordant and tied in scores only:

    ``tau_gold``: (C - D) / (C + D + T), Somers' D given gold; ``tau_a``: over all pairs; ``tau_b``: Kendall's, 0 for
    constant scores; ``top1``: twice the share of the highest scored that gold has at the top, less 1.

    Raises:
        ValueError: gold tells no pair apart.
    """
    counts = pair_counts(gold, scores)
    if not counts.strict:
        raise ValueError("all gold ranks are equal: there is nothing to agree with")
    difference = counts.concordant - counts.discordant
    match measure:
        case "tau_gold":
            return difference / counts.strict
        case "tau_a":
            return difference / math.comb(len(gold), 2)
        case "tau_b":
            of_scores = counts.concordant + counts.discordant + counts.tied_in_gold
            return difference / math.sqrt(counts.strict * of_scores) if of_scores else 0.0
        case "top1":
            chosen = [best for best, score in zip(gold, scores, strict=True) if score == max(scores)]
            return 2 * fmean(best == max(gold) for best in chosen) - 1


def agreement_reward(gold: Sequence[float], scores: Sequence[float], measure: Agreement = "tau_gold") -> float:
    """(agreement + 1) / 2: from 0 to 1, and 1/2 for constant scores under every tau. That of ``tau_gold`` is the pair
    accuracy: the share of the pairs that gold tells apart which the scores order alike, a tie counting half."""
    return (agreement(gold, scores, measure) + 1) / 2


def rank_shares(scores: Sequence[float]) -> list[float]:
    """(number beaten + half the ties) / (m - 1) of each of m scores; 1/2 for one alone."""
    if len(scores) == 1:
        return [0.5]
    beaten = [sum(score > other for other in scores) + 0.5 * (scores.count(score) - 1) for score in scores]
    return [number / (len(scores) - 1) for number in beaten]


def unpermuted(
    orders: Sequence[Sequence[int]], values: Sequence[Sequence[float] | None], number: int
) -> list[list[float]]:
    """The values of each of ``number`` candidates. ``orders[j]`` lists the candidates as sample j showed them, and
    ``values[j]`` what it gave them, in that order; None: it was malformed, and is left out."""
    found: list[list[float]] = [[] for _ in range(number)]
    for order, row in zip(orders, values, strict=True):
        for candidate, value in zip(order, row, strict=True) if row is not None else ():
            found[candidate].append(value)
    return found
