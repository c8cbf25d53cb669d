"""Which characters of a completion a reference shares."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.rewards.references.bleu_tokenizer import TokenizerName, load_tokenizer
from posttrain.rewards.references.matched_spans import _token_spans, closest_reference, matched_spans


def matched_texts(completion: str, reference: str, order: int) -> list[str]:
    return [completion[start:end] for start, end in matched_spans(completion, reference, order)]


def test_spans_cover_the_shared_ngrams() -> None:
    completion, reference = "The cat sat, on the  mat.", "A cat sat on the mat."
    assert matched_texts(completion, reference, 1) == ["cat", "sat", "on", "the", "mat."]
    assert matched_texts(completion, reference, 2) == ["cat sat", "on the  mat."]
    assert matched_texts(completion, reference, 3) == ["on the  mat."]
    assert matched_texts(completion, reference, 4) == ["on the  mat."]
    assert matched_texts(completion, "the CAT", 2) == []
    assert matched_spans("", reference, 1) == matched_spans(completion, "", 1) == []


def test_spans_count_characters_as_they_are_written() -> None:
    assert matched_texts("x &amp; &quot;y&quot; z", '& "y"', 2) == ["&amp; &quot;y&quot;"]
    assert matched_texts("a well-\nknown fact", "wellknown fact", 2) == ["well-\nknown fact"]
    assert matched_texts("costs $3.50", "$ 3.50", 2) == ["$3.50"]


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
