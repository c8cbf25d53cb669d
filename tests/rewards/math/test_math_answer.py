"""Final answers: where they are found, and when they equal the gold answer."""

import gzip
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from posttrain.rewards.checked import score_checked
from posttrain.rewards.math.answer_form import plain_form, units_differ
from posttrain.rewards.math.math_answer import MathAnswerReward
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.types import Example

GSM8K = Path(__file__).resolve().parents[3] / ".." / "shared" / "data" / "gsm8k" / "test.jsonl.gz"


@pytest.fixture(scope="module")
def reward() -> Iterator[MathAnswerReward]:
    reward = MathAnswerReward(timeout_s=20)
    yield reward
    reward.close()


def judge(reward: MathAnswerReward, gold: str | list[str] | None, completion: str, **metadata: object) -> RewardOutput:
    example = Example("row", "question", gold, metadata=dict(metadata))
    return score_checked(reward, [RewardInput(example, completion)])[0]


# gold, answer in a box, right?
BOXED = [
    # numbers
    ("18", "18", 1), ("18", "18.00", 1), ("18.00", "18", 1), ("18", "18.", 1), ("18", "+18", 1), ("18", "019", 0),
    ("0", "-0", 1), ("0.5", ".5", 1), ("-3", "−3", 1), ("-3", "3", 0), ("18", "$18$", 1), ("18", r"\(18\)", 1),
    # commas of thousands
    ("1234", "1,234", 1), ("1,234", "1234", 1), ("1,234,567", "1234567.0", 1), ("1234", r"1{,}234", 1),
    ("1234", "12,34", 0), ("1000", r"1\,000", 1), ("1234.5", "$1,234.50", 1), ("118000", "118 000", 1),
    # fractions and mixed numbers
    ("1/2", "0.5", 1), ("1/2", r"\frac{1}{2}", 1), ("0.5", r"\dfrac12", 1), ("1/2", "2/4", 1), ("1/2", "1/3", 0),
    ("-1/2", r"\frac{-1}{2}", 1), ("5/2", "2 1/2", 1), (r"2\frac{1}{2}", "2.5", 1), ("21/2", "2 1/2", 0),
    (r"\frac{3}{4}", "¾", 1),
    # decimals: relative tolerance
    ("1/3", "0.333333", 1), ("1/3", "0.33", 0), ("2.7182818", "2.7182819", 1), ("0.0000012", "0.000001", 0),
    ("12345678", "12345679", 0), ("12345678", "12345690.0", 0), ("1e-7", r"10^{-7}", 1),
    # percent
    ("50%", "0.5", 1), ("50%", r"50\%", 1), ("50", "50%", 1), ("0.5", "50", 0), ("12.5%", r"12.5\%", 1),
    ("50%", "50 percent", 1),
    # currency and units
    ("18", r"\$18", 1), ("18", "18 dollars", 1), ("18", "$18.00 per day", 1), ("5", r"5\text{ cm}", 1),
    ("5 cm", "5", 1), ("5 cm", "5 centimeters", 1), ("5 cm", "5 m", 0), ("3", "3 million", 0),
    ("3000000", "3 million", 1), ("90", r"90^\circ", 1), ("90", "90°", 1), ("60", "60 m/s", 1), ("5", "5x", 0),
    ("10", "10 factorial", 0),
    # expressions
    (r"\sqrt{2}", "sqrt(2)", 1), (r"\sqrt{8}", r"2\sqrt{2}", 1), ("2*pi", r"2\pi", 1), (r"2\pi", "2π", 1),
    ("x^2+2x+1", "(x+1)^2", 1), ("x^2+2x+1", "(x+1)^3", 0), (r"\log_2 8", "3", 1), ("10!", "3628800", 1),
    ("3e4", r"3\times 10^{4}", 1), ("5x", "x*5", 1), ("x**2", "x^2", 1), (r"\infty", "infinity", 1),
    ("1+i", "i+1", 1), (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}", 1),
    # equations and relations; the gold answer's form counts
    ("5", "x = 5", 1), ("x = 5", "5", 1), ("x = 5", "x = 6", 0), ("x > 3", "3 < x", 1), ("x > 3", "x >= 3", 0),
    # intervals, sets, tuples
    ("(1,2)", "(1, 2)", 1), ("[1,2)", r"\left[1, 2\right)", 1), ("[1,2)", "[1,2]", 0),
    (r"(-\infty, 3)", r"(-\infty,3)", 1), (r"\{1, 2\}", "2, 1", 1), ("1, 2", r"\{2,1\}", 1), ("1,2", "1,3", 0),
    ("3 and 4", r"4 \text{ and } 3", 1), (r"(0,1)\cup(2,3)", r"(2,3) \cup (0,1)", 1),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", 1),
    # words and letters
    ("Tuesday", r"\text{Tuesday}", 1), ("Tuesday", "tuesday", 1), ("Tuesday", "Wednesday", 0), ("B", "(B)", 1),
    ("B", r"\textbf{(B)}", 1), ("B", "C", 0), (r"\text{even}", "even", 1),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer", "right"), BOXED)
def test_equivalence(reward: MathAnswerReward, gold: str, answer: str, right: int) -> None:
    output = judge(reward, gold, rf"so \boxed{{{answer}}}")
    assert (output.score, output.error) == (right, None), output
    assert output.parts["extracted_by_boxed"] == 1


def test_verification_is_not_symmetric(reward: MathAnswerReward) -> None:
    """A relation as gold accepts its interval; an interval as gold asks for an interval."""
    assert judge(reward, "1 < x < 2", r"\boxed{(1,2)}").score == 1
    assert judge(reward, "(1,2)", r"\boxed{1 < x < 2}").score == 0


EXTRACTION = [
    (r"First \boxed{3}, then \boxed{7}.", "7", "boxed"),
    (r"\boxed{\frac{\sqrt{3}}{2}} is not 5", r"\frac{\sqrt{3}}{2}", "boxed"),
    (r"the set \boxed{\{1,2\}}", "1,2", "boxed"),
    (r"\boxed{7} and cut off: \boxed{12", "7", "boxed"),
    (r"\boxed{7}" + "\n#### 8", "7", "boxed"),
    ("2 + 3 = <<2+3=5>>5\n#### 5", "5", "hash"),
    ("#### 4\nno:\n#### 5\nThe answer is 6", "5", "hash"),
    ("#### $1,200", "1200", "hash"),
    ("The answer is 5 because 2+3=5 and 7 is odd.", "5", "phrase"),
    ("The final answer to the question is: **42**. I used 3 steps.", "42", "phrase"),
    ("**Answer:** $\\frac{1}{2}$\n\nCheck 7.", "1/2", "phrase"),
    ("Final answer:\n18 dollars", "18", "phrase"),
    ("Q: how many? A: 12 apples, of which 5 are red", "12", None),
    ("A: 12\nB is 13", "12", "phrase"),
    ("The answer is $18.\nThat was step 2.", "18", "phrase"),
    ("The answer is x + 5.", "x+5", "phrase"),
    ("The answer is that Tom has 5 apples.", "5", "phrase"),
    ("So x = 5. Now check whether the answer is correct.", "5", "last_expression"),
    ("She pays $5 for the book and $6 for the pen, 11 in all.", "11", "last_expression"),
    ("It costs 2 + 3 = 5", "5", "last_expression"),
    ("It costs $1,250.50.", "1250.5", "last_expression"),
    ("Thus $x = \\frac{3}{4}$.", "3/4", "last_expression"),
    ("The popcorn would cost $19-$12-$3=$4", "4", "last_expression"),
    ("his capital is $12000+$5000= $17 000.", "17000", "last_expression"),
    ("Between 5-3", "3", "last_expression"),
    ("it is -7", "-7", "last_expression"),
    ("a share of 1/4", "0.25", "last_expression"),
]


@pytest.mark.parametrize(("completion", "gold", "step"), EXTRACTION)
def test_extraction_order(reward: MathAnswerReward, completion: str, gold: str, step: str | None) -> None:
    output = judge(reward, gold, completion)
    if step is None:
        assert output.score == 0, "a 'A:' in the middle of a line introduces nothing; the last number counts"
        return
    assert output.score == 1, output
    found = {name for name, value in output.parts.items() if value == 1}
    assert found == {f"extracted_by_{step}"}


@pytest.mark.parametrize("completion", ["", "I do not know.", "<think> the answer is 5, \\boxed{5}", r"\boxed{}"])
def test_a_completion_without_an_answer_is_wrong(reward: MathAnswerReward, completion: str) -> None:
    output = judge(reward, "5", completion)
    assert (output.score, output.error) == (0, None)
    assert sum(output.parts.values()) == 0


def test_what_was_thought_is_not_the_answer(reward: MathAnswerReward) -> None:
    assert judge(reward, "5", r"<think>\boxed{4}</think> \boxed{5}").score == 1
    assert judge(reward, "5", r"thought \boxed{5} </think> I give up").score == 0
    assert judge(reward, "5", r"<think>a</think><think> \boxed{5}").score == 0


@pytest.mark.parametrize(
    ("completion", "score"),
    [("The answer is Tuesday, since 3 days pass.", 1), ("the answer is: Monday", 0), ("It was on Tuesday", 0)],
)
def test_answers_in_words(reward: MathAnswerReward, completion: str, score: float) -> None:
    assert judge(reward, "Tuesday", completion).score == score


def test_choice_letters(reward: MathAnswerReward) -> None:
    assert judge(reward, "B", "The correct answer is (B) 14 because 7 doubles.").score == 1
    assert judge(reward, "B", "The correct answer is C.").score == 0


def test_several_gold_answers(reward: MathAnswerReward) -> None:
    assert judge(reward, ["7", "1/2"], r"\boxed{0.5}").score == 1
    assert judge(reward, ["7", "1/2"], r"\boxed{8}").score == 0


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        (r"\boxed{2, 3}", 1),
        (r"\boxed{3 \text{ and } 2}", 1),
        (r"\boxed{2}", 0),
        (r"\boxed{2, 3, 4}", 0),
        (r"x = \boxed{3} or x = \boxed{2}", 1),
        (r"\boxed{1}, so \boxed{2} and \boxed{3.0}", 1),
        ("The answer is 2 and 3", 1),
    ],
)
def test_all_gold_answers_must_be_given(completion: str, score: float) -> None:
    reward = MathAnswerReward(gold_match="all", timeout_s=20)
    assert judge(reward, ["2", "3"], completion).score == score
    reward.close()


