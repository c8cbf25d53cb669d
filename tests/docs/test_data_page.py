"""The page on data: its YAML is valid, and so are the recipes of the two commands."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from posttrain.config_file import load_config
from posttrain.data_jobs.config import AddReferencesConfig, SelectHardConfig

ROOT = Path(__file__).parents[2]
ROWS, SELECT, REFERENCES = map(
    yaml.safe_load, re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), re.DOTALL)
)


def test_yaml_is_valid() -> None:
    SelectHardConfig.model_validate(SELECT | ROWS)
    AddReferencesConfig.model_validate(REFERENCES)


@pytest.mark.parametrize(
    ("recipe", "config_class"),
    [
        ("select-hard", SelectHardConfig),
        ("tulu3-select-hard", SelectHardConfig),
        ("tulu3-references", AddReferencesConfig),
    ],
)
def test_recipes_are_valid(recipe: str, config_class: Any) -> None:
    load_config(config_class, ROOT / "recipes" / "bleuberi" / f"{recipe}.yaml")
