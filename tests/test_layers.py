"""The house: imports go down the floors, and files and functions stay small enough to be read."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "posttrain"
FILES = sorted(PACKAGE.rglob("*.py"))

FLOORS = (
    {"config", "config_errors", "config_file", "errors", "types", "objectives"},
    {"data", "rollout", "training"},
    {"rewards", "agents", "report"},
    {"tasks"},
    {"trainers", "evaluation"},
    {"job", "build", "compare", "planning", "capacity", "data_jobs", "starter"},
    {"cli", "__main__"},
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS, start=1) for room in rooms}
MOST_LINES_OF_A_FILE, MOST_LINES_OF_A_FUNCTION, MOST_LINES_IN_ALL = 500, 60, 30_000


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(source: str) -> Iterator[tuple[int, str]]:
    """Line and room of every import of this package, also those inside functions and for type checkers."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "posttrain" and rest and rest != "__version__":
                yield node.lineno, rest.split(".")[0]


def test_every_file_has_a_floor() -> None:
    assert {room_of(path) for path in FILES} - {"__init__"} <= FLOOR_OF.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    rooms = list(imported_rooms(path.read_text()))
    floor = FLOOR_OF.get(room_of(path), 0)
    upward = [f"line {line}: {room}" for line, room in rooms if FLOOR_OF[room] > floor]
    assert not upward, f"{path.name} is on floor {floor} and imports from above: {upward}"


@pytest.mark.parametrize(
    ("source", "rooms"),
    [
        ("from posttrain.cli.main import main", ["cli"]),
        ("import posttrain.types", ["types"]),
        ("from posttrain import job", ["job"]),
        ("def f():\n    from posttrain.trainers.grpo import GRPOTrainer", ["trainers"]),
        ("import torch\nfrom posttrainer import x", []),
    ],
)
def test_the_reader_of_imports_sees_every_form(source: str, rooms: list[str]) -> None:
    assert [room for _, room in imported_rooms(source)] == rooms


def test_files_are_small() -> None:
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES_OF_A_FILE} == {}
    assert sum(lengths.values()) <= MOST_LINES_IN_ALL


def test_functions_are_small() -> None:
    long = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MOST_LINES_OF_A_FUNCTION:
                    long[f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}"] = length
    assert long == {}
