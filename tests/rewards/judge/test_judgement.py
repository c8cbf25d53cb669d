"""The grammar of scores and verdicts, and the templates that ask for them."""

import math
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import JobError
from posttrain.rewards.judge.judgement import (
    BUILT_IN_TEMPLATES,
    Candidate,
    JudgeTemplate,
    answer_probability,
    load_template,
    parse_score,
    parse_scores,
    parse_winner,
    unit_score,
)
from posttrain.rewards.reward import RewardInput
from posttrain.types import Example

MODES = ["pointwise", "yes_probability", "pairwise", "listwise"]


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("Scores: [7, 3, 9]", [7, 3, 9]),
        ("scores: [7.5,3,9]", [7.5, 3, 9]),
        ("SCORES:[ 1 ,10, 9.25 ]  ", [1, 10, 9.25]),
        ("Scores: [7, 3, 9]\r\nThat is all.", [7, 3, 9]),
        ("Scores: [1, 1, 1]\nNo:\nScores: [7, 3, 9]", [7, 3, 9]),
        ("Scores: [7, 3, 9]\nScores: as explained", [7, 3, 9]),
        ("<think>Scores: [1, 1, 1]</think>\nScores: [7, 3, 9]", [7, 3, 9]),
        ("Scores: [1, 1, 1]</think>Scores: [7, 3, 9]", [7, 3, 9]),
        ("Scores: [7, 3, 9]\nScores: [7, 3]", None),
        ("Scores: [7, 3]", None),
        ("Scores: [7, 3, 9, 1]", None),
        ("Scores: [7, 3, 11]", None),
        ("Scores: [0, 3, 9]", None),
        ("Scores: [0.99, 3, 9]", None),
        ("Scores: [-7, 3, 9]", None),
        ("Scores: [nan, 3, 9]", None),
        ("Scores: [inf, 3, 9]", None),
        ("Scores: [1e0, 3, 9]", None),
        ("Scores: [7, \x1f3, 9]", None),
        ("Scores: [٧, 3, 9]", None),
        ("Scores: [7/10, 3, 9]", None),
        ("Scores: [[7, 3, 9]]", None),
        ("Scores: [7, 3, 9,]", None),
        ("Scores: []", None),
        ("Scores: 7, 3, 9", None),
        ("I say Scores: [7, 3, 9]", None),
        ("Scores: [7, 3, 9] or so", None),
        ("<think>Scores: [7, 3, 9]</think> done", None),
        ("<think>hm\nScores: [7, 3, 9]", None),
        ("", None),
    ],
)
def test_scores(text: str, scores: list[float] | None) -> None:
    assert parse_scores(text, 3) == scores


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("It is fine.\nScore: 7", 7),
        (" score:8.5 \n", 8.5),
        ("Score: 2\nScore: 10", 10),
        ("Score: 8/10", None),
        ("Score: 0", None),
        ("Score: 10.1", None),
        ("Score: seven", None),
        ("Score: 7\nScore: unsure", None),
        ("**Score: 7**", None),
        ("Scores: [7]", None),
        ("<think>Score: 7", None),
        ("7", None),
    ],
)
def test_score(text: str, score: float | None) -> None:
    assert parse_score(text) == score


@pytest.mark.parametrize(
    ("text", "winner"),
    [
        ("Winner: A", "A"),
        ("winner: b", "B"),
        ("both lack it\nWinner: Tie\n", "tie"),
        ("Winner: A\nWinner: B", "B"),
        ("Winner: A or B", None),
        ("Winner: answer A", None),
        ("The winner is A", None),
        ("<think>Winner: A</think>", None),
    ],
)
def test_winner(text: str, winner: str | None) -> None:
    assert parse_winner(text) == winner


def test_a_score_becomes_a_unit_score() -> None:
    assert [unit_score(score) for score in (1, 5.5, 10)] == [0, 0.5, 1]


def test_probability_of_yes_from_two_logits() -> None:
    norm = math.log(math.exp(2.0) + math.exp(0.5))
    probability, mass = answer_probability([("yes", 2.0 - norm), ("no", 0.5 - norm)], ["yes"], ["no"])
    assert (probability, mass) == (pytest.approx(0.8175744762, abs=1e-10), pytest.approx(1.0))


