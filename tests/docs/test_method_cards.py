"""The method cards: every function and test that they name exists, and every method has a card."""

import ast
import re
from pathlib import Path

import pytest

from posttrain.job import METHODS

ROOT = Path(__file__).parents[2]
CARDS = sorted((ROOT / "docs" / "methods").glob("*.md"))
IN_FILE = re.compile(r"`((?:posttrain|tests)/[\w/]+\.py): (\w+)`((?:, `\w+`)*)")


def named(card: Path) -> list[tuple[str, str]]:
    """(file, name) of every function, class or test in a card's tables."""
    found = []
    for path, first, others in IN_FILE.findall(card.read_text()):
        found += [(path, name) for name in [first, *re.findall(r"`(\w+)`", others)]]
    return found


def defined(path: str) -> set[str]:
    nodes = ast.walk(ast.parse((ROOT / path).read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)
def test_what_a_card_names_exists(card: Path) -> None:
    names = named(card)
    assert any(path.startswith("posttrain/") for path, _ in names)
    assert any(path.startswith("tests/") for path, _ in names)
    assert not [f"{path}: {name}" for path, name in names if name not in defined(path)]


def test_every_method_has_a_card() -> None:
    assert {card.stem for card in CARDS} >= METHODS.keys()
