"""Resume is exact: a run that was stopped, killed or damaged ends bit for bit where one that never stopped ends."""

import io
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import rich.style  # noqa: F401 (draws a random number when first imported: before all runs, not inside the first)
import torch

from posttrain.build import run_job
from posttrain.cli.train import train
from posttrain.errors import CheckpointError, Interrupted
from posttrain.job import load_job
from posttrain.trainers.policy_trainer import PolicyTrainer
from posttrain.training.checkpoint import CheckpointStore
from posttrain.training.run_log import logged_steps, read_metrics, read_rollouts

STEPS = 6
JOB = """
method: oreal
model:
  tiny: {hidden_size: 32, intermediate_size: 64, layers: 1, heads: 1, key_value_heads: 1, max_length: 64}
data: {type: arithmetic, max_operand: 9, train_size: 40, eval_size: 4}
reward: {type: "parity_reward:ParityReward"}
trainer:
  steps: 6
  prompts_per_step: 3
  rollouts_per_prompt: 6
  tokens_per_micro_batch: 128
  learning_rate: 1e-2
  warmup_steps: 2
  eval_every: 2
  eval_rollouts: 2
  save_every: 1
  keep_checkpoints: 3
  sampling: {max_completion_tokens: 6}
run: {seed: 3}
"""
METHODS = {
    "oreal": [
        "trainer.policy_freeze_steps=2",
        "trainer.truncated_is_wrong=false",
        "trainer.token_reward_model.learning_rate=1e-2",
    ],
    "grpo": ["method=grpo", "trainer.updates_per_step=2", "trainer.kl_coef=0.1", "trainer.schedule=linear"],
    "spear": [
        "method=spear",
        "reward=null",
        "data={type: environment, environment: {type: 'letters_environment:Letters'}, train_tasks: [a, b, c, d, e], "
        "eval_tasks: [f], max_turn_tokens: 4}",
        "trainer.sampling.max_completion_tokens=30",
        "trainer.imitation_ramp_steps=2",
        "trainer.recent_rewards=12",
    ],
    "bleuberi": [
        "method=bleuberi",
        "data={type: rewriting, train_size: 40, eval_size: 4}",
        "trainer.selection=hard",
        "trainer.selection_size=7",
    ],
    "raft": [
        "method=raft",
        "trainer.importance_sampling=token",
        "trainer.minibatches_per_step=2",
        "trainer.kl_rank_coef=0.1",
    ],
    "prefix_rft": ["method=prefix_rft"],
    "oversample": [
        "method=grpo",
        "trainer.oversample=0.5",
        "trainer.max_staleness=1",
        "trainer.sampling={max_completion_tokens: 20, stop_token_ids: [40, 41, 42, 43, 44, 45, 46, 47, 48, 49]}",
        "trainer.budget_schedule=[{step: 0, max_completion_tokens: 12}, {step: 3, max_completion_tokens: 20}]",
    ],
    "overlap": ["method=grpo", "trainer.max_staleness=2", "trainer.updates_per_step=2"],
    "urpo": [
        "method=urpo",
        "data={type: addition_referee, problems: {max_operand: 9, train_size: 40, eval_size: 4}}",
        "trainer.prompts_per_step=6",
        "trainer.referee_template=compact",
        "trainer.referee_max_completion_tokens=6",
        "trainer.alarms=[{metric: referee/running_accuracy, below: 0.6, steps: 7}]",
    ],
}


@pytest.fixture(scope="module", autouse=True)
def own_reward() -> Iterator[None]:
    """This folder on the path of imports, here and in the processes that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        patch.setenv("PYTHONPATH", f"{Path(__file__).parents[2]}:{Path(__file__).parent}")
        yield


@pytest.fixture(scope="module", params=list(METHODS))
def uninterrupted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A method's name, and the folder of its run of all steps."""
    folder = tmp_path_factory.mktemp(request.param)
    run(folder / "whole", request.param)
    return request.param, folder / "whole"


