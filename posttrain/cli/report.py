"""``posttrain report``: the run page."""

from pathlib import Path
from typing import Annotated

import typer

from posttrain.errors import JobError


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, finished or not.")],
) -> None:
    """Write the run page of a run: curves, samples, timings, in one HTML file."""
    if not (run / "metrics.jsonl").is_file():
        raise JobError(f"{run} is not a run folder: it has no metrics.jsonl")
    from posttrain.report.page import write_report

    print(write_report(run))