def test_a_tolerance_of_the_rows_own(reward: MathAnswerReward) -> None:
    assert judge(reward, "3.14159", r"\boxed{3.14}").score == 0
    assert judge(reward, "3.14159", r"\boxed{3.14}", tolerance=1e-2).score == 1


@pytest.mark.parametrize("gold", [None, "", [], ["  "]])
def test_an_example_without_gold_is_an_error(reward: MathAnswerReward, gold: str | list[str] | None) -> None:
    output = judge(reward, gold, r"\boxed{5}")
    assert (output.score, output.error) == (None, "invalid_input")


def test_a_gold_answer_that_cannot_be_read_is_an_error(reward: MathAnswerReward) -> None:
    output = judge(reward, r"\frac{1}{", r"\boxed{5}")
    assert (output.score, output.error) == (None, "invalid_input")
    assert r"\frac{1}{" in output.message.replace("\\\\", "\\")


def test_a_pathological_expression_costs_one_sample() -> None:
    reward = MathAnswerReward(timeout_s=1.5, workers=2)
    example = Example("tower", "question", "16")
    answers = ["16", "2^{2^{2^{2^{99}}}}", "15", "4^2", "9^{9^{9^{9}}}", "2^4"]
    started = time.monotonic()
    outputs = score_checked(reward, [RewardInput(example, rf"\boxed{{{answer}}}") for answer in answers])
    assert [output.score for output in outputs] == [1, None, 0, 1, None, 1]
    assert [output.error for output in outputs] == [None, "timeout", None, None, "timeout", None]
    assert "2^{2^" in outputs[1].message and "1.5 s" in outputs[1].message
    assert time.monotonic() - started < 60
    reward.close()


