"""Numbers as people write them."""

import math

import pytest

from posttrain.report.formats import count, duration, number


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (187, "3:07"), (3723, "1:02:03"), (3600 * 51, "2 d 3 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (950.4, "950"),
        (9999, "9999"),
        (12_345, "12.3k"),
        (123_456, "123k"),
        (4.56e6, "4.56M"),
        (1.2e9, "1.20B"),
    ],
)
def test_counts(value: float, text: str) -> None:
    assert count(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.12345, "0.123"), (-1.5, "-1.500"), (123456.0, "1.23e+05"), (math.nan, "–")]
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text
