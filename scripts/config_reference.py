"""The reference of every key of a job, from the config classes themselves."""

import inspect
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from posttrain.agents.config import AnyEnvironmentConfig
from posttrain.agents.vault import VaultConfig
from posttrain.config import Config, CustomConfig
from posttrain.job import METHODS, Job
from posttrain.rewards.config import RewardConfig
from posttrain.rewards.references.bleu import BleuConfig
from posttrain.rollout.config import EngineConfig, VLLMEngineConfig
from posttrain.tasks.config import TaskConfig
from posttrain.tasks.gsm8k import GSM8KConfig
from posttrain.training.model_config import ModelConfig
from posttrain.training.run_config import RunConfig

LONGEST_DEFAULT = 60
ROOTS: dict[str, list[Any]] = {
    "Job": [Job],
    "model": [ModelConfig],
    "data": [TaskConfig],
    "environment": [AnyEnvironmentConfig],
    "reward": [RewardConfig],
    "engine": [EngineConfig],
    "trainer": [config_class for config_class, _ in METHODS.values()],
    "run": [RunConfig],
}
SECTION_OF = {GSM8KConfig: "data", VaultConfig: "environment", BleuConfig: "reward", VLLMEngineConfig: "engine"}


def configuration_page() -> str:
    """Markdown: a section a key of the job, a table a class; what a class inherits is told once, with its parent."""
    lines = [
        "# Configuration",
        "",
        "Every key of a job file, made from the classes that check it. A class that extends another has its keys too.",
        "Values of a `type:` are the heading's name in brackets; `package.module:Name` chooses a class of your own.",
        "",
    ]
    told: set[type[Config]] = set()
    for section, annotations in ROOTS.items():
        lines += [f"## {section}", ""]
        for annotation in annotations:
            for config_class in _config_classes(annotation, told):
                lines += _class_section(config_class)
    return "\n".join(lines)


def _config_classes(annotation: Any, told: set[type[Config]]) -> Iterator[type[Config]]:
    """Every config class in an annotation, parents first, then those of its fields, each once."""
    if not (inspect.isclass(annotation) and issubclass(annotation, Config)):
        for part in get_args(annotation):
            yield from _config_classes(part, told)
        return
    if annotation in told or annotation in (Config, CustomConfig):
        return
    for parent in annotation.__bases__:
        yield from _config_classes(parent, told)
    if annotation in told:
        return
    told.add(annotation)
    yield annotation
    if annotation is not Job:
        for name in _own_fields(annotation):
            yield from _config_classes(_annotation(annotation.model_fields[name]), told)


def _annotation(field: FieldInfo) -> Any:
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


def _own_fields(config_class: type[Config]) -> list[str]:
    """Fields that the class declares itself, or whose default it changes."""
    own = inspect.get_annotations(config_class)
    return [name for name in config_class.model_fields if name in own]


def _class_section(config_class: type[Config]) -> list[str]:
    fields = {name: config_class.model_fields[name] for name in _own_fields(config_class)}
    kind = fields.pop("type", None)
    named = f" (`{kind.default}`)" if kind is not None and isinstance(kind.default, str) else ""
    lines = [f"### {_anchor(config_class)}{named} {{ #{_anchor(config_class)} }}", ""]
    lines += [inspect.getdoc(config_class) or "", ""]
    parents = [p for p in config_class.__bases__ if issubclass(p, Config) and p not in (Config, CustomConfig)]
    parents = [parent for parent in parents if _anchor(parent) != _anchor(config_class)]
    if parents:
        lines += [f"Extends {', '.join(f'[{_anchor(parent)}](#{_anchor(parent)})' for parent in parents)}.", ""]
    if fields:
        lines += ["| key | type | default | |", "|---|---|---|---|"]
        lines += [
            f"| `{name}` | {_type(f)} | {_default(f)} | {_cell(f.description or '')} |" for name, f in fields.items()
        ]
        lines.append("")
    return lines


def _anchor(config_class: type[Config]) -> str:
    return config_class.__name__.partition("[")[0]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True) if not field.default_factory_takes_validated_data else None
    if value is PydanticUndefined:
        return ""
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, Config):
        return "its defaults"
    return f"`{shown}`" if len(shown) <= LONGEST_DEFAULT else "see the class"


def _type(field: FieldInfo) -> str:
    return _cell(" or ".join(dict.fromkeys(_names(field.annotation))))


def _names(annotation: Any) -> Iterator[str]:
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        yield "null"
    elif origin in (Union, types.UnionType):
        classes = {get_args(part)[0] if get_origin(part) is Annotated else part for part in parts}
        for section in (SECTION_OF[config_class] for config_class in SECTION_OF.keys() & classes):
            yield f"one of [{section}](#{section})"
            yield from (["null"] if type(None) in classes else [])
            return
        named = [name for part in parts for name in _names(part)]
        yield from sorted(named, key=lambda name: name == "null")
    elif origin is Annotated:
        yield from _names(parts[0])
    elif origin is Literal:
        yield ", ".join(f"`{part}`" for part in parts)
    elif origin is not None:
        inner = ", ".join(" or ".join(dict.fromkeys(_names(part))) for part in parts if part is not Ellipsis)
        yield f"{getattr(origin, '__name__', origin)} of {inner}" if inner else str(origin)
    elif isinstance(annotation, TypeVar):
        yield "the method's [trainer](#trainer)"
    elif inspect.isclass(annotation) and issubclass(annotation, Config):
        yield (
            "a class of your own"
            if issubclass(annotation, CustomConfig)
            else f"[{_anchor(annotation)}](#{_anchor(annotation)})"
        )
    else:
        yield getattr(annotation, "__name__", str(annotation))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
