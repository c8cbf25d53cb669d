"""In what plain form answers are compared, and how they are written for math-verify. Strings only, in linear time."""

import re
import unicodedata
from functools import lru_cache

from posttrain.rewards.math.units import MATH_WORDS, POWERS_OF_TEN, VALUE_WORDS, same_quantity, unit_of, without_unit

_UNICODE = str.maketrans(
    {
        "−": "-", "–": "-", "×": "\\times ", "·": "\\cdot ", "÷": "/", "≤": "\\leq ", "≥": "\\geq ", "≠": "\\neq ",
        "∞": "\\infty ", "π": "\\pi ", "√": "\\sqrt ", "²": "^2", "³": "^3", "½": " 1/2", "¼": " 1/4", "¾": " 3/4",
        "°": "\\degree ", "∪": "\\cup ", "∈": "\\in ", "±": "\\pm ", "∅": "\\emptyset ", "⁄": "/",
    }
)  # fmt: skip
_WRAPPER = re.compile(
    r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mbox|boldsymbol|underline|emph|operatorname)\s*\{([^{}]*)\}"
)
_CURRENCY = re.compile(r"(?<!\w)\\?\$\s*(?=[-.\d])|^[€£¥]\s*|^(?:USD|Rs\.?)\s*(?=\d)")


def is_text(answer: str) -> bool:
    """Whether an answer is words or a choice letter, to be compared as they are and not as mathematics."""
    bare = plain_form(answer)
    if re.fullmatch(r"[A-Z]", bare):
        return True
    words = re.findall(r"[^\W\d_]+", bare)
    return (
        bool(re.fullmatch(r"[^\W\d_]+(?:[\s,.'’&-]+[^\W\d_]+)*", bare))
        and (bare == "no" or any(len(word) > 2 for word in words))
        and not any(word.lower() in MATH_WORDS for word in words if len(word) > 2)
    )


@lru_cache(maxsize=16384)
def plain_form(answer: str) -> str:
    """An answer without what does not change its value: math delimiters, spacing commands, ``\\text``, currency, the
    comma of thousands, a trailing period, zeros after the decimal point, a unit in words."""
    text = without_unit(unwrapped(answer))
    if re.fullmatch(r"[-+]?\d{1,3}([, ]\d{3})+(\.\d+)?", text):
        text = re.sub("[, ]", "", text)
    if re.fullmatch(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)", text):
        return _plain_number(text)
    if choice := re.fullmatch(r"\(?([A-Za-z])\)?[.:]?", text):
        return choice.group(1)
    if re.fullmatch(r"[^\W\d_]{2,}(?: [^\W\d_]+)*", text):
        return text.casefold()
    return re.sub(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])", "", text)


def units_differ(gold: str, answer: str) -> bool:
    """Whether both answers end with a measure, and not the same one."""
    units = unit_of(unwrapped(gold)), unit_of(unwrapped(answer))
    return None not in units and units[0] != units[1]


def equal_quantities(gold: str, answer: str) -> bool:
    """Whether both answers are quantities, equal once their units are converted."""
    return same_quantity(unwrapped(gold), unwrapped(answer))


def single_value(answer: str) -> str:
    """The one number of an answer that has words around it, such as ``approximately 12`` or ``Tom has 5``; else the
    answer itself."""
    bare = plain_form(answer)
    words = {word.lower() for word in re.findall(r"[A-Za-z]{2,}", bare)}
    numbers = re.findall(r"(?<![\w.,])[-+]?\d[\d,]*(?:\.\d+)?(?!\w)", bare)
    is_prose = bool(words - MATH_WORDS) and "\\" not in bare and not words & VALUE_WORDS
    return numbers[0] if is_prose and len(numbers) == len(re.findall(r"\d[\d.,]*", bare)) == 1 else answer


