"""N-grams that completions share with their references, counted for a group of completions at once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from posttrain.rewards.references.bleu_score import MAX_ORDER, Matches

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ReferenceCounts:
    """The n-grams of an example's references, numbered from 0 in each order.

    ``vocabulary`` numbers the tokens. An n-gram of ``order`` is the pair of the (n-1)-gram it begins with and its last
    token: ``keys[order]`` holds ``(n-1)-gram * len(vocabulary) + token``, sorted; its place there is its number.
    ``most[order]`` says how often an n-gram occurs in the reference that has it most often. ``lengths`` are in tokens.
    """

    vocabulary: Mapping[str, int]
    keys: dict[int, Ids]
    most: dict[int, Ids]
    lengths: tuple[int, ...]


def count_references(references: Sequence[Sequence[str]]) -> ReferenceCounts:
    """What ``match`` needs of the token lists ``references``, of which each has at least one token."""
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(chain.from_iterable(references)))}
    tokens, owner = _flat(references, vocabulary)
    keys, grams = {}, tokens
    most = {1: _counts(grams, owner, len(references), len(vocabulary)).max(axis=0)}
    for order in range(2, MAX_ORDER + 1):
        longer = _keys(grams, tokens, len(vocabulary))
        grams = np.full(len(longer), -1)
        keys[order], grams[longer >= 0] = np.unique(longer[longer >= 0], return_inverse=True)
        most[order] = _counts(grams, owner, len(references), len(keys[order])).max(axis=0)
    return ReferenceCounts(vocabulary, keys, most, tuple(map(len, references)))


def match(completions: Sequence[Sequence[str]], references: ReferenceCounts) -> list[Matches]:
    """For each of the token lists ``completions``: how many of its n-grams are in a reference, each clipped at its
    count there (BLEU, Papineni et al., 2002, section 2.1)."""
    tokens, owner = _flat(completions, references.vocabulary)
    grams, matched = tokens, []
    for order in range(1, MAX_ORDER + 1):
        if order > 1:
            grams = _places(_keys(grams, tokens, len(references.vocabulary)), references.keys[order])
        most = references.most[order]
        matched.append(np.minimum(_counts(grams, owner, len(completions), len(most)), most).sum(axis=1).tolist())
    return [
        Matches(tuple(counts), len(text), references.lengths)
        for text, *counts in zip(completions, *matched, strict=True)
    ]


def _flat(texts: Iterable[Sequence[str]], vocabulary: Mapping[str, int]) -> tuple[Ids, Ids]:
    """The token numbers of all texts, -1 for an unknown token and after each text; and whose text each is of."""
    numbers: list[int] = []
    lengths = []
    for text in texts:
        numbers += [vocabulary.get(token, -1) for token in text]
        numbers.append(-1)
        lengths.append(len(text) + 1)
    return np.array(numbers, dtype=np.int64), np.repeat(np.arange(len(lengths)), lengths)


def _keys(grams: Ids, tokens: Ids, vocabulary_size: int) -> Ids:
    """The key of the n-gram at each position, from the number of the (n-1)-gram there; -1 where it has none."""
    first, last = grams[:-1], tokens[len(tokens) - len(grams) + 1 :]
    return np.where((first >= 0) & (last >= 0), first * vocabulary_size + last, -1)


def _places(keys: Ids, known: Ids) -> Ids:
    """Where each of ``keys`` is among the sorted ``known``; -1 where it is not."""
    if not len(known):
        return np.full(len(keys), -1)
    places = np.searchsorted(known, keys).clip(max=len(known) - 1)
    return np.where(known[places] == keys, places, -1)


def _counts(grams: Ids, owner: Ids, texts: int, size: int) -> Ids:
    """How often each text has each of ``size`` n-grams [texts, size]."""
    found = grams >= 0
    return np.bincount(owner[: len(grams)][found] * size + grams[found], minlength=texts * size).reshape(texts, size)
