"""Is every sign, coefficient and mask of the formulas held by a test?

Each operator, comparison and number of ``posttrain/objectives`` is changed in turn; its tests must fail each time.
Usage: python scripts/mutate_objectives.py [MODULE ...]     exit status 1: a change that no test noticed, listed
"""

import ast
import copy
import os
import sys
from collections.abc import Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "posttrain" / "objectives"
LEARNING = ROOT / "tests" / "objectives" / "test_tabular_learning.py"  # slow, and no formula's only test
SWAPPED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """(what was changed, the changed source), one change each."""
    tree = ast.parse(source)
    for number, node in enumerate(ast.walk(tree)):
        changed = copy.deepcopy(tree)
        place = list(ast.walk(changed))[number]
        before = ast.unparse(node) if isinstance(node, ast.expr) else ""
        if _change(place):
            after = ast.unparse(place)
            yield f"line {getattr(node, 'lineno', '?')}: {before} -> {after}", ast.unparse(changed)


def _change(node: ast.AST) -> bool:
    """Change ``node`` in place, if it is something that a formula is made of."""
    match node:
        case ast.BinOp(op=op) if type(op) in SWAPPED and not _is_type(node):
            node.op = SWAPPED[type(op)]()
        case ast.BoolOp(op=op):
            node.op = SWAPPED[type(op)]()
        case ast.Compare(ops=[op]) if type(op) in SWAPPED:
            node.ops = [SWAPPED[type(op)]()]
        case ast.UnaryOp(op=ast.USub() | ast.Invert() | ast.Not()):
            node.op = ast.UAdd() if isinstance(node.op, ast.USub) else node.op
            if not isinstance(node.op, ast.UAdd):
                return False
        case ast.Constant(value=float() as value):
            node.value = value + 0.5
        case ast.Constant(value=int() as value) if not isinstance(value, bool):
            node.value = value + 1
        case ast.Attribute(attr=("min" | "max") as name):
            node.attr = "max" if name == "min" else "min"
        case ast.Call(func=ast.Name(id=("min" | "max") as name)):
            node.func = ast.Name("max" if name == "min" else "min", ast.Load())
        case ast.keyword(arg="min"):
            node.arg = "max"
        case _:
            return False
    return True


def _is_type(node: ast.BinOp) -> bool:
    """Unions in annotations: ``Tensor | None``."""
    return isinstance(node.op, ast.BitOr)


class Replaced(MetaPathFinder, Loader):
    """Imports one module from a changed source."""

    def __init__(self, name: str, source: str) -> None:
        self.name, self.source = name, source

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname == self.name else None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.source, f"<changed {self.name}>", "exec"), module.__dict__)


def noticed(name: str, source: str) -> bool:
    """Whether the tests fail with the changed module; each change has a process of its own."""
    child = os.fork()
    if child == 0:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        sys.meta_path.insert(0, Replaced(name, source))
        own = f"test_{name.rpartition('.')[2]}"  # first: most changes are noticed there
        files = sorted(LEARNING.parent.glob("test_*.py"), key=lambda path: (path.stem != own, path))
        tests = [str(path) for path in files if path != LEARNING]
        os._exit(0 if pytest.main([*tests, "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow"]) == 0 else 1)
    return os.waitpid(child, 0)[1] != 0


def main() -> int:
    torch.set_num_threads(1)
    os.chdir(ROOT)
    chosen = sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
    if noticed(f"posttrain.objectives.{chosen[0]}", (FOLDER / f"{chosen[0]}.py").read_text()):
        print("the tests fail without any change: mend them first")
        return 1
    survivors, total = [], 0
    for stem in chosen:
        path = FOLDER / f"{stem}.py"
        for what, source in mutants(path.read_text()):
            total += 1
            if not noticed(f"posttrain.objectives.{stem}", source):
                survivors.append(f"{stem}.py {what}")
                print(survivors[-1], flush=True)
    print(f"{total - len(survivors)} of {total} changes were noticed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
