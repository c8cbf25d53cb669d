"""The referee: what it is shown, how its scores come back to each answer, and that one grader serves every use."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from posttrain.data.chat import PromptEncoder
from posttrain.errors import DataError
from posttrain.rewards.checked import score_checked
from posttrain.rewards.config import RewardConfig
from posttrain.rewards.judge.judgement import Candidate, JudgeTemplate, Reply, load_template
from posttrain.rewards.judge.referee import AgreementReward, Referee, gold_of
from posttrain.rewards.reward import RewardInput
from posttrain.rewards.scoring.check import summarise
from posttrain.rewards.scoring.labelled import LabelledCompletion, LabelledGroup
from posttrain.rewards.scoring.reward_file import load_reward_config
from posttrain.types import Example, FinishReason

ADAPTER: TypeAdapter[Any] = TypeAdapter(RewardConfig)
COMPACT, LISTWISE = load_template("compact"), load_template("listwise")
PAIR = Example("p", "3+5=", candidates=["8", "9"], task="preference")


def group(*texts: str) -> list[RewardInput]:
    return [RewardInput(Example("row", "3+5="), text) for text in texts]


def shown_in(question: list[dict[str, str]]) -> list[str]:
    """The answers in a compact question, in its order."""
    return question[-1]["content"].removeprefix("3+5=").split("|")


def scored_by(values: dict[str, int], questions: Sequence[list[dict[str, str]]]) -> list[Reply]:
    return [Reply(f"Scores: {[values[text] for text in shown_in(question)]}") for question in questions]


# ---- questions ------------------------------------------------------------------------------------------------------


def test_a_preference_is_shown_in_the_given_order_with_its_gold() -> None:
    three = Example("p", "3+5=", candidates=["8", "7", "1"], task="preference", metadata={"ranks": [1, 2, 2]})
    shown = Referee(COMPACT).shown(three, [2, 0, 1])
    assert shown.prompt == [{"role": "user", "content": "3+5=1|8|7"}]
    assert (shown.candidates, shown.metadata["gold"]) == (["1", "8", "7"], [-2.0, -1.0, -2.0])


def test_an_answer_cannot_break_its_markers() -> None:
    fence = re.findall(r"<request-([0-9a-f]{6})>", str(Referee(LISTWISE).shown(PAIR, [0, 1], seed=3).prompt))[0]
    other = re.findall(r"<request-([0-9a-f]{6})>", str(Referee(LISTWISE).shown(PAIR, [0, 1], seed=4).prompt))[0]
    assert fence != other  # one of its own for every request
    told = JudgeTemplate(user="{{ fence }} {{ candidates[0].text }} {{ metadata.say }}")
    example = Example("p", "x", metadata={"say": "</answer-1-"})
    (message,) = told.conversation(example, [Candidate("</answer-1-")])
    closing = f"</answer-1-{message['content'][:6]}>"
    assert closing not in told.conversation(example, [Candidate("</answer-1-")])[0]["content"]


def test_cut_answers_are_marked_and_thinking_is_not_shown() -> None:
    referee = Referee(COMPACT, shorten=lambda c: Candidate(c.text[:3], cut=c.cut or len(c.text) > 3))
    group = [RewardInput(Example("row", "3+5="), text) for text in ("<think>9|9</think>8", "12345", "")]
    group[0].finish_reason = "length"
    (question,) = referee.judging(group, seed=0).questions
    assert sorted(shown_in(question)) == ["", "123~", "8~"]
    assert referee.shown(Example("p", "3+5=", candidates=["12345", "1"]), [0, 1]).prompt[0]["content"] == "3+5=123~|1"  # type: ignore[index]


@pytest.mark.parametrize(
    ("candidates", "ranks", "message"),
    [
        (["8"], None, "at least two"),
        ([], None, "at least two"),
        (["8", " "], None, "none of them empty"),
        (["8", "9"], [1, 1], "not all equal"),
        (["8", "9"], [1, 2, 3], "2 candidates need as many ranks"),
        (["8", "9"], [1, "b"], "ranks should be numbers"),
        (["8", "9"], 1, "ranks should be numbers"),
        (["8", "9"], [1, float("nan")], "need as many ranks"),
    ],
)
def test_preferences_that_rank_nothing_are_named(candidates: list[str], ranks: Any, message: str) -> None:
    metadata = {} if ranks is None else {"ranks": ranks}
    with pytest.raises(DataError, match=f"preference example 'bad'.*{message}"):
        gold_of(Example("bad", "3+5=", candidates=candidates, metadata=metadata))


def test_a_template_that_lacks_something_is_named() -> None:
    referee = Referee(JudgeTemplate(user="{{ metadata.rubric }}"))
    with pytest.raises(DataError, match=r"template cannot be filled for 'p'.*rubric"):
        referee.shown(PAIR, [0, 1])
    with pytest.raises(DataError, match="template cannot be filled for 'row'"):
        referee.judging(group("8", "9"), seed=0)


# ---- scores come back -----------------------------------------------------------------------------------------------

VALUES = {"8": 9, "7": 5, "1": 2, "0": 1, "80": 3}


@pytest.mark.parametrize("samples", [1, 3])
def test_every_answer_gets_its_own_score_in_any_order(samples: int) -> None:
    referee, texts = Referee(COMPACT, samples=samples), ["7", "8", "1", "8", "0"]
    for seed in range(4):
        judging = referee.judging(group(*texts), seed)
        assert len(judging.questions) == samples
        assert all(len(shown_in(question)) == 4 for question in judging.questions)  # equal texts are one candidate
        outputs = judging.outputs(scored_by(VALUES, judging.questions))
        assert [output.score for output in outputs] == pytest.approx([(VALUES[text] - 1) / 9 for text in texts])
        assert {output.parts["judged"] for output in outputs} == {1.0}


def test_positions_differ_between_samples_and_seeds() -> None:
    orders = {
        tuple(shown_in(q)) for seed in range(5) for q in Referee(COMPACT, 2).judging(group(*VALUES), seed).questions
    }
    assert len(orders) > 5


def test_many_answers_are_dealt_to_equal_questions_anew_for_each_sample() -> None:
    referee = Referee(COMPACT, samples=2, max_candidates=2)
    judging = referee.judging(group(*VALUES), seed=1)
    hands = [shown_in(question) for question in judging.questions]
    assert [len(hand) for hand in hands] == [2, 2, 1, 2, 2, 1]
    assert sorted(map(tuple, hands[:3])) != sorted(map(tuple, hands[3:]))
    outputs = judging.outputs(scored_by(VALUES, judging.questions))
    assert [output.score for output in outputs] == pytest.approx([(value - 1) / 9 for value in VALUES.values()])


def test_what_does_not_fit_is_dealt_to_more_questions_or_is_an_error() -> None:
    judging = Referee(COMPACT).judging(group(*VALUES), 1, fits=lambda question: len(shown_in(question)) <= 2)
    assert max(len(shown_in(question)) for question in judging.questions) == 2
    short = Referee(COMPACT).judging(group("8", "80"), 1, fits=lambda question: "80" not in question[-1]["content"])
    outputs = short.outputs(scored_by(VALUES, short.questions))
    assert [output.error for output in outputs] == [None, "invalid_input"]
    assert "longer than the context" in outputs[1].message


def test_a_sample_that_cannot_be_read_is_left_out() -> None:
    judging = Referee(COMPACT, samples=2).judging(group("8", "7"), seed=0)
    (good, _), bad = scored_by(VALUES, judging.questions), Reply("I like the first")
    outputs = judging.outputs([good, bad])
    assert [output.score for output in outputs] == pytest.approx([8 / 9, 4 / 9])
    assert outputs[0].parts["judged"] == 0.5
    assert [output.error for output in judging.outputs([bad, bad])] == ["unparseable"] * 2
    both = judging.outputs(
        scored_by({"8": 9, "7": 5}, judging.questions[:1]) + scored_by({"8": 6, "7": 5}, judging.questions[1:])
    )
    assert both[0].parts["disagreement"] == pytest.approx(3 / 9)


def test_ranks_instead_of_scores() -> None:
    judging = Referee(COMPACT, self_reward="rank").judging(group("a", "b", "c", "d"), seed=0)
    outputs = judging.outputs(scored_by({"a": 8, "b": 6, "c": 6, "d": 3}, judging.questions))
    assert [output.score for output in outputs] == [1, 0.5, 0.5, 0]


# ---- one grader -----------------------------------------------------------------------------------------------------


def agreement_of(text: str, finish_reason: FinishReason = "stop", reward: AgreementReward | None = None) -> float:
    shown = Referee(COMPACT).shown(PAIR, [1, 0])  # shows 9|8: the second is right
    (output,) = score_checked(reward or AgreementReward(), [RewardInput(shown, text, finish_reason=finish_reason)])
    assert output.score is not None
    return output.score


def test_agreement_as_a_reward() -> None:
    assert agreement_of("Scores: [2, 8]") == 1
    assert agreement_of("Scores: [8, 2]") == 0
    assert agreement_of("Scores: [5, 5]") == 0.5
    assert agreement_of("[2, 8]") == agreement_of("Scores: [2, 8]", "length") == agreement_of("Scores: [2]") == -0.5
    assert agreement_of("no", reward=AgreementReward(malformed_reward=-2.0)) == -2
    (output,) = AgreementReward().score([RewardInput(PAIR, "Scores: [2, 8]")])
    assert output.error == "invalid_input"


def test_a_model_grades_pairs_offline_as_in_its_training(tiny_model_folder: Path, monkeypatch: Any) -> None:
    """The mean in-loop reward of well-formed pair judgements is the accuracy of the same model as a reward."""
    pairs = [Example(f"p{n}", f"{n}+{n}=", candidates=[str(2 * n), str(2 * n + 1)]) for n in range(12)]
    replies = ["Scores: [7, 3]", "Scores: [3, 3]", "Scores: [2, 9]"]
    judge = {"type": "engine", "model": str(tiny_model_folder)}
    config = ADAPTER.validate_python({"type": "referee", "judge": judge, "template": "compact"})
    asked: list[str] = []

    def scripted(question: list[dict[str, str]]) -> str:
        return replies[sum(map(ord, question[-1]["content"])) % 3]  # a model: its reply depends on the question alone

    def answer(engine: Any, questions: Sequence[Any], *settings: Any) -> list[Reply]:
        PromptEncoder(engine.tokenizer).check(Example("q", question) for question in questions)
        asked.extend(question[-1]["content"] for question in questions)
        return [Reply(scripted(question)) for question in questions]

    monkeypatch.setattr("posttrain.rewards.judge.judge_engine.engine_replies", answer)
    groups = [
        LabelledGroup(
            p.id, [LabelledCompletion(RewardInput(p, text), text == p.candidates[0]) for text in p.candidates]
        )
        for p in pairs
    ]
    reward = config.build()
    for each in groups:
        for one, output in zip(each.completions, reward.score([c.input for c in each.completions]), strict=True):
            one.output = output
    check = summarise(groups, 1.0)
    in_loop = []
    for pair in pairs:
        for order in ([0, 1], [1, 0]):
            shown = Referee(COMPACT).shown(pair, order)
            if shown.prompt[0]["content"] in asked:  # type: ignore[index]
                (output,) = AgreementReward().score([RewardInput(shown, scripted(shown.prompt))])  # type: ignore[arg-type]
                in_loop.append(output.score)
    assert len(in_loop) == len(asked) == 12
    assert 0 < sum(in_loop) / 12 < 1  # type: ignore[arg-type]
    assert check.accuracy == pytest.approx(sum(in_loop) / 12)  # type: ignore[arg-type]
    reward.close()


def test_the_reward_file_asks_a_real_model(tiny_model_folder: Path) -> None:
    file = Path(__file__).parents[3] / "reward_models" / "referee.yaml"
    reward = load_reward_config(file, [f"judge.model={tiny_model_folder}"]).build()
    outputs = score_checked(reward, group("8", "9"))
    assert [output.error for output in outputs] == ["unparseable"] * 2  # an untrained one
    reward.close()
