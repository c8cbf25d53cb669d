"""The folder of a run belongs to one job: a second one is refused, the same one goes on where it stopped."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from posttrain.config_file import parse_yaml
from posttrain.errors import JobError

JOB_FILE = "job.yaml"


def claim_run_folder(folder: Path, job_yaml: str, resume: bool) -> None:
    """Make ``folder`` and write the resolved job into it, or find the same job there.

    ``run.folder`` itself is not compared: a run folder may be moved.

    Raises:
        JobError: the folder holds another job, files that are no run, or this job's run and ``resume`` is False.
    """
    job_file = folder / JOB_FILE
    if not job_file.is_file():
        unfinished = job_file.with_suffix(".tmp")  # what a process killed right here leaves behind
        if folder.exists() and (not folder.is_dir() or any(path != unfinished for path in folder.iterdir())):
            raise JobError(f"run.folder: {folder} holds files that are no run of posttrain; choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(job_yaml, encoding="utf-8")
        unfinished.rename(job_file)
        return
    changes = list(differences(parse_yaml(job_file.read_text(encoding="utf-8")), parse_yaml(job_yaml)))
    if changes:
        raise JobError(
            f"run.folder: {folder} holds another job: {'; '.join(changes[:5])}"
            f"{f'; and {len(changes) - 5} more' if len(changes) > 5 else ''}. Choose another folder "
            f"(run.folder=...), remove this one, or go on with its own job: posttrain train {job_file} --resume auto"
        )
    metrics = folder / "metrics.jsonl"
    if not resume and metrics.is_file() and metrics.stat().st_size:
        raise JobError(
            f"run.folder: {folder} holds a run of this job. Go on with it (--resume auto), remove the folder to start "
            "again, or choose another (run.folder=...)"
        )


def differences(there: Any, here: Any) -> Iterator[str]:
    """One phrase for each key with another value."""
    first, second = dict(leaves(there)), dict(leaves(here))
    for key in [*first, *(key for key in second if key not in first)]:
        if key != "run.folder" and first.get(key) != second.get(key):
            yield f"{key} is {first.get(key, 'not set')} there and {second.get(key, 'not set')} here"


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Each dotted key of nested mappings, and its value."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from leaves(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
