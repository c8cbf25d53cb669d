"""``posttrain compare``: arms × seeds under one budget."""

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

FAILED_STATUS = 1


class CompareCommand(TyperCommand):
    """Takes several values after one ``--seeds``, which click does not."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        return super().parse_args(ctx, repeat_option(args, "--seeds"))


def compare(
    comparison: Annotated[Path, typer.Argument(metavar="COMPARISON.yaml", help="Arms, metrics and the budget.")],
    seeds: Annotated[list[int] | None, typer.Option(metavar="SEED...", help="Instead of those in the file.")] = None,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Where result and runs go.")] = None,
    jobs: Annotated[int, typer.Option(metavar="N", help="Runs at a time, each on cores of its own.")] = 1,
) -> None:
    """Run the arms of a comparison on several seeds and compare them: table, picture, page, result.json.

    Exit status 1: a run failed or spent another budget, or an expectation of the file does not hold.
    """
    from posttrain.compare import run_comparison

    result = run_comparison(comparison, seeds=seeds, output=output, jobs=jobs)
    raise typer.Exit(0 if result.passed else FAILED_STATUS)


def repeat_option(arguments: list[str], option: str) -> list[str]:
    """``--seeds 4 5 6`` as ``--seeds 4 --seeds 5 --seeds 6``: every number that follows the option is its own."""
    result: list[str] = []
    following = False
    for argument in arguments:
        is_value = following and argument.isdigit()
        if is_value and result[-1] != option:
            result.append(option)
        following = is_value or argument == option
        result.append(argument)
    return result
