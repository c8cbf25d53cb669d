"""Run a comparison: every arm on every seed, then the table, the picture and ``result.json``."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.compare.execution import Execution, execute, last_lines, log_file
from posttrain.compare.plan import TRAIN_COMMAND, Comparison, PlannedRun, load_comparison, plan_runs
from posttrain.compare.result import ComparisonResult, Failure, RunResult, read_run
from posttrain.compare.tables import about_p, heading, markdown, remarks, tables, terminal_text
from posttrain.errors import JobError
from posttrain.report.comparison import comparison_picture
from posttrain.report.comparison_page import MetricSection, write_comparison_page
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
    jobs: int = 1,
    train_command: Sequence[str] = TRAIN_COMMAND,
) -> ComparisonResult:
    """Run what is not finished yet, ``jobs`` runs at a time, and write ``result.json`` and what shows it.

    A run that fails is reported and the others go on; the same call tries it again.

    Args:
        path: the comparison file.
        seeds: instead of those in the file.
        output: where runs and results go; None: ``runs/compare/`` and the names of the file's folder and of the file.
        console: what to print to; None: standard output.
        jobs: runs at a time, each on cores of its own.
        train_command: runs the job file that is appended to it.

    Raises:
        JobError: the file or an arm is not valid, the output holds runs of another comparison,
            or there are fewer cores than ``jobs``.
        Interrupted: SIGTERM arrived; the same call goes on.
    """
    from rich.console import Console

    console = console or Console(highlight=False, soft_wrap=True)
    comparison = load_comparison(Path(path), seeds, Path(output) if output is not None else None)
    runs = plan_runs(comparison, train_command)
    for run in runs:
        claim_run_folder(run.folder, run.job_yaml, resume=True)
    result = run_all(comparison, runs, jobs, console)
    write_results(comparison, runs, result)
    console.print(
        f"\n{terminal_text(result)}\n\n{comparison.output}: result.json, table.md, curves.svg, comparison.html",
        markup=False,
    )
    return result


def run_all(comparison: Comparison, runs: Sequence[PlannedRun], jobs: int, console: "Console") -> ComparisonResult:
    """Execute ``runs`` and read what each one logged; rows and failures are in the order of ``runs``."""
    found: dict[Path, RunResult | Failure | float] = {}  # a float is the seconds of a warm start
    places = {run.folder: f"[{place}/{len(runs)}] {run.name}" for place, run in enumerate(runs, start=1)}
    with console.status("") as status:

        def show(running: Sequence[PlannedRun]) -> None:
            metric = comparison.config.metric
            status.update("\n".join(f"{places[run.folder]}: {_progress(run, metric)}" for run in running))

        def end(run: PlannedRun, execution: Execution | None) -> None:
            before = [seconds for need in run.needs if isinstance(seconds := found.get(need), float)]
            found[run.folder] = _outcome(comparison, run, execution, sum(before))
            console.print(f"{places[run.folder]}: {_told(found[run.folder], run)}", markup=False)

        execute(runs, jobs, show, end)
    outcomes = [found[run.folder] for run in runs]
    rows = [outcome for outcome in outcomes if isinstance(outcome, RunResult)]
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    return ComparisonResult(comparison.config, rows, failures)


def _outcome(
    comparison: Comparison, run: PlannedRun, execution: Execution | None, warm_start_seconds: float
) -> RunResult | Failure | float:
    """The row of a run, why it has none, or the seconds of a warm start."""
    if execution is None:
        needed = ", ".join(folder.name for folder in run.needs)
        return Failure(run.arm, run.seed, [f"left out: what it starts from ({needed}) failed"])
    if execution.status == "failed":
        return Failure(run.arm, run.seed, last_lines(run))
    if run.is_warm_start:
        return execution.seconds
    try:
        return read_run(run.folder, run.arm, run.seed, comparison.config, execution.seconds, warm_start_seconds)
    except JobError as error:
        return Failure(run.arm, run.seed, [str(error)])


def _told(outcome: RunResult | Failure | float, run: PlannedRun) -> str:
    match outcome:
        case RunResult():
            return f"{number(outcome.start)} → {number(outcome.end)}, {duration(outcome.seconds)}"
        case Failure():
            return "\n    ".join([f"FAILED, see {log_file(run)}", *outcome.last_lines])
        case seconds:
            return duration(seconds)


def _progress(run: PlannedRun, metric: str) -> str:
    metrics = read_metrics(run.folder) if (run.folder / METRICS_FILE).is_file() else []
    if not metrics:
        return "starting"
    values = [line[metric] for line in metrics if metric in line]
    return f"step {metrics[-1]['step']:.0f}{f', {metric} {number(values[-1])}' if values else ''}"


def write_results(comparison: Comparison, runs: Sequence[PlannedRun], result: ComparisonResult) -> None:
    """Write ``result.json``, ``table.md``, ``comparison.html`` and a picture a metric into the output folder."""
    command = shlex.join(["posttrain", "compare", str(comparison.path), "--seeds", *map(str, comparison.config.seeds)])
    environment = {name: value for name, value in describe_environment().items() if name != "command"}
    content = {"command": command, **result.to_json(), "environment": environment}
    output, sections = comparison.output, []
    output.joinpath("result.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    output.joinpath("table.md").write_text(markdown(result, command), encoding="utf-8")
    for each in (result, *result.others):
        metric, curves = each.config.metric, {arm: each.curves(arm) for arm in each.config.arms}
        picture = comparison_picture(curves, metric, each.config.budget.kind.replace("_", " "))
        name = "curves.svg" if each is result else f"curves-{metric.replace('/', '-')}.svg"
        output.joinpath(name).write_text(picture, encoding="utf-8")
        sections.append(MetricSection(metric, picture, tables(each), about_p(each)))
    jobs = {run.arm: run.job_yaml for run in runs if run.seed == comparison.config.seeds[0] and not run.is_warm_start}
    write_comparison_page(output, heading(result), remarks(result), sections, jobs, comparison.config.seeds)
