"""Clipped n-gram counts, against the plain definition."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.rewards.references.bleu_score import Matches
from posttrain.rewards.references.ngram_matches import count_references, match

TOKENS = st.lists(st.sampled_from("abcd"), max_size=14)


def clipped(tokens: list[str], references: list[list[str]], order: int) -> int:
    """For each n-gram of ``tokens``, its count or the highest in a reference, whichever is less."""

    def counts(text: list[str]) -> Counter[tuple[str, ...]]:
        return Counter(tuple(text[start : start + order]) for start in range(len(text) - order + 1))

    return sum(min(count, max(counts(text)[ngram] for text in references)) for ngram, count in counts(tokens).items())


@settings(max_examples=200, deadline=None)
@given(st.lists(TOKENS, max_size=5), st.lists(TOKENS.filter(len), min_size=1, max_size=4))
def test_as_defined(completions: list[list[str]], references: list[list[str]]) -> None:
    found = match([[*tokens, "unknown"] for tokens in completions], count_references(references))
    lengths = tuple(map(len, references))
    for tokens, matches in zip(completions, found, strict=True):
        expected = tuple(clipped(tokens, references, order) for order in range(1, 5))
        assert matches == Matches(expected, len(tokens) + 1, lengths)


def test_possible() -> None:
    assert Matches((0, 0, 0, 0), 2, (3,)).possible == (2, 1, 0, 0)
