"""Run a comparison: every arm on every seed, then the table, the picture and ``result.json``."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.compare.config import WARM_START
from posttrain.compare.execution import Execution, execute, last_lines, log_file
from posttrain.compare.plan import TRAIN_COMMAND, Comparison, PlannedRun, load_comparison, plan_runs
from posttrain.compare.result import ComparisonResult, Failure, read_run
from posttrain.compare.tables import markdown, terminal_text
from posttrain.errors import JobError
from posttrain.report.comparison import comparison_picture
from posttrain.report.formats import duration, number
from posttrain.training.environment import describe_environment
from posttrain.training.run_folder import claim_run_folder
from posttrain.training.run_log import METRICS_FILE, read_metrics

if TYPE_CHECKING:
    from rich.console import Console


def run_comparison(
    path: str | Path,
    seeds: Sequence[int] | None = None,
    output: str | Path | None = None,
    console: "Console | None" = None,
    train_command: Sequence[str] = TRAIN_COMMAND,
) -> ComparisonResult:
    """Run what is not finished yet, one run at a time, and write ``result.json``, ``table.md`` and ``curves.svg``.

    A run that fails is reported and the others go on; the same call tries it again.

    Args:
        path: the comparison file.
        seeds: instead of those in the file.
        output: where runs and results go; None: ``runs/compare/`` and the names of the file's folder and of the file.
        console: what to print to; None: standard output.
        train_command: runs the job file that is appended to it.

    Raises:
        JobError: the file or an arm is not valid, or the output holds runs of another comparison.
        Interrupted: SIGTERM arrived; the same call goes on.
    """
    from rich.console import Console

    console = console or Console(highlight=False, soft_wrap=True)
    comparison = load_comparison(Path(path), seeds, Path(output) if output is not None else None)
    runs = plan_runs(comparison, train_command)
    for run in runs:
        claim_run_folder(run.folder, run.job_yaml, resume=True)
    result = run_all(comparison, runs, console)
    write_results(comparison, result)
    console.print(f"\n{terminal_text(result)}\n\n{comparison.output}: result.json, table.md, curves.svg", markup=False)
    return result


def run_all(comparison: Comparison, runs: Sequence[PlannedRun], console: "Console") -> ComparisonResult:
    """Execute ``runs`` in order and read what each one logged."""
    result = ComparisonResult(comparison.config)
    warm_start_seconds = {} if WARM_START in comparison.config.shared else dict.fromkeys(comparison.config.seeds, 0.0)
    for place, run in enumerate(runs, start=1):
        label = f"[{place}/{len(runs)}] {run.name}"
        if not run.is_warm_start and run.seed not in warm_start_seconds:
            result.failures.append(Failure(run.arm, run.seed, ["its warm start failed"]))
            console.print(f"{label}: left out, its warm start failed", markup=False)
            continue
        execution = _execute(run, label, comparison.config.metric, console)
        if execution.status == "failed":
            result.failures.append(_failure(run, last_lines(run), label, console))
        elif run.is_warm_start:
            warm_start_seconds[run.seed] = execution.seconds
            console.print(f"{label}: {duration(execution.seconds)}", markup=False)
        else:
            try:
                seconds, before = execution.seconds, warm_start_seconds[run.seed]
                row = read_run(run.folder, run.arm, run.seed, comparison.config, seconds, before)
            except JobError as error:
                result.failures.append(_failure(run, [str(error)], label, console))
                continue
            result.rows.append(row)
            console.print(f"{label}: {number(row.start)} → {number(row.end)}, {duration(row.seconds)}", markup=False)
    return result


def _execute(run: PlannedRun, label: str, metric: str, console: "Console") -> Execution:
    """Run it under a line that says how far it is, where the terminal can redraw one."""
    with console.status(label) as status:

        def show(run: PlannedRun) -> None:
            status.update(f"{label}: {_progress(run, metric)}")

        return execute(run, show)


def _progress(run: PlannedRun, metric: str) -> str:
    metrics = read_metrics(run.folder) if (run.folder / METRICS_FILE).is_file() else []
    if not metrics:
        return "starting"
    values = [line[metric] for line in metrics if metric in line]
    return f"step {metrics[-1]['step']:.0f}{f', {metric} {number(values[-1])}' if values else ''}"


def _failure(run: PlannedRun, lines: list[str], label: str, console: "Console") -> Failure:
    console.print(f"{label}: FAILED, {log_file(run)} ends with", markup=False)
    for line in lines:
        console.print(f"    {line}", markup=False)
    return Failure(run.arm, run.seed, lines)


def write_results(comparison: Comparison, result: ComparisonResult) -> None:
    """Write ``result.json``, ``table.md`` and ``curves.svg`` into the output folder."""
    command = ["posttrain", "compare", str(comparison.path), "--seeds", *map(str, comparison.config.seeds)]
    environment = {name: value for name, value in describe_environment().items() if name != "command"}
    content = {"command": shlex.join(command), **result.to_json(), "environment": environment}
    comparison.output.joinpath("result.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    comparison.output.joinpath("table.md").write_text(markdown(result, shlex.join(command)), encoding="utf-8")
    curves = {arm: result.curves(arm) for arm in result.config.arms}
    picture = comparison_picture(curves, result.config.metric, result.config.budget.kind.replace("_", " "))
    comparison.output.joinpath("curves.svg").write_text(picture, encoding="utf-8")
