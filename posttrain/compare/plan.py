"""From a comparison file to the runs that it asks for. Nothing is written and nothing is run."""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.build import warm_start_job
from posttrain.compare.config import WARM_START, ComparisonConfig
from posttrain.config_file import read_config_file
from posttrain.errors import JobError
from posttrain.job import Job, load_job
from posttrain.training.run_folder import JOB_FILE

# budget kind -> the job's key that holds a run to it
BUDGET_KEYS = {"steps": "trainer.steps", "training_tokens": "trainer.max_trained_tokens"}
TRAIN_COMMAND = (sys.executable, "-m", "posttrain", "train")


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One arm on one seed, or the warm start that the arms of a seed share (its arm is ``warm_start``)."""

    arm: str
    seed: int
    folder: Path
    job_yaml: str
    command: tuple[str, ...]
    needs: tuple[Path, ...] = ()  # folders of the runs that must have ended well before

    @property
    def name(self) -> str:
        return f"{self.arm.replace('_', ' ') if self.is_warm_start else self.arm}, seed {self.seed}"

    @property
    def is_warm_start(self) -> bool:
        return self.arm == WARM_START


@dataclass(frozen=True, slots=True)
class Comparison:
    """A checked comparison file, its seeds as asked for, and where its results go."""

    path: Path
    config: ComparisonConfig
    job_file: Path
    output: Path


def load_comparison(path: Path, seeds: Sequence[int] | None = None, output: Path | None = None) -> Comparison:
    """Read a comparison file; ``seeds`` and ``output`` replace what it says.

    Raises:
        JobError: what is wrong, with file, line and key.
    """
    file = read_config_file(path, [f"seeds={list(seeds)}"] if seeds else [])
    config = file.validate(ComparisonConfig)
    said_in = Path(file.place(("job",)).rpartition(":")[0])
    default_output = Path("runs", "compare", path.resolve().parent.name, path.stem)
    return Comparison(path, config, said_in.parent / config.job, output or default_output)


def plan_runs(comparison: Comparison, train_command: Sequence[str] = TRAIN_COMMAND) -> list[PlannedRun]:
    """All runs in the order to run them: seed by seed, a shared warm start before the arms.

    Args:
        comparison: what to compare.
        train_command: runs the job file and override that are appended to it.

    Raises:
        JobError: an arm is not a valid job, or the arms of a seed cannot share a warm start.
    """
    runs = list[PlannedRun]()
    for seed in comparison.config.seeds:
        folder = comparison.output / f"seed-{seed}"
        jobs = {arm: arm_job(comparison, arm, seed, folder) for arm in comparison.config.arms}
        if WARM_START in comparison.config.shared:
            jobs = {WARM_START: _shared_warm_start(jobs, folder / WARM_START), **jobs}
        for arm, job in jobs.items():
            run_folder = folder / arm
            # The folder is named again because the one in its job file is older if the output was moved.
            job_arguments = (str(run_folder / JOB_FILE), f"run.folder={json.dumps(str(run_folder))}")
            command = (*train_command, *job_arguments, "--resume", "auto")
            names = _named(comparison, arm, job)
            needs = tuple(run.folder for run in runs if run.seed == seed and run.arm in names)
            runs.append(PlannedRun(arm, seed, run_folder, job.to_yaml(), command, needs))
    return runs


def _named(comparison: Comparison, arm: str, job: Job[Any]) -> set[str]:
    """The runs of its seed that an arm starts from: those that its texts name, and the shared warm start."""
    names = set(re.findall(r"\{folder\}/([^/\"]+)", json.dumps(comparison.config.arms.get(arm, {}))))
    return names | ({WARM_START} if job.run.warm_start_folder else set())


def arm_job(comparison: Comparison, arm: str, seed: int, folder: Path) -> Job[Any]:
    """The job of one arm on one seed, in ``folder/ARM``."""
    config = comparison.config
    said = dict(config.arms[arm])
    job_file = comparison.path.parent / said.pop("job") if "job" in said else comparison.job_file
    changes = {key: value.replace("{folder}", str(folder)) for key, value in overrides(said)}
    if arm not in config.own_budget and config.budget.kind in BUDGET_KEYS:
        changes.setdefault(BUDGET_KEYS[config.budget.kind], str(round(config.budget.value)))
    changes |= {"run.seed": str(seed), "run.folder": json.dumps(str(folder / arm))}
    try:
        job = load_job(job_file, [f"{key}={value}" for key, value in changes.items()])
    except JobError as error:
        raise JobError(f"{comparison.path}: arms.{arm}: {error}") from error
    if WARM_START in config.shared and job.warm_start is not None:
        job.run.warm_start_folder = str(folder / WARM_START)
    return job


def overrides(changes: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Sections and dotted keys as dotted overrides; a section with a ``type`` is one value that replaces the old."""
    for key, value in changes.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and "type" not in value:
            yield from overrides(value, f"{name}.")
        else:
            yield name, json.dumps(value)


def _shared_warm_start(jobs: Mapping[str, Job[Any]], folder: Path) -> Job[Any]:
    """The warm start of a seed, which must be the same for every arm that has one."""
    warm_starts = {arm: warm_start_job(job, folder) for arm, job in jobs.items() if job.warm_start is not None}
    if not warm_starts:
        raise JobError("shared: [warm_start]: no arm has a warm_start section; drop `shared`")
    first, *others = warm_starts
    for arm in others:
        if warm_starts[arm] != warm_starts[first]:
            raise JobError(
                f"shared: [warm_start]: {arm} would be warm-started otherwise than {first} (model, data and warm_start "
                "must be the same); drop `shared`, so that every run has a warm start of its own"
            )
    return warm_starts[first]
