"""Every method trains under ZeRO-3 on two processes, and a resumed run ends where an unbroken one does."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from safetensors.torch import load_file

from posttrain.training.run_log import read_metrics

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("sharded_runs.py")
STEPS = 2
RUNS = [
    "grpo",
    "grpo-lora",
    "grpo-warm-start",
    "oreal",
    "oreal-lora",
    "raft",
    "bleuberi",
    "prefix_rft",
    "urpo",
    "sft",
]
CONFIG = ROOT / "recipes" / "accelerate" / "zero3.yaml"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs, made in one launch."""
    if find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed (pip install 'posttrain[deepspeed]')")
    folder = tmp_path_factory.mktemp("runs")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{SCRIPT.parent}"}
    launcher = ["-m", "accelerate.commands.launch", "--main_process_port", "0", "--config_file", str(CONFIG)]
    command = [sys.executable, *launcher, str(SCRIPT), str(folder), *RUNS]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert finished.returncode == 0, (finished.stdout + finished.stderr)[-4000:]
    return folder


def timeless(folder: Path) -> list[dict[str, str]]:
    return [
        {name: repr(value) for name, value in line.items() if not name.startswith(("time/", "speed/"))}
        for line in read_metrics(folder)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_sharded_run_trains_and_resumes_exactly(name: str, runs: Path) -> None:
    whole, resumed = runs / name, runs / f"{name}-resumed"
    assert read_metrics(whole)[-1]["step"] == STEPS
    assert read_metrics(whole)[-1]["policy/gradient_norm"] > 1e-4
    assert timeless(whole) == timeless(resumed)
    files = sorted(path.relative_to(whole) for path in (whole / "model").rglob("*.safetensors"))
    assert len(files) == 1 + ("oreal" in name) + ("lora" in name)
    for file in files:
        one, other = load_file(whole / file), load_file(resumed / file)
        assert one.keys() == other.keys()
        assert all(one[key].numel() and one[key].equal(other[key]) for key in one), file
