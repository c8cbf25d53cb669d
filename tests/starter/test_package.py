"""What is installed from a wheel works away from the source folder: its recipes, and a run of them."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from posttrain.errors import UserError
from posttrain.starter.recipes import copy_recipes

ROOT = Path(__file__).parents[2]


def run(folder: Path, *command: str, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_of_the_sdist_runs_a_recipe(tmp_path: Path) -> None:
    source = tmp_path / "source"
    revision = run(ROOT, "git", "ls-files", "-z").split("\0")
    for name in filter(None, revision):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    run(source, sys.executable, "setup.py", "-q", "sdist", "--dist-dir", str(tmp_path))
    (sdist,) = tmp_path.glob("posttrain-*.tar.gz")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
    run(tmp_path, *pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(sdist))
    (wheel,) = tmp_path.glob("posttrain-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "posttrain/py.typed" in names
    assert "posttrain/report/assets/page.html" in names
    assert not [name for name in names if name.startswith("tests/") or "/results/" in name]
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    run(tmp_path, *pip, "install", "--no-deps", "--target", str(site), str(wheel))
    command = (sys.executable, "-m", "posttrain")
    run(work, *command, "recipes", PYTHONPATH=str(site))
    shipped = {path.parent.name for path in (work / "recipes").glob("*/quickstart.yaml")}
    assert shipped == {path.parent.name for path in (ROOT / "recipes").glob("*/quickstart.yaml")}
    small = ["trainer.steps=1", "warm_start.steps=2", "data.eval_size=4", "trainer.eval_every=1"]
    run(work, *command, "train", "recipes/oreal/quickstart.yaml", *small, PYTHONPATH=str(site))
    assert (work / "runs" / "oreal-quickstart" / "report.html").is_file()


def test_recipes_never_write_over_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is there already"):
        copy_recipes(tmp_path)
    assert "oreal" in copy_recipes(tmp_path / "recipes")
    assert not list((tmp_path / "recipes").rglob("results"))
