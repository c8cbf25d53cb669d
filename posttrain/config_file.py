"""YAML files that become config classes: every mistake is told with its file, line and key.

A file may start from another with ``base: other.yaml`` (relative to the file that says so). Mappings are merged key by
key, everything else is replaced; a mapping with another ``type`` than the base's is replaced as a whole. Paths inside
a config are relative to the working directory, wherever the file is.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from posttrain.config import Config
from posttrain.config_errors import OWN_CLASS, KeyPath, Problem, explain, unknown
from posttrain.errors import JobError

ConfigT = TypeVar("ConfigT", bound=Config)


@dataclass
class ConfigFile:
    """What a YAML file, its bases and the overrides say, and where each key was said (``file:line``)."""

    path: Path
    data: dict[str, Any]
    places: dict[KeyPath, str] = field(default_factory=dict)

    def place(self, keys: KeyPath) -> str:
        """Where ``keys`` was said, or the nearest section around it."""
        while keys and keys not in self.places:
            keys = keys[:-1]
        return self.places.get(keys, str(self.path))

    def error(self, keys: KeyPath, message: str) -> JobError:
        return JobError(self.describe(Problem(keys, message)))

    def unknown_choice(self, keys: KeyPath, value: Any, choices: Sequence[str]) -> JobError:
        """The error of a ``value`` that is neither one of ``choices`` nor the path of a user's own class."""
        if value is None:
            return self.error(keys, f"missing (known: {', '.join(choices)}, {OWN_CLASS})")
        return self.error(keys, unknown(f"{value!r} is not a choice", str(value), [*choices, OWN_CLASS]))

    def describe(self, problem: Problem) -> str:
        name = ".".join(map(str, problem.keys))
        return ": ".join(part for part in (self.place(problem.keys), name, problem.message) if part)

    def validate(self, config_class: type[ConfigT]) -> ConfigT:
        """The checked config.

        Raises:
            JobError: a line for each key that is unknown, missing or has a wrong value.
        """
        try:
            return config_class.model_validate(self.data)
        except ValidationError as error:
            problems = explain(error, config_class, self.data)
            raise JobError("\n".join(map(self.describe, problems))) from None


def load_config(config_class: type[ConfigT], path: str | Path, overrides: Sequence[str] = ()) -> ConfigT:
    """Read ``path``, apply the dotted ``overrides`` (``trainer.steps=20``) and check the result.

    Raises:
        JobError: the file is missing or not YAML, an override is malformed, or the config is not valid.
    """
    return read_config_file(path, overrides).validate(config_class)


def read_config_file(path: str | Path, overrides: Sequence[str] = ()) -> ConfigFile:
    """``path`` merged over its bases, then the overrides; nothing is checked but the YAML itself."""
    file = _read_with_bases(Path(path), ())
    for override in overrides:
        _apply_override(file, override)
    return file


def parse_yaml(text: str) -> Any:
    """A YAML value, with the number formats of YAML 1.2: ``1e-6`` is a number, ``no`` and ``1:30`` are text."""
    return yaml.load(text, Loader=_Loader)


def dump_yaml(value: Any) -> str:
    """``value`` as YAML that gives it back, to ``parse_yaml`` and to readers of YAML 1.1 alike."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)


class _Loader(yaml.SafeLoader):
    """PyYAML reads YAML 1.1, where ``1e-6`` is text, ``on`` is a truth value and ``010`` is 8."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own class attribute)


class _Dumper(yaml.SafeDumper):
    """Quotes text that would be read as something else, by either version of YAML."""


_EXPONENT = r"[eE][-+]?[0-9]+"
_DECIMAL = r"(?:[0-9][0-9_]*\.[0-9]*|\.[0-9]+)"
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*)", list("-+0123456789")),
    ("float", rf"[-+]?(?:{_DECIMAL}(?:{_EXPONENT})?|[0-9][0-9_]*{_EXPONENT}|\.inf)|\.nan", list("-+.0123456789")),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


