"""A policy whose parameters are split over two processes arrives whole in the engine of each."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("sharded_policy.py")
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fsdp2", "zero3", "zero3-lora"])
def test_a_sharded_policy_is_gathered_in_buckets(policy_folder: Path, mode: str) -> None:
    if mode.startswith("zero3") and find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed (pip install 'posttrain[deepspeed]')")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    run = subprocess.run(
        [*launch, str(SCRIPT), mode, str(policy_folder)], env=environment, capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert "rank 0 of 2: " in run.stdout
    assert "rank 1 of 2: " in run.stdout
