"""The page of a comparison: what it shows and links to, and that it needs nothing from outside."""

import re
from pathlib import Path

from posttrain.report.comparison_page import MetricSection, setting_rows, write_comparison_page

FIRST = "trainer: {learning_rate: 0.1, steps: 4}\nrun: {folder: a, seed: 1}\n"
SECOND = "trainer: {learning_rate: 0.2, steps: 4, kl_coef: 0.5}\nrun: {folder: b, seed: 2}\n"
TABLE = [["arm", "end"], ["<grpo>", "0.500"], ["raft", "0.400"]]


def page(folder: Path) -> str:
    (folder / "seed-2" / "raft").mkdir(parents=True)
    (folder / "seed-2" / "raft" / "report.html").write_text("a run page")
    sections = [
        MetricSection("eval/accuracy", '<svg class="one"/>', [TABLE], "p: at least 0.5"),
        MetricSection("eval/length", '<svg class="two"/>', [TABLE], ""),
    ]
    write_comparison_page(folder, "seeds 1, 2", ["holds: a < b"], sections, {"<grpo>": FIRST, "raft": SECOND}, [1, 2])
    return (folder / "comparison.html").read_text()


def test_settings_that_differ() -> None:
    assert setting_rows({"a": FIRST, "b": SECOND}) == [
        ["setting", "a", "b"],
        ["trainer.learning_rate", "0.1", "0.2"],
    ]
    third = "trainer: {kl_coef: null}\n"
    assert setting_rows({"a": FIRST, "b": SECOND, "c": third})[2] == ["trainer.kl_coef", "–", "0.5", "null"]


def test_what_it_shows(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert text.index('<svg class="one"/>') < text.index("p: at least 0.5") < text.index('<svg class="two"/>')
    assert '<th scope="row">&lt;grpo&gt;</th><td>0.500</td>' in text
    assert "<grpo>" not in text
    assert "holds: a &lt; b" in text
    assert '<p>raft: <a href="seed-2/raft/report.html">seed 2</a></p>' in text
    assert "<p>&lt;grpo&gt;: none</p>" in text


def test_it_needs_nothing_from_outside(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert "default-src 'none'" in text
    assert re.findall(r'(?:src|href)="([^"]*)"', text) == ["seed-2/raft/report.html"]
    assert not re.search(r"https?://|url\(|@import", text)