def latex_form(answer: str) -> str:
    """An answer's plain form as LaTeX that math-verify reads: mixed numbers, ``sqrt(...)``, ``**``, ``1e-7``."""
    text = plain_form(answer)
    text = re.sub(r"(?<![\d.])(\d+) (\d+)/(\d+)", r"\1\\frac{\2}{\3}", text)
    text = re.sub(r"\\frac\s*([^\W_])\s*([^\W_])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"(?<![\d.])(\d*)\.(\d*)\\overline\{(\d+)\}", _repeating_decimal, text)
    text = re.sub(r"(?<=\d)\s*[eE]([-+]?\d+)(?!\w)", r"\\cdot 10^{\1}", text)
    powers = rf"(?<=\d) ({'|'.join(POWERS_OF_TEN)})\b"
    text = re.sub(powers, lambda found: rf"\cdot 10^{{{POWERS_OF_TEN[found[1]]}}}", text)
    text = re.sub(r"\s*percent\b", r"%", text).replace("%", r"\%").replace("**", "^")
    text = re.sub(r"(?<![\\A-Za-z])(pi|sqrt|sin|cos|tan|log|ln|exp|infinity|infty)(?![A-Za-z])", r"\\\1", text)
    text = text.replace("\\infinity", "\\infty").replace("\\varnothing", "\\emptyset")
    text = re.sub(r"^([-+]?\d* ?\\frac\{\d+\}\{\d+\})\\%$", r"\\frac{\1}{100}", text)
    text = re.sub(r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = re.sub(r"(?<!\d)(\d+) to (\d+)", r"\1:\2", text)
    return re.sub(r"(?<!\\) (or|and) ", r" \\text{ \1 } ", text)


@lru_cache(maxsize=16384)
def unwrapped(answer: str) -> str:
    """The plain text of an answer, its unit included."""
    text = re.sub(r"\s+", " ", unicodedata.normalize("NFKC", answer.strip().translate(_UNICODE)))
    text = re.sub(r"(?<=\$)(\d[\d.,]{0,15}) ?[kK](?!\w)", r"\1 thousand", text)
    text = re.sub(r"^(?:\$\$?|\\\[|\\\()|(?:(?<!\\)\$\$?|\\\]|\\\))\.?$", "", text).strip(" \t\n*_`\"'")
    text = re.sub(r"(?<=\d)\\[!,;:](?=\d{3}(?!\d))", "", text)
    text = re.sub(r"\\\\(?:\[[^\]]{0,8}\])?$|(?<=\\\\)\[[^\]]{0,8}\]", "", text).replace("\\mid", "|")
    text = re.sub(r"\\(?:left|right|displaystyle|limits|bigl?|bigr?|checkmark)(?![A-Za-z])", " ", text)
    text = re.sub(r"(?<!\\)\\[!,;: ]|~|\\q?quad(?![A-Za-z])|\\(?:text)?color\s*\{[^{}]*\}", " ", text)
    text = re.sub(r"\\[dt]frac(?![A-Za-z])", r"\\frac", text).replace("{,}", ",").replace("{:}", ":")
    text = re.sub(r"(?<=[\w})])[,;]?\s*\\text\s*\{\s*(?:when|where|since|because|\().*$", "", text, flags=re.DOTALL)
    text = _WRAPPER.sub(r" \1 ", text).replace("\\%", "%")
    text = re.sub(r"(?<=\d) *\\frac\{ ([a-z]+) \}\{ ([a-z]+) \}$", r" \1/\2", text)
    text = re.sub(r"\s*\^\s*(?:\{(\d)\}(?!\d))?", r"^\1", text)
    text = re.sub(r"(?:\^(?:\\circ|\{\s*\\circ\s*\})|\\degree)(?:\s*[CF](?![A-Za-z]))?", "", text)
    text = _CURRENCY.sub("", text)
    text = re.sub(r"(?i)(?<=\d)\s*([ap])\.?m\b\.?$", r" \1m", text)
    text = re.sub(r"(?<=\d):00(?= [apAP]m$|$)", "", text)
    text = re.sub(r"\s+", " ", text).strip().rstrip(".").strip()
    inner = re.fullmatch(r"\{([^{}]*)\}", text)
    return inner[1].strip() if inner else text


def _plain_number(text: str) -> str:
    sign = "-" if text.startswith("-") else ""
    whole, _, decimals = text.lstrip("+-").partition(".")
    whole, decimals = whole.lstrip("0") or "0", decimals.rstrip("0")
    number = f"{whole}.{decimals}" if decimals else whole
    return number if number == "0" else sign + number


def _repeating_decimal(match: re.Match[str]) -> str:
    r"""``0.1\overline{6}`` is (16 - 1) / 90."""
    whole, fixed, repeated = match[1] or "0", match[2], match[3]
    numerator = int(whole + fixed + repeated) - int(whole + fixed)
    return rf"\frac{{{numerator}}}{{{'9' * len(repeated) + '0' * len(fixed)}}}"
