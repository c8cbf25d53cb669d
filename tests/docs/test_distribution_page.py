"""The page on distribution names every launch config, and only files and settings that are there."""

import re
from pathlib import Path

from posttrain.cli.main import INTERRUPTED_STATUS, RANK_LOST_STATUS, USER_ERROR_STATUS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "distribution.md").read_text()


def test_every_launch_config_is_named_and_there() -> None:
    files = {path.name for path in (ROOT / "recipes" / "accelerate").iterdir()}
    assert set(re.findall(r"[\w-]+\.(?:yaml|sh)", PAGE)) - {"JOB.yaml"} <= files | {"JOB.yaml"}
    assert files <= set(re.findall(r"[\w-]+\.(?:yaml|sh)", PAGE))


def test_exit_statuses() -> None:
    said = [int(status) for status in re.findall(r"^\|.*\| (\d+) \|$", PAGE, re.MULTILINE)]
    assert said == [INTERRUPTED_STATUS, RANK_LOST_STATUS, USER_ERROR_STATUS, USER_ERROR_STATUS]