def test_equal_pairs_are_compared_once(reward: MathAnswerReward, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[object] = []
    run = reward._pool.map
    monkeypatch.setattr(reward._pool, "map", lambda items: sent.extend(items) or run(items))
    example = Example("row", "question", "97/2")
    inputs = [RewardInput(example, rf"\boxed{{{answer}}}") for answer in ("48.5", "48.50", "97", "48.5", "97/2")]
    assert [output.score for output in reward.score(inputs)] == [1, 1, 0, 1, 1]
    assert len(sent) == 3
    assert [output.score for output in reward.score(inputs)] == [1, 1, 0, 1, 1]
    assert len(sent) == 3


def test_scoring_from_several_threads() -> None:
    reward = MathAnswerReward(timeout_s=20, workers=2)
    inputs = [RewardInput(Example(str(n), "question", f"{n}/4"), rf"\boxed{{{n % 20 / 4}}}") for n in range(40)]
    with ThreadPoolExecutor(4) as executor:
        scores = list(executor.map(lambda _: [output.score for output in reward.score(inputs)], range(8)))
    assert scores == [[1.0] * 20 + [0.0] * 20] * 8
    reward.close()


def test_long_completions_take_linear_time(reward: MathAnswerReward) -> None:
    started = time.monotonic()
    for text in (
        r"\boxed{" * 20000,
        "answer is " * 20000,
        "$" * 50000,
        "1,234" * 20000,
        "(" * 50000,
        "1 / " * 20000,
        "\n" * 20000,
    ):
        judge(reward, "5", text)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("answer", ["5 " + "a" * 300 + "!", "1" * 20000 + "!", "1aa" * 160 + "!", " " * 20000 + "5"])
def test_long_answers_take_linear_time(answer: str) -> None:
    started = time.monotonic()
    plain_form(answer)
    units_differ("5 m", answer)
    assert time.monotonic() - started < 1


def test_the_parent_imports_neither_sympy_nor_torch() -> None:
    import subprocess

    code = "import posttrain.rewards.config, sys; sys.exit(any(m in sys.modules for m in ('torch', 'sympy', 'trl')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3]).returncode == 0


@pytest.mark.skipif(not GSM8K.exists(), reason="the GSM8K test file is not beside the checkout")
def test_gsm8k_solutions_agree_with_their_own_answers(reward: MathAnswerReward) -> None:
    with gzip.open(GSM8K, "rt") as file:
        rows = [json.loads(line) for line in file][::6]
    inputs = [
        RewardInput(Example(str(number), row["question"], row["answer"]), row["answer"])
        for number, row in enumerate(rows)
    ]
    bare = [RewardInput(item.example, item.completion.replace("####", "The answer is")) for item in inputs]
    boxed = [
        RewardInput(item.example, rf"\boxed{{{item.completion.rpartition('####')[2].strip()} dollars}}")
        for item in inputs
    ]
    assert len(rows) >= 200
    for form in (inputs, bare, boxed):
        wrong = [item.example.id for item, output in zip(form, reward.score(form), strict=True) if output.score != 1]
        assert not wrong
