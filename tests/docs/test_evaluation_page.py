"""The page on evaluation: its suite loads, and its table has every suite file."""

import re
from pathlib import Path

import yaml

from posttrain.evaluation.suite import SuiteConfig

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "evaluation.md").read_text()


def test_the_suite_loads() -> None:
    [block] = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert SuiteConfig.model_validate(yaml.safe_load(block)).sets["math500"].limit == 100


def test_every_suite_is_in_the_table() -> None:
    assert re.findall(r"^\| `(\w+\.yaml)`", TEXT, re.MULTILINE) != []
    files = {path.name for path in (ROOT / "eval" / "suites").glob("*.yaml")}
    assert set(re.findall(r"^\| `(\w+\.yaml)`", TEXT, re.MULTILINE)) == files
