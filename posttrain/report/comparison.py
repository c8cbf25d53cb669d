"""The picture of a comparison: one learning curve an arm, as an SVG that reads on light and on dark pages."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from posttrain.report.formats import count, number

Curve = Sequence[tuple[float, float]]  # (what was spent, the metric)

WIDTH, HEIGHT = 800, 400
LEFT, RIGHT, TOP, BOTTOM = 58, 236, 64, 52
LABEL_HEIGHT = 18
TICKS = 5
MOST_DOTS = 16
LABEL_LETTERS = 22
LIGHT = ("#2f62d4", "#c9580c", "#12806f", "#8547c7", "#b23a6d", "#63666c")
DARK = ("#7ea4ff", "#f0954e", "#4cc4ae", "#bd8ff0", "#ec80ab", "#a3a7ae")

_STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #1b1c1e }
.ground { fill: #ffffff; stroke: #e4e4df }
.title { font-size: 15px; font-weight: 600 } .note, .tick { fill: #63666c } .tick { font-size: 12px }
.grid { stroke: #e4e4df } .mean { fill: none; stroke-width: 2.25; stroke-linejoin: round; stroke-linecap: round }
.band { opacity: .14; stroke: none } .name { font-weight: 600 } .lead { fill: none; stroke-width: 1; opacity: .5 }
"""
_DARK_STYLE = """text { fill: #e7e7e4 } .ground { fill: #191b1e; stroke: #303338 } .grid { stroke: #303338 }
.note, .tick { fill: #a3a7ae } .band { opacity: .2 }"""


