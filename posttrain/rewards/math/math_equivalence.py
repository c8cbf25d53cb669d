"""Run by worker processes only: does an answer equal the gold answer? math-verify decides.

Nothing here limits time: the worker pool does, from outside.
"""

import logging
import re
from functools import lru_cache
from typing import Any

import sympy
from latex2sympy2_extended import NormalizationConfig
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

from posttrain.rewards.math.answer_form import equal_quantities, latex_form, plain_form, single_value, units_differ

# It warns that its own timeouts are off, in every worker.
logging.getLogger("math_verify").setLevel(logging.ERROR)

FLOAT_DIGITS = 6
# math-verify's defaults but for its removal of units: it takes the d in 5d, the ab in 6ab and the t in 3 + 2t for one.
NORMALISATION = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
EXTRACTION = [LatexExtractionConfig(normalization_config=NORMALISATION), ExprExtractionConfig()]


def judge(item: dict[str, Any]) -> dict[str, Any]:
    """``{"equal": bool}`` for an item of ``gold``, ``answer`` and ``tolerance`` (relative, or None).

    ``{"invalid_gold": True}`` where the gold answer cannot be read as mathematics.
    """
    gold = _parsed(item["gold"])
    if not gold:
        return {"invalid_gold": True}
    if equal_quantities(item["gold"], item["answer"]):
        return {"equal": True}
    has_letters = re.search("[A-Za-z]", plain_form(item["gold"]))
    answer = _parsed(item["answer"] if has_letters else single_value(item["answer"]))
    if not answer or units_differ(item["gold"], item["answer"]):
        return {"equal": False}
    if verify(gold, answer, float_rounding=_digits(gold[0]), timeout_seconds=None):
        return {"equal": True}
    return {"equal": _close(gold[0], answer[0], item["tolerance"])}


@lru_cache(maxsize=4096)
def _parsed(text: str) -> list[Any]:
    """Expressions only: without math-verify's last resort, the text itself. A plain number needs no grammar."""
    latex = latex_form(text)
    if number := re.fullmatch(r"-?\d{1,15}(\.\d{1,15})?", latex):
        return [sympy.Float(latex) if number[1] else sympy.Integer(latex)]
    found = parse(f"${latex}$", EXTRACTION, parsing_timeout=None)
    return [_with_imaginary_unit(expression) for expression in found if not isinstance(expression, str)]


def _with_imaginary_unit(expression: Any) -> Any:
    """The symbol i stands for the imaginary unit: e^{i pi} is -1."""
    if not isinstance(expression, sympy.Expr):
        return expression
    return expression.subs({symbol: sympy.I for symbol in expression.free_symbols if str(symbol) == "i"})


def _digits(gold: Any) -> int:
    """Decimals to round to: six, and for a gold answer below 1 six significant ones, so that rounding is relative."""
    value = _real(gold)
    if value is None or not 0 < abs(value) < 1:
        return FLOAT_DIGITS
    return FLOAT_DIGITS - int(f"{value:e}".partition("e")[2])


def _close(gold: Any, answer: Any, tolerance: float | None) -> bool:
    """Whether two real numbers agree within a relative tolerance.

    The default, 1e-6, holds where one of them is a decimal and the gold answer is no integer; a tolerance of the row's
    own always.
    """
    gold_value, answer_value = _real(gold), _real(answer)
    if gold_value is None or answer_value is None:
        return False
    if tolerance is None:
        if gold_value.is_integer() or not any(getattr(value, "is_Float", False) for value in (gold, answer)):
            return False
        tolerance = 1e-6
    return abs(answer_value - gold_value) <= tolerance * abs(gold_value)


def _real(expression: Any) -> float | None:
    if not getattr(expression, "is_number", False):
        return None
    try:
        return float(expression)
    except (TypeError, ValueError, OverflowError):
        return None
