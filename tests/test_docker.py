"""The Dockerfiles copy what is there, run as a user, and name what the project's other files pin."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions(path: Path) -> list[tuple[str, str]]:
    """Name and rest of every instruction, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.split(None, 1)[-1].strip()) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_is_copied_exists(path: Path) -> None:
    copied = [rest.split() for name, rest in instructions(path) if name == "COPY"]
    sources = [source for words in copied for source in words[:-1] if not source.startswith("--")]
    assert sources
    assert not [source for source in sources if not (ROOT / source).exists() and not list(ROOT.glob(source))]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_it_does_not_run_as_root(path: Path) -> None:
    users = [rest for name, rest in instructions(path) if name == "USER"]
    assert users and users[-1].isdigit() and int(users[-1]) > 0
    assert [name for name, _ in instructions(path)][-1] == "ENTRYPOINT"


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_the_extras_and_the_base_are_pinned(path: Path) -> None:
    text = path.read_text()
    (base,) = [rest for name, rest in instructions(path) if name == "FROM"]
    assert re.fullmatch(r"[\w./-]+:\d[\w.-]+", base)
    for extras in re.findall(r"/src\[([\w,]+)\]", text):
        assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()
    elsewhere = (ROOT / "Makefile").read_text() + (ROOT / "pyproject.toml").read_text()
    for pinned in re.findall(r"\w+==[\d.]+", text):
        assert pinned in elsewhere
