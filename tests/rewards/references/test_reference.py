"""chrF, ROUGE-L, exact match and token F1 against references."""

from collections.abc import Sequence

import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import CHRF

from posttrain.rewards.checked import score_checked
from posttrain.rewards.references.reference import (
    ChrfConfig,
    ExactMatchConfig,
    ReferenceRewardConfig,
    RougeLConfig,
    TokenF1Config,
)
from posttrain.rewards.reward import RewardInput, RewardOutput, part_name
from posttrain.types import Example

TEXTS = ["the cat sat on the mat", "The cat, it sat!", "dogs", "", "the the the", "Ünïcödé — mat"]
REFERENCES = ["a cat is on the mat", "the cat sat"]


def judge(
    config: ReferenceRewardConfig,
    completion: str,
    references: Sequence[str] = (),
    answer: str | list[str] | None = None,
) -> RewardOutput:
    example = Example("row", "question", answer=answer, references=[*references])
    return score_checked(config.build(), [RewardInput(example, completion)])[0]


@pytest.mark.parametrize("keys", [{}, {"word_order": 2}, {"char_order": 4, "beta": 1, "lowercase": True}])
@pytest.mark.parametrize("text", TEXTS)
def test_chrf_is_sacrebleus(text: str, keys: dict[str, int]) -> None:
    output = judge(ChrfConfig.model_validate(keys), text, REFERENCES)
    each = [CHRF(**keys).sentence_score(text, [reference]).score / 100 for reference in REFERENCES]
    assert output.score == pytest.approx(max(each), abs=1e-12)
    assert output.score is not None and 0 <= output.score <= 1


@pytest.mark.parametrize("text", TEXTS)
def test_rouge_l_is_the_librarys(text: str) -> None:
    each = [RougeScorer(["rougeL"]).score(reference, text)["rougeL"] for reference in REFERENCES]
    best = max(each, key=lambda score: score.fmeasure)
    output = judge(RougeLConfig(), text, REFERENCES)
    assert output == RewardOutput(best.fmeasure, {"precision": best.precision, "recall": best.recall})


def test_rouge_l_by_hand_and_in_other_scripts() -> None:
    # "cat on the mat" is common: 4 of 6 words on both sides.
    output = judge(RougeLConfig(), TEXTS[0], REFERENCES[:1])
    assert (output.score, output.parts) == (pytest.approx(2 / 3), {"precision": 4 / 6, "recall": 4 / 6})
    chinese = ["今天的天气很好"]
    refused = judge(RougeLConfig(), "今天天气很好", chinese)
    assert refused.error == "invalid_input" and "'row': reference 1 of 1 has no words to compare" in refused.message
    assert judge(RougeLConfig(tokenize="zh"), "今天天气很好", chinese).score == pytest.approx(2 * 6 / 13)


@pytest.mark.parametrize(
    ("normalise", "text", "score"),
    [
        ("none", "Paris", 1),
        ("none", " the  city\nof light ", 1),
        ("none", "paris", 0),
        ("none", "Paris.", 0),
        ("none", "", 0),
        ("squad", "PARIS.", 1),
        ("squad", "a City of Light", 1),
        ("squad", "city of the light!", 1),
        ("squad", "Paris, France", 0),
    ],
)
def test_exact_match(normalise: str, text: str, score: float) -> None:
    config = ExactMatchConfig.model_validate({"normalise": normalise})
    assert judge(config, text, ["Paris", "the city of light"]) == RewardOutput(score)
    assert judge(config, text, answer=["Paris", "the city of light"]) == RewardOutput(score)


def test_references_come_before_answers() -> None:
    assert judge(ExactMatchConfig(), "4", ["four"], answer="4").score == 0
    assert judge(ExactMatchConfig(), "4", answer="4").score == 1
    assert judge(ChrfConfig(), "4", answer="4").error == "invalid_input"


def test_token_f1() -> None:
    output = judge(TokenF1Config(), "The cat sat, sat on a mat.", ["dogs", "cat sat on mat mat"])
    # cat sat sat on mat | cat sat on mat mat: four shared of five and five
    assert (output.score, output.parts) == (pytest.approx(0.8), {"precision": 0.8, "recall": 0.8})
    longer = judge(TokenF1Config(), "cat", ["the cat sat on"])
    assert (longer.score, longer.parts) == (pytest.approx(0.5), {"precision": 1.0, "recall": pytest.approx(1 / 3)})
    assert judge(TokenF1Config(), "", ["cat"]) == RewardOutput(0.0, {"precision": 0.0, "recall": 0.0})
    assert judge(TokenF1Config(normalise="none"), "Cat", ["cat"]).score == 0


@pytest.mark.parametrize("config", [ExactMatchConfig(normalise="squad"), TokenF1Config()])
def test_a_reference_without_words_is_an_error(config: ReferenceRewardConfig) -> None:
    output = judge(config, "A", answer="A")
    assert (
        output.error == "invalid_input"
        and output.message == "example 'row': reference 1 of 1 has no words to compare: 'A'"
    )
    assert judge(config, "A").message == "example 'row': there is neither reference nor answer"


@pytest.mark.parametrize("config", [ChrfConfig(), RougeLConfig(), ExactMatchConfig(), TokenF1Config()])
def test_processing_and_names(config: ReferenceRewardConfig) -> None:
    assert judge(config, "<think>x</think> <answer> the cat sat </answer>", REFERENCES).score == pytest.approx(1)
    assert judge(config, " ", REFERENCES).score == 0
    assert part_name(config.build()) == config.model_dump()["type"]
