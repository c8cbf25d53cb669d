"""Commands in the documentation: every option and every file of the repository that one names is there."""

import re
from pathlib import Path

import click
import typer

from posttrain.cli.main import app

ROOT = Path(__file__).parents[2]
WHERE = ("*.md", "docs/**/*.md", "recipes/**/*.md", "recipes/**/*.yaml", "eval/**/*.yaml", "reward_models/*.yaml")
COMMAND = re.compile(r"posttrain ((?:data )?[a-z-]+)\b([^`\n#|)]*)")
FILE = re.compile(r"\b(?:recipes|reward_models|eval/suites)/[\w./-]+\.(?:yaml|py)\b")


def commands(group: click.Group, before: str = "") -> dict[str, click.Command]:
    """Every command by its words."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= commands(command, f"{name} ")
        found[before + name] = command
    return found


def test_every_option_and_file_of_a_command_is_there() -> None:
    main = typer.main.get_command(app)
    assert hasattr(main, "commands")
    known = commands(main)  # type: ignore[arg-type]
    used: dict[tuple[str, str], str] = {}
    for path in [path for pattern in WHERE for path in ROOT.glob(pattern)]:
        for name, rest in COMMAND.findall(path.read_text()):
            if name in known:
                used |= {(name, word): path.name for word in re.findall(r"(?<!\S)--[a-z-]+", rest)}
                assert not [file for file in FILE.findall(rest) if not (ROOT / file).exists()], path
    options = {(name, word) for name, command in known.items() for option in command.params for word in option.opts}
    assert len(used) > 15
    assert {pair: path for pair, path in used.items() if pair not in options and pair[1] != "--help"} == {}
