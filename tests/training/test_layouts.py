"""The same samples give the same loss and the same weights on one process and on two, however the work is shared."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("layout_cases.py")
CASES = 11
LAYOUTS = ["ddp", "zero1", "zero2", "zero3"]
SHARED = [("ddp", 4), ("zero3", 2)]  # of a micro-batch's tokens, by pairs of ranks


def run_cases(model: Path, output: Path, *launcher: str, sequence_parallel: int = 1) -> None:
    output.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, *launcher, str(SCRIPT), str(model), str(output), str(sequence_parallel)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert finished.returncode == 0, finished.stderr[-4000:]
    assert len(list(output.glob("*.pt"))) == CASES


@pytest.fixture(scope="module")
def alone(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of the cases."""
    folder = tmp_path_factory.mktemp("alone") / "cases"
    run_cases(tiny_model_folder, folder)
    return folder


def largest_difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_processes_are_one(layout: str, alone: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    run_cases(tiny_model_folder, tmp_path / "two", *launcher_of(layout, 2))
    assert_same_ends(alone, tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "ranks"), SHARED)
def test_ranks_that_share_tokens_are_one(
    layout: str, ranks: int, alone: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """The model's one head of keys is repeated; odd numbers of tokens are padded; some ranks train no token."""
    run_cases(tiny_model_folder, tmp_path / "shared", *launcher_of(layout, ranks), sequence_parallel=2)
    assert_same_ends(alone, tmp_path / "shared")


def launcher_of(layout: str, ranks: int) -> list[str]:
    if layout.startswith("zero") and find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed (pip install 'posttrain[deepspeed]')")
    config = ROOT / "recipes" / "accelerate" / f"{layout}.yaml"
    launcher = ["-m", "accelerate.commands.launch", "--main_process_port", "0", "--config_file", str(config)]
    return [*launcher, "--num_processes", str(ranks)]


def assert_same_ends(alone: Path, other: Path) -> None:
    for file in alone.glob("*.pt"):
        name = file.stem
        one, two = (torch.load(folder / file.name, weights_only=True) for folder in (alone, other))
        for first, second in zip(one["metrics"], two["metrics"], strict=True):
            for key in ("policy/loss", "policy/kl", "oreal/token_model_loss"):
                assert second.get(key) == pytest.approx(first.get(key), abs=1e-5), (name, key)
            assert second["policy/gradient_norm"] == pytest.approx(first["policy/gradient_norm"], rel=1e-4, abs=1e-7)
        for model, weights in one["weights"].items():
            assert largest_difference(weights, two["weights"][model]) < 1e-5, (name, model)


@pytest.mark.slow
def test_the_cases_are_worth_comparing(alone: Path) -> None:
    """Weights move by much more than what is allowed to differ, and a cut makes several micro-batches."""
    ends = {file.stem: torch.load(file, weights_only=True) for file in alone.glob("*.pt")}
    whole, cut = ends["grpo-whole-full"], ends["grpo-cut-full"]
    assert whole["metrics"][0]["batch/micro_batches"] == 1.0
    assert cut["metrics"][0]["batch/micro_batches"] == 7.0  # 4 on each of two ranks
    assert largest_difference(whole["weights"]["policy"], cut["weights"]["policy"]) < 1e-5
    for name in ends:
        for key in ("policy/loss", "policy/gradient_norm"):
            assert abs(ends[name]["metrics"][-1][key]) > 1e-4, (name, key)
    start = ends["grpo-a-rank-without-samples"]["weights"]["policy"]
    assert largest_difference(start, whole["weights"]["policy"]) > 1e-3
