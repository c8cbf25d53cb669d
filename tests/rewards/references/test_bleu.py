"""BLEU as a reward: the golden values of every variant, sacrebleu itself, groups, and references that are missing."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sacrebleu.metrics import BLEU

from posttrain.rewards.checked import score_checked
from posttrain.rewards.references.bleu import BleuConfig, BleuRougeConfig
from posttrain.rewards.references.bleu_tokenizer import load_tokenizer
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput
from posttrain.rewards.text_processing import TextProcessing
from posttrain.types import Example

SHARED = Path(__file__).parents[3] / ".." / "shared"
VARIANTS: dict[str, dict[str, Any]] = {
    "evaluate_smooth": {},
    "evaluate_plain": {"variant": "evaluate_plain"},
    "sacre_exp_effective": {"variant": "sacrebleu"},
    "sacre_exp": {"variant": "sacrebleu", "effective_order": False},
    "sacre_add_k_1_effective": {"variant": "sacrebleu", "smooth_method": "add-k", "smooth_value": 1},
    "sacre_floor": {"variant": "sacrebleu", "smooth_method": "floor"},
    "sacre_none": {"variant": "sacrebleu", "smooth_method": "none", "effective_order": False},
    "sacre_lower": {"variant": "sacrebleu", "lowercase": True},
    "sacre_intl": {"variant": "sacrebleu", "tokenize": "intl"},
    "sacre_char": {"variant": "sacrebleu", "tokenize": "char"},
}
# Punctuation, digits, entities and line ends meet often in such text, as few long words do.
MARKS = [
    ",",
    ".",
    "..",
    "-",
    "!",
    "(",
    "'s",
    "$",
    "_",
    "“",
    "&amp;",
    "&quot;",
    "&lt;",
    "<skipped>",
    "-\n",
    "\n",
    "\t",
    " ",
    "  ",
]
PIECES = st.sampled_from(["a", "b", "The", "cat", "42", "3.5", "1,000", "x-ray", "é", "很", "İ", *MARKS])
TEXTS = st.lists(PIECES, max_size=24).map("".join) | st.lists(PIECES, max_size=24).map(" ".join) | st.text(max_size=30)
WORDS = st.lists(st.sampled_from(["the", "cat", "sat", "on", "mat", "."]), min_size=4, max_size=30).map(" ".join)


def judge(reward: Reward, completion: str, references: Sequence[str]) -> RewardOutput:
    return score_checked(reward, [RewardInput(Example("row", "question", references=[*references]), completion)])[0]


def score(completion: str, references: Sequence[str], **keys: Any) -> float:
    output = judge(BleuConfig(**keys).build(), completion, references)
    assert output.score is not None, output.message
    return output.score


def golden_cases() -> list[dict[str, Any]]:
    path = SHARED / "specs" / "bleu_golden.json"
    if not path.exists():
        pytest.skip(f"the golden values are not here: {path}")
    cases: list[dict[str, Any]] = json.loads(path.read_text())["cases"]
    return cases


@pytest.mark.parametrize("variant", VARIANTS)
def test_golden_values(variant: str) -> None:
    reward = BleuConfig(**VARIANTS[variant]).build()
    for case in golden_cases():
        output = judge(reward, case["hypothesis"], case["references"])
        assert output.score == pytest.approx(case[variant], abs=1e-9), case["hypothesis"]


def test_by_hand() -> None:
    """5 of 6 words, 3 of 5 pairs, 1 of 4 and 0 of 3 longer ones are in a reference; one is added to each number."""
    references = ["the cat is on the mat", "there is a cat"]
    output = judge(BleuConfig().build(), "the cat sat on the mat", references)
    precisions = [6 / 7, 4 / 6, 2 / 5, 1 / 4]
    assert [output.parts[f"precision_{order}"] for order in range(1, 5)] == pytest.approx(precisions, abs=1e-15)
    assert (output.parts["brevity_penalty"], output.parts["length_ratio"]) == (1.0, 1.5)
    assert output.score == pytest.approx((6 / 7 * 4 / 6 * 2 / 5 * 1 / 4) ** 0.25, abs=1e-15)
    assert len(output.parts) == 6


def test_the_brevity_penalty_on_off_and_alone() -> None:
    texts = "the cat sat on", ["the cat sat on the mat"]
    penalty = 0.6065306597126334  # exp(1 - 6 / 4)
    assert score(*texts, brevity_penalty="only") == pytest.approx(penalty, abs=1e-15)
    assert score(*texts, brevity_penalty=False) == 1.0
    assert score(*texts) == pytest.approx(penalty, abs=1e-15)


SMOOTHINGS: list[dict[str, Any]] = [
    {"smooth_method": "exp"},
    {"smooth_method": "none"},
    {"smooth_method": "floor"},
    {"smooth_method": "floor", "smooth_value": 0.7},
    {"smooth_method": "add-k"},
    {"smooth_method": "add-k", "smooth_value": 0.3},
]


@settings(max_examples=150, deadline=None)
@given(
    TEXTS,
    st.lists(TEXTS, min_size=1, max_size=3),
    st.sampled_from(SMOOTHINGS),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["13a", "intl", "char", "zh", "none"]),
)
def test_equal_to_sacrebleu(
    text: str, references: list[str], smoothing: dict[str, Any], effective: bool, lowercase: bool, tokenize: Any
) -> None:
    keys = {**smoothing, "effective_order": effective, "lowercase": lowercase, "tokenize": tokenize}
    config = BleuConfig(variant="sacrebleu", text=TextProcessing(strip=False, answer_tag=None), **keys)
    output = judge(config.build(), text, references)
    if output.error is None:
        expected = BLEU(**keys).sentence_score(text, references).score / 100
        assert output.score == pytest.approx(expected, abs=1e-9)
    else:
        split = load_tokenizer(tokenize)
        assert any(not split(reference.rstrip()) for reference in references), "only references without tokens fail"


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=12).map("".join) | st.text("ab1 .,-&;<>'\"\n!/", max_size=20) | st.text(max_size=20))
def test_13a_word_by_word_is_13a(text: str) -> None:
    assert load_tokenizer("13a")(text) == BLEU(tokenize="13a").tokenizer(text).split()


@settings(max_examples=100, deadline=None)
@given(
    TEXTS,
    st.lists(WORDS, min_size=1, max_size=3),
    st.sampled_from([*VARIANTS.values(), {"brevity_penalty": False}, {"brevity_penalty": "only"}]),
)
def test_scores_are_between_0_and_1(text: str, references: list[str], keys: dict[str, Any]) -> None:
    assert 0.0 <= score(text, references, **keys) <= 1.0


@settings(max_examples=50, deadline=None)
@given(
    WORDS, st.lists(WORDS, max_size=2), st.sampled_from([{"variant": "evaluate_plain"}, {"variant": "sacrebleu"}, {}])
)
def test_a_reference_itself_scores_1(text: str, others: list[str], keys: dict[str, Any]) -> None:
    # evaluate compares lengths with the shortest reference, sacrebleu with the closest: neither penalises this.
    assert score(text, [*others, text], **keys) == pytest.approx(1.0, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(WORDS | TEXTS, st.lists(WORDS, min_size=1, max_size=2)), max_size=8), st.integers(0, 3))
def test_a_score_does_not_depend_on_what_is_scored_with_it(rows: list[tuple[str, list[str]]], cached: int) -> None:
    reward = BleuConfig(cached_examples=cached).build()
    inputs = [
        RewardInput(Example(str(row), "", references=references), text) for row, (text, references) in enumerate(rows)
    ]
    alone = [judge(BleuConfig().build(), text, references) for text, references in rows]
    assert reward.score(inputs) == alone
    assert reward.score(inputs + inputs[::-1]) == alone + alone[::-1]


@pytest.mark.parametrize("completion", ["", "  \n ", "<answer></answer>", "<skipped>"])
@pytest.mark.parametrize("keys", [*VARIANTS.values(), {"brevity_penalty": "only"}, {"brevity_penalty": False}])
def test_an_empty_completion_scores_0(completion: str, keys: dict[str, Any]) -> None:
    if completion != "<skipped>" or keys.get("tokenize", "13a") == "13a":
        assert score(completion, ["something here"], **keys) == 0.0


def test_references_that_cannot_be_compared_with_are_errors() -> None:
    reward = BleuConfig().build()
    examples = [
        Example("no references", "", answer="42"),
        Example("blank", "", references=["fine", " \n"]),
        Example("no tokens", "", references=["<skipped>"]),
        Example("fine", "", references=["fine"]),
    ]
    outputs = score_checked(reward, [RewardInput(example, "fine") for example in examples])
    assert [output.error for output in outputs] == ["invalid_input"] * 3 + [None]
    assert [output.message for output in outputs] == [
        "example 'no references': no reference",
        "example 'blank': reference 2 of 2 has no words to compare: ' \\n'",
        "example 'no tokens': reference 1 of 1 has no words to compare: '<skipped>'",
        "",
    ]


def test_languages_without_spaces_need_another_tokenizer() -> None:
    text, references = "今天天气很好", ["今天的天气很好"]
    assert score(text, references, variant="sacrebleu") == 0.0
    assert score(text, references, variant="sacrebleu", tokenize="zh") > 0.5
    assert score(text, references, tokenize="char") > 0.5


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"smooth_method": "floor"}, "smooth_method belong to variant: sacrebleu, and variant is evaluate_smooth"),
        ({"variant": "evaluate_plain", "effective_order": False}, "effective_order belong to variant: sacrebleu"),
        ({"variant": "sacrebleu", "smooth_value": 0.5}, "smooth_value belongs to floor and add-k"),
        ({"variant": "sacrebleu", "smooth_method": "floor", "smooth_value": 2}, "must be at most 1"),
        ({"variant": "bleu"}, "evaluate_smooth"),
        ({"brevity_penalty": "never"}, "only"),
        ({"tokenize": "spm"}, "13a"),
    ],
)
def test_keys_that_would_do_nothing_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        BleuConfig(**keys)


def test_harmonic_mean_with_rouge_l() -> None:
    output = judge(BleuRougeConfig().build(), "the cat sat on the mat", ["a cat is on the mat"])
    bleu, rouge_l = 0.4347208719449915, 4 / 6
    assert output.score == pytest.approx(2 * bleu * rouge_l / (bleu + rouge_l), abs=1e-9)
    assert (output.parts["bleu"], output.parts["rouge_l"]) == pytest.approx((bleu, rouge_l), abs=1e-9)
    assert {"bleu/precision_4", "bleu/brevity_penalty", "rouge_l/recall"} < output.parts.keys()
    assert judge(BleuRougeConfig().build(), "dog", ["a cat is on the mat"]).score == 0.0
    assert judge(BleuRougeConfig().build(), "dog", []).error == "invalid_input"


def test_real_answers_equal_sacrebleu() -> None:
    path = SHARED / "data" / "alpaca_eval" / "references.jsonl.gz"
    if not path.exists():
        pytest.skip(f"the answers are not here: {path}")
    with gzip.open(path, "rt") as lines:
        rows = [json.loads(line) for line in lines][:20]
    ours, peer = BleuConfig(variant="sacrebleu").build(), BLEU(effective_order=True)
    for row in rows:
        references = [*row["references"].values()]
        for answer in row["answers"].values():
            expected = peer.sentence_score(answer["output"].strip(), references).score / 100
            assert judge(ours, answer["output"], references).score == pytest.approx(expected, abs=1e-9)
