"""The run page: ``report.html``, one file that needs nothing from outside."""

import json
import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from posttrain.config_file import parse_yaml
from posttrain.report.formats import count, duration, number
from posttrain.report.histograms import scores_section
from posttrain.report.overlap import Comparison
from posttrain.report.page_data import curves, not_finite, samples
from posttrain.report.searches import searches
from posttrain.report.templates import embedded, write_page
from posttrain.training.run_folder import JOB_FILE
from posttrain.training.run_log import ENVIRONMENT_FILE, METRICS_FILE, read_metrics

REPORT_FILE = "report.html"
SCRIPTS = ("format", "chart", "charts", "tokens", "samples", "drawing", "trees", "theme", "page")


def write_report(run_folder: str | Path) -> Path:
    """Write the page of a run, finished or not, into its folder; return the file.

    Raises:
        FileNotFoundError: the folder has no ``metrics.jsonl``.
    """
    folder = Path(run_folder)
    metrics = read_metrics(folder)
    job_yaml = _read(folder / JOB_FILE)
    job = parse_yaml(job_yaml) if job_yaml else {}
    method = str(job.get("method", "training"))
    written = datetime.fromtimestamp((folder / METRICS_FILE).stat().st_mtime, tz=UTC)
    data = {
        "method": method,
        "method_title": _method_title(method),
        **curves(metrics),
        "not_finite": not_finite(metrics),
        "searches": searches(folder),
        "samples": samples(folder, Comparison.of(job.get("reward"))),
    }
    total_steps = int((job.get("trainer") or {}).get("steps") or 0)
    return write_page(
        folder / REPORT_FILE,
        "page.html",
        title=f"{method} · {folder.resolve().name}",
        scripts=SCRIPTS,
        data=embedded(data),
        kind=data["method_title"],
        name=folder.resolve().name,
        done=int(metrics[-1]["step"]) if metrics else 0,
        total_steps=total_steps,
        facts=" · ".join([*_facts(job), f"last written {written:%Y-%m-%d %H:%M} UTC"]),
        headline=headline(metrics, total_steps),
        scores=scores_section(folder),
        job=job_yaml or "This run was started from Python: it has no job file.",
        environment=_environment(folder),
    )


def headline(metrics: Sequence[dict[str, float]], total_steps: int) -> Iterator[tuple[str, str, str]]:
    """Label, value and note of the numbers at the top; those that were not logged are left out."""
    accuracy = _finite(metrics, "eval/accuracy")
    if accuracy:
        error = _finite(metrics, "eval/standard_error")
        note = f", standard error {number(error[-1])}" if error else ""
        yield "Held-out accuracy", _change(accuracy[0], accuracy[-1]), _difference(accuracy[0], accuracy[-1]) + note
    reward = _finite(metrics, "reward/mean")
    if reward:
        some = max(1, len(reward) // 10)
        first, last = sum(reward[:some]) / some, sum(reward[-some:]) / some
        note = _difference(first, last) + (f", means of {some} steps" if some > 1 else "")
        yield "Reward", _change(first, last), note
    done = int(metrics[-1]["step"]) if metrics else 0
    yield "Steps", f"{done:,}", f"of {total_steps:,}" if total_steps else ""
    tokens = sum(
        line.get("batch/rollouts", 0.0) * line.get("completion/length_mean", 0.0)
        for line in metrics
        if math.isfinite(line.get("completion/length_mean", 0.0))
    )
    speeds = sorted(_finite(metrics, "speed/generated_tokens_per_second"))
    if tokens:
        yield "Tokens sampled", count(tokens), f"{count(speeds[len(speeds) // 2])}/s (median)" if speeds else ""
    times = _finite(metrics, "time/step")
    if times:
        yield "Training time", duration(sum(times)), f"{sum(times) / len(times):.3g} s a step"


def _change(first: float, last: float) -> str:
    return f"{number(first)} → {number(last)}"


def _difference(first: float, last: float) -> str:
    return f"{last - first:+.3f}".replace("-", "−")


def _method_title(method: str) -> str:
    """``prefix_rft`` as papers write it: PREFIX-RFT; a user's class by its name."""
    return method.rpartition(":")[2] if ":" in method else method.upper().replace("_", "-")


def _facts(job: dict[str, Any]) -> Iterator[str]:
    """The few words of a job that say what was trained on what."""
    model, data, engine = (job.get(section) or {} for section in ("model", "data", "engine"))
    if model.get("path"):
        yield f"model {model['path']}"
    elif model.get("tiny"):
        yield "a tiny model"
    for name, section in (("data", data), ("engine", engine)):
        if section.get("type"):
            yield f"{name} {section['type']}"


def _environment(folder: Path) -> dict[str, str]:
    text = _read(folder / ENVIRONMENT_FILE)
    values: dict[str, Any] = json.loads(text) if text else {}
    packages = values.pop("packages", {})
    return {name: _shown(value) for name, value in (values | packages).items()}


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "unknown" if value is None else str(value)


def _finite(metrics: Sequence[dict[str, float]], name: str) -> list[float]:
    return [line[name] for line in metrics if math.isfinite(line.get(name, math.nan))]


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""
