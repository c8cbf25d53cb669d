"""RAFT's ranking on images of a diffusion model: the script of recipes/raft/diffusion, shortened."""

import copy
import importlib.util
import random
from pathlib import Path
from types import ModuleType

import pytest
import torch
from datasets import load_dataset

pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'posttrain[diffusion]'")

SCRIPT = Path(__file__).parents[2] / "recipes/raft/diffusion/train.py"


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("raft_diffusion", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_redness_of_plain_images(recipe: ModuleType) -> None:
    red, green, grey = ([1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [0.3, 0.3, 0.3])
    images = torch.tensor([red, green, grey])[:, :, None, None].expand(3, 3, recipe.SIZE, recipe.SIZE)
    assert recipe.redness(images) == pytest.approx([1.0, -0.5, 0.0])


@pytest.mark.slow
def test_the_reward_of_images_rises_where_the_best_are_kept(recipe: ModuleType, tmp_path: Path) -> None:
    """From one warm start: three iterations on the reddest of eight, and on one of eight drawn blindly."""
    started = recipe.ShapeModel(seed=0)
    recipe.warm_start(started, steps=80, batch_size=32)
    start, ends = recipe.evaluate(started, images_per_class=16)["eval/reward"], {}
    for selection in ("best", "random"):
        model = copy.deepcopy(started)
        for step in range(3):
            recipe.iterate(model, step, tmp_path / selection, selection, random.Random(0), prompts=12, k=8, updates=10)
        ends[selection] = recipe.evaluate(model, images_per_class=16)["eval/reward"]
    assert ends["best"] > start + 0.1
    assert ends["best"] > ends["random"] + 0.1

    files = [str(file) for file in sorted((tmp_path / "best" / "ranked").iterdir())]
    rows = list(load_dataset("json", data_files=files, split="train", streaming=True))
    assert len(rows) == 3 * 12 * 8
    assert all(row["kept"] == (row["rank"] == 0) for row in rows)
    assert all(Path(row["image"]).is_file() for row in rows)
