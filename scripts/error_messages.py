"""Every message that a user may be told, read from the places in ``posttrain/`` that make it.

The parts of a message that vary stand in capitals, and what is said only at times in brackets.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
VALIDATORS = ("field_validator", "model_validator")
DEEPEST = 4
VARIES = "\ue000"  # stands before what varies, and is not shown
PLAIN_CALLS = ("str", "repr", "list", "sorted", "tuple", "set", "map", "dict", "float", "int")


@dataclass(frozen=True)
class Message:
    """One message: its text, the class of the error, and who says it."""

    text: str
    error: str
    module: str
    function: str
    about: str  # the first sentence of the docstring of the function, or of what is around it

    @property
    def shown(self) -> str:
        return self.text.replace(VARIES, "")


@dataclass
class Module:
    """What names mean in one file."""

    name: str
    tree: ast.Module
    values: dict[str, ast.expr] = field(default_factory=dict)
    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    origin: dict[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Scope:
    """Where an expression stands: its module, the functions around it, and what is known of their arguments."""

    module: Module
    around: tuple[ast.AST, ...] = ()
    known: tuple[tuple[str, str], ...] = ()
    depth: int = 0


def messages(folder: Path = ROOT / "posttrain") -> list[Message]:
    """In the order of files and lines."""
    modules = {module.name: module for module in map(_read, sorted(folder.rglob("*.py")))}
    errors = _error_classes(modules.values())
    renderer = Renderer(modules)
    return [found for module in modules.values() for found in _said_in(module, errors, renderer)]


def _read(path: Path) -> Module:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    module = Module(name, ast.parse(path.read_text(encoding="utf-8")))
    for node in ast.walk(module.tree):
        match node:
            case ast.ImportFrom(module=str(source)):
                module.origin |= {alias.asname or alias.name: (source, alias.name) for alias in node.names}
            case ast.FunctionDef():
                module.functions.setdefault(node.name, node)
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            module.values[node.targets[0].id] = node.value
    return module


def _error_classes(modules: Iterable[Module]) -> set[str]:
    """``UserError`` and all classes below it."""
    parents = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
    }
    found = {"UserError"}
    while more := {name for name, bases in parents.items() if bases & found} - found:
        found |= more
    return found


def _said_in(module: Module, errors: set[str], renderer: "Renderer") -> Iterator[Message]:
    for node, around in _calls(module.tree, ()):
        error, before, said = _told(node, around, errors)
        for expression in _branches(said) if said is not None else ():
            text = " ".join((before + renderer.text(expression, Scope(module, around))).split())
            if re.search("[a-z]{2}", text):  # else it hands on what another place says
                names = [each.name for each in around]
                about = next(filter(None, map(ast.get_docstring, (*reversed(around), module.tree))), "")
                sentence = re.split(r"(?<=\.)\s", " ".join(about.split("\n\n")[0].split()))[0]
                yield Message(text, error, module.name, ".".join(names), sentence)


def _calls(node: ast.AST, around: tuple[ast.AST, ...]) -> Iterator[tuple[ast.Call, tuple[ast.AST, ...]]]:
    """Every call below ``node``, with the classes and functions around it, outermost first."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield child, around
        is_inside = isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        yield from _calls(child, (*around, child) if is_inside else around)


def _told(call: ast.Call, around: tuple[ast.AST, ...], errors: set[str]) -> tuple[str, str, ast.expr | None]:
    """The class of error that ``call`` makes, how its message begins, and the expression of the rest; None: it makes
    none."""
    match call:
        case ast.Call(func=ast.Name(id=name), args=[said, *_]) if name in errors:
            return name, "", said
        case ast.Call(func=ast.Name(id="FieldError"), args=[_, _, said]):
            return "DataError", f"field '{_capitals('name')}' ", said
        case ast.Call(func=ast.Name(id="Problem"), args=[_, said]):
            return "JobError", "", said
        case ast.Call(func=ast.Attribute(value=ast.Name(id="file" | "self"), attr="error"), args=[_, said]):
            return "JobError", "", said
        case ast.Call(func=ast.Name(id="ValueError"), args=[said]) if around and _is_validator(around[-1]):
            return "JobError", "", said
    return "", "", None


def _is_validator(node: ast.AST) -> bool:
    decorators = getattr(node, "decorator_list", [])
    return any(isinstance(each, ast.Call) and ast.unparse(each.func) in VALIDATORS for each in decorators)


def _branches(expression: ast.expr) -> list[ast.expr]:
    if isinstance(expression, ast.IfExp):
        return [*_branches(expression.body), *_branches(expression.orelse)]
    return [expression]


