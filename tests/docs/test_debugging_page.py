"""The page on debugging: every metric and error that it names is one that the code has."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "debugging.md").read_text()
SOURCE = "\n".join(path.read_text() for path in (ROOT / "posttrain").rglob("*.py"))
METRICS = sorted(set(re.findall(r"`((?:batch|reward|completion|policy|eval)/[a-z_]+)`", TEXT)))
KEYS = sorted(set(re.findall(r"`(?:trainer\.|sampling\.|data\.|search\.)?([a-z]+(?:_[a-z0-9]+)+)`", TEXT)))


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_is_logged(metric: str) -> None:
    assert f'"{metric}"' in SOURCE


@pytest.mark.parametrize("key", KEYS)
def test_every_key_exists(key: str) -> None:
    assert re.search(rf"^    {key}: ", SOURCE, re.MULTILINE), key


@pytest.mark.parametrize(
    "words",
    [
        "nothing to learn from in", "the launcher started", "holds another job", "no checkpoint here is valid",
        "have the prompt of a held-out row", "model.path: cannot load", "vLLM is not installed",
        "needs a Java runtime", "The code sandbox cannot start", "the search came to no end of any task",
    ],
)  # fmt: skip
def test_every_error_is_one_of_ours(words: str) -> None:
    assert words in SOURCE
    assert words in TEXT
