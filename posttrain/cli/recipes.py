"""``posttrain recipes``: the recipes of an installed posttrain as files."""

from pathlib import Path
from typing import Annotated

import typer


def recipes(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to; it must not be there yet.")] = Path(
        "recipes"
    ),
) -> None:
    """Copy the recipes here, so that `posttrain train recipes/oreal/quickstart.yaml` runs."""
    from posttrain.starter.recipes import copy_recipes

    methods = copy_recipes(folder)
    print(f"{folder}: {', '.join(methods)}")
    print(f"next: posttrain train {folder}/oreal/quickstart.yaml")
