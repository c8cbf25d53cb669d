"""Histograms of held-out scores and how well they are calibrated, as pictures in the run page."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.report.formats import number

SCORES_FILE = "scores.json"
BINS = 30
WIDTH, HEIGHT = 420, 160


def histogram(values: Mapping[str, Sequence[float]], bins: int = BINS) -> dict[str, Any]:
    """``low``, ``high``, and for each name of ``values`` how many fall into each of ``bins`` equal intervals."""
    everything = [value for some in values.values() for value in some]
    low, high = min(everything), max(everything)
    width = (high - low) / bins or 1.0
    counts = {name: [0] * bins for name in values}
    for name, some in values.items():
        for value in some:
            counts[name][min(int((value - low) / width), bins - 1)] += 1
    return {"low": low, "high": high, "counts": counts}


def scores_section(folder: Path) -> str:
    """The section of the run page about ``scores.json``; empty where the run has none."""
    file = folder / SCORES_FILE
    if not file.is_file():
        return ""
    content = json.loads(file.read_text(encoding="utf-8"))
    figures = score_figure(content["scores"], "at the last evaluation") + _reliability_figure(content["reliability"])
    return (
        '<section id="scores" aria-labelledby="scores-title"><h2 id="scores-title">Scores of held-out pairs</h2>'
        f'<div class="grid two">{figures}</div></section>'
    )


def score_figure(scores: Mapping[str, Any], about: str) -> str:
    """A picture of ``histogram``; ``about``, plain text, says when or of what."""
    counts: Mapping[str, Sequence[int]] = scores["counts"]
    most = max((count for some in counts.values() for count in some), default=0) or 1
    bars = "".join(
        _bar(place / len(some), 1 / len(some), count / most, series, f"{name}: {count}")
        for series, (name, some) in enumerate(counts.items(), start=1)
        for place, count in enumerate(some)
    )
    key = " ".join(
        f'<span style="color: var(--series-{series})">■ {html.escape(name)}</span>'
        for series, name in enumerate(counts, start=1)
    )
    return _figure("Rewards", f"{key} {html.escape(about)}", bars, number(scores["low"]), number(scores["high"]))


def _reliability_figure(table: Sequence[Sequence[float]]) -> str:
    bars = "".join(
        _bar(
            place / len(table), 1 / len(table), right, 1, f"{count:.0f} pairs, confidence {sure:.2f}, right {right:.2f}"
        )
        for place, (count, sure, right) in enumerate(table)
        if count
    )
    diagonal = f'<line x1="0" y1="{HEIGHT / 2}" x2="{WIDTH}" y2="0" stroke="currentColor" stroke-dasharray="4 4"/>'
    return _figure(
        "Calibration", "share right, by confidence; calibrated is the dashed line", bars + diagonal, "0.5", "1"
    )


def _bar(start: float, width: float, height: float, series: int, words: str) -> str:
    return (
        f'<rect x="{start * WIDTH:.1f}" y="{(1 - height) * HEIGHT:.1f}" width="{max(1.0, width * WIDTH - 1):.1f}" '
        f'height="{height * HEIGHT:.1f}" fill="var(--series-{series})" fill-opacity="0.55">'
        f"<title>{html.escape(words)}</title></rect>"
    )


def _figure(title: str, about: str, drawn: str, low: str, high: str) -> str:
    """``about`` and ``drawn`` are HTML and SVG."""
    return (
        f'<figure class="chart"><figcaption><div><h3>{title}</h3><div class="about">{about}</div></div></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 18}" role="img" aria-label="{title}">{drawn}'
        f'<text x="0" y="{HEIGHT + 14}">{html.escape(low)}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT + 14}" text-anchor="end">{html.escape(high)}</text></svg></figure>'
    )
