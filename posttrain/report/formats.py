"""Numbers as people write them."""

import math


def duration(seconds: float) -> str:
    """``42 s``, ``3:07``, ``1:02:03``, ``2 d 3 h``."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    if hours:
        return f"{hours}:{minutes:02d}:{rest:02d}"
    return f"{minutes}:{rest:02d}" if minutes else f"{rest} s"


def count(value: float) -> str:
    """Three digits and a unit: ``950``, ``12.3k``, ``4.56M``, ``1.20B``."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            scaled = value / (1e3 if unit == "k" else size)
            return f"{scaled:.{max(0, 2 - int(math.log10(abs(scaled))))}f}{unit}"
    return f"{value:.0f}"


def number(value: float) -> str:
    """A metric to three decimals; a dash where it is not finite."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.3g}"