@dataclass(frozen=True, slots=True)
class ArmCurve:
    """Over the seeds of one arm: x the mean of what was spent, y the mean of the metric between lowest and highest."""

    name: str
    x: tuple[float, ...]
    mean: tuple[float, ...]
    lowest: tuple[float, ...]
    highest: tuple[float, ...]

    @classmethod
    def of(cls, name: str, curves: Sequence[Curve]) -> "ArmCurve":
        """Points are paired by their number; points that not every seed has are left out."""
        points = list(zip(*curves, strict=False))
        values = [[y for _, y in point] for point in points]
        return cls(
            name,
            x=tuple(sum(x for x, _ in point) / len(point) for point in points),
            mean=tuple(sum(ys) / len(ys) for ys in values),
            lowest=tuple(min(ys) for ys in values),
            highest=tuple(max(ys) for ys in values),
        )


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear scale from values to pixels, with ticks at round values."""

    ticks: tuple[float, ...]
    first_pixel: float
    last_pixel: float

    @classmethod
    def over(cls, values: Sequence[float], first_pixel: float, last_pixel: float) -> "Axis":
        low, high = min(values), max(values)
        if low == high:
            low, high = low - 0.5, high + 0.5
        power = 10.0 ** math.floor(math.log10((high - low) / TICKS))
        step = next(factor * power for factor in (1, 2, 5, 10) if (high - low) / (factor * power) <= TICKS + 1e-9)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        return cls(tuple(round(tick * step, 12) for tick in range(first, last + 1)), first_pixel, last_pixel)

    def pixel(self, value: float) -> float:
        share = (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])
        return round(self.first_pixel + share * (self.last_pixel - self.first_pixel), 1)


def comparison_picture(curves: Mapping[str, Sequence[Curve]], metric: str, spent: str) -> str:
    """An SVG: for each arm the mean over its seeds, and a band from the lowest to the highest seed.

    Args:
        curves: arm -> one curve a seed; arms without curves are left out.
        metric: what the vertical axis shows.
        spent: what the horizontal axis shows.
    """
    arms = [ArmCurve.of(name, seeds) for name, seeds in curves.items() if seeds]
    most_seeds = max((len(seeds) for seeds in curves.values()), default=0)
    note = f"mean of {most_seeds} seeds; band: lowest to highest" if most_seeds > 1 else "one seed"
    return curves_picture(arms, metric, note, spent, f"{metric} of {', '.join(curves)}")


def curves_picture(arms: Sequence[ArmCurve], title: str, note: str, below: str, spoken: str) -> str:
    """An SVG of the curves and their bands; ``below`` names the horizontal axis, ``spoken`` is for screen readers."""
    body = list(_chart(arms)) if arms else [_text(WIDTH / 2, HEIGHT / 2, "no run has finished", "note", "middle")]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="{escape(spoken)}">',
        f"<style>{_style()}</style>",
        f'<rect class="ground" x=".5" y=".5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8"/>',
        _text(20, 28, title, "title"),
        _text(20, 46, note, "note"),
        *body,
        _text(middle, HEIGHT - 14, below, "note", "middle"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _chart(arms: Sequence[ArmCurve]) -> Iterator[str]:
    x = Axis.over([value for arm in arms for value in arm.x], LEFT, WIDTH - RIGHT)
    y = Axis.over([value for arm in arms for value in (*arm.lowest, *arm.highest)], HEIGHT - BOTTOM, TOP)
    yield from _grid(x, y)
    for index, arm in reversed(list(enumerate(arms))):  # the first arm on top
        yield from _curve(arm, f"c{index % len(LIGHT)}", index // len(LIGHT), x, y)
    ends = [y.pixel(arm.mean[-1]) for arm in arms]
    for index, (arm, end, place) in enumerate(zip(arms, ends, _apart(ends, TOP, HEIGHT - BOTTOM), strict=True)):
        right, colour = x.pixel(arm.x[-1]), f"c{index % len(LIGHT)}"
        yield f'<path class="lead s{colour}" d="M{right + 5} {end}L{WIDTH - RIGHT + 14} {place}"/>'
        label = arm.name if len(arm.name) <= LABEL_LETTERS else f"{arm.name[: LABEL_LETTERS - 1]}…"
        yield _text(WIDTH - RIGHT + 18, place + 4, f"{label} {number(arm.mean[-1])}", f"name f{colour}")


def _grid(x: Axis, y: Axis) -> Iterator[str]:
    for tick in y.ticks:
        yield f'<path class="grid" d="M{LEFT} {y.pixel(tick)}H{WIDTH - RIGHT}"/>'
        yield _text(LEFT - 8, y.pixel(tick) + 4, f"{tick:g}", "tick", "end")
    for tick in x.ticks:
        yield _text(x.pixel(tick), HEIGHT - BOTTOM + 18, count(tick), "tick", "middle")


def _curve(arm: ArmCurve, colour: str, round_of_colours: int, x: Axis, y: Axis) -> Iterator[str]:
    """Band, line and dots; arms beyond the number of colours are dashed."""
    columns = [x.pixel(value) for value in arm.x]
    upper = list(zip(columns, map(y.pixel, arm.highest), strict=True))
    lower = list(zip(columns, map(y.pixel, arm.lowest), strict=True))
    mean = list(zip(columns, map(y.pixel, arm.mean), strict=True))
    dash = f' stroke-dasharray="{8 - 2 * round_of_colours} 5"' if round_of_colours else ""
    if arm.lowest != arm.highest:
        yield f'<path class="band f{colour}" d="{_path([*upper, *reversed(lower)])}Z"/>'
    yield f'<path class="mean s{colour}"{dash} d="{_path(mean)}"/>'
    if len(mean) <= MOST_DOTS:
        yield from (f'<circle class="f{colour}" cx="{left}" cy="{top}" r="3"/>' for left, top in mean)


def _apart(places: Sequence[float], top: float, bottom: float) -> list[float]:
    """The places of labels, moved as little as keeps them from covering each other."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = list(places)
    for before, after in itertools.pairwise(order):
        moved[after] = max(moved[after], moved[before] + LABEL_HEIGHT)
    limit = max(bottom, top + LABEL_HEIGHT * (len(places) - 1))
    for index in reversed(order):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - LABEL_HEIGHT
    return moved


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{left} {top}" for left, top in points)


def _text(left: float, top: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{left}" y="{top:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _style() -> str:
    def colours(palette: Sequence[str]) -> str:
        return "".join(f".sc{i} {{ stroke: {c} }} .fc{i} {{ fill: {c} }}\n" for i, c in enumerate(palette))

    return f"{_STYLE}{colours(LIGHT)}@media (prefers-color-scheme: dark) {{\n{_DARK_STYLE}\n{colours(DARK)}}}\n"
