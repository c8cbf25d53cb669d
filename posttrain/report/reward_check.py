"""The page of ``posttrain check-reward``: one file that needs nothing from outside, and its figures as JSON."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from posttrain.report.formats import count, number
from posttrain.report.histograms import histogram, score_figure
from posttrain.report.templates import write_page
from posttrain.rewards.scoring.check import RewardCheck, WrongPair
from posttrain.training.run_log import replace_file

RESULT_FILE, PAGE_FILE = "result.json", "report.html"
LONGEST_TEXT = 600


def figures(check: RewardCheck) -> Iterator[tuple[str, str, str]]:
    """Label, value and note of what was measured, for the terminal and the page."""
    low, high = check.interval or (float("nan"), float("nan"))
    length = "–" if check.length_accuracy is None else number(check.length_accuracy)
    yield "Pair accuracy", _value(check.accuracy), f"95 % in {number(low)} – {number(high)}; by length alone {length}"
    yield "AUROC", _value(check.auroc), f"{count(len(check.good_scores))} good, {count(len(check.bad_scores))} bad"
    yield "Without spread", _value(check.without_spread), "share of prompts whose scores are all equal"
    yield "Length", _value(check.length_correlation), "rank correlation of score and length"
    kinds = ", ".join(f"{kind} {times:,}" for kind, times in check.errors.items())
    yield "Errors", f"{check.error_rate:.2%}", kinds or "none"
    yield "Speed", f"{count(check.completions_per_second)}/s", f"{check.completions:,} completions scored or failed"


def write_check(check: RewardCheck, folder: Path, name: str, data: str, reward_yaml: str, digest: str) -> Path:
    """Write ``result.json`` and ``report.html`` into ``folder``; return the page.

    Args:
        name: of the reward.
        data: the file that it was checked on.
        reward_yaml, digest: its resolved config.
    """
    folder.mkdir(parents=True, exist_ok=True)
    result = {"reward": name, "reward_digest": digest, "data": data, **asdict(check)}
    result |= {"error_rate": check.error_rate, "warnings": list(check.warnings())}
    replace_file(folder / RESULT_FILE, (json.dumps(result, indent=2, allow_nan=False) + "\n").encode())
    by_label = {"good": check.good_scores, "bad": check.bad_scores}
    return write_page(
        folder / PAGE_FILE,
        "reward_check.html",
        title=f"{name} · reward check",
        kind="Reward check",
        name=name,
        facts=f"{data} · {check.prompts:,} prompts, {check.completions:,} completions",
        figures=figures(check),
        warnings=check.warnings(),
        scores=score_figure(histogram(by_label), "of all completions") if any(by_label.values()) else "",
        worst=[_wrong_pair(pair) for pair in check.worst],
        reward=reward_yaml,
    )


def _value(value: float | None) -> str:
    return "–" if value is None else number(value)


def _wrong_pair(pair: WrongPair) -> tuple[str, str, str]:
    return f"{pair.place}: {number(pair.margin)} apart", pair.good[:LONGEST_TEXT], pair.bad[:LONGEST_TEXT]