class Renderer:
    """Turns the expression of a message into the message as a user may read it."""

    def __init__(self, modules: dict[str, Module]) -> None:
        self.modules = modules

    def text(self, node: ast.expr, scope: Scope) -> str:
        """``node`` as text: what is fixed as it is, what varies in capitals."""
        match node:
            case ast.Constant(value=value):
                return str(value)
            case ast.JoinedStr(values=parts):
                pieces = [self.text(part, scope) for part in parts]
                return "".join(piece for piece, last in zip(pieces, ["", *pieces], strict=False) if piece != last)
            case ast.FormattedValue(value=value, conversion=conversion):
                inside = self.text(value, scope)
                return f"'{inside}'" if conversion == ord("r") else inside
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                both = self.text(left, scope), self.text(right, scope)
                return "".join(dict.fromkeys(both))
            case ast.BinOp(left=left, op=ast.Div(), right=ast.Constant(value=float())):
                return self.text(left, scope)
            case ast.BinOp(left=left, op=ast.Div(), right=right):
                return f"{self.text(left, scope)}/{self.text(right, scope)}"
            case ast.IfExp(body=body, orelse=other):
                return self._either(self.text(body, scope), self.text(other, scope))
            case ast.BoolOp(values=[first, *_]):
                return self.text(first, scope)
            case ast.Name(id=name):
                return self._named(name, scope)
            case ast.Call():
                return self._call(node, scope)
            case ast.Attribute(value=value, attr=name):
                return _capitals("error" if _is_error(value) else "type" if name == "__name__" else name)
            case ast.Subscript(slice=ast.Constant(value=str(key))):
                return _capitals(key)
            case ast.Subscript(value=value) | ast.Starred(value=value):
                return self.text(value, scope)
            case ast.GeneratorExp(generators=[each, *_]) | ast.ListComp(generators=[each, *_]):
                return self.text(each.iter, scope)
        return _capitals("n" if isinstance(node, ast.BinOp) else "value")

    @staticmethod
    def _either(first: str, second: str) -> str:
        if first and second:
            return first if first == second else f"{first} (or: {second})"
        return f"[{first or second}]"

    def _named(self, name: str, scope: Scope) -> str:
        known = dict(scope.known)
        if name in known:
            return known[name]
        deeper = Scope(scope.module, scope.around, scope.known, scope.depth + 1)
        local = self._only_value(name, scope.around)
        if local is not None and scope.depth < DEEPEST:
            return self.text(local, deeper)
        module, own = self._home(name, scope.module)
        value = module.values.get(own) if module else None
        if module and isinstance(value, ast.Constant | ast.JoinedStr | ast.BinOp) and scope.depth < DEEPEST:
            return self.text(value, Scope(module, depth=scope.depth + 1))
        return _capitals(name)

    @staticmethod
    def _only_value(name: str, around: tuple[ast.AST, ...]) -> ast.expr | None:
        """What the function assigns to ``name``, if it does so once and it is text."""
        if not around:
            return None
        assigned = [
            node.value
            for node in ast.walk(around[-1])
            if isinstance(node, ast.Assign) and any(ast.unparse(target) == name for target in node.targets)
        ]
        return assigned[0] if len(assigned) == 1 and _is_text(assigned[0]) else None

    def _home(self, name: str, module: Module) -> tuple[Module | None, str]:
        """The module where ``name`` is defined, and its name there."""
        source, own = module.origin.get(name, ("", name))
        if not source:
            return module, name
        return self._home(own, self.modules[source]) if source in self.modules else (None, own)

    def _call(self, call: ast.Call, scope: Scope) -> str:
        match call:
            case ast.Call(func=ast.Attribute(value=ast.Constant(), attr="join"), args=[items]):
                return self.text(items, scope)
            case ast.Call(func=ast.Name(id="len" | "sum")):
                return _capitals("n")
            case ast.Call(func=ast.Name(id="type")):
                return _capitals("type")
            case ast.Call(func=ast.Name(id=name), args=[*_, last]) if name in PLAIN_CALLS:
                return self.text(last, scope)
            case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=name), *_]):
                return _capitals(str(name))
            case ast.Call(func=ast.Name(id=name)):
                return self._inlined(name, call, scope)
            case ast.Call(func=ast.Attribute(value=value)):
                return self.text(value, scope)
        return _capitals("value")

    def _inlined(self, name: str, call: ast.Call, scope: Scope) -> str:
        """What a function of the project returns, where that is one text."""
        module, own = self._home(name, scope.module)
        function = module.functions.get(own) if module else None
        if module is None or function is None or scope.depth >= DEEPEST:
            return _capitals("error" if any(map(_is_error, call.args)) else name)
        returned = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
        if len(returned) != 1 or returned[0] is None or not _is_text(returned[0]):
            return _capitals("error" if any(map(_is_error, call.args)) else name)
        names = [argument.arg for argument in function.args.args]
        known = tuple((each, self.text(given, scope)) for each, given in zip(names, call.args, strict=False))
        return self.text(returned[0], Scope(module, (function,), known, scope.depth + 1))


def _is_text(node: ast.expr) -> bool:
    match node:
        case ast.JoinedStr() | ast.Constant(value=str()):
            return True
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _is_text(left) or _is_text(right)
        case ast.IfExp(body=body, orelse=other):
            return _is_text(body) and _is_text(other)
    return False


def _is_error(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("error", "lost", "second", "exc", "reason")


def _capitals(name: str) -> str:
    return VARIES + name.strip("_").upper()