def run(folder: Path, method: str, resume: str | None = None, *overrides: str) -> None:
    (folder.parent / "job.yaml").write_text(JOB)
    run_job(load_job(folder.parent / "job.yaml", [*METHODS[method], f"run.folder={folder}", *overrides]), resume)


def run_until(step: int, folder: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run, and send this process a real SIGTERM while ``step`` is on its way."""
    real_step = PolicyTrainer.train_step

    def step_and_signal(trainer: PolicyTrainer) -> Any:
        if trainer.step == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real_step(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(PolicyTrainer, "train_step", step_and_signal)
        with pytest.raises(Interrupted, match=f"saved after step {step}"):
            run(folder, method)


def assert_same_run(one: Path, other: Path) -> None:
    """Metrics (but the clock's), rollouts, and everything in the last checkpoint: equal to the last bit."""
    assert timeless(one) == timeless(other)
    assert logged_steps(one) == logged_steps(other)
    for step in logged_steps(one):
        assert read_rollouts(one, step) == read_rollouts(other, step)
    checkpoints = [CheckpointStore(folder, keep=9).resolve("auto", pytest.fail) for folder in (one, other)]
    first, second = ({p.name: p for p in path.iterdir() if p.name != "manifest.json"} for path in checkpoints if path)
    assert first.keys() == second.keys()
    for name in first:
        assert same(read_state(first[name]), read_state(second[name])), name
    assert written_beside_the_log(one) == written_beside_the_log(other)
    assert (one / "model" / "model.safetensors").read_bytes() == (other / "model" / "model.safetensors").read_bytes()


def written_beside_the_log(folder: Path) -> dict[str, bytes]:
    files = [file for pattern in ("selected.jsonl", "ranked/*.jsonl") for file in folder.glob(pattern)]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def timeless(folder: Path) -> list[dict[str, str]]:
    return [
        {name: repr(value) for name, value in line.items() if not name.startswith(("time/", "speed/"))}
        for line in read_metrics(folder)
    ]


def read_state(file: Path) -> Any:
    if file.suffix in (".safetensors", ".json"):
        return file.read_bytes()
    if file.suffix == ".pkl" and not torch.serialization._is_zipfile(io.BytesIO(file.read_bytes())):
        return pickle.loads(file.read_bytes())
    return torch.load(file, weights_only=False)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if hasattr(one, "tobytes"):
        return one.tobytes() == other.tobytes()
    return type(one) is type(other) and (one == other or one != one)


def test_the_runs_compared_are_worth_comparing(uninterrupted: tuple[str, Path]) -> None:
    _, whole = uninterrupted
    metrics = read_metrics(whole)
    assert [line["step"] for line in metrics] == list(range(STEPS + 1))
    moved = [line for line in metrics if line.get("policy/gradient_norm", 0.0) > 1e-3]
    assert len(moved) >= 3, "the policy must have been updated"
    texts = [[r["text"] for group in read_rollouts(whole, step) for r in group["rollouts"]] for step in (5, 6)]
    assert texts[0] != texts[1]


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_stop_and_resume_is_exact(
    uninterrupted: tuple[str, Path], stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OREAL's first two steps are frozen: stops are inside the freeze, and after it."""
    method, whole = uninterrupted
    folder = tmp_path / "stopped"
    run_until(stop, folder, method, monkeypatch)
    assert [path.name for path in CheckpointStore(folder, keep=9).paths()][-1] == f"step_{stop:06d}"
    run(folder, method, "auto")
    assert_same_run(whole, folder)


def test_a_damaged_checkpoint_costs_its_steps_and_nothing_else(
    uninterrupted: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    method, whole = uninterrupted
    folder = tmp_path / "damaged"
    run_until(4, folder, method, monkeypatch)
    with (folder / "checkpoints" / "step_000004" / "model.safetensors").open("r+b") as file:
        file.seek(2000)
        file.write(b"????")
    run(folder, method, "auto")
    printed = "".join(capsys.readouterr().out.splitlines())
    assert "step_000004: refused, model.safetensors was altered" in printed
    assert "resumed from step_000003" in printed
    assert_same_run(whole, folder)


def test_going_back_to_an_earlier_checkpoint(uninterrupted: tuple[str, Path], tmp_path: Path) -> None:
    method, whole = uninterrupted
    folder = tmp_path / "back"
    shutil.copytree(whole, folder)
    run(folder, method, str(folder / "checkpoints" / "step_000004"))
    assert_same_run(whole, folder)


def test_a_finished_run_resumed_changes_nothing(uninterrupted: tuple[str, Path], tmp_path: Path) -> None:
    method, whole = uninterrupted
    folder = tmp_path / "again"
    shutil.copytree(whole, folder)
    run(folder, method, "auto")
    assert_same_run(whole, folder)


# ---- kill -9 ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes(own_reward: None) -> ForkServerContext:
    """Processes that have already imported what a run needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "rich.style",
            *(f"posttrain.trainers.{method}" for method in METHODS),
            "posttrain.tasks.arithmetic",
            "posttrain.tasks.rewriting",
            "transformers.models.qwen2",
        ]
    )
    return context


def logged(folder: Path) -> int:
    """The last step in the log; -1 before the first."""
    metrics = read_metrics(folder) if (folder / "metrics.jsonl").is_file() else []
    return int(metrics[-1]["step"]) if metrics else -1


@pytest.mark.slow
@pytest.mark.parametrize(("method", "kills"), [("oreal", 10), ("bleuberi", 3), ("raft", 3), ("prefix_rft", 3)])
def test_kill_at_random_moments(method: str, kills: int, tmp_path: Path, processes: ForkServerContext) -> None:
    """After every kill the newest checkpoint is valid and at most the step being written is lost; the end is exact."""
    rng, folder, steps = random.Random(1), tmp_path / "killed", 20 * kills
    overrides = [f"trainer.steps={steps}", "trainer.eval_every=0"]
    run(tmp_path / "whole", method, None, *overrides)
    arguments = (tmp_path / "job.yaml", [*METHODS[method], *overrides, f"run.folder={folder}"], False, "auto")
    for kill in range(kills):
        before = logged(folder)
        process = processes.Process(target=train, args=arguments)
        process.start()
        if rng.random() < 0.8:  # the others are killed while they start
            wait_for_step(folder, before + 1, process)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, f"the run ended before kill {kill}"
        newest = CheckpointStore(folder, keep=9).resolve("auto", pytest.fail)
        saved = int(newest.name.removeprefix("step_")) if newest else 0
        assert saved >= logged(folder) - 1, f"kill {kill} lost more than the step whose checkpoint was being written"
    run(folder, method, "auto", *overrides)
    assert_same_run(tmp_path / "whole", folder)


def wait_for_step(folder: Path, step: int, process: Any) -> None:
    deadline = time.monotonic() + 120
    while logged(folder) < step:
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.02)


# ---- two processes ------------------------------------------------------------------------------------------------


def run_on_two_ranks(folder: Path, method: str, *arguments: str) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "posttrain", "train", str(folder.parent / "job.yaml"), *METHODS[method]]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    finished = subprocess.run(
        [*command, f"run.folder={folder}", *arguments], env=environment, capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.mark.slow
@pytest.mark.parametrize("method", ["oreal", "bleuberi"])
def test_two_ranks_resume_exactly(method: str, tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "resumed"
    (tmp_path / "job.yaml").write_text(JOB)
    run_on_two_ranks(whole, method)
    shutil.copytree(whole, folder)
    for step in (5, 6):
        shutil.rmtree(folder / "checkpoints" / f"step_{step:06d}")
    run_on_two_ranks(folder, method, "--resume", "auto")
    assert (folder / "checkpoints" / "step_000006" / "random_states_1.pkl").is_file()
    assert_same_run(whole, folder)


# ---- a disk that fills --------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=800k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_fills_names_what_is_left(small_disk: Path) -> None:
    with pytest.raises(CheckpointError, match=r"step_00000\d: the disk is full: .* is untouched; make room"):
        run(small_disk / "run", "grpo")
    assert CheckpointStore(small_disk / "run", keep=9).resolve("auto", pytest.fail) is not None
