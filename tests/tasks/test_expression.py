"""Expressions agree with Python's arithmetic, and what is shown of the working is right at every step."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.tasks.expression import (
    addition_columns,
    carries,
    evaluate,
    random_expression,
    reduced,
    reduction_steps,
    running_totals,
    written,
)


@given(seed=st.integers(0, 10**6), terms=st.integers(2, 7), parentheses=st.booleans())
def test_expressions_are_worth_what_python_says(seed: int, terms: int, parentheses: bool) -> None:
    expression = random_expression(random.Random(seed), (0, 20), terms, ["+", "-", "*"], parentheses)
    text = written(expression)
    assert evaluate(expression) == eval(text)
    assert len(re.findall(r"\d+", text)) == terms
    assert text.count("(") == int(parentheses and terms > 2)
    for step in reduction_steps(expression).split("="):
        assert eval(step) == eval(text), step


@pytest.mark.parametrize(
    ("expression", "steps"),
    [
        ([2, "+", 3, "*", 4], "2+12=14"),
        ([9, "-", 3, "-", 4], "6-4=2"),
        (["(", 1, "+", 2, "+", 3, ")", "*", 5], "(3+3)*5=6*5=30"),
        ([5, "-", "(", 3, "-", 7, ")"], "5-(-4)=9"),
        ([3, "-", 7, "+", 2], "-4+2=-2"),
    ],
)
def test_steps(expression: list[int | str], steps: str) -> None:
    assert reduction_steps(expression) == steps


def test_running_totals() -> None:
    assert running_totals([3, 5, 8, 2]) == "8,16,18"


def test_reducing_does_not_change_its_argument() -> None:
    expression: list[int | str] = ["(", 1, "+", 2, ")", "*", 3]
    assert reduced(expression) == [3, "*", 3]
    assert written(expression) == "(1+2)*3"


@pytest.mark.parametrize("terms", [3, 4, 5])
def test_parentheses_hold_some_terms_but_not_all(terms: int) -> None:
    inside = set()
    for seed in range(200):
        text = written(random_expression(random.Random(seed), (1, 9), terms, ["*"], True))
        inside.add(len(re.findall(r"\d", text[text.index("(") : text.index(")")])))
    assert inside == set(range(2, terms))


@pytest.mark.parametrize(
    ("numbers", "count"),
    [([12, 34], 0), ([57, 68], 2), ([99, 1], 2), ([5, 5], 1), ([0, 0], 0), ([999, 1], 3), ([95, 5, 100], 2), ([7], 0)],
)
def test_carries(numbers: list[int], count: int) -> None:
    assert carries(numbers) == count


@pytest.mark.parametrize(
    ("a", "b", "columns"),
    [
        (57, 68, "7+8=15 5+6+1=12 125"),
        (12, 34, "2+4=6 1+3=4 46"),
        (5, 120, "5+0=5 0+2=2 0+1=1 125"),
        (0, 0, "0+0=0 0"),
        (99, 1, "9+1=10 9+0+1=10 100"),
    ],
)
def test_addition_columns(a: int, b: int, columns: str) -> None:
    assert addition_columns(a, b) == columns


@given(a=st.integers(0, 10**6), b=st.integers(0, 10**6))
def test_every_column_is_a_true_sum_and_the_answer_is_last(a: int, b: int) -> None:
    *columns, answer = addition_columns(a, b).split(" ")
    assert int(answer) == a + b
    assert len(columns) == len(str(max(a, b)))
    for column in columns:
        left, right = column.split("=")
        assert eval(left) == int(right)
