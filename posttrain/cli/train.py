"""``posttrain train``: run a job, or say what it would do."""

from pathlib import Path
from typing import Annotated

import typer


def train(
    job: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Changes to it: trainer.learning_rate=1e-6")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the arithmetic and the memory, train nothing.")
    ] = False,
    resume: Annotated[
        str | None, typer.Option(metavar="auto|PATH", help="Go on from the newest checkpoint, or from this one.")
    ] = None,
) -> None:
    """Run a job."""
    from posttrain.job import load_job

    loaded = load_job(job, overrides or [])
    if dry_run:
        from posttrain.planning import print_plan

        print_plan(loaded)
    else:
        from posttrain.build import is_first_rank, run_job
        from posttrain.errors import Interrupted, RankLost
        from posttrain.report.terminal import print_next_steps
        from posttrain.training.accelerator import is_lost_rank, leave_process_group

        try:
            summary = run_job(loaded, resume)
        except Interrupted:  # on every rank, unlike a failure
            leave_process_group()
            raise
        except RuntimeError as error:
            if not is_lost_rank(error):
                raise
            raise RankLost(
                "another rank has ended, and its own message says why; this one stops too "
                f"({str(error).splitlines()[0]}). Go on with --resume auto"
            ) from error
        leave_process_group()
        if is_first_rank():
            print_next_steps(summary)
