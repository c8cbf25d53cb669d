"""The page of errors: every raise of the toolkit is on it, each message has an anchor of its own."""

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from posttrain import errors

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "posttrain").rglob("*.py"))
CLASSES = {name for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, errors.UserError)}
CLASSES |= {"SandboxUnavailable", "ReplicaLost"}
# What holds only what others said: each of these is an entry, or stands in one.
HANDED_ON = {r"'\n'.join(map(self.describe, problems))", "f'{self.url}{path}: {type(error).__name__} {error}'"}


@pytest.fixture(scope="module")
def reference() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "scripts"))
    yield importlib.import_module("error_reference")
    sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def page(reference: ModuleType) -> str:
    return str(reference.errors_page())


def fixed_words(node: ast.AST) -> list[str]:
    """The pieces of text in a message, without those that are said in place of something else."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=parts):
            return [each for part in parts if isinstance(part, ast.Constant) for each in fixed_words(part)]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return fixed_words(left) + fixed_words(right)
    return []


def test_every_raise_is_on_the_page(page: str) -> None:
    said = " ".join(re.sub(r"^(### |```.*$)", "", page, flags=re.MULTILINE).split())
    below, checked = {"UserError"}, 0
    for path in FILES:
        module = ".".join(path.relative_to(ROOT / "posttrain").with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.ClassDef(name=name, bases=bases) if {ast.unparse(base) for base in bases} & CLASSES:
                    below.add(name)
                case ast.Raise(exc=ast.Call(func=ast.Name(id=name), args=[message, *_])) if name in CLASSES:
                    checked += 1
                    assert f"`{name}` of `{module}." in page or ast.unparse(message) in HANDED_ON
                    for piece in fixed_words(message):
                        assert " ".join(piece.split()) in said, f"{path}:{node.lineno}"
    assert checked > 200
    assert below == CLASSES, "a class of errors that this test does not know"


def test_anchors_are_short_and_each_is_one_messages_own(page: str) -> None:
    anchors = re.findall(r"\{ #(\S+) \}$", page, re.MULTILINE)
    assert len(anchors) == len(set(anchors)) > 200
    assert all(re.fullmatch(r"[\w-]+", anchor) for anchor in anchors)
    assert sorted(map(len, anchors))[len(anchors) // 2] < 45
    assert page.count("\n### ") == len(re.findall(r"^### .*\{ #\S+ \}$", page, re.MULTILINE))


@pytest.mark.parametrize(
    ("message", "anchor"),
    [
        ("there is no data file 'train.jsnl'", "there-is-no-data-file"),
        ("run.folder: runs/x holds files that are no run of posttrain", "run-folder-holds-files-that-are"),
        ("the launcher started 4 processes, but this one sees 1", "the-launcher-started-processes-but-this"),
        ("job.yaml: not valid YAML: mapping values are not allowed here", "not-valid-yaml"),
    ],
)
def test_an_anchor_is_the_first_words_of_its_message(page: str, message: str, anchor: str) -> None:
    assert f"{{ #{anchor} }}" in page
    words = iter(re.findall(r"\w+", message.lower()))
    assert all(word in words for word in anchor.split("-"))


def test_advice_is_linked_from_the_messages_it_is_about(page: str) -> None:
    text = (ROOT / "docs" / "debugging.md").read_text()
    anchors = re.findall(r"^## .* \{ #([\w-]+) \}$", text, re.MULTILINE)
    assert len(anchors) >= 10
    assert set(anchors) == set(re.findall(r"\]\(\.\./debugging\.md#([\w-]+)\)", page))


def test_what_varies_is_a_placeholder(reference: ModuleType, tmp_path: Path) -> None:
    import error_messages

    package = tmp_path / "posttrain"
    package.mkdir()
    (package / "errors.py").write_text("class UserError(Exception): ...\nclass DataError(UserError): ...\n")
    (package / "rows.py").write_text(
        "from posttrain.errors import DataError\nHINT = 'look again'\n"
        "def near(word):\n    return f'; did you mean {word}?'\n"
        "def read(path, rows, found):\n    '''Read them.\n\n    All of them.'''\n"
        "    more = f' and {len(rows) - 1} more' if rows else ''\n"
        "    raise DataError(f'{path!r} has {len(rows)} rows{more}: {rows[0].id}{near(found)} ' + HINT)\n"
    )
    error_messages.ROOT, before = tmp_path, error_messages.ROOT
    try:
        (found,) = error_messages.messages(package)
    finally:
        error_messages.ROOT = before
    assert found.shown == "'PATH' has N rows[ and N more]: ID; did you mean FOUND? look again"
    assert (found.error, found.function, found.about) == ("DataError", "read", "Read them.")
