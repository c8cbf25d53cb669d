"""In what plain form answers are compared, and how they are written for math-verify. Strings only, in linear time."""

import re

# Words that mathematics is written with; any other word of three letters or more is prose.
_FUNCTIONS = "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log exp sqrt max min mod gcd lcm det"
_CONNECTIVES_AND_CONSTANTS = "and or pi inf infinity text frac dfrac tfrac left right"
MATH_WORDS = frozenset(_FUNCTIONS.split() + _CONNECTIVES_AND_CONSTANTS.split())
_NUMBER_WORDS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
# Words after a number that are part of the value, so not a unit.
_NOT_UNITS = frozenset({*_NUMBER_WORDS, "dozen", "half", "halves", "percent", "factorial"})

_UNICODE = str.maketrans(
    {
        "−": "-", "–": "-", "×": "\\times ", "·": "\\cdot ", "÷": "/", "≤": "\\leq ", "≥": "\\geq ", "≠": "\\neq ",
        "∞": "\\infty ", "π": "\\pi ", "√": "\\sqrt ", "²": "^2", "³": "^3", "½": " 1/2", "¼": " 1/4", "¾": " 3/4",
        "°": "", "∪": "\\cup ", "∈": "\\in ", "\u00a0": " ", "\u202f": " ", "％": "%",
    }
)  # fmt: skip

_MEASURES = {
    alias: measure
    for measure, aliases in {
        "mm": "mm millimeter millimetre", "cm": "cm centimeter centimetre", "m": "m meter metre",
        "km": "km kilometer kilometre", "inch": "inch inches", "foot": "foot feet ft", "yard": "yard yd",
        "mile": "mile mi", "mg": "mg milligram", "g": "g gram", "kg": "kg kilogram", "ounce": "ounce oz",
        "pound": "pound lb", "ml": "ml milliliter millilitre", "l": "l liter litre", "gallon": "gallon gal",
        "second": "second sec", "minute": "minute min", "hour": "hour hr h", "day": "day", "week": "week",
        "month": "month", "year": "year", "cent": "cent", "dollar": "dollar usd",
    }.items()
    for alias in aliases.split()
}  # fmt: skip


def is_text(answer: str) -> bool:
    """Whether an answer is words or a choice letter, to be compared as they are and not as mathematics."""
    bare = plain_form(answer)
    if re.fullmatch(r"[A-Z]", bare):
        return True
    words = re.findall(r"[^\W\d_]+", bare)
    return (
        bool(re.fullmatch(r"[^\W\d_]+(?:[\s,.'’&-]+[^\W\d_]+)*", bare))
        and any(len(word) > 2 for word in words)
        and not any(word.lower() in MATH_WORDS for word in words if len(word) > 2)
    )


def plain_form(answer: str) -> str:
    """An answer without what does not change its value: math delimiters, spacing commands, ``\\text``, currency, the
    comma of thousands, a trailing period, zeros after the decimal point, a unit in words."""
    text = answer.strip().translate(_UNICODE)
    text = re.sub(r"^(?:\$\$?|\\\[|\\\()|(?:(?<!\\)\$\$?|\\\]|\\\))\.?$", "", text).strip(" \t\n*_`")
    text = re.sub(r"(?<=\d)\\[!,;:](?=\d{3}(?!\d))", "", text)
    text = re.sub(r"\\(?:left|right|displaystyle|limits|bigl?|bigr?)(?![A-Za-z])|\\[!,;:]|~|\\quad|\\ ", " ", text)
    text = re.sub(r"\\[dt]frac(?![A-Za-z])", r"\\frac", text).replace("{,}", ",").replace("\\%", "%")
    text = re.sub(r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"\s*\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree", "", text)
    text = re.sub(r"(?<!\w)\\?\$\s*(?=[-.\d])|^[€£¥]\s*", "", text)
    text = re.sub(r"\s+", " ", text).strip().rstrip(".").strip()
    text = _without_unit(text)
    if re.fullmatch(r"[-+]?\d{1,3}([, ]\d{3})+(\.\d+)?", text):
        text = re.sub("[, ]", "", text)
    if re.fullmatch(r"[-+]?\d*\.?\d+|[-+]?\d+\.", text):
        return _plain_number(text)
    if choice := re.fullmatch(r"\(?([A-Za-z])\)?[.:]?", text):
        return choice.group(1)
    if re.fullmatch(r"[^\W\d_]{2,}(?: [^\W\d_]+)*", text):
        return text.casefold()
    return re.sub(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])", "", text)


def units_differ(gold: str, answer: str) -> bool:
    """Whether both answers end with a measure, and not the same one."""
    units = _measure(gold), _measure(answer)
    return "" not in units and units[0] != units[1]


def _measure(answer: str) -> str:
    """The measure an answer ends with (``cm``, ``hour``), singular and lower case; empty if there is none."""
    bare = re.sub(r"\\(?:text|mathrm|mbox)\s*\{([^{}]*)\}", r" \1 ", answer)
    match = re.search(r"\d[\s}$]*([a-zA-Z]+)[\s.$]*$", bare)
    word = match.group(1).lower() if match else ""
    return _MEASURES.get(word, _MEASURES.get(word.removesuffix("s"), ""))


def latex_form(answer: str) -> str:
    """An answer's plain form as LaTeX that math-verify reads: mixed numbers, ``sqrt(...)``, ``**``, ``1e-7``."""
    text = plain_form(answer)
    text = re.sub(r"(?<![\d.])(\d+) (\d+)/(\d+)", r"\1\\frac{\2}{\3}", text)
    text = re.sub(r"(?<=\d)\s*[eE]([-+]?\d+)(?!\w)", r"\\cdot 10^{\1}", text)
    text = re.sub(r"(?<=\d) (hundred|thousand|million|billion|trillion)\b", _power_of_ten, text)
    text = re.sub(r"\s*percent\b", r"%", text).replace("%", r"\%").replace("**", "^")
    text = re.sub(r"(?<![\\A-Za-z])(pi|sqrt|sin|cos|tan|log|ln|exp|infinity|infty)(?![A-Za-z])", r"\\\1", text)
    text = text.replace("\\infinity", "\\infty")
    text = re.sub(r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    return re.sub(r"(?<!\\) (or|and) ", r" \\text{ \1 } ", text)


def _without_unit(text: str) -> str:
    """A number without the unit after it: ``18 dollars``, ``5 m``, ``3 apples per day``."""
    match = re.fullmatch(
        r"([-+]?[\d.,]*\d(?:/\d+)?(?: \d+/\d+)?)((?: ?[A-Za-z]{2,}| [A-Za-z])(?:[ /^.-]?[A-Za-z0-9]+)*)", text
    )
    if match is None:
        return text
    words = set(re.findall(r"[a-z]+", match.group(2).lower()))
    is_unit = any(len(word) > 1 or word in _MEASURES for word in words) and not words & (_NOT_UNITS | MATH_WORDS)
    has_digit = bool(re.search(r"(?<!\^)\d", match.group(2)))
    return match.group(1) if is_unit and not has_digit else text


def _plain_number(text: str) -> str:
    sign = "-" if text.startswith("-") else ""
    whole, _, decimals = text.lstrip("+-").partition(".")
    whole, decimals = whole.lstrip("0") or "0", decimals.rstrip("0")
    number = f"{whole}.{decimals}" if decimals else whole
    return number if number == "0" else sign + number


def _power_of_ten(match: re.Match[str]) -> str:
    return rf"\cdot 10^{{{_NUMBER_WORDS[match.group(1)]}}}"
