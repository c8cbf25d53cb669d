"""What ``posttrain eval`` found, as tables for the terminal and a page that needs nothing from outside."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.config_file import dump_yaml
from posttrain.report.formats import number
from posttrain.report.templates import write_page
from posttrain.training.run_log import replace_file
from posttrain.types import RolloutGroup

RESULT_FILE, PAGE_FILE = "result.json", "report.html"
SHOWN_GROUPS, SHOWN_CHARACTERS = 6, 3000
Rows = list[list[str]]


def write_evaluation(
    result: Mapping[str, Any], groups: Mapping[str, Sequence[RolloutGroup]], folder: Path, name: str
) -> Path:
    """Write ``result.json`` and ``report.html``; return the page."""
    content = json.dumps(result, indent=1, allow_nan=False) + "\n"
    replace_file(folder / RESULT_FILE, content.encode("utf-8", errors="replace"))
    means = {of: next(iter(found["estimates"].values())) for of, found in result["sets"].items()}
    return write_page(
        folder / PAGE_FILE,
        "evaluation.html",
        title=f"{name} · evaluation",
        kind="Evaluation",
        name=name,
        facts=f"model {result['model'] or 'none'}",
        figures=[(of, number(mean["value"]), interval_text(mean)) for of, mean in means.items()],
        warnings=(),
        results=estimate_rows(result),
        sets={of: _set_section(found, groups[of]) for of, found in result["sets"].items()},
        suite=dump_yaml(result["suite"]),
    )


def estimate_rows(result: Mapping[str, Any]) -> Rows:
    """A header, and a row for each estimate of each set."""
    rows = [["set", "prompts", "measure", "value", "95 %"]]
    for name, found in result["sets"].items():
        for measure, estimate in found["estimates"].items():
            rows.append([name, f"{found['prompts']:,}", measure, number(estimate["value"]), interval_text(estimate)])
        if failed := found["metrics"]["eval/error_fraction"]:
            rows.append([name, "", "not judged", number(failed), ""])
    return rows


def comparison_rows(comparison: Mapping[str, Mapping[str, Any]]) -> Rows:
    """A header, and a row for each set."""
    rows = [["set", "prompts", "first", "second", "difference", "95 %", "better", "worse", "p"]]
    for name, found in comparison.items():
        delta = found["difference"]
        cells = [number(found["first"]), number(found["second"]), f"{delta['value']:+.3f}", interval_text(delta)]
        counts = [str(found["better"]), str(found["worse"]), f"{found['p']:.2g}"]
        rows.append([name, f"{found['prompts']:,}", *cells, *counts])
    return rows


def aligned(rows: Rows) -> str:
    """``rows`` in columns two spaces apart, the first to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return "\n".join("  ".join(row).rstrip() for row in cells)


def interval_text(estimate: Mapping[str, float]) -> str:
    """``0.412 – 0.503``."""
    return f"{number(estimate['low'])} – {number(estimate['high'])}"


def _set_section(found: Mapping[str, Any], groups: Sequence[RolloutGroup]) -> dict[str, Any]:
    categories = [["category", "prompts", "mean", "95 %"]]
    for name, own in (found["categories"] or {}).items():
        categories.append([name, str(own["prompts"]), number(own["value"]), interval_text(own)])
    measured = [[name.removeprefix("eval/"), number(v)] for name, v in (found["metrics"] | found["parts"]).items()]
    ordered = sorted(groups, key=lambda group: group.rollouts[0].reward or 0.0)
    ends = len(ordered) - SHOWN_GROUPS // 2
    return {
        "categories": None if found["categories"] is None else categories,
        "contaminated": found["contaminated"],
        "measured": [["metric", "value"], *measured],
        "samples": [
            _sample(group) for place, group in enumerate(ordered) if place < SHOWN_GROUPS // 2 or place >= ends
        ],
    }


def _sample(group: RolloutGroup) -> tuple[str, str]:
    """A title; a prompt and its first completion."""
    example, rollout = group.example, group.rollouts[0]
    prompt = example.prompt if isinstance(example.prompt, str) else dump_yaml(example.prompt)
    score = "not judged" if rollout.reward is None else number(rollout.reward)
    judged = f"score {score}{f' ({rollout.error_message})' if rollout.error_message else ''}"
    told = f"{prompt}\n\n— completion, {judged} —\n{rollout.text[:SHOWN_CHARACTERS]}"
    if example.answer is not None:
        told += f"\n\n— answer —\n{example.answer}"
    return f"{example.id}: score {score}", told
