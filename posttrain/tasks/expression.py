"""Integer expressions of +, - and *: made at random, written as text, and worked out one operation at a time."""

import random
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

Operator = Literal["+", "-", "*"]
Token = int | str  # an operand, an operator or a parenthesis


def random_expression(
    rng: random.Random, operands: tuple[int, int], terms: int, operators: Sequence[Operator], parentheses: bool
) -> list[Token]:
    """``terms`` operands drawn uniformly from the closed range ``operands``, joined by random operators.

    ``parentheses`` puts one random run of at least two terms, not all of them, into parentheses.
    """
    low, high = operands
    opening, closing = _random_run(rng, terms) if parentheses and terms > 2 else (None, None)
    tokens: list[Token] = []
    for term in range(terms):
        if term:
            tokens.append(rng.choice(operators))
        if term == opening:
            tokens.append("(")
        tokens.append(rng.randint(low, high))
        if term == closing:
            tokens.append(")")
    return tokens


def _random_run(rng: random.Random, terms: int) -> tuple[int, int]:
    first = rng.randrange(terms - 1)
    last = rng.randrange(first + 1, terms)
    return (first, last - 1) if (first, last) == (0, terms - 1) else (first, last)


def written(tokens: Sequence[Token]) -> str:
    """The expression as text; a negative operand that is not the first stands in parentheses."""
    texts = [
        f"({token})" if index and isinstance(token, int) and token < 0 else str(token)
        for index, token in enumerate(tokens)
    ]
    return "".join(texts)


def reduced(tokens: Sequence[Token]) -> list[Token]:
    """The expression after one operation: inside the parentheses first, * before + and -, from the left."""
    start, end = 0, len(tokens)
    if ")" in tokens:
        end = tokens.index(")")
        start = max(index for index in range(end) if tokens[index] == "(") + 1
    inner = range(start + 1, end, 2)
    place = next((index for index in inner if tokens[index] == "*"), start + 1)
    value = _apply(tokens[place - 1], tokens[place], tokens[place + 1])
    before, after = list(tokens[: place - 1]), list(tokens[place + 2 :])
    if start and end - start == 3:  # the parentheses now hold one number
        before.pop()
        after.pop(0)
    return [*before, value, *after]


def evaluate(tokens: Sequence[Token]) -> int:
    """The expression's value."""
    while len(tokens) > 1:
        tokens = reduced(tokens)
    return int(tokens[0])


def _apply(left: Token, operator: Token, right: Token) -> int:
    a, b = int(left), int(right)
    return a + b if operator == "+" else a - b if operator == "-" else a * b


def carries(numbers: Sequence[int]) -> int:
    """How many columns carry when non-negative ``numbers`` are added one after another."""
    count, total = 0, numbers[0]
    for number in numbers[1:]:
        carry, place = 0, 1
        while place <= max(total, number):
            carry = int(total // place % 10 + number // place % 10 + carry > 9)
            count += carry
            place *= 10
        total += number
    return count


def addition_columns(a: int, b: int) -> str:
    """The addition of two non-negative numbers column by column from the right, carries included: ``57+68`` gives
    ``7+8=15 5+6+1=12 125``."""
    columns, carry, place = [], 0, 1
    while place <= max(a, b, 1):
        digits = [a // place % 10, b // place % 10] + [carry] * (carry > 0)
        columns.append(f"{'+'.join(map(str, digits))}={sum(digits)}")
        carry, place = sum(digits) // 10, place * 10
    return " ".join([*columns, str(a + b)])


def running_totals(numbers: Sequence[int]) -> str:
    """The sum after each further number: ``3+5+8+2`` gives ``8,16,18``."""
    return ",".join(map(str, [*accumulate(numbers)][1:]))


def reduction_steps(tokens: Sequence[Token]) -> str:
    """The expression after each operation: ``2+3*4`` gives ``2+12=14``."""
    steps = []
    while len(tokens) > 1:
        tokens = reduced(tokens)
        steps.append(written(tokens))
    return "=".join(steps)
