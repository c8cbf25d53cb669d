"""Where in a completion the n-grams are that a reference shares: what a page highlights."""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

from posttrain.rewards.references.bleu_score import MAX_ORDER, evaluate_bleu
from posttrain.rewards.references.bleu_tokenizer import TokenizerName, load_tokenizer

# How text may spell a character of a 13a token, and what 13a takes out of it.
_SPELLED_13A = {'"': '(?:&quot;|")', "&": "(?:&amp;|&)", "<": "(?:&(?:amp;)?lt;|<)", ">": "(?:&(?:amp;)?gt;|>)"}
_REMOVED_13A = r"(?:-\n|<skipped>)"
_SPACE = re.compile(r"\s*")


def matched_spans(completion: str, reference: str, tokenize: TokenizerName = "13a") -> list[tuple[int, int, int]]:
    """``(start, end, order)``: the characters ``[start, end)`` of ``completion`` that n-grams cover which are in
    ``reference`` too, and the tokens of the longest of them, at most ``MAX_ORDER``. In order, without overlap. Every
    occurrence counts, also where BLEU clips."""
    split = load_tokenizer(tokenize)
    tokens, wanted = split(completion), split(reference)
    places = _token_spans(completion, tokens, is_13a=tokenize == "13a")
    longest = [0] * len(completion)
    for order in range(1, MAX_ORDER + 1):
        known = set(_ngrams(wanted, order))
        for position, ngram in enumerate(_ngrams(tokens, order)):
            if ngram in known:
                start, end = places[position][0], places[position + order - 1][1]
                longest[start:end] = [order] * (end - start)
    edges = [0, *(place for place in range(1, len(longest)) if longest[place] != longest[place - 1]), len(longest)]
    return [(start, end, longest[start]) for start, end in pairwise(edges) if start < end and longest[start]]


def closest_reference(completion: str, references: Sequence[str], tokenize: TokenizerName = "13a") -> int:
    """The index of the reference that alone gives ``completion`` the highest smoothed BLEU."""
    from posttrain.rewards.references.ngram_matches import count_references, match

    split = load_tokenizer(tokenize)
    tokens = split(completion)
    wanted = map(split, references)
    scores = [evaluate_bleu(match([tokens], count_references([w]))[0]).score if w else -1.0 for w in wanted]
    return scores.index(max(scores))


def _ngrams(tokens: Sequence[str], order: int) -> Iterable[tuple[str, ...]]:
    return zip(*(tokens[start:] for start in range(order)), strict=False)


def _token_spans(text: str, tokens: Sequence[str], is_13a: bool) -> list[tuple[int, int]]:
    """Where each token is in ``text``. Tokenizers put spaces in; 13a also decodes four entities and joins lines."""
    between, within = (rf"(?:\s|{_REMOVED_13A})*", f"{_REMOVED_13A}*") if is_13a else (r"\s*", "")
    spelled = _SPELLED_13A if is_13a else {}
    spans, position = [], 0
    for token in tokens:
        start = _SPACE.match(text, position).end()  # type: ignore[union-attr]  # matches everywhere
        if token.isalnum() and text.startswith(token, start):  # most tokens: no pattern of their own to compile
            position = start + len(token)
            spans.append((start, position))
            continue
        characters = within.join(spelled.get(character, re.escape(character)) for character in token)
        found = re.compile(f"{between}({characters})").match(text, position)
        if found is None:
            raise ValueError(f"token {token!r} is not in the text at character {position}")
        spans.append(found.span(1))
        position = found.end()
    return spans
