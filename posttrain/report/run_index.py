"""An index over a folder of runs: a table, curves laid over each other, and the settings that differ; one HTML file."""

import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from posttrain.config_file import parse_yaml
from posttrain.report.page import REPORT_FILE
from posttrain.report.page_data import curves, packed
from posttrain.report.templates import embedded, write_page
from posttrain.training.run_folder import JOB_FILE, leaves
from posttrain.training.run_log import ENVIRONMENT_FILE, METRICS_FILE, ROLLOUTS_FOLDER, read_metrics

INDEX_FILE = "runs.html"
SCRIPTS = ("format", "chart", "charts", "tokens", "theme", "runs")
MARKS = (JOB_FILE, METRICS_FILE, ENVIRONMENT_FILE, ROLLOUTS_FOLDER, "checkpoints")  # any of them makes a run folder
# Of these, the first that was logged.
MAIN_METRICS = ("eval/success", "eval/accuracy", "reward/mean", "reward_model/accuracy", "policy/loss")
MOST_POINTS = 150  # of a curve
DETAIL_BYTES = 6_000_000  # of the curves and settings of all runs, compressed and in base64
QUIET_SECONDS, QUIET_STEPS = 600.0, 5.0  # after which a run that has not written is no longer running


class BrokenRun(Exception):
    """Why a run folder cannot be read."""


def write_index(folder: Path) -> Path:
    """Write ``runs.html`` into ``folder``, over all runs in it, at any depth; return the file.

    A folder inside a run (its warm start) is no run of its own. A run that cannot be read is listed with the reason.
    """
    now, budget, runs = time.time(), DETAIL_BYTES, list[dict[str, Any]]()
    for path in sorted(run_folders(folder), key=_started, reverse=True):
        run = summary(path, str(path.relative_to(folder)), now)
        budget -= len(run.get("data", ""))
        runs.append(run if budget >= 0 else {**run, "data": None})
    return write_page(
        folder / INDEX_FILE,
        "runs.html",
        title=f"Runs · {folder.resolve().name}",
        kind="Runs",
        name=folder.resolve().name,
        facts=f"As of {datetime.fromtimestamp(now, tz=UTC):%Y-%m-%d %H:%M} UTC. A run that is not finished is running "
        "if it wrote within ten minutes or five steps before.",
        scripts=SCRIPTS,
        data=embedded({"runs": runs, "main_metrics": MAIN_METRICS}),
    )


def run_folders(folder: Path) -> Iterator[Path]:
    """The run folders below ``folder``; what is inside a run is not looked at."""
    for path, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        if Path(path) != folder and not set(MARKS).isdisjoint([*names, *files]):
            names.clear()
            yield Path(path)


def summary(folder: Path, name: str, now: float) -> dict[str, Any]:
    """A row of the table, and ``data``: curves and settings as JSON, deflated, in base64."""
    row: dict[str, Any] = {"name": name, "started": _started(folder), "report": None}
    if (folder / REPORT_FILE).is_file():
        row["report"] = quote(f"{name}/{REPORT_FILE}", errors="replace")
    try:
        with _reading(JOB_FILE):
            job = _job(folder)
            row |= {"method": str(job.get("method", "")), "model": _model(job), "task": _task(job)}
            total = int(_section(job, "trainer").get("steps") or 0)
        with _reading(METRICS_FILE):
            metrics = read_metrics(folder) if (folder / METRICS_FILE).is_file() else []
            drawn = curves(metrics, MOST_POINTS)
            row |= {"steps": int(metrics[-1]["step"]) if metrics else 0, "total": total}
            row |= _main_metric(metrics)
            times = [line["time/step"] for line in metrics if math.isfinite(line.get("time/step", math.nan))]
    except BrokenRun as reason:
        return {**row, "state": "broken", "reason": str(reason)}
    settings = {key: setting_text(value) for key, value in leaves(job) if key and key != "run.folder"}
    state = _state(folder, row["steps"] >= total > 0, max(QUIET_SECONDS, QUIET_STEPS * max(times, default=0.0)), now)
    return {**row, "state": state, "seconds": sum(times), "data": packed({"curves": drawn, "settings": settings})}


@contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BrokenRun(f"{name} cannot be read: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise BrokenRun(f"{name} is not YAML: {line}{error.problem}") from error
    except json.JSONDecodeError as error:
        raise BrokenRun(f"{name} has a line that is not JSON: {error.doc.strip()[:60]}") from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, yaml.YAMLError) as error:
        raise BrokenRun(f"{name} is not what a run writes: {' '.join(str(error).split())}") from error


def _job(folder: Path) -> dict[str, Any]:
    if not (folder / JOB_FILE).is_file():
        if not (folder / METRICS_FILE).is_file():
            raise BrokenRun(f"it has neither {JOB_FILE} nor {METRICS_FILE}")
        return {}  # a run that was started from Python
    job = parse_yaml((folder / JOB_FILE).read_text(encoding="utf-8"))
    if not isinstance(job, dict):
        raise BrokenRun(f"{JOB_FILE} is not a job: it should be a mapping of keys to values")
    return job


def _section(job: dict[str, Any], name: str) -> dict[str, Any]:
    section = job.get(name)
    return section if isinstance(section, dict) else {}


def _model(job: dict[str, Any]) -> str:
    model = _section(job, "model")
    return str(model.get("path") or ("tiny" if model.get("tiny") else ""))


def _task(job: dict[str, Any]) -> str:
    """The type of the data, and what says more: the environment or the file."""
    data = _section(job, "data")
    more = _section(data, "environment").get("type") or data.get("path") or data.get("name")
    return " ".join(str(word) for word in (data.get("type"), more) if word)


def setting_text(value: Any) -> str:
    """A value of a job as tables show it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _main_metric(metrics: Sequence[dict[str, float]]) -> dict[str, Any]:
    for name in MAIN_METRICS:
        values = [line[name] for line in metrics if math.isfinite(line.get(name, math.nan))]
        if values:
            return {"metric": name, "first": values[0], "last": values[-1]}
    return {}


def _state(folder: Path, done: bool, quiet_s: float, now: float) -> str:
    """``finished``, ``failed`` as ``posttrain compare`` noted it, ``running`` if it wrote lately, else ``stopped``."""
    if done or (folder / "model").is_dir():
        return "finished"
    try:
        if json.loads(folder.with_name(f"{folder.name}.json").read_bytes())["status"] == "failed":
            return "failed"
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no note, or another's
    written = (folder / name for name in (JOB_FILE, ENVIRONMENT_FILE, METRICS_FILE) if (folder / name).exists())
    return "running" if now - max(file.stat().st_mtime for file in written) < quiet_s else "stopped"


def _started(folder: Path) -> float:
    """Seconds of the epoch: when the job was written, which a resumed run does not repeat."""
    files = (folder / name for name in (JOB_FILE, ENVIRONMENT_FILE, METRICS_FILE))
    return next((file.stat().st_mtime for file in files if file.exists()), folder.stat().st_mtime)
