"""The quickstart's claim in a short version: under OREAL a model gets better on problems it never saw."""

import json
import re
from pathlib import Path

import pytest

from posttrain.build import run_job
from posttrain.compare.plan import load_comparison, plan_runs
from posttrain.job import load_job
from posttrain.training.run_log import read_metrics

RECIPES = Path(__file__).parents[1] / "recipes"
TRAINING_RECIPES = [
    path for path in sorted(RECIPES.glob("*/*.yaml")) if re.search("^(method|arms):", path.read_text(), re.MULTILINE)
]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_oreal_learns_on_held_out_problems(tmp_path: Path) -> None:
    overrides = [f"run.folder={tmp_path}", "run.seed=5", "trainer.steps=50", "trainer.eval_every=25"]
    summary = run_job(load_job(RECIPES / "oreal" / "quickstart.yaml", overrides))
    start, end = summary.first["eval/accuracy"], summary.last["eval/accuracy"]
    assert start <= 0.45
    assert end >= start + 0.12  # four standard errors of 200 problems
    rewards = [row["reward/mean"] for row in read_metrics(tmp_path) if "reward/mean" in row]
    assert len(rewards) == 50
    assert sum(rewards[-10:]) > sum(rewards[:10])
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert (tmp_path / "report.html").is_file()
    assert json.loads((tmp_path / "environment.json").read_text())


@pytest.mark.parametrize("path", TRAINING_RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_training_recipe_is_valid(path: Path) -> None:
    if "arms:" in path.read_text():
        assert plan_runs(load_comparison(path))
    else:
        assert load_job(path).method
