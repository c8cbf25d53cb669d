"""Whole comparisons, with a stand-in for the training command: what is run, resumed, read and reported."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from posttrain.compare import run_comparison
from posttrain.compare.execution import core_sets
from posttrain.compare.result import ComparisonResult
from posttrain.errors import JobError
from posttrain.training.run_folder import claim_run_folder

STUB = (sys.executable, str(Path(__file__).parent / "stub_trainer.py"))
JOB = """
method: oreal
model: {tiny: {layers: 1, hidden_size: 64, intermediate_size: 128, heads: 2, key_value_heads: 1}}
data: {type: arithmetic}
trainer: {steps: 20, learning_rate: 1e-4, max_error_fraction: 0.1, sampling: {max_completion_tokens: 16}}
warm_start: {steps: 3}
"""
COMPARISON = """
job: job.yaml
seeds: [1, 2, 3]
budget: {kind: steps, value: 4}
shared: [warm_start]
arms:
  oreal:
  weaker:
    trainer.max_error_fraction: 0.2
expect:
  - oreal end > weaker end + 0.1
  - oreal gain >= 0.49
  - oreal seconds < 600
"""


@pytest.fixture
def comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "learning.yaml").write_text(COMPARISON)
    return tmp_path / "learning.yaml"


def compare(path: Path, **options: Any) -> tuple[ComparisonResult, str]:
    """The result and what was printed."""
    printed = io.StringIO()
    console = Console(file=printed, width=80, soft_wrap=True, highlight=False)
    result = run_comparison(path, output=path.parent / "out", console=console, train_command=STUB, **options)
    return result, printed.getvalue()


def calls(path: Path, run: str) -> int:
    file = path.parent / "out" / run / "calls"
    return len(file.read_text().splitlines()) if file.exists() else 0


def with_arm(path: Path, name: str, behaviour: float) -> None:
    path.write_text(
        path.read_text().replace("expect:", f"  {name}: {{trainer.max_error_fraction: {behaviour}}}\nexpect:")
    )


def test_rows_and_statistics(comparison: Path) -> None:
    result, _ = compare(comparison)
    assert result.passed
    written = json.loads((comparison.parent / "out" / "result.json").read_text())
    rows = {(row["arm"], row["seed"]): row for row in written["rows"]}
    assert set(rows) == {(arm, seed) for arm in ("oreal", "weaker") for seed in (1, 2, 3)}
    row = rows["weaker", 2]
    assert (row["metric"], row["budget"], row["within_budget"]) == ("eval/accuracy", 4, True)
    assert row["start"] == pytest.approx(0.22, abs=1e-12)
    assert row["end"] == pytest.approx(0.52, abs=1e-12)
    assert row["seconds"] > 0
    assert row["warm_start_seconds"] > 0
    oreal = written["arms"]["oreal"]
    expected = {"mean": 0.72, "std": 0.01, "min": 0.71, "max": 0.73}
    assert oreal["end"] == pytest.approx(expected, abs=1e-12)
    difference = written["arms"]["weaker"]["difference_to_first_arm"]
    assert difference["per_seed"] == pytest.approx({"1": -0.2, "2": -0.2, "3": -0.2}, abs=1e-12)
    assert difference["std"] == pytest.approx(0, abs=1e-12)
    assert [e["holds"] for e in written["expectations"]] == [True, True, True]
    assert written["expectations"][0]["measured"] == pytest.approx(0.2)
    assert written["command"] == f"posttrain compare {comparison} --seeds 1 2 3"
    assert written["environment"]["python"]


def test_tables_and_picture_are_written(comparison: Path) -> None:
    _, printed = compare(comparison)
    out = comparison.parent / "out"
    table = (out / "table.md").read_text()
    assert "| oreal | 0.220 | 0.720 | 0.010 | 0.710 – 0.730 | +0.500 |" in table
    assert "| weaker | -0.200 | 0.000 | 0.25 | -0.200 | -0.200 | -0.200 |" in table
    assert "- holds: oreal gain >= 0.49 (0.500)" in table
    assert "[1/9] warm start, seed 1: " in printed
    assert "[2/9] oreal, seed 1: 0.210 → 0.710, " in printed
    assert (out / "curves.svg").read_text().startswith("<svg")
    page = (out / "comparison.html").read_text()
    assert "<td>0.710 – 0.730</td>" in page
    assert '<th scope="row">trainer.max_error_fraction</th><td>0.1</td><td>0.2</td>' in page
    assert "holds: oreal gain &gt;= 0.49 (0.500)" in page


def test_the_warm_start_of_a_seed_is_shared(comparison: Path) -> None:
    compare(comparison, seeds=[5])
    assert calls(comparison, "seed-5/warm_start") == 1
    for arm in ("oreal", "weaker"):
        job = (comparison.parent / "out" / "seed-5" / arm / "job.yaml").read_text()
        assert f"warm_start_folder: {comparison.parent}/out/seed-5/warm_start" in job
        assert "steps: 4" in job


def test_finished_runs_are_kept(comparison: Path) -> None:
    first, _ = compare(comparison, seeds=[1])
    again, _ = compare(comparison, seeds=[1, 2])
    assert calls(comparison, "seed-1/oreal") == calls(comparison, "seed-2/oreal") == 1
    assert again.rows[: len(first.rows)] == first.rows


def test_a_failure_is_reported_the_rest_goes_on_and_it_is_tried_again(comparison: Path) -> None:
    with_arm(comparison, "broken", 0.5)
    result, printed = compare(comparison, seeds=[1, 2])
    assert not result.passed
    assert [(failure.arm, failure.seed) for failure in result.failures] == [("broken", 1), ("broken", 2)]
    assert result.failures[0].last_lines == ["error: the reward broke its contract"]
    assert "broken, seed 1: FAILED" in printed
    assert "    error: the reward broke its contract" in printed
    assert len(result.rows) == 4
    assert "| broken | – |" in (comparison.parent / "out" / "table.md").read_text()
    for seed in (1, 2):
        (comparison.parent / "out" / f"seed-{seed}" / "broken" / "mended").touch()
    result, _ = compare(comparison, seeds=[1, 2])
    assert result.passed
    assert calls(comparison, "seed-1/broken") == 2
    assert calls(comparison, "seed-1/oreal") == 1


def test_a_metric_that_was_not_logged(comparison: Path) -> None:
    with_arm(comparison, "silent", 0.7)
    result, _ = compare(comparison, seeds=[1])
    assert "eval/accuracy was never logged; nearest: eval/accuracy_greedy" in result.failures[0].last_lines[0]


def test_another_budget_is_told(comparison: Path) -> None:
    with_arm(comparison, "short", 0.8)
    result, printed = compare(comparison, seeds=[1])
    assert not result.passed
    assert "BUDGET: short, seed 1 spent 3 steps of 4" in printed


@pytest.mark.parametrize(("kind", "each"), [("rollouts", 10), ("environment_steps", 70)])
def test_a_budget_of_what_steps_spend_is_summed(comparison: Path, kind: str, each: int) -> None:
    text = comparison.read_text().replace("{kind: steps, value: 4}", f"{{kind: {kind}, value: {20 * each}}}")
    comparison.write_text(text)
    result, _ = compare(comparison, seeds=[1])  # 20 steps of the job, and the line of step 0: 21 times
    assert {row.budget for row in result.rows} == {21 * each}
    assert all(row.within_budget for row in result.rows), "5 percent more counts as equal"
    assert result.rows[0].curve[1] == (2 * each, pytest.approx(0.21 + 0.5 / 20))


def test_an_expectation_that_fails(comparison: Path) -> None:
    comparison.write_text(comparison.read_text() + "  - weaker end > oreal end\n")
    result, printed = compare(comparison, seeds=[1, 2])
    assert not result.passed
    assert "FAILS: weaker end > oreal end (difference -0.200)" in printed


def test_the_output_of_another_comparison_is_refused(comparison: Path) -> None:
    compare(comparison, seeds=[1])
    (comparison.parent / "job.yaml").write_text(JOB.replace("1e-4", "2e-4"))
    with pytest.raises(JobError, match=r"seed-1/oreal holds another job: trainer.learning_rate is 0.0001 there and"):
        compare(comparison, seeds=[1])


def test_a_failed_warm_start_leaves_its_seed_out(comparison: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def claim_and_spoil_seed_1(folder: Path, job_yaml: str, resume: bool) -> None:
        claim_run_folder(folder, job_yaml, resume)
        if folder.parts[-2:] == ("seed-1", "warm_start"):
            (folder / "calls").mkdir()  # the stub cannot append to it

    monkeypatch.setattr("posttrain.compare.comparison.claim_run_folder", claim_and_spoil_seed_1)
    result, printed = compare(comparison, seeds=[1, 2])
    assert [failure.arm for failure in result.failures] == ["warm_start", "oreal", "weaker"]
    assert "oreal, seed 1: FAILED" in printed
    assert "left out: what it starts from (warm_start) failed" in printed
    assert len(result.rows) == 2


# ---- several at a time -------------------------------------------------------------------------------------------


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two runs at a time need two cores")
def test_two_runs_at_a_time_give_the_same_on_cores_of_their_own(comparison: Path) -> None:
    here = os.sched_getaffinity(0)
    two, _ = compare(comparison, seeds=[1, 2], jobs=2)
    cores = {frozenset(json.loads(file.read_text())) for file in comparison.parent.glob("out/*/*/cores")}
    assert os.sched_getaffinity(0) == here
    assert len(cores) == 2
    assert frozenset.union(*cores) == here
    assert not frozenset.intersection(*cores)
    (comparison.parent / "out").rename(comparison.parent / "two")
    one, _ = compare(comparison, seeds=[1, 2])
    assert [(row.arm, row.seed, row.curves) for row in two.rows] == [(r.arm, r.seed, r.curves) for r in one.rows]


def test_more_jobs_than_cores_are_refused(comparison: Path) -> None:
    with pytest.raises(JobError, match=r"--jobs 1000: every run has a core of its own, so give 1 to \d+"):
        compare(comparison, jobs=1000)
    with pytest.raises(JobError, match="--jobs 0"):
        core_sets(0)
    assert core_sets(1) == [frozenset(os.sched_getaffinity(0))]


def test_an_arm_whose_model_failed_to_come_is_left_out(comparison: Path) -> None:
    with_arm(comparison, "broken", 0.5)
    after = '  after: {model: {tiny: null, path: "{folder}/broken/model"}, warm_start: null}\nexpect:'
    comparison.write_text(comparison.read_text().replace("expect:", after))
    result, _ = compare(comparison, seeds=[1])
    assert [(failure.arm, failure.last_lines[-1]) for failure in result.failures] == [
        ("broken", "error: the reward broke its contract"),
        ("after", "left out: what it starts from (broken) failed"),
    ]
    assert len(result.rows) == 2


# ---- stopped and gone on with -------------------------------------------------------------------------------------

SCRIPT = """
import sys
from posttrain.compare import run_comparison
from posttrain.errors import Interrupted, UserError
path, output, jobs, *command = sys.argv[1:]
try:
    run_comparison(path, [1], output, jobs=int(jobs), train_command=command)
