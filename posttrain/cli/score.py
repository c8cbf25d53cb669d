"""``posttrain score``: a reward over a file of completions."""

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

    from posttrain.rewards.on_error import BaseRewardConfig

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
    config = reward_of(reward)
    from posttrain.report.formats import count
    from posttrain.rewards.scoring.scoring import score_file

    with scoring_progress() as bar:
        task = bar.add_task("scoring", total=input.stat().st_size if input.is_file() else None, rows="")

        def show(rows: int, input_bytes: int) -> None:
            bar.update(task, completed=input_bytes, rows=f"{count(rows)} rows")

        scores = score_file(config, input, output, batch_rows, show)
    print(f"{scores.rows:,} rows in {output}" + (f", {scores.resumed:,} of them from before" if scores.resumed else ""))
    if scores.errors:
        print(f"{scores.errors.total():,} rows failed: {kinds(scores.errors)}", file=sys.stderr)
        raise typer.Exit(FAILED_ROWS_STATUS)


def reward_of(arguments: list[str]) -> "BaseRewardConfig":
    """The reward of a file and overrides, as they stand on the command line."""
    from posttrain.rewards.scoring.reward_file import load_reward_config

    return load_reward_config(arguments[0], arguments[1:])


def scoring_progress() -> "Progress":
    """A bar on standard error, where that is a terminal; tasks have the field ``rows``."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(30), TaskProgressColumn(), TextColumn("{task.fields[rows]}"), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


def kinds(errors: Counter[str]) -> str:
    """``timeout 3, crashed 1``."""
    return ", ".join(f"{kind} {number:,}" for kind, number in errors.most_common())
