"""What runs in a sandbox, each in a process of its own: a script; a program whose functions are called from outside;
and the checker, which calls them.

The checker, which holds the tests, shares no memory with the program. Calls and their results go over a socket, and
only plain data comes back: no object of the program, with an ``__eq__`` of its own, reaches a test. The secret that
the checker writes for every test that has passed was never in the program's process.
"""

import ast
import builtins
import io
import json
import os
import pickle
import socket
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

# File descriptors, after standard input, output and error.
JOB, CALLS, VERDICT = 3, 4, 5


class NotPlainData(Exception):
    """A test passes an argument that cannot be sent to another process."""


class ProgramError(Exception):
    """An exception of a class of the program's own."""


def run_script() -> None:
    """Run ``{"code"}`` as the interpreter runs a file."""
    exec(compile(_job()["code"], "program.py", "exec"), _module("__main__"))


def serve_functions() -> None:
    """Run ``{"stub", "code", "continues"}``, and answer calls of the functions that it defines."""
    job = _job()
    code = job["code"]
    namespace = _module("solution")
    if job["continues"]:
        code = job["stub"] + code
    else:
        with suppress(Exception):  # what the stub imports and defines; it may end in the middle of a function
            exec(compile(job["stub"], "stub.py", "exec"), namespace)
    exec(compile(code, "solution.py", "exec"), namespace)
    stream = _stream()
    while True:
        name, arguments, keywords = pickle.load(stream)
        stream.write(pickle.dumps(_answer(namespace, name, arguments, keywords)))
        stream.flush()


def check() -> None:
    """Run ``{"stub", "tests", "entry_point", "secret"}``: a line for each test, the secret where it has passed, and
    the secret with a reason where it cannot be run."""
    job = _job()
    secret = job["secret"]
    stream = _stream()
    namespace = _module("tests")
    with suppress(Exception):
        exec(compile(job["stub"], "stub.py", "exec"), namespace)
    try:
        for name in _called(job["tests"]) - namespace.keys() | {job["entry_point"]}:
            namespace[name] = _proxy(stream, name)
        tests = [compile(test, "test.py", "exec") for test in job["tests"]]
    except (SyntaxError, ValueError) as error:
        _say(f"{secret} a test is not valid Python: {error}")
        return
    for test in tests:
        try:
            exec(test, namespace)
        except NotPlainData as error:
            _say(f"{secret} {error}")
        except BaseException as error:
            _say(f"{type(error).__name__}: {error}")
        else:
            _say(secret)


PROGRAMS: dict[str, Callable[[], None]] = {"script": run_script, "functions": serve_functions, "checker": check}


def _job() -> dict[str, Any]:
    with open(JOB, "rb") as file:
        job: dict[str, Any] = json.load(file)
    return job


def _stream() -> io.BufferedRWPair:
    return socket.socket(fileno=CALLS).makefile("rwb")


def _module(name: str) -> dict[str, Any]:
    module = sys.modules[name] = types.ModuleType(name)
    return module.__dict__


def _say(line: str) -> None:
    os.write(VERDICT, line.replace("\n", " ")[:300].encode(errors="replace") + b"\n")


def _called(tests: list[str]) -> set[str]:
    """The names that the tests call as functions, built-in ones left out."""
    calls = (node.func for test in tests for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Call))
    return {function.id for function in calls if isinstance(function, ast.Name)} - set(dir(builtins))


def _answer(namespace: dict[str, Any], name: str, arguments: Any, keywords: Any) -> tuple[Any, ...]:
    try:
        if name not in namespace:
            raise NameError(f"name {name!r} is not defined")
        value = namespace[name](*arguments, **keywords)
        kind, value = ("iterator", list(value)) if isinstance(value, Iterator) else ("value", value)
        return kind, _plain(value), _plain(arguments)
    except Exception as error:
        return "raised", type(error).__name__, str(error)


def _plain(value: Any) -> Any:
    """A copy of built-in types themselves: a ``Counter`` is a dict, a named tuple a tuple.

    Raises:
        TypeError: an object of another kind is in it.
    """
    if value is None or isinstance(value, bool | range):
        return value
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return kind(map(_plain, value))
    if isinstance(value, dict):
        return {_plain(key): _plain(entry) for key, entry in value.items()}
    scalars: tuple[Callable[[Any], Any], ...] = (int, float, complex, str, bytes, bytearray)
    for scalar in scalars:
        if isinstance(value, scalar):  # type: ignore[arg-type]
            return scalar(value)
    raise TypeError(f"the result holds a {type(value).__name__}, which is not plain data")


class _PlainUnpickler(pickle.Unpickler):
    """Reads built-in data only. The classes it gives out cannot be changed, whatever the pickle says."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "builtins" and name in ("complex", "range"):
            return getattr(builtins, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not plain data")


def _proxy(stream: io.BufferedRWPair, name: str) -> Callable[..., Any]:
    """The program's function ``name``, called in its own process. Lists, dicts and sets among the arguments become
    what it made of them; exceptions of built-in classes are raised here."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        try:
            request = pickle.dumps((name, _plain(arguments), _plain(keywords)))
        except TypeError as error:
            raise NotPlainData(f"a test passes an argument that cannot leave its process: {error}") from None
        stream.write(request)
        stream.flush()
        kind, value, after = _PlainUnpickler(stream).load()
        if kind == "raised":
            known = getattr(builtins, value, None)
            raise (known if isinstance(known, type) and issubclass(known, Exception) else ProgramError)(after)
        for given, now in zip(arguments, after, strict=True):
            if isinstance(given, list):
                given[:] = now
            elif isinstance(given, dict | set):
                given.clear()
                given.update(now)
        return iter(value) if kind == "iterator" else value

    return call
