"""The picture of a comparison: what is drawn where, and that labels stay readable."""

import itertools
import xml.etree.ElementTree as ET

import pytest

from posttrain.report.comparison import (
    BOTTOM,
    HEIGHT,
    LABEL_HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    ArmCurve,
    Axis,
    comparison_picture,
)

SVG = "{http://www.w3.org/2000/svg}"
LINEAR = [(0.0, 0.0), (10.0, 0.5), (20.0, 1.0)]


def parse(picture: str) -> ET.Element:
    return ET.fromstring(picture)


def test_mean_and_band_over_seeds() -> None:
    curve = ArmCurve.of("arm", [[(0, 0.2), (10, 0.6)], [(2, 0.4), (12, 1.0), (22, 1.0)]])
    assert curve.x == (1, 11)
    assert curve.mean == pytest.approx((0.3, 0.8))
    assert (curve.lowest, curve.highest) == ((0.2, 0.6), (0.4, 1.0))


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.03, 0.95], (0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        ([0, 60], (0, 20, 40, 60)),
        ([0, 1], (0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        ([-0.3, 0.1], (-0.3, -0.2, -0.1, 0, 0.1)),
        ([5.0], (4.4, 4.6, 4.8, 5.0, 5.2, 5.4, 5.6)),
        ([1000, 250_000], (0, 50_000, 100_000, 150_000, 200_000, 250_000)),
    ],
)
def test_ticks_are_round_and_hold_all_values(values: list[float], ticks: tuple[float, ...]) -> None:
    axis = Axis.over(values, 0, 100)
    assert axis.ticks == pytest.approx(ticks)
    assert axis.ticks[0] <= min(values) <= max(values) <= axis.ticks[-1]


def test_curves_are_where_their_values_are() -> None:
    root = parse(comparison_picture({"arm": [LINEAR]}, "eval/accuracy", "steps"))
    (line,) = [path for path in root.iter(f"{SVG}path") if "mean" in path.get("class", "")]
    middle, half = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    expected = f"M{LEFT}.0 {HEIGHT - BOTTOM}.0L{middle} {half}L{WIDTH - RIGHT}.0 {TOP}.0"
    assert line.get("d") == expected.replace(".0.0", ".0")
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"eval/accuracy", "one seed", "steps", "arm 1.000"} <= set(texts)


def test_labels_do_not_cover_each_other_and_stay_inside() -> None:
    close = {f"arm-{index}": [[(0.0, 0.5), (10.0, 0.9 + index / 1000)]] * 2 for index in range(9)}
    root = parse(comparison_picture(close, "accuracy", "steps"))
    places = sorted(float(text.get("y", "0")) for text in root.iter(f"{SVG}text") if "name" in text.get("class", ""))
    assert len(places) == 9
    assert all(second - first >= LABEL_HEIGHT - 0.11 for first, second in itertools.pairwise(places))
    assert places[0] >= TOP
    assert places[-1] <= HEIGHT - BOTTOM + 5


def test_more_arms_than_colours_are_dashed() -> None:
    picture = comparison_picture({f"arm-{index}": [LINEAR] for index in range(8)}, "accuracy", "steps")
    lines = [path for path in parse(picture).iter(f"{SVG}path") if "mean" in path.get("class", "")]
    assert sum(path.get("stroke-dasharray") is not None for path in lines) == 2


def test_names_are_escaped_and_long_ones_cut() -> None:
    root = parse(comparison_picture({"a<b>&" * 8: [LINEAR]}, "x<y", "steps"))
    (label,) = [text.text for text in root.iter(f"{SVG}text") if "name" in text.get("class", "")]
    assert label == "a<b>&a<b>&a<b>&a<b>&a… 1.000"


def test_nothing_finished() -> None:
    root = parse(comparison_picture({"arm": []}, "accuracy", "steps"))
    assert "no run has finished" in [text.text for text in root.iter(f"{SVG}text")]


def test_it_is_small_and_knows_both_schemes() -> None:
    picture = comparison_picture({f"arm-{i}": [[(s, s / 200) for s in range(200)]] * 3 for i in range(6)}, "a", "s")
    assert len(picture) < 60_000
    assert "prefers-color-scheme: dark" in picture
