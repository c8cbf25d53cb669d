"""``posttrain runs``: an index over a folder of runs."""

from pathlib import Path
from typing import Annotated

import typer

from posttrain.errors import JobError


def runs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that holds run folders, at any depth.")],
) -> None:
    """Write an index of the runs in a folder: table, curves over each other, settings that differ; one HTML file."""
    if not folder.is_dir():
        raise JobError(f"{folder} is not a folder")
    from posttrain.report.run_index import run_folders, write_index

    if (folder / "metrics.jsonl").is_file():
        raise JobError(f"{folder} is itself a run: name the folder around it, or see posttrain report {folder}")
    try:
        if not any(run_folders(folder)):
            raise JobError(f"{folder} holds no run: runs are written where run.folder of their jobs says")
        print(write_index(folder))
    except OSError as error:
        raise JobError(f"{folder} cannot be read or written into: {error.strerror}") from error
