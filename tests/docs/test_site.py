"""The documentation site: it builds with every link checked, and its reference has every key of a job."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.job import METHODS
from posttrain.trainers.policy_config import PolicyTrainerConfig

ROOT = Path(__file__).parents[2]


def built(folder: Path, config: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "-f", str(config), "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
def test_the_site_builds_without_a_broken_link(tmp_path: Path) -> None:
    done = built(tmp_path / "site", ROOT / "mkdocs.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    start = (tmp_path / "site" / "index.html").read_text()
    assert 'href="recipes/oreal.html"' in start
    assert "OREALTrainer" in (tmp_path / "site" / "reference" / "trainers.html").read_text()
    outside = re.findall(r'(?:src|href)="(https?://[^"]+)"', start)
    assert not [url for url in outside if "squidfunk" not in url], "a page loads nothing from elsewhere"


def test_the_configuration_reference_has_every_key() -> None:
    path = ROOT / "scripts" / "config_reference.py"
    spec = importlib.util.spec_from_file_location("config_reference", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.configuration_page()
    for name in PolicyTrainerConfig.model_fields:
        assert page.count(f"| `{name}` |") >= 1, name
    for config_class, _ in METHODS.values():
        assert page.count(f"### {config_class.__name__} ") == 1
    headings = re.findall(r"\{ #(\w+) \}", page)
    assert len(headings) == len(set(headings)) > 60
    sections = {"data", "environment", "reward", "engine", "trainer"}
    assert set(re.findall(r"\]\(#(\w+)\)", page)) <= {*headings, *sections}
