"""``posttrain check-reward``: is a reward fit to train on?"""

import sys
from pathlib import Path
from textwrap import fill
from typing import Annotated

import typer

from posttrain.cli.score import FAILED_ROWS_STATUS, RewardArgument, scoring_progress


def check_reward(
    reward: RewardArgument,
    data: Annotated[Path, typer.Option(metavar="FILE", help="Completions that are known to be good or bad.")],
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="For result.json and report.html; else reward_checks/NAME.")
    ] = None,
) -> None:
    """Score known good and bad completions: accuracy, spread, speed, errors, length.

    Rows: prompt, chosen, rejected (texts or messages, also RewardBench's and HH-RLHF's), or prompt, completion and
    label or is_correct. Exit status 1: no completion could be scored.
    """
    from posttrain.config_file import dump_yaml
    from posttrain.report.formats import count
    from posttrain.report.reward_check import figures, write_check
    from posttrain.rewards.scoring.check import check_reward as check_groups
    from posttrain.rewards.scoring.labelled import read_labelled
    from posttrain.rewards.scoring.reward_file import load_reward_config, reward_digest

    config, groups = load_reward_config(reward[0], reward[1:]), read_labelled(data)
    with scoring_progress() as bar:
        task = bar.add_task("scoring", total=sum(len(group.completions) for group in groups), rows="")
        check = check_groups(
            config,
            groups,
            lambda number: bar.update(
                task, advance=number, rows=f"{count(bar.tasks[0].completed + number)} completions"
            ),
        )
    name = Path(reward[0]).stem
    resolved = dump_yaml({"reward": config.model_dump(mode="json")})
    page = write_check(check, output or Path("reward_checks") / name, name, str(data), resolved, reward_digest(config))
    print(f"{name} on {data}: {check.prompts:,} prompts, {check.completions:,} completions")
    for label, value, note in figures(check):
        print(f"  {label:<14} {value:>7}  {note}")
    for warning in check.warnings():
        print(fill(f"warning: {warning}", 80, subsequent_indent="  "), file=sys.stderr)
    print(page)
    if not check.good_scores and not check.bad_scores:
        raise typer.Exit(FAILED_ROWS_STATUS)
