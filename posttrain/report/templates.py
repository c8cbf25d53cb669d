"""Reports as HTML: templates with their styles and scripts inside, so that a page needs nothing from outside."""

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from posttrain.training.run_log import replace_file


def write_page(file: Path, template: str, **values: Any) -> Path:
    """Write what ``template`` makes of ``values``; return the file."""
    replace_file(file, render(template, **values).encode("utf-8", errors="replace"))
    return file


def render(template: str, **values: Any) -> Markup:
    """What ``template`` makes of ``values``, of which all but ``Markup`` is escaped."""
    return Markup(_templates().get_template(template).render(values))


def asset(name: str) -> Markup:
    """A text of ``report/assets`` as it is."""
    return Markup(files("posttrain.report").joinpath("assets", name).read_text(encoding="utf-8"))


def embedded(data: Any) -> Markup:
    """JSON that cannot end the script element it stands in, whatever a completion says."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("posttrain.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals["asset"] = asset
    return templates
