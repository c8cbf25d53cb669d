"""What pydantic found wrong with a config, said in the words of the file that the config was read from."""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

KeyPath = tuple[str | int, ...]

MOST_CHOICES_SHOWN = 8
OWN_CLASS = "package.module:Name of your own class"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong, and the key it is about."""

    keys: KeyPath
    message: str


def explain(error: ValidationError, config_class: type[BaseModel], data: dict[str, Any]) -> list[Problem]:
    """One ``Problem`` for each error, in the order of the fields. ``data`` is what was validated.

    A validator's message that starts with a key (``rollouts_per_prompt must be ...``) is about that key.
    """
    return [_explain_one(details, config_class, data) for details in error.errors(include_url=False)]


def _explain_one(details: ErrorDetails, config_class: type[BaseModel], data: dict[str, Any]) -> Problem:
    keys = _keys_in(data, details["loc"])
    kind, value = details["type"], details.get("input")
    context = details.get("ctx", {})
    match kind:
        case "extra_forbidden":
            return Problem(keys, unknown("unknown key", str(keys[-1]), _valid_keys(config_class, details["loc"][:-1])))
        case "missing":
            return Problem((*keys, details["loc"][-1]), "missing, and it has no default")
        case "literal_error":
            choices = re.findall(r"'([^']*)'", context["expected"])
            return Problem(keys, unknown(f"{value!r} is not a choice", str(value), choices))
        case "union_tag_invalid":
            choices = [name for name in re.findall(r"'([^']*)'", context["expected_tags"]) if name != "custom"]
            message = unknown(f"{context['tag']!r} is not a choice", context["tag"], [*choices, OWN_CLASS])
            return Problem((*keys, "type"), message)
        case "union_tag_not_found":
            return Problem(keys, "needs a `type:` that says which one it is")
        case "model_type" | "model_attributes_type" | "dict_type":
            return Problem(keys, f"should be a section with keys of its own, not {value!r}")
        case "value_error":
            return _validator_problem(keys, str(context["error"]), data)
        case _:
            return Problem(keys, f"{details['msg'][0].lower()}{details['msg'][1:]}, but it is {value!r}")


def _validator_problem(keys: KeyPath, message: str, data: dict[str, Any]) -> Problem:
    first_word = re.match(r"[\w.]+", message)
    named = (*keys, *(first_word.group().split(".") if first_word else ()))
    return Problem(named if _holds(data, named) else keys, message)


def unknown(what: str, word: str, choices: Sequence[str]) -> str:
    """``what``, the choice nearest to ``word``, and all choices unless they are many and one is near."""
    near = difflib.get_close_matches(word, choices, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    known = f" (known: {', '.join(choices) or 'none'})" if not near or len(choices) <= MOST_CHOICES_SHOWN else ""
    return f"{what}{hint}{known}"


def _keys_in(data: Any, loc: tuple[str | int, ...]) -> KeyPath:
    """The keys of ``loc`` as the file has them: without the names of union members that pydantic puts between."""
    keys: list[str | int] = []
    tag = None  # of the section that was just entered; a key of it may have the same name
    for part in loc:
        if part == tag:
            tag = None
            continue
        inside = part in data if isinstance(data, dict) else isinstance(data, list) and isinstance(part, int)
        if inside:
            keys.append(part)
            data = data[part]
            tag = data.get("type") if isinstance(data, dict) else None
    return tuple(keys)


def _holds(data: Any, keys: KeyPath) -> bool:
    for key in keys:
        if not isinstance(data, dict) or key not in data:
            return False
        data = data[key]
    return True


def _valid_keys(config_class: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """The fields of the config class at ``loc``."""
    classes, is_chosen = [config_class], False
    for part in loc:
        tagged = [cls for cls in classes if "type" in cls.model_fields and cls.model_fields["type"].default == part]
        if tagged and not is_chosen:
            classes, is_chosen = tagged, True
        elif fields := [cls.model_fields[part] for cls in classes if part in cls.model_fields]:
            classes, is_chosen = [cls for f in fields for cls in _config_classes(f.annotation)], False
    return list(dict.fromkeys(name for cls in classes for name in cls.model_fields))


def _config_classes(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _config_classes(argument)