def test_variants_of_the_answer_are_summed() -> None:
    shares = {"Yes": 0.2, " yes": 0.1, "▁YES": 0.05, "ĠYes": 0.05, "No": 0.06, "\nno": 0.04, "Yesterday": 0.3, "n": 0.1}
    tokens = [(token, math.log(share)) for token, share in shares.items()]
    probability, mass = answer_probability(tokens, ["yes"], ["no"])
    assert (probability, mass) == (pytest.approx(0.8), pytest.approx(0.5))
    assert answer_probability([("maybe", -0.1)], ["yes"], ["no"]) == (0.0, 0.0)
    assert answer_probability(tokens, ["yes"], ["nope"]) == (1.0, pytest.approx(0.4))


def example(**fields: Any) -> Example:
    return Example("row", **{"prompt": "What is {{ 1 + 1 }}?", "answer": "2", **fields})


@pytest.mark.parametrize("mode", MODES)
def test_built_in_templates_ask_for_what_is_parsed(mode: str) -> None:
    template = load_template(mode)
    number = {"pairwise": 2, "listwise": 3}.get(mode, 1)
    candidates = [Candidate(f"answer text {row}", cut=row == 0) for row in range(number)]
    system, user = template.conversation(example(references=["a reference"]), candidates)
    assert (system["role"], user["role"]) == ("system", "user")
    assert "What is {{ 1 + 1 }}?" in user["content"], "texts are filled in, not rendered"
    assert user["content"].count("(cut off here)") == 1
    positions = [user["content"].index(candidate.text) for candidate in candidates]
    assert positions == sorted(positions)
    form = {"pointwise": "Score: 7", "yes_probability": "Yes or No", "pairwise": "Winner: tie"}
    assert user["content"].endswith(form.get(mode, "Scores: [s1, s2, s3]")) or mode == "yes_probability"
    assert form.get(mode, "Scores: [s1, s2, s3]") in user["content"]


def test_every_mode_has_a_template() -> None:
    assert sorted(file.stem for file in BUILT_IN_TEMPLATES.glob("*.yaml")) == sorted([*MODES, "compact"])


def test_the_judge_cannot_be_told_where_an_answer_ends() -> None:
    template = JudgeTemplate(user="{{ fence }}|{{ candidates[0].text }}|{{ prompt }}|{{ answer }}|{{ references[0] }}")
    fence = template.conversation(example(references=["r"]), [Candidate("x")])[0]["content"].split("|")[0]
    assert len(fence) == 6 and int(fence, 16) >= 0
    # The prompt and the candidates decide the fence, so only the others can hold it; all of them are broken alike.
    telling = example(references=[f"a{fence}b"], answer=f"<{fence}>")
    broken = f"{fence[:3]} {fence[3:]}"
    content = template.conversation(telling, [Candidate("x")])[0]["content"]
    assert content == f"{fence}|x|What is {{{{ 1 + 1 }}}}?|<{broken}>|a{broken}b"
    assert template.conversation(telling, [Candidate("y")])[0]["content"][:6] != fence
    assert template.conversation(telling, [Candidate("x")], seed=1)[0]["content"][:6] != fence


def test_a_conversation_as_prompt() -> None:
    template = JudgeTemplate(user="{{ prompt }} / {{ metadata.topic }}")
    turns = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}]
    asked = template.conversation(example(prompt=turns, metadata={"topic": "manners"}), [])
    assert asked == [{"role": "user", "content": "[system]\nbe kind\n\n[user]\nhello / manners"}]
    assert template.conversation(example(prompt=turns[1:], metadata={"topic": 1}), [])[0]["content"] == "hello / 1"


@pytest.mark.parametrize(
    ("completion", "finish_reason", "candidate"),
    [
        ("<think>secret</think>\n42 ", "stop", Candidate("42")),
        ("<think>secret", "length", Candidate("", cut=True)),
        ("half \ud83d", "stop", Candidate("half ?")),
    ],
)
def test_what_the_judge_sees_of_a_completion(completion: str, finish_reason: Any, candidate: Candidate) -> None:
    assert Candidate.of(RewardInput(example(), completion, finish_reason=finish_reason)) == candidate


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user: '{{ question }}'", "unknown question; a judge template is given answer, candidates"),
        ("user: '{% for x in candidates %}'", "not a Jinja template"),
        ("usr: hello", "usr"),
    ],
)
def test_mistakes_in_a_template_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(JobError, match=rf"mine.yaml.*{message}"):
        load_template(str(path))
    with pytest.raises(JobError, match="no such file"):
        load_template(str(tmp_path / "missing.yaml"))


def test_a_template_cannot_reach_into_python() -> None:
    from jinja2.exceptions import SecurityError

    with pytest.raises(SecurityError):
        JudgeTemplate(user="{{ prompt.__class__.__mro__ }}").conversation(example(), [])
