"""Nothing heavy is imported until it is used."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = (
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "datasets",
    "vllm",
    "deepspeed",
    "peft",
    "numpy",
    "math_verify",
    "sacrebleu",
)
LIMIT_SECONDS = 0.5
JOB = """
from posttrain.job import load_job
load_job("recipes/oreal/quickstart.yaml", ["trainer.learning_rate=1e-6"])
"""


def modules_after(code: str) -> set[str]:
    """Names of the modules that a fresh interpreter has after running ``code``."""
    script = f"{code}\nimport sys\nprint(*sys.modules, sep='\\n', file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(result.stderr.splitlines())


@pytest.mark.parametrize(
    ("code", "most_modules"),
    [
        ("import posttrain", 120),
        ("from posttrain import GRPOConfig, OREALConfig", 600),
        ("import sys; sys.argv[1:] = ['--help']\nfrom posttrain.cli.main import app\napp(standalone_mode=False)", 600),
        (JOB, 800),
    ],
    ids=["package", "configs", "help", "job"],
)
def test_heavy_libraries_stay_out(code: str, most_modules: int) -> None:
    modules = modules_after(code)
    assert "posttrain" in modules
    assert modules.isdisjoint(HEAVY)
    assert len(modules) <= most_modules


@pytest.mark.parametrize("arguments", [["-c", "import posttrain"], ["-m", "posttrain", "--help"]])
def test_start_is_quick(arguments: list[str]) -> None:
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < LIMIT_SECONDS, "the quickest of five: other programs may use the machine at the same time"