def _read_with_bases(path: Path, including: tuple[Path, ...]) -> ConfigFile:
    file = _read_one(path)
    if "base" not in file.data:
        return file
    base_name = file.data.pop("base")
    if not isinstance(base_name, str):
        raise file.error(("base",), "should name the YAML file that this one starts from")
    base_path = path.parent / base_name
    if base_path.resolve() in (p.resolve() for p in (*including, path)):
        raise file.error(("base",), f"{base_path} includes itself")
    if not base_path.is_file():
        raise file.error(("base",), _no_such_file(base_path))
    base = _read_with_bases(base_path, (*including, path))
    return ConfigFile(path, _merged(base.data, file.data), {**base.places, **file.places})


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``over`` on top of ``base``, key by key; a mapping of another ``type`` replaces the base's as a whole."""
    result = dict(base)
    for key, value in over.items():
        below = base.get(key)
        if (
            isinstance(below, dict)
            and isinstance(value, dict)
            and value.get("type", below.get("type")) == below.get("type")
        ):
            value = _merged(below, value)
        result[key] = value
    return result


def _read_one(path: Path) -> ConfigFile:
    if not path.is_file():
        raise JobError(_no_such_file(path))
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
    except UnicodeDecodeError as error:
        raise JobError(f"{path}: not a text file in UTF-8: {error}") from error
    except yaml.YAMLError as error:
        raise JobError(_yaml_problem(path, error)) from error
    if not isinstance(node, yaml.MappingNode):
        raise JobError(f"{path}: should hold keys and values (`method: oreal`, ...), but holds none at its top level")
    file = ConfigFile(path, {})
    file.data = _construct(loader, node, (), file)
    return file


def _construct(loader: _Loader, node: yaml.Node, keys: KeyPath, file: ConfigFile) -> Any:
    """The value of a YAML node; notes the line of every key below it in ``file.places``."""
    if isinstance(node, yaml.SequenceNode):
        items = [((*keys, index), item) for index, item in enumerate(node.value)]
        file.places.update({path: f"{file.path}:{item.start_mark.line + 1}" for path, item in items})
        return [_construct(loader, item, path, file) for path, item in items]
    if not isinstance(node, yaml.MappingNode):
        try:
            return loader.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            raise JobError(_yaml_problem(file.path, error, node.start_mark.line)) from error
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        path = (*keys, key)
        line = key_node.start_mark.line + 1
        if key in result:
            raise JobError(f"{file.path}:{line}: {'.'.join(map(str, path))}: given twice, first in {file.place(path)}")
        file.places[path] = f"{file.path}:{line}"
        result[key] = _construct(loader, value_node, path, file)
    return result


def _apply_override(file: ConfigFile, override: str) -> None:
    name, equals, text = override.partition("=")
    place = f"override {override!r}"
    if not equals or not name or name.startswith("-"):
        raise JobError(f"{place}: should be key.path=value, such as trainer.learning_rate=1e-6")
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        raise JobError(f"{place}: {text!r} is not a YAML value: {error.__class__.__name__}") from error
    *sections, last = keys = tuple(int(part) if part.isdigit() else part for part in name.split("."))
    target: Any = file.data
    for depth, key in enumerate(sections, start=1):
        target = _section(target, key, place, ".".join(map(str, keys[:depth])))
    _check_index(target, last, place, ".".join(map(str, sections)))
    target[last] = value
    stale = [path for path in file.places if path[: len(keys)] == keys]
    for path in stale:
        del file.places[path]
    file.places[keys] = place


def _section(target: Any, key: str | int, place: str, name: str) -> Any:
    """The mapping or list under ``key``, made if there is none yet."""
    _check_index(target, key, place, name.rpartition(".")[0])
    section: Any = target.get(key) if isinstance(target, dict) else target[key]
    if section is None:
        section = target[key] = {}
    if not isinstance(section, dict | list):
        raise JobError(f"{place}: {name} is {section!r}, which has no keys below it")
    return section


def _check_index(target: Any, key: str | int, place: str, name: str) -> None:
    if isinstance(target, list) and not (isinstance(key, int) and key < len(target)):
        raise JobError(f"{place}: {name} is a list of {len(target)}; {key!r} is not the number of one, from 0")


def _no_such_file(path: Path) -> str:
    siblings = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1)
    hint = f"; did you mean {path.parent / near[0]}?" if near else ""
    return f"{path}: no such file{hint}"


def _yaml_problem(path: Path, error: Exception, line: int | None = None) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        line = mark.line
    where = str(path) if line is None else f"{path}:{line + 1}"
    return f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}"
