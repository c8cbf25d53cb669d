"""Units of measurement at the end of a number: ``18 dollars``, ``60 km/h``, ``2 hours and 30 minutes``.

All functions take plain text without LaTeX, in linear time.
"""

import re

# Words that mathematics is written with; any other word of three letters or more is prose.
_FUNCTIONS = "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log exp sqrt max min mod gcd lcm det"
_CONNECTIVES_AND_CONSTANTS = "and or pi inf infinity text frac dfrac tfrac left right"
MATH_WORDS = frozenset(_FUNCTIONS.split() + _CONNECTIVES_AND_CONSTANTS.split())
POWERS_OF_TEN = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
# Words around a number that are part of the value, so not a unit.
_PARTS_OF_VALUES = "dozen half halves third thirds quarter quarters percent factorial squared cubed no not none never"
VALUE_WORDS = frozenset({*POWERS_OF_TEN, *_PARTS_OF_VALUES.split()})

# Dimension -> size of a unit -> its names. Two halves of a day are two dimensions: 3:30 am is no 3:30 pm.
_SIZES: dict[str, dict[float, str]] = {
    "length": {
        0.001: "mm millimeter millimetre", 0.01: "cm centimeter centimetre", 1: "m meter metre",
        1000: "km kilometer kilometre", 0.0254: "inch inches in", 0.3048: "foot feet ft", 0.9144: "yard yd",
        1609.344: "mile mi",
    },
    "mass": {
        1e-6: "mg milligram", 1e-3: "g gram", 1: "kg kilogram", 0.028349523125: "ounce oz", 0.45359237: "pound lb",
    },
    "volume": {
        1e-3: "ml milliliter millilitre", 1: "l liter litre", 3.785411784: "gallon gal", 0.946352946: "quart",
        0.473176473: "pint", 0.2365882365: "cup",
    },
    "time": {1: "second sec", 60: "minute min", 3600: "hour hr h", 86400: "day", 604800: "week"},
    "years": {1: "month", 12: "year"},
    "money": {0.01: "cent", 1: "dollar usd"},
    "morning": {1: "am a.m"},
    "afternoon": {1: "pm p.m"},
}  # fmt: skip
UNITS = {
    alias: (dimension, size)
    for dimension, names in _SIZES.items()
    for size, aliases in names.items()
    for alias in aliases.split()
}

# Characters of a text that may end with a unit.
LONGEST = 500

_NUMBER = r"[-+]?[\d.,:]*\d(?:/\d+)?(?: \d+/\d+)?"
_WORDS = re.compile(
    rf"({_NUMBER}|.*[\d}})\]]|.*\\pi)((?: ?[A-Za-z]{{2,}}| [A-Za-z])[A-Za-z0-9]*(?:[ /^.-][A-Za-z0-9]+)*)", re.DOTALL
)
_TERM = r"([\d.,]*\d) ?([A-Za-z]+)"
_NEXT_TERM = re.compile(r"(?:, | and |, and | )(?=\d)")
# The names of units that quantities of two terms are given in.
_COARSE, _FINE = "hour|hr|day|week|year|dollar|foot|feet|ft|pound|lb|minute|min", "minute|min|hour|hr|day|month|cent|"
COMPOUND = rf"\d+ (?:{_COARSE})s?(?:,? and |, | )\d+ (?:{_FINE}second|sec|inche?|ounce|oz)s?\b"


def without_unit(text: str) -> str:
    """A number or expression without the unit after it: ``5 m``, ``3 apples per day``, ``12\\pi cm^3``."""
    match = _WORDS.fullmatch(text) if len(text) < LONGEST else None
    if match is None or re.search(r"(?<!\^)\d", match[2]):
        return text
    words = re.findall(r"[a-z]+", match[2].lower())
    spaced = match[2].startswith(" ")
    is_number = bool(re.fullmatch(_NUMBER, match[1]))
    is_unit = any(_unit(word) if len(word) < 3 else spaced or len(word) > 3 or _unit(word) for word in words)
    is_variable = len(words) == 1 and len(words[0]) == 1 and not is_number
    return text if not is_unit or is_variable or (MATH_WORDS | VALUE_WORDS).intersection(words) else match[1]


def unit_of(text: str) -> tuple[str, float] | None:
    """Dimension and size of the unit that a number ends with; for ``2516_8`` it is the base."""
    if base := re.search(r"\d_\{?(\d+)\}?$", text):
        return "base", float(base[1])
    word = re.search(r"\d ?([A-Za-z]+(?:\.m)?)$", text)
    return _unit(word[1].lower()) if word else None


def same_quantity(gold: str, answer: str) -> bool:
    """Whether two quantities with units are equal once converted: ``150 minutes`` and ``2 hours 30 minutes``. A gold
    answer without a unit is in one of those that an answer of several terms names."""
    given = _terms(answer)
    if not given:
        return False
    if wanted := _terms(gold):
        return wanted[0][1] == given[0][1] and _close(_total(wanted), _total(given))
    if len(given) < 2 or not re.fullmatch(r"[\d.]*\d", gold):
        return False
    return any(_close(float(gold) * size, _total(given)) for _, _, size in given)


def _terms(text: str) -> list[tuple[float, str, float]]:
    """Number, dimension and size of each term; none where the text is not a sum of terms of one dimension."""
    matches = [re.fullmatch(_TERM, part) for part in _NEXT_TERM.split(text)]
    terms = []
    for match in matches:
        unit = _unit(match[2].lower()) if match else None
        number = match[1].replace(",", "") if match else ""
        if unit is None or not re.fullmatch(r"\d*\.?\d+", number):
            return []
        terms.append((float(number), *unit))
    return terms if len({dimension for _, dimension, _ in terms}) == 1 else []


def _total(terms: list[tuple[float, str, float]]) -> float:
    return sum(number * size for number, _, size in terms)


def _close(first: float, second: float) -> bool:
    return abs(first - second) <= 1e-9 * abs(first)


def _unit(word: str) -> tuple[str, float] | None:
    return UNITS.get(word) or UNITS.get(word.removesuffix("s"))
