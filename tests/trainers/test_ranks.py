"""Two ranks, each a process of its own, as on two machines: what happens when one ends, is stopped, or differs."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from posttrain.build import check_ranks_agree, run_job
from posttrain.errors import CheckpointError, JobError
from posttrain.job import load_job
from posttrain.training.run_log import read_metrics, read_rollouts

ROOT = Path(__file__).parents[2]
JOB = """
method: grpo
model:
  tiny: {hidden_size: 32, intermediate_size: 64, layers: 1, heads: 1, key_value_heads: 1, max_length: 64}
data: {type: arithmetic, max_operand: 9, train_size: 40, eval_size: 2}
reward: {type: "parity_reward:ParityReward"}
trainer:
  steps: 4
  prompts_per_step: 4
  rollouts_per_prompt: 4
  tokens_per_micro_batch: 64
  learning_rate: 1e-2
  epsilon: 1e-3
  kl_coef: 0.1
  save_every: 1
  keep_checkpoints: 9
  eval_rollouts: 1
  sampling: {max_completion_tokens: 6}
run: {seed: 3, threads: 1}
"""


@pytest.fixture(autouse=True)
def own_reward(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This folder on the path of imports, here and in the processes that tests start; and the job."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{Path(__file__).parent}")
    (tmp_path / "job.yaml").write_text(JOB)


def start(folder: Path, *arguments: str, last_rank: tuple[str, ...] = ()) -> list[subprocess.Popen[str]]:
    """Two ranks of the job; the second one's arguments may differ."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "posttrain", "train", str(folder.parent / "job.yaml"), f"run.folder={folder}"]
    return [
        subprocess.Popen(
            [*command, *arguments, *(last_rank if rank else ())],
            env=os.environ
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def end(ranks: list[subprocess.Popen[str]], *statuses: int) -> list[str]:
    """Wait for the ranks, at most two minutes; what they said."""
    said = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == list(statuses), said
    return said


def logged(folder: Path) -> int:
    """The last step in the log; -1 before the first."""
    metrics = read_metrics(folder) if (folder / "metrics.jsonl").is_file() else []
    return int(metrics[-1]["step"]) if metrics else -1


def wait_for_step(folder: Path, step: int, ranks: list[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + 120
    while logged(folder) < step:
        assert all(rank.poll() is None for rank in ranks) and time.monotonic() < deadline
        time.sleep(0.02)


def timeless(folder: Path) -> list[dict[str, str]]:
    return [
        {name: repr(value) for name, value in line.items() if not name.startswith(("time/", "speed/"))}
        for line in read_metrics(folder)
    ]


@pytest.mark.slow
def test_a_killed_rank_and_a_stopped_one(tmp_path: Path) -> None:
    """kill -9 of one rank ends the other with status 69; SIGTERM to one stops both with 75; both times the run goes on
    to where an unbroken one ends."""
    steps, whole, folder = "trainer.steps=40", tmp_path / "whole", tmp_path / "broken"
    end(start(whole, steps), 0, 0)

    ranks = start(folder, steps)
    wait_for_step(folder, 3, ranks)
    ranks[1].kill()
    killed = time.monotonic()
    said = end(ranks, 69, -signal.SIGKILL)
    assert time.monotonic() - killed < 60
    assert "rank 0: another rank has ended" in said[0]
    assert "Traceback" not in said[0]

    ranks = start(folder, steps, "--resume", "auto")
    wait_for_step(folder, 12, ranks)
    ranks[1].terminate()
    said = end(ranks, 75, 75)
    assert all(f"rank {rank}: SIGTERM: saved after step" in text for rank, text in enumerate(said))

    end(start(folder, steps, "--resume", "auto"), 0, 0)
    assert timeless(folder) == timeless(whole)
    model = Path("model") / "model.safetensors"
    assert (folder / model).read_bytes() == (whole / model).read_bytes()


def only_checkpoint(source: Path, folder: Path, step: int) -> Path:
    """A copy of a run that has only the checkpoint of ``step``."""
    shutil.copytree(source, folder)
    for path in (folder / "checkpoints").iterdir():
        if path.name != f"step_{step:06d}":
            shutil.rmtree(path)
    return folder


@pytest.mark.slow
def test_one_rank_goes_on_as_two_and_two_as_one(tmp_path: Path) -> None:
    def alone(folder: Path, resume: str | None = None) -> None:
        run_job(load_job(tmp_path / "job.yaml", [f"run.folder={folder}"]), resume)

    whole = tmp_path / "whole"
    alone(whole)
    as_two = only_checkpoint(whole, tmp_path / "as_two", 2)
    end(start(as_two, "--resume", "auto"), 0, 0)
    as_one = only_checkpoint(as_two, tmp_path / "as_one", 3)
    alone(as_one, "auto")
    losses = [[line["policy/loss"] for line in read_metrics(folder)[1:]] for folder in (whole, as_two, as_one)]
    assert len(set(losses[0])) == 4
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert losses[2] == pytest.approx(losses[0], abs=1e-5)


@pytest.mark.slow
def test_what_two_ranks_did_not_wait_for_survives_a_stop(tmp_path: Path) -> None:
    cut = "trainer.sampling={max_completion_tokens: 20, stop_token_ids: [40, 41, 42, 43, 44, 45, 46, 47, 48, 49]}"
    settings, whole = ("trainer.steps=5", "trainer.oversample=0.5", cut), tmp_path / "whole"
    end(start(whole, *settings), 0, 0)
    stopped = only_checkpoint(whole, tmp_path / "stopped", 3)
    state = torch.load(stopped / "checkpoints" / "step_000003" / "trainer.pt", weights_only=True)
    assert sum(bool(request["begun"]) for request in state["trainer"]["stragglers"]) == 2
    end(start(stopped, *settings, "--resume", "auto"), 0, 0)
    assert timeless(stopped) == timeless(whole)
    model = Path("model") / "model.safetensors"
    assert (stopped / model).read_bytes() == (whole / model).read_bytes()
    examples = [group["example_id"] for step in range(1, 6) for group in read_rollouts(whole, step)]
    assert len(examples) == len(set(examples)) == 5 * 4
    assert all(line["batch/older_token_fraction"] > 0 for line in read_metrics(whole)[2:])


@pytest.mark.slow
def test_two_ranks_sample_ahead_as_one_does(tmp_path: Path) -> None:
    """While both update, both draw: a rank whose policy strayed, or a batch in another order, would draw other tokens.
    Resumed, the run goes on to the last bit."""
    ahead = ("trainer.max_staleness=1", "trainer.updates_per_step=2", "trainer.steps=6")
    alone, whole = tmp_path / "alone", tmp_path / "whole"
    run_job(load_job(tmp_path / "job.yaml", [f"run.folder={alone}", *ahead]))
    end(start(whole, *ahead), 0, 0)
    losses = [[line["policy/loss"] for line in read_metrics(folder)[1:]] for folder in (alone, whole)]
    assert len(set(losses[0])) == 6
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    drawn = [[texts(folder, step) for step in range(1, 7)] for folder in (alone, whole)]
    assert drawn[0] == drawn[1]
    assert len(set(map(tuple, drawn[0]))) == 6
    again = only_checkpoint(whole, tmp_path / "again", 3)
    end(start(again, *ahead, "--resume", "auto"), 0, 0)
    assert timeless(again) == timeless(whole)
    model = Path("model") / "model.safetensors"
    assert (again / model).read_bytes() == (whole / model).read_bytes()


@pytest.mark.slow
def test_ranks_that_share_tokens_weigh_stale_ones_as_one_rank_does(tmp_path: Path) -> None:
    """In the update's own forward pass, whose log-probs each has gathered; no metric counts a token twice."""
    heads = "model.tiny={hidden_size: 64, intermediate_size: 64, layers: 1, heads: 2, key_value_heads: 1}"
    settings = ("trainer.max_staleness=1", "trainer.importance_cap=1.05", "trainer.entropy_coef=0.01", heads)
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    run_job(load_job(tmp_path / "job.yaml", [f"run.folder={alone}", *settings]))
    end(start(shared, *settings, "model.sequence_parallel=2"), 0, 0)
    one, two = (
        [{name: v for name, v in line.items() if name.startswith("policy/")} for line in read_metrics(folder)[1:]]
        for folder in (alone, shared)
    )
    assert [line["policy/importance_cut_fraction"] > 0.1 for line in one] == [False, True, True, True]
    for line, expected in zip(two, one, strict=True):
        assert line == pytest.approx(expected, abs=1e-5)


def texts(folder: Path, step: int) -> list[str]:
    return [rollout["text"] for group in read_rollouts(folder, step) for rollout in group["rollouts"]]


@pytest.mark.slow
def test_ranks_with_different_jobs_do_not_start(tmp_path: Path) -> None:
    said = end(start(tmp_path / "run", last_rank=("trainer.steps=7",)), 2, 2)
    for text in said:
        assert "rank 1 has another job than rank 0: trainer.steps is 4 there and 7 here" in text
    assert not (tmp_path / "run").exists()


def test_ranks_with_different_code_do_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = load_job(tmp_path / "job.yaml", [f"run.folder={tmp_path / 'run'}"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("posttrain.training.accelerator.make_accelerator", lambda *_, **__: None)
    monkeypatch.setattr(
        "posttrain.training.accelerator.gather_lists", lambda _, own: [*own, (own[0][0], own[0][1][::-1])]
    )
    with pytest.raises(JobError, match="rank 1 runs other code of posttrain than rank 0"):
        check_ranks_agree(job)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    def run(folder: str, *overrides: str, resume: str | None = None) -> None:
        settings = ["trainer.steps=1", "data.eval_size=1", f"run.folder={tmp_path / folder}", *overrides]
        run_job(load_job(tmp_path / "job.yaml", settings), resume)

    run("first", "model.lora={rank: 2, target_modules: [q_proj]}")
    checkpoint = str(tmp_path / "first" / "checkpoints" / "step_000001")
    with pytest.raises(CheckpointError, match=r"q_proj\.base_layer\.weight is 32x32 there and missing here"):
        run("modules", "model.lora={rank: 2, target_modules: [v_proj]}", resume=checkpoint)
    with pytest.raises(CheckpointError, match=r"of another model: .* is 2x32 there and 4x32 here, and 1 more"):
        run("rank", "model.lora={rank: 4, target_modules: [q_proj]}", resume=checkpoint)
    assert not list((tmp_path / "rank").glob("checkpoints/*"))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.batch_size=9", "9 rows cannot be shared evenly by 4 ranks; take 8 or 12 rows, or 3 ranks"),
        ("model.sequence_parallel=2", "model.sequence_parallel: sft runs in TRL's loop, which cannot share sequences"),
    ],
)
def test_what_the_ranks_of_trls_loop_cannot_share(
    override: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["method=sft", "reward=null", "trainer={batch_size: 8}", f"run.folder={tmp_path / 'run'}", override]
    job = load_job(tmp_path / "job.yaml", overrides)
    Accelerator(cpu=True)  # its state is of one process, whatever WORLD_SIZE says from here on
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 4)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setattr("posttrain.build.check_ranks_agree", lambda _: None)
    monkeypatch.setattr("posttrain.build.starting_model", lambda _: tmp_path)
    with pytest.raises(JobError, match=said):
        run_job(job)
