"""``posttrain data``: make training data."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated

import typer

from posttrain.cli.score import FAILED_ROWS_STATUS, scoring_progress

if TYPE_CHECKING:
    from posttrain.data_jobs.answers import Progress

data = typer.Typer(help="Make training data.", no_args_is_help=True, rich_markup_mode=None)

JobArgument = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="What is to be made.")]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Changes to it: output=runs/second")
]


@data.command()
def select_hard(job: JobArgument, overrides: OverridesArgument = None) -> None:
    """Let a model answer every row, and keep the rows that it does worst on.

    A run that was killed goes on where it stopped.
    """
    from posttrain.build import quiet_libraries
    from posttrain.config_file import load_config
    from posttrain.data_jobs.config import SelectHardConfig
    from posttrain.data_jobs.select_hard import select_hard as select

    config = load_config(SelectHardConfig, job, overrides or [])
    quiet_libraries()
    with answering() as show:
        summary = select(config, show)
    show_lines(summary)


@data.command()
def add_references(
    job: JobArgument,
    overrides: OverridesArgument = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the estimate, ask nothing.")] = False,
) -> None:
    """Let models answer every row, each into a column of its own.

    Prints calls, tokens, cost and time first. The same command goes on where a killed run stopped, and asks again what
    failed. Exit status 1: calls failed.
    """
    from posttrain.config_file import load_config
    from posttrain.data_jobs.add_references import add_references as add
    from posttrain.data_jobs.add_references import estimate
    from posttrain.data_jobs.config import AddReferencesConfig
    from posttrain.data_jobs.pool import prompt_rows

    config = load_config(AddReferencesConfig, job, overrides or [])
    pool = prompt_rows(config.data)
    print("\n".join(estimate(config, pool)), flush=True)
    if dry_run:
        return
    with answering() as show:
        summary, failed = add(config, pool, show)
    show_lines(summary)
    if failed:
        print("\n".join(fill(line, 80, subsequent_indent="  ") for line in failed), file=sys.stderr)
        raise typer.Exit(FAILED_ROWS_STATUS)


@data.command()
def instruction_pairs(job: JobArgument, overrides: OverridesArgument = None) -> None:
    """Write harmful instructions for an agent, each with a benign twin that asks for the same actions."""
    from posttrain.config_file import load_config
    from posttrain.data_jobs.config import InstructionPairsConfig
    from posttrain.data_jobs.instruction_pairs import write_instruction_pairs

    show_lines([write_instruction_pairs(load_config(InstructionPairsConfig, job, overrides or []))])


def show_lines(lines: Iterable[str]) -> None:
    """At 80 columns; a command that is to be copied stays whole."""
    for line in lines:
        print(line if line.startswith("next") else fill(line, 80, subsequent_indent=" " * 10))


@contextmanager
def answering() -> Iterator["Progress"]:
    """A bar for answers."""
    with scoring_progress() as bar:
        task = bar.add_task("answering", rows="")
        yield lambda done, total: bar.update(task, completed=done, total=total, rows=f"{done:,} of {total:,} answers")
