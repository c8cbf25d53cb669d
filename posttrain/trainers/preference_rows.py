"""From ranked completions to the token ids of pairs, and which of their states the contrastive term compares."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

from posttrain.data.chat import EncodedText, PromptEncoder, fitted
from posttrain.errors import DataError
from posttrain.types import Example


@dataclass(frozen=True, slots=True)
class Pair:
    """A preferred and a dispreferred completion of ``example``."""

    example: Example
    chosen: EncodedText
    rejected: EncodedText
    margin: float

    @property
    def tokens(self) -> int:
        return len(self.chosen.ids) + len(self.rejected.ids)


@dataclass(slots=True)
class Pairs:
    """All pairs of a set of examples; ``left_out`` counts those with a completion that is too long."""

    rows: list[Pair] = field(default_factory=list)
    left_out: int = 0

    @property
    def truncated(self) -> int:
        """How many pairs have lost the beginning of their prompt."""
        return sum(pair.chosen.truncated_tokens + pair.rejected.truncated_tokens > 0 for pair in self.rows)


def preference_pairs(examples: Sequence[Example], encoder: PromptEncoder, max_length: int) -> Pairs:
    """Every two candidates of every example, the better one as chosen.

    Raises:
        DataError: an example has no candidates to compare.
    """
    pairs = Pairs()
    for example in examples:
        if len(example.candidates) < 2:
            raise DataError(f"example {example.id!r} has no two ranked candidates; use data of type preference")
        sides = [fitted(*encoder.judged_ids(example, text), max_length) for text in example.candidates]
        for chosen, rejected in combinations(sides, 2):
            if chosen is None or rejected is None:
                pairs.left_out += 1
            else:
                pairs.rows.append(Pair(example, chosen, rejected, float(example.metadata.get("margin") or 0.0)))
    return pairs


def contrastive_draws(pair: Pair, samples: int, seed: str) -> list[list[int]]:
    """``samples`` times the positions (s, u, v): s uniform over the chosen completion's tokens that have a later one,
    u uniform over those later ones, v uniform over the rejected completion's tokens."""
    rng = random.Random(seed)
    chosen, rejected = pair.chosen, pair.rejected
    draws = []
    for _ in range(samples):
        source = rng.randrange(chosen.start, max(chosen.start + 1, len(chosen.ids) - 1))
        future = rng.randrange(min(source + 1, len(chosen.ids) - 1), len(chosen.ids))
        draws.append([source, future, rng.randrange(rejected.start, len(rejected.ids))])
    return draws
