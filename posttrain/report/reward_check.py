"""The page of ``posttrain check-reward``: one file that needs nothing from outside, and its figures as JSON."""

import html
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from posttrain.report.formats import count, number
from posttrain.report.histograms import histogram, score_figure
from posttrain.report.plain_page import plain_page, text
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
    facts = f"{data} · {check.prompts:,} prompts, {check.completions:,} completions"
    worst = "\n".join(map(_wrong_pair, check.worst)) or "<p>none</p>"
    figure = score_figure(histogram(by_label), "of all completions") if any(by_label.values()) else "<p>none</p>"
    scores = f'<div class="grid two">{figure}</div>'
    sections = {"Scores": scores, "Most wrong pairs": worst, "Reward": text(reward_yaml)}
    page = plain_page("reward check", name, facts, figures(check), sections, check.warnings())
    replace_file(folder / PAGE_FILE, page)
    return folder / PAGE_FILE


def _value(value: float | None) -> str:
    return "–" if value is None else number(value)


def _wrong_pair(pair: WrongPair) -> str:
    texts = "".join(
        f'<p class="facts">{kind}</p><pre class="job">{html.escape(text[:LONGEST_TEXT])}</pre>'
        for kind, text in (("good", pair.good), ("bad, scored higher", pair.bad))
    )
    summary = html.escape(f"{pair.place}: {number(pair.margin)} apart")
    return f"<details><summary>{summary}</summary>{texts}</details>"
