"""The ``posttrain`` command. Each command imports what it needs when it runs, so that ``--help`` stays quick."""

import os
import sys

import typer

from posttrain.cli.check_reward import check_reward
from posttrain.cli.compare import CompareCommand, compare
from posttrain.cli.data import data
from posttrain.cli.doctor import doctor
from posttrain.cli.eval import eval_command
from posttrain.cli.init import init
from posttrain.cli.plan import plan
from posttrain.cli.push import push
from posttrain.cli.recipes import recipes
from posttrain.cli.report import report
from posttrain.cli.runs import runs
from posttrain.cli.score import score
from posttrain.cli.serve import serve
from posttrain.cli.train import train
from posttrain.errors import Interrupted, RankLost, UserError

USER_ERROR_STATUS = 2
RANK_LOST_STATUS = 69  # EX_UNAVAILABLE: the message of the rank that ended first says why
INTERRUPTED_STATUS = 75  # EX_TEMPFAIL of sysexits.h: the same command goes on

app = typer.Typer(
    help="Post-train language models: one YAML job, one command.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(train)
app.command()(plan)
app.command("eval")(eval_command)
app.command()(report)
app.command()(runs)
app.command()(score)
app.command()(check_reward)
app.command()(serve)
app.command(cls=CompareCommand)(compare)
app.add_typer(data, name="data")
app.command()(push)
app.command()(init)
app.command()(doctor)
app.command()(recipes)


def main() -> None:
    """Run the command. Exit status: 0 done, 2 a mistake that the message explains, 69 another rank ended, 75 stopped by
    SIGTERM and saved."""
    # The classes that a job names by package.module:Name are found from where the command is typed, as with python -m.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        app()
    except UserError as error:
        _say(f"error: {error}")
        sys.exit(USER_ERROR_STATUS)
    except RankLost as lost:
        _say(str(lost))
        sys.stderr.flush()
        os._exit(RANK_LOST_STATUS)  # threads that still wait for the lost rank would abort an orderly end
    except Interrupted as stop:
        _say(str(stop))
        sys.exit(INTERRUPTED_STATUS)


def _say(message: str) -> None:
    rank = os.environ.get("RANK")
    print(message if rank is None else f"rank {rank}: {message}", file=sys.stderr)
