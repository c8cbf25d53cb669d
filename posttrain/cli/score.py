"""``posttrain score``: a reward over a file of completions."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

FAILED_ROWS_STATUS = 1

RewardArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="REWARD.yaml [KEY=VALUE...]",
        help="A reward file, and changes to it: variant=sacrebleu",
        show_default=False,
    ),
]


def score(
    reward: RewardArgument,
    input: Annotated[Path, typer.Option(metavar="FILE", help="Rows to score: JSON lines, also .gz.")],
    output: Annotated[Path, typer.Option(metavar="FILE", help="Where the scores go; an existing file is continued.")],
    batch_rows: Annotated[int, typer.Option(min=1, max=1024, help="Rows that are scored and written at a time.")] = 256,
) -> None:
    """Score the completions of a file, in order; a run that was killed goes on where it stopped.

    A row has prompt, completion and what the reward needs (answer, references, any other column). Neighbours of one
    prompt are scored together. Exit status 1: rows failed; their error says why.
    """
    from posttrain.report.formats import count
    from posttrain.rewards.scoring.reward_file import load_reward_config
    from posttrain.rewards.scoring.scoring import score_file

    config = load_reward_config(reward[0], reward[1:])
    with scoring_progress() as bar:
        task = bar.add_task("scoring", total=input.stat().st_size if input.is_file() else None, rows="")

        def show(rows: int, input_bytes: int) -> None:
            bar.update(task, completed=input_bytes, rows=f"{count(rows)} rows")

        scores = score_file(config, input, output, batch_rows, show)
    print(f"{scores.rows:,} rows in {output}" + (f", {scores.resumed:,} of them from before" if scores.resumed else ""))
    if scores.errors:
        kinds = ", ".join(f"{kind} {number:,}" for kind, number in scores.errors.most_common())
        print(f"{scores.errors.total():,} rows failed: {kinds}", file=sys.stderr)
        raise typer.Exit(FAILED_ROWS_STATUS)


def scoring_progress() -> "Progress":
    """A bar on standard error, where that is a terminal; tasks have the field ``rows``."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(30), TaskProgressColumn(), TextColumn("{task.fields[rows]}"), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)
