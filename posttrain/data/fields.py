"""From a row's values to a checked ``Example``: every field has one set of types it may hold."""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, get_args

from posttrain.data.prompt_format import PromptFormat
from posttrain.types import Example, Message, TaskKind

ExampleField = Literal["id", "prompt", "answer", "references", "demonstration", "candidates", "task", "metadata"]
FIELDS: tuple[ExampleField, ...] = get_args(ExampleField)
MESSAGE_ROLES = ("system", "developer", "user", "assistant", "tool")


class FieldError(ValueError):
    """A row cannot become an example; the message names the field, its column, and what is wrong with the value."""

    def __init__(self, field: str, column: str, problem: str) -> None:
        where = f"field {field!r}" if field == column else f"field {field!r} (column {column!r})"
        super().__init__(f"{where} {problem}")


def example_from_values(
    values: Mapping[str, Any],
    columns: Mapping[ExampleField, str],
    required: Collection[ExampleField],
    prompt_format: PromptFormat,
    default_id: str,
) -> Example:
    """Check one row's values and make the example.

    ``columns`` says which column holds a field; those of the ``required`` fields must be there. Columns that hold no
    field are kept in ``metadata``, where rewards find them, and so are the entries of a ``metadata`` column.

    Raises:
        FieldError: a required column is absent, or a value is not of its field's type.
    """
    for name, column in columns.items():
        if name in required and column not in values:
            raise FieldError(name, column, f"is missing; the row has {', '.join(map(repr, values)) or 'no columns'}")
    used = set(columns.values())
    example = Example(id=default_id, prompt="", metadata={key: each for key, each in values.items() if key not in used})
    for name in FIELDS:
        value = values.get(columns[name]) if name in columns else None
        if value is None and name != "prompt":
            continue
        try:
            if name == "prompt":
                example.prompt = _messages(value) if isinstance(value, list) else prompt_format.prompt(_text(value))
            elif name == "metadata":
                if not isinstance(value, dict):
                    raise ValueError(f"is {_described(value)}, not an object")
                example.metadata |= value
            else:
                setattr(example, name, CHECKS[name](value))
        except ValueError as error:
            raise FieldError(name, columns[name], str(error)) from error
    return example


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"is {_described(value)}, not text")
    if not value.strip():
        raise ValueError("is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"is not valid Unicode: {error}") from error
    return value


def _answer_text(value: Any) -> str:
    """Text, or a number as it is written."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"is {value}, not a finite number")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return _text(value)


def _texts(value: Any) -> list[str]:
    return [_text(item) for item in value] if isinstance(value, list) else [_text(value)]


def _one_or_more(value: Any, check: Callable[[Any], str]) -> str | list[str]:
    if not isinstance(value, list):
        return check(value)
    if not value:
        raise ValueError("is an empty list")
    return [check(item) for item in value]


def _messages(value: list[Any]) -> list[Message]:
    if not value:
        raise ValueError("is an empty list of messages")
    messages = [_message(number, item) for number, item in enumerate(value, start=1)]
    if messages[-1]["role"] == "assistant":
        raise ValueError("ends with an assistant message; a prompt ends where the assistant is to answer")
    return messages


def _message(number: int, value: Any) -> Message:
    if not isinstance(value, dict) or not {"role", "content"} <= set(value):
        raise ValueError(f"has a message {number} that is {_described(value)}, not an object with role and content")
    if value["role"] not in MESSAGE_ROLES:
        raise ValueError(f"has a message {number} of role {value['role']!r}, not one of {', '.join(MESSAGE_ROLES)}")
    if not isinstance(value["content"], str):
        raise ValueError(f"has a message {number} whose content is {_described(value['content'])}, not text")
    return {"role": value["role"], "content": value["content"]}


def _task_kind(value: Any) -> TaskKind:
    for kind in get_args(TaskKind):
        if value == kind:
            return kind
    raise ValueError(f"is {value!r}, not one of {', '.join(get_args(TaskKind))}")


def _described(value: Any) -> str:
    if value is None:
        return "empty (null)"
    kinds = {bool: "true or false", int: "a number", float: "a number", dict: "an object", list: "a list", str: "text"}
    return f"{kinds.get(type(value), type(value).__name__)} ({str(value)[:40]})"


CHECKS: dict[ExampleField, Callable[[Any], Any]] = {
    "id": _answer_text,
    "answer": lambda value: _one_or_more(value, _answer_text),
    "demonstration": lambda value: _one_or_more(value, _text),
    "references": _texts,
    "candidates": _texts,
    "task": _task_kind,
}
