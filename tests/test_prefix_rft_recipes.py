"""The recipes of Prefix-RFT: what a comparison runs, what its mechanism check reads, and a short run of both stages."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.build import run_job
from posttrain.compare.plan import load_comparison, plan_runs
from posttrain.errors import JobError
from posttrain.job import load_job
from posttrain.training.run_log import read_metrics

FOLDER = Path(__file__).parents[1] / "recipes" / "prefix_rft"


def test_every_arm_starts_from_the_seeds_warm_start(tmp_path: Path) -> None:
    runs = plan_runs(load_comparison(FOLDER / "learning.yaml", seeds=[4], output=tmp_path))
    assert [run.arm for run in runs] == [
        "warm_start", "prefix_rft", "prefix_rft-rho-1", "grpo", "sft", "sft-then-grpo",
    ]  # fmt: skip
    jobs = {}
    for run in runs:
        (tmp_path / "job.yaml").write_text(run.job_yaml)
        jobs[run.arm] = load_job(tmp_path / "job.yaml")
    warm_start = tmp_path / "seed-4" / "warm_start"
    assert all(jobs[arm].run.warm_start_folder == str(warm_start) for arm in ("prefix_rft", "prefix_rft-rho-1", "grpo"))
    assert jobs["sft"].model.path == str(warm_start / "model")
    assert jobs["sft-then-grpo"].model.path == str(tmp_path / "seed-4" / "sft" / "model")
    assert jobs["sft-then-grpo"].warm_start is None
    # The same problems, demonstrations and evaluation for all, and one objective for all that sample.
    assert len({job.data.model_dump_json() for arm, job in jobs.items() if arm != "warm_start"}) == 1
    assert {job.trainer.sampling.max_completion_tokens for arm, job in jobs.items() if arm != "warm_start"} == {16}
    assert {job.trainer.eval_rollouts for arm, job in jobs.items() if arm != "warm_start"} == {8}
    methods = [jobs[arm].trainer for arm in ("prefix_rft", "prefix_rft-rho-1", "grpo", "sft-then-grpo")]
    shared = methods[2].model_dump()
    assert all({key: trainer.model_dump()[key] for key in shared} == shared for trainer in methods)


@pytest.mark.parametrize(("hybrid", "holds"), [(0.5, True), (0.05, False)])
def test_the_mechanism_is_read_from_the_first_fifth(hybrid: float, holds: bool, tmp_path: Path) -> None:
    for arm, without_spread in (("prefix_rft", 16), ("grpo", 24)):
        run = tmp_path / "seed-1" / arm
        run.mkdir(parents=True)
        rows = [{"step": 0, "eval/accuracy": 0.0}]
        for step in range(1, 11):
            row = {"step": step, "reward/mean": 0.1, "batch/groups_without_spread": without_spread if step < 3 else 0}
            prefix = {"prefix/own_reward": 0.1, "prefix/hybrid_reward": hybrid, "prefix/hybrid_rollouts": 3}
            if step == 2:
                prefix |= {"prefix/hybrid_reward": 0.0, "prefix/hybrid_rollouts": 1}
            rows.append(row | (prefix if arm == "prefix_rft" else {}))
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, str(FOLDER / "mechanism.py"), str(tmp_path), "--output", str(tmp_path / "out.json")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == (0 if holds else 1)
    found = json.loads((tmp_path / "out.json").read_text())["seed-1"]
    assert found == pytest.approx(
        {
            "hybrid_reward": hybrid * 3 / 4,
            "own_reward": 0.1,
            "groups_with_spread": 0.5,
            "groups_with_spread_grpo": 0.25,
        },
        abs=1e-4,
    )


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    changes = [f"model.path={tmp_path / 'skill' / 'model'}", f"run.folder={tmp_path / 'run'}"]
    with pytest.raises(JobError, match=r"model\.path: cannot load .*skill/model"):
        run_job(load_job(FOLDER / "quickstart.yaml", changes))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_quickstart_runs_in_short(tmp_path: Path) -> None:
    skill = [f"run.folder={tmp_path / 'skill'}", "trainer.steps=3", "trainer.eval_rollouts=1", "data.eval_size=8"]
    run_job(load_job(FOLDER / "skill.yaml", skill))
    run = tmp_path / "run"
    changes = [f"model.path={tmp_path / 'skill' / 'model'}", f"run.folder={run}", "warm_start.steps=2"]
    changes += ["trainer.steps=3", "trainer.warmup_steps=0", "data.eval_size=8", "data.demonstrated=0.5"]
    run_job(load_job(FOLDER / "quickstart.yaml", changes))
    rows = [row for row in read_metrics(run) if "reward/mean" in row]
    assert len(rows) == 3
    assert sum(row["prefix/hybrid_rollouts"] for row in rows) > 20  # of 96 prompts, half with a demonstration
    assert rows[0]["prefix/length_mean"] > 10  # of 14 tokens
    assert (run / "model" / "model.safetensors").is_file()
