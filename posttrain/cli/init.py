"""``posttrain init``: a first job for a user's own data."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posttrain.errors import JobError

if TYPE_CHECKING:
    from posttrain.starter.job_file import Wishes


def init(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="grpo, oreal, raft, bleuberi, prefix_rft, ...")],
    model: Annotated[str | None, typer.Option(help="Folder or hub id.")] = None,
    data: Annotated[str | None, typer.Option(help="A .jsonl, .json, .csv or .parquet file, or a hub dataset.")] = None,
    prompt_column: Annotated[str | None, typer.Option()] = None,
    answer_column: Annotated[str | None, typer.Option()] = None,
    references_column: Annotated[str | None, typer.Option()] = None,
    demonstration_column: Annotated[str | None, typer.Option()] = None,
    reward: Annotated[
        str | None, typer.Option(help="math_answer, exact_match, token_f1, bleu, learned or remote.")
    ] = None,
    reward_source: Annotated[str | None, typer.Option(help="Model of learned, address of remote.")] = None,
    preferences: Annotated[str | None, typer.Option(help="urpo: a file of chosen and rejected completions.")] = None,
    environment: Annotated[str | None, typer.Option(help="agent_r and spear: vault, crafting or scienceworld.")] = None,
    output: Annotated[Path, typer.Option(metavar="FILE", help="The job to write.")] = Path("job.yaml"),
) -> None:
    """Write a commented job for your own data, check it, and say what to run. Asks for what is not given."""
    from posttrain.job import METHODS
    from posttrain.starter.job_file import Wishes, default_reward

    if output.exists():
        raise JobError(f"{output} is there already, and was not changed; name another file with --output")
    if method not in METHODS:
        raise JobError(f"there is no method {method!r}; choose one of {', '.join(METHODS)}")
    given = {
        "prompt": prompt_column,
        "answer": answer_column,
        "references": references_column,
        "demonstration": demonstration_column,
    }
    columns: Any = {name: column for name, column in given.items() if column is not None}
    wishes = Wishes(
        method, "", data, columns, reward or default_reward(method), reward_source, preferences, environment
    )
    wishes.model = model or _ask("--model", "Model (folder or hub id)", "Qwen/Qwen2.5-0.5B-Instruct")
    complete(wishes)
    _write(wishes, output)


def complete(wishes: "Wishes") -> None:
    """Ask for what the method needs and was not given.

    Raises:
        JobError: it has no usual value, and nobody can be asked.
    """
    from posttrain.starter.job_file import ON_ENVIRONMENTS, REWARD_KEY, columns_of, fields_read, guess_column

    if wishes.method in ON_ENVIRONMENTS:
        wishes.environment = wishes.environment or _ask("--environment", "Environment", "vault")
        return
    wishes.data = wishes.data or _ask("--data", "Data (file or hub dataset)")
    if wishes.method == "urpo":
        wishes.preferences = wishes.preferences or _ask("--preferences", "Pairs of chosen and rejected completions")
    if wishes.reward in REWARD_KEY:
        wishes.reward_source = wishes.reward_source or _ask(
            "--reward-source", f"The reward's {REWARD_KEY[wishes.reward]}"
        )
    wanted = [name for name in fields_read(wishes.method, wishes.reward) if name not in wishes.columns]
    if not wanted:
        return
    there = columns_of(wishes.data)
    for name in wanted:
        question = f"Column with the {name} (there are {', '.join(there)})"
        wishes.columns[name] = _ask(f"--{name}-column", question, guess_column(name, there))


def _write(wishes: "Wishes", output: Path) -> None:
    from posttrain.job import load_job
    from posttrain.starter.job_file import write_job

    text = write_job(wishes, output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text)
    try:
        task = load_job(output).data.build()
        train, held_out = len(task.train_examples()), len(task.eval_examples())
    except Exception:
        output.unlink()
        raise
    if close := getattr(task, "close", None):
        close()
    print(f"{output}: {wishes.method} on {train:,} examples, {held_out:,} held out")
    print(f"next: posttrain train {output} --dry-run")


def _ask(option: str, question: str, default: str | None = None) -> str:
    """The answer of a person at a terminal; elsewhere the default.

    Raises:
        JobError: nobody can be asked, and there is no default.
    """
    if sys.stdin.isatty():
        return str(typer.prompt(question, default=default))
    if default is None:
        raise JobError(f"{option} is missing: {question[0].lower()}{question[1:]}")
    return default
