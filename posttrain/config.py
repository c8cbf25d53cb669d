"""The base of every config class, and how a ``type:`` key chooses a component.

A component (reward, task, engine, ...) declares a pydantic config class beside its code. Where YAML picks one by
``type:``, the built-in classes form a discriminated union; ``type: package.module:Name`` picks a user's own class.
"""

import importlib
from typing import Annotated, Any, Union

from pydantic import BaseModel, ConfigDict, Discriminator, Tag, ValidationError, model_validator


class Config(BaseModel):
    """A typed, strict config: unknown keys are errors, values are checked when assigned."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, protected_namespaces=())


def load_object(path: str) -> Any:
    """Return the object that ``package.module:Name`` names.

    Raises:
        ValueError: the path has no colon, the module cannot be imported, or it has no such name.
    """
    module_name, separator, name = path.partition(":")
    if not separator or not module_name or not name:
        raise ValueError(f"{path!r} is not of the form package.module:Name")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"cannot import {module_name!r} for {path!r}: {error}") from error
    try:
        return getattr(module, name)
    except AttributeError as error:
        raise ValueError(f"module {module_name!r} has no {name!r}") from error


class CustomConfig(Config):
    """Config of a user's own class, named by ``type: package.module:Name``.

    If the class has a ``config_class`` attribute, the other keys are checked by it and the class is built from that
    config; otherwise they are passed to the class as keyword arguments.
    """

    model_config = ConfigDict(extra="allow")

    type: str

    @model_validator(mode="after")
    def _keys_fit_the_class(self) -> "CustomConfig":
        try:
            config_class: Any = getattr(load_object(self.type), "config_class", None)
        except ValueError as error:
            raise ValueError(f"type cannot be used: {error}") from error
        try:
            if config_class is not None:
                config_class.model_validate(self.model_extra or {})
        except ValidationError as error:
            first = error.errors()[0]
            key, known = ".".join(map(str, first["loc"])), ", ".join(config_class.model_fields)
            raise ValueError(f"{key or self.type}: {first['msg']} (known to {self.type}: {known})") from error
        return self

    def build(self, **context: Any) -> Any:
        """Make the user's component; ``context`` is what built-in components of the same kind are given."""
        component = load_object(self.type)
        config_class = getattr(component, "config_class", None)
        if config_class is not None:
            return component(config_class.model_validate(self.model_extra or {}), **context)
        return component(**(self.model_extra or {}), **context)


def component_union(*config_classes: type[Config], custom: type[CustomConfig] = CustomConfig) -> Any:
    """The annotation of a field that takes any of ``config_classes`` (told apart by ``type``) or a user's class.

    Each class declares ``type: Literal["name"] = "name"``; ``custom`` is the config of the user's class.
    """
    tagged = [Annotated[cls, Tag(cls.model_fields["type"].default)] for cls in config_classes]
    known = [cls.model_fields["type"].default for cls in config_classes]

    def tag(value: Any) -> str | None:
        name = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
        if isinstance(name, str) and ":" in name and name not in known:
            return "custom"
        return name

    members = (*tagged, Annotated[custom, Tag("custom")])
    return Annotated[Union[members], Discriminator(tag)]  # noqa: UP007 (a tuple cannot be spelled with |)
