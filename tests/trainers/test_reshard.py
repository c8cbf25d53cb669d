"""A run whose ranks and ZeRO stage change from step to step ends where one ends that never changed."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from posttrain.training.reshard import _equal_shares, _span
from posttrain.training.run_log import read_metrics

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("reshard_runs.py")
RUNS = ["grpo", "grpo-lora", "oreal"]
# each goes on from the checkpoint of the first step that the one before it wrote
LAUNCHES = [("zero3", 1), ("zero2", 2), (None, 1), ("zero3", 2)]


def go_on(place: Path, stage: str | None, ranks: int) -> None:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{SCRIPT.parent}"}
    launcher = ["-m", "accelerate.commands.launch", "--main_process_port", "0", "--num_processes", str(ranks)]
    launcher += ["--config_file", str(ROOT / "recipes" / "accelerate" / f"{stage}.yaml")]
    command = [sys.executable, *(launcher if stage else []), str(SCRIPT), str(place), *RUNS]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert finished.returncode == 0, (finished.stdout + finished.stderr)[-4000:]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of the unbroken runs under ZeRO-3, and of those that change at each step."""
    if find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed (pip install 'posttrain[deepspeed]')")
    whole, changing = (tmp_path_factory.mktemp(name) for name in ("whole", "changing"))
    go_on(whole, "zero3", 2)
    shutil.copytree(whole, changing, dirs_exist_ok=True)
    for step, launch in enumerate(LAUNCHES, start=1):
        for checkpoint in changing.glob("*/checkpoints/step_*"):
            if checkpoint.name != f"step_{step:06d}":
                shutil.rmtree(checkpoint)
        go_on(changing, *launch)
    return whole, changing


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_other_ranks_and_stages_go_on(name: str, runs: tuple[Path, Path]) -> None:
    whole, changed = (folder / name for folder in runs)
    steps = [[line for line in read_metrics(folder) if "policy/loss" in line] for folder in (whole, changed)]
    assert [line["step"] for line in steps[1]] == list(range(1, len(LAUNCHES) + 2))
    assert max(line["policy/gradient_norm"] for line in steps[0]) > 1e-3
    for one, other in zip(*steps, strict=True):
        for key in ("policy/loss", "oreal/token_model_loss"):
            assert other.get(key) == pytest.approx(one.get(key), abs=1e-5), (one["step"], key)
    files = sorted(path.relative_to(whole) for path in (whole / "model").rglob("*.safetensors"))
    assert len(files) == 1 + (name == "oreal") + (name == "grpo-lora")
    for file in files:
        one, other = load_file(whole / file), load_file(changed / file)
        assert one.keys() == other.keys()
        assert max(float((one[key] - other[key]).abs().max()) for key in one) < 1e-5, file


def test_a_span_of_pieces_laid_end_to_end() -> None:
    pieces = [torch.arange(3), torch.arange(3, 4), torch.arange(4, 9)]
    for start, count in ((0, 9), (2, 3), (3, 1), (5, 2), (7, 5)):
        assert _span(pieces, start, count).tolist() == list(range(start, min(9, start + count)))
    assert _span(pieces, 9, 2).tolist() == []


def test_equal_shares_of_what_does_not_divide() -> None:
    """7 elements over 3 ranks: 3, 3 and 1 with 2 of padding; 2 elements: 1, 1 and none."""
    shapes = {"first": torch.Size([7]), "second": torch.Size([2, 1])}
    assert [_equal_shares(shapes, rank, 3) for rank in range(3)] == [
        {"first": (0, 3), "second": (3, 1)},
        {"first": (0, 3), "second": (3, 1)},
        {"first": (0, 1), "second": (3, 0)},
    ]
