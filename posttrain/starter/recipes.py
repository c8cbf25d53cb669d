"""The recipes that come with an installed posttrain."""

import shutil
from pathlib import Path

import posttrain
from posttrain.errors import UserError

WITHOUT = shutil.ignore_patterns("results", "__pycache__")


def shipped_recipes() -> Path:
    """The folder of recipes: inside an installed package, or beside the package in a checkout.

    Raises:
        UserError: the installation has none.
    """
    package = Path(posttrain.__file__).parent
    for folder in (package / "recipes", package.parent / "recipes"):
        if (folder / "oreal" / "quickstart.yaml").is_file():
            return folder
    raise UserError("this installation of posttrain came without its recipes; install it again from its wheel")


def copy_recipes(folder: Path) -> list[str]:
    """Copy every recipe to ``folder``, and return the methods' names.

    Raises:
        UserError: the folder is there already.
    """
    if folder.exists():
        raise UserError(f"{folder} is there already, and nothing of it was changed; name another folder")
    shutil.copytree(shipped_recipes(), folder, ignore=WITHOUT)
    return sorted(path.name for path in folder.iterdir() if path.is_dir())
