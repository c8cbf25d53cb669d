"""The formulas that make a sentence's BLEU of its matched n-grams: the evaluate package's, and sacrebleu's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

MAX_ORDER = 4
SmoothMethod = Literal["exp", "floor", "add-k", "none"]


@dataclass(frozen=True, slots=True)
class Matches:
    """Of a completion's ``possible[n - 1]`` n-grams, ``matched[n - 1]`` are in a reference; each counts at most as
    often as it occurs there. ``length`` and ``reference_lengths`` are in tokens."""

    matched: tuple[int, ...]
    length: int
    reference_lengths: tuple[int, ...]

    @property
    def possible(self) -> tuple[int, ...]:
        return tuple(max(self.length - before, 0) for before in range(MAX_ORDER))


@dataclass(frozen=True, slots=True)
class Bleu:
    """A sentence's BLEU and what it is made of, all on the 0-1 scale.

    ``length_ratio``: tokens of the completion over those of the reference that the brevity penalty compares it with.
    """

    precisions: tuple[float, ...]
    mean_precision: float
    brevity_penalty: float
    length_ratio: float

    @property
    def score(self) -> float:
        """Brevity penalty times geometric mean of the precisions."""
        return self.brevity_penalty * self.mean_precision


def evaluate_bleu(matches: Matches, smooth: bool = True) -> Bleu:
    """BLEU as the ``evaluate`` package's ``bleu`` metric computes it for one completion, which is what BLEUBERI's
    release calls with ``smooth=True`` (arXiv 2505.11080)::

        p_n  = (matched_n + 1) / (possible_n + 1)    smoothed, at every order, unigrams included
        p_n  = matched_n / possible_n                plain; 0 where nothing is possible
        BP   = 1 if length > shortest else exp(1 - shortest / length)
        BLEU = BP * exp(mean of log p_n, n = 1..4)

    The brevity penalty compares with the shortest reference. A completion without tokens scores 0.
    """
    added = 1 if smooth else 0
    pairs = [(hits + added, most + added) for hits, most in zip(matches.matched, matches.possible, strict=True)]
    precisions = [hits / most if most else 0.0 for hits, most in pairs]
    return _bleu(matches, precisions, MAX_ORDER, min(matches.reference_lengths))


def sacrebleu_bleu(
    matches: Matches,
    smooth_method: SmoothMethod = "exp",
    smooth_value: float | None = None,
    effective_order: bool = True,
) -> Bleu:
    """BLEU as sacrebleu 2 defines it for a sentence, on the 0-1 scale.

    The smoothings are methods 1 to 3 of Chen and Cherry (2014, W14-3346), for orders without a match: ``floor`` counts
    ``smooth_value`` (0.1) matches, ``exp`` halves the count at each such order; ``add-k`` adds ``smooth_value`` (1) to
    both counts of every order above 1. ``effective_order`` leaves out the orders that the completion is too short for.
    Without a matching unigram the score is 0. The brevity penalty compares with the reference of the closest length,
    the shorter of two.
    """
    added = (1.0 if smooth_value is None else smooth_value) if smooth_method == "add-k" else 0.0
    floor = 0.1 if smooth_value is None else smooth_value
    precisions = [0.0] * MAX_ORDER
    used, without_match = MAX_ORDER, 0
    for order in range(MAX_ORDER if matches.matched[0] else 0):
        extra = added if order else 0.0
        matched, possible = matches.matched[order] + extra, matches.possible[order] + extra
        if possible == 0:
            break
        if effective_order:
            used = order + 1
        if matched == 0:
            without_match += 1
            matched = {"exp": 0.5**without_match, "floor": floor}.get(smooth_method, 0.0)
        precisions[order] = matched / possible
    closest = min(matches.reference_lengths, key=lambda length: (abs(length - matches.length), length))
    return _bleu(matches, precisions, used, closest)


def _bleu(matches: Matches, precisions: Sequence[float], orders: int, reference_length: int) -> Bleu:
    """BLEU of the first ``orders`` precisions; all zeros for a completion without tokens."""
    if matches.length == 0:
        return Bleu((0.0,) * MAX_ORDER, 0.0, 0.0, 0.0)
    mean = 0.0
    if min(precisions[:orders]) > 0:
        # Rounding may take the mean of ones past 1.
        mean = min(math.exp(sum(map(math.log, precisions[:orders])) / orders), 1.0)
    penalty = 1.0 if matches.length >= reference_length else math.exp(1 - reference_length / matches.length)
    return Bleu(tuple(precisions), mean, penalty, matches.length / reference_length)
