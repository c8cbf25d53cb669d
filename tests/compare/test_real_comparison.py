"""A small comparison with the real training command."""

import os
import shutil
from pathlib import Path

import pytest

from posttrain.compare import run_comparison
from posttrain.training.run_log import read_metrics

JOB = """
method: oreal
model:
  tiny: {hidden_size: 32, intermediate_size: 64, layers: 1, heads: 1, key_value_heads: 1, max_length: 64}
data: {type: arithmetic, max_operand: 9, train_size: 40, eval_size: 4}
trainer:
  prompts_per_step: 2
  rollouts_per_prompt: 4
  learning_rate: 1e-2
  warmup_steps: 0
  token_weighting: none
  sampling: {max_completion_tokens: 8}
warm_start: {steps: 20, batch_size: 8, learning_rate: 1e-2}
run: {threads: 1}
"""
COMPARISON = """
job: job.yaml
metric: eval/length_mean
seeds: [3]
budget: {kind: steps, value: 2}
shared: [warm_start]
arms:
  slow:
  fast: {trainer.learning_rate: 5e-2}
expect:
  - slow start > 0
  - slow seconds < 600
"""


@pytest.mark.slow
def test_arms_start_from_one_warm_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "comparison.yaml").write_text(COMPARISON)
    result = run_comparison(tmp_path / "comparison.yaml", output=tmp_path / "out")
    assert result.passed, result.failures
    slow, fast = result.rows
    assert (slow.arm, fast.arm, slow.budget, fast.budget) == ("slow", "fast", 2, 2)
    assert slow.start == fast.start, "the same policy, asked the same problems with the same seeds"
    assert (tmp_path / "out" / "seed-3" / "warm_start" / "model" / "config.json").is_file()
    assert not (tmp_path / "out" / "seed-3" / "slow" / "warm_start").exists()
    if len(os.sched_getaffinity(0)) < 2:
        return
    shutil.copytree(tmp_path / "out", tmp_path / "two", ignore=shutil.ignore_patterns("slow*", "fast*"))
    two = run_comparison(tmp_path / "comparison.yaml", output=tmp_path / "two", jobs=2)
    assert [row.curves for row in two.rows] == [row.curves for row in result.rows]
    for arm in ("slow", "fast"):
        one, other = (read_metrics(tmp_path / output / "seed-3" / arm) for output in ("out", "two"))
        assert [line.get("policy/gradient_norm") for line in one] == [
            line.get("policy/gradient_norm") for line in other
        ]
