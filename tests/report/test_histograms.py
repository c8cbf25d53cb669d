"""Histograms count every value once, and the run page shows what the run wrote."""

import json
from pathlib import Path

from posttrain.report.histograms import SCORES_FILE, histogram, score_figure, scores_section


def test_every_value_is_counted_once_in_shared_bins() -> None:
    found = histogram({"chosen": [0.0, 1.0, 1.0], "rejected": [-1.0, 0.99]}, bins=4)
    assert (found["low"], found["high"]) == (-1.0, 1.0)
    assert found["counts"] == {"chosen": [0, 0, 1, 2], "rejected": [1, 0, 0, 1]}


def test_equal_values_have_one_bin() -> None:
    assert histogram({"all": [2.0, 2.0]}, bins=3)["counts"] == {"all": [2, 0, 0]}


def test_the_section_is_there_only_for_runs_with_scores(tmp_path: Path) -> None:
    assert scores_section(tmp_path) == ""
    content = {"scores": histogram({"<b>": [0.0, 1.0]}), "reliability": [[0, 0, 0], [5, 0.8, 0.6]]}
    (tmp_path / SCORES_FILE).write_text(json.dumps(content))
    section = scores_section(tmp_path)
    assert section.count("<svg") == 2
    assert "5 pairs, confidence 0.80, right 0.60" in section
    assert "<b>:" not in section
    assert "at the last evaluation" in section


def test_a_figure_says_what_it_is_about() -> None:
    figure = score_figure(histogram({"good": [0.0, 1.0]}), "of <all> completions")
    assert "of &lt;all&gt; completions" in figure
    assert "evaluation" not in figure
