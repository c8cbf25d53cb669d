"""Histograms of held-out scores and how well they are calibrated, as pictures in the run page."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from posttrain.report.formats import number
from posttrain.report.templates import render

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


def scores_section(folder: Path) -> Markup:
    """The section of the run page about ``scores.json``; empty where the run has none."""
    file = folder / SCORES_FILE
    if not file.is_file():
        return Markup("")
    content = json.loads(file.read_text(encoding="utf-8"))
    rewards = score_figure(content["scores"], "at the last evaluation")
    return render("scores.html", rewards=rewards, calibration=_reliability_figure(content["reliability"]))


def score_figure(scores: Mapping[str, Any], about: str) -> Markup:
    """A picture of ``histogram``; ``about`` says when or of what."""
    counts: Mapping[str, Sequence[int]] = scores["counts"]
    most = max((count for some in counts.values() for count in some), default=0) or 1
    bars = [
        (place / len(some), 1 / len(some), count / most, series, f"{name}: {count}")
        for series, (name, some) in enumerate(counts.items(), start=1)
        for place, count in enumerate(some)
    ]
    low, high = number(scores["low"]), number(scores["high"])
    return _figure(title="Rewards", key=list(counts), about=about, bars=bars, diagonal=False, low=low, high=high)


def _reliability_figure(table: Sequence[Sequence[float]]) -> Markup:
    bars = [
        (place / len(table), 1 / len(table), right, 1, f"{count:.0f} pairs, confidence {sure:.2f}, right {right:.2f}")
        for place, (count, sure, right) in enumerate(table)
        if count
    ]
    about = "share right, by confidence; calibrated is the dashed line"
    return _figure(title="Calibration", key=[], about=about, bars=bars, diagonal=True, low="0.5", high="1")


def _figure(**values: Any) -> Markup:
    """A bar is start, width and height as shares of the picture, the number of its series, and what it says."""
    return render("figure.html", width=WIDTH, height=HEIGHT, **values)