except Interrupted as stop:
    sys.exit(75)
except UserError as error:
    sys.exit(str(error))
"""


def start_and_wait_for(comparison: Path, *waiting: Path, jobs: int = 1) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(comparison), str(comparison.parent / "out"), str(jobs), *STUB]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not all(file.exists() for file in waiting):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


@pytest.fixture
def interrupted(comparison: Path) -> Path:
    """A comparison whose second arm waits to be stopped; the folder of that run."""
    comparison.write_text(comparison.read_text().replace("fraction: 0.2", "fraction: 0.6"))
    return comparison.parent / "out" / "seed-1" / "weaker"


def test_sigterm_stops_the_run_too_and_the_same_command_goes_on(comparison: Path, interrupted: Path) -> None:
    with start_and_wait_for(comparison, interrupted / "waiting") as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 75
    assert json.loads(interrupted.with_name("weaker.json").read_text())["status"] == "unfinished"
    (interrupted / "mended").touch()
    result, _ = compare(comparison, seeds=[1])
    assert len(result.rows) == 2
    assert calls(comparison, "seed-1/oreal") == 1
    assert calls(comparison, "seed-1/weaker") == 2


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two runs at a time need two cores")
def test_sigterm_stops_all_that_run(comparison: Path, interrupted: Path) -> None:
    comparison.write_text(comparison.read_text().replace("oreal:\n", "oreal: {trainer.max_error_fraction: 0.6}\n", 1))
    folders = [interrupted, interrupted.with_name("oreal")]
    with start_and_wait_for(comparison, *(folder / "waiting" for folder in folders), jobs=2) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 75
    for folder in folders:
        assert json.loads(folder.with_name(f"{folder.name}.json").read_text())["status"] == "unfinished"
        (folder / "mended").touch()
    result, _ = compare(comparison, seeds=[1], jobs=2)
    assert len(result.rows) == 2
    assert [calls(comparison, f"seed-1/{run}") for run in ("warm_start", "oreal", "weaker")] == [1, 2, 2]


def test_a_run_that_outlives_its_comparison_is_not_run_twice(comparison: Path, interrupted: Path) -> None:
    with start_and_wait_for(comparison, interrupted / "waiting") as process:
        orphan = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        process.kill()
        process.wait(timeout=30)
    try:
        with pytest.raises(JobError, match="another process is running this; wait for it or end it"):
            compare(comparison, seeds=[1])
    finally:
        os.kill(orphan, signal.SIGKILL)
    (interrupted / "mended").touch()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{orphan}").exists() and "Z" not in Path(f"/proc/{orphan}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(compare(comparison, seeds=[1])[0].rows) == 2
