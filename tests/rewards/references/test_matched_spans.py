"""Which characters of a completion a reference shares."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.rewards.references.bleu_tokenizer import TokenizerName, load_tokenizer
from posttrain.rewards.references.matched_spans import _token_spans, closest_reference, matched_spans


def matched_texts(completion: str, reference: str) -> list[tuple[str, int]]:
    return [(completion[start:end], order) for start, end, order in matched_spans(completion, reference)]


def test_spans_are_told_by_the_longest_shared_ngram() -> None:
    completion, reference = "The cat sat, on the  mat.", "A cat sat on the mat."
    assert matched_texts(completion, reference) == [("cat sat", 2), ("on the  mat.", 4)]
    assert matched_texts(reference, completion) == [("cat sat", 2), ("on the mat.", 4)]
    assert matched_texts("a b c d e f g", "x a b c d e y b c f") == [("a b c d e", 4), ("f", 1)]
    assert matched_texts("b c b", "a b c") == [("b c", 2), ("b", 1)]
    assert matched_texts(completion, "the CAT") == [("the", 1)]
    assert matched_spans("", reference) == matched_spans(completion, "") == []


def test_spans_count_characters_as_they_are_written() -> None:
    assert matched_texts("x &amp; &quot;y&quot; z", '& "y"') == [("&amp; &quot;y&quot;", 4)]
    assert matched_texts("a well-\nknown fact", "wellknown fact") == [("well-\nknown fact", 2)]
    assert matched_texts("costs $3.50", "$ 3.50") == [("$3.50", 2)]


PIECES = [
    "a",
    "1",
    ".",
    ",",
    "-",
    "-\n",
    "\n",
    " ",
    "&",
    "&amp;",
    "&lt;",
    "lt;",
    "amp;",
    "<skipped>",
    "<",
    '"',
    "é",
    "很",
]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(PIECES), max_size=14).map("".join) | st.text(max_size=20),
    st.sampled_from(["13a", "intl", "char", "zh", "none"]),
)
def test_every_token_is_found_in_order(text: str, tokenize: TokenizerName) -> None:
    tokens = load_tokenizer(tokenize)(text)
    spans = _token_spans(text, tokens, is_13a=tokenize == "13a")
    assert len(spans) == len(tokens)
    ends = [0, *(end for _, end in spans)]
    assert all(before <= start < end for before, (start, end) in zip(ends, spans, strict=False))
    if tokenize != "13a":
        assert [text[start:end] for start, end in spans] == tokens


@pytest.mark.parametrize(("completion", "closest"), [("the cat sat", 1), ("dogs bark loudly", 2), ("nothing of it", 0)])
def test_closest_reference(completion: str, closest: int) -> None:
    assert closest_reference(completion, ["one two three", "the cat sat down", "dogs bark"]) == closest


def test_a_reference_without_words_is_the_last_choice() -> None:
    assert closest_reference("a b", [" ", "c"]) == 1
    assert closest_reference("a b", [""]) == 0
