"""Where in a completion the n-grams are that a reference shares: what a page highlights."""

import re
from collections.abc import Iterable, Sequence

from posttrain.rewards.references.bleu_score import evaluate_bleu
from posttrain.rewards.references.bleu_tokenizer import TokenizerName, load_tokenizer

# How text may spell a character of a 13a token, and what 13a takes out of it.
_SPELLED_13A = {'"': '(?:&quot;|")', "&": "(?:&amp;|&)", "<": "(?:&(?:amp;)?lt;|<)", ">": "(?:&(?:amp;)?gt;|>)"}
_REMOVED_13A = r"(?:-\n|<skipped>)"


def matched_spans(
    completion: str, reference: str, order: int, tokenize: TokenizerName = "13a"
) -> list[tuple[int, int]]:
    """The character spans ``[start, end)`` of ``completion`` that n-grams of ``order`` tokens cover which are in
    ``reference`` too; in order, joined where they meet. Every occurrence counts, also where BLEU clips."""
    split = load_tokenizer(tokenize)
    tokens = split(completion)
    places = _token_spans(completion, tokens, is_13a=tokenize == "13a")
    known = set(_ngrams(split(reference), order))
    spans: list[tuple[int, int]] = []
    for position, ngram in enumerate(_ngrams(tokens, order)):
        if ngram in known:
            start, end = places[position][0], places[position + order - 1][1]
            if spans and start <= spans[-1][1]:
                spans[-1] = (spans[-1][0], end)
            else:
                spans.append((start, end))
    return spans


def closest_reference(completion: str, references: Sequence[str], tokenize: TokenizerName = "13a") -> int:
    """The index of the reference that alone gives ``completion`` the highest smoothed BLEU."""
    from posttrain.rewards.references.ngram_matches import count_references, match

    split = load_tokenizer(tokenize)
    tokens = split(completion)
    scores = [evaluate_bleu(match([tokens], count_references([split(text)]))[0]).score for text in references]
    return scores.index(max(scores))


def _ngrams(tokens: Sequence[str], order: int) -> Iterable[tuple[str, ...]]:
    return zip(*(tokens[start:] for start in range(order)), strict=False)


def _token_spans(text: str, tokens: Sequence[str], is_13a: bool) -> list[tuple[int, int]]:
    """Where each token is in ``text``. Tokenizers put spaces in; 13a also decodes four entities and joins lines."""
    between, within = (rf"(?:\s|{_REMOVED_13A})*", f"{_REMOVED_13A}*") if is_13a else (r"\s*", "")
    spelled = _SPELLED_13A if is_13a else {}
    spans, position = [], 0
    for token in tokens:
        characters = within.join(spelled.get(character, re.escape(character)) for character in token)
        found = re.compile(f"{between}({characters})").match(text, position)
        if found is None:
            raise ValueError(f"token {token!r} is not in the text at character {position}")
        spans.append(found.span(1))
        position = found.end()
    return spans
