"""The command as a person meets it: in a process of its own, by its output and exit status."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from posttrain.cli.compare import repeat_option

ROOT = Path(__file__).parents[1]
JOB = """\
method: grpo
model:
  tiny: {hidden_size: 32, intermediate_size: 64, layers: 1, heads: 1, key_value_heads: 1, max_length: 64}
data: {type: arithmetic, max_operand: 9, train_size: 40, eval_size: 4}
trainer:
  steps: 2
  prompts_per_step: 2
  rollouts_per_prompt: 4
  tokens_per_micro_batch: 256
  eval_rollouts: 1
  sampling: {max_completion_tokens: 8}
run: {folder: run}
"""
OWN_REWARD = '''\
from posttrain.rewards.reward import RewardOutput


class Short:
    """Likes short completions."""

    def score(self, inputs):
        return [RewardOutput(1.0 / (1 + len(item.completion))) for item in inputs]

    def close(self):
        pass
'''


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "posttrain", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


def test_help_lists_the_commands_that_exist(tmp_path: Path) -> None:
    status, out, _ = run(tmp_path, "--help")
    assert status == 0
    listed = [line.split()[0] for line in out.partition("Commands:")[2].splitlines() if line.strip()]
    expected = "train plan eval report runs score check-reward serve compare push init doctor recipes data"
    assert " ".join(listed) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "jb.yaml"], "error: jb.yaml: no such file; did you mean job.yaml?\n"),
        (
            ["train", "job.yaml", "trainer.stps=3"],
            "error: override 'trainer.stps=3': trainer.stps: unknown key; did you",
        ),
        (["train", "job.yaml", "steps"], "error: override 'steps': should be key.path=value"),
        (
            ["train", "job.yaml", "data.max_operand=1", "--dry-run"],
            "error: data.train_size: asked for 40 different problems",
        ),
        (
            ["train", "job.yaml", "run.trackers=[trackio]"],
            "error: run.trackers: trackio is not installed: pip install track",
        ),
        (["eval"], "error: posttrain eval takes a suite (SUITE.yaml) or two results (--compare A B)\n"),
        (["eval", "--compare", ".", "job.yaml"], "error: . holds no result of posttrain eval: result.json cannot be"),
        (["report", "job.yaml"], "error: job.yaml is not a run folder: it has no metrics.jsonl\n"),
        (["runs", "nowhere"], "error: nowhere is not a folder\n"),
        (["runs", "."], "error: . holds no run: runs are written where run.folder of their jobs says\n"),
    ],
)
def test_a_mistake_is_one_message_and_status_2(folder: Path, arguments: list[str], message: str) -> None:
    status, _, err = run(folder, *arguments)
    assert status == 2
    assert err.startswith(message)
    assert "Traceback" not in err
    assert not (folder / "run").exists()


def test_a_dry_run_writes_nothing(folder: Path) -> None:
    status, out, err = run(folder, "train", "job.yaml", "--dry-run")
    assert (status, err) == (0, "")
    assert out.endswith("Nothing was trained or written.\n")
    assert [path.name for path in folder.iterdir()] == ["job.yaml"]


@pytest.mark.slow
def test_a_job_trains_once_goes_on_and_is_not_overwritten(folder: Path) -> None:
    (folder / "my_rewards.py").write_text(OWN_REWARD)
    own = ["train", "job.yaml", "reward={type: my_rewards:Short}"]
    status, out, err = run(folder, *own)
    assert status == 0, err
    assert len((folder / "run" / "metrics.jsonl").read_text().splitlines()) >= 2
    assert (folder / "run" / "model" / "config.json").is_file()
    assert "run/report.html" in out

    status, _, err = run(folder, *own)
    assert status == 2
    assert err.startswith("error: run.folder: run holds a run of this job. Go on with it (--resume auto)")

    status, _, err = run(folder, "train", "job.yaml", "--resume", "auto")
    assert status == 2
    assert "run holds another job: " in err and "reward.type is my_rewards:Short there and not set here" in err

    status, _, err = run(folder, "train", "run/job.yaml", "--resume", "auto")
    assert status == 0, err

    status, out, err = run(folder, "report", "run")
    assert (status, out) == (0, "run/report.html\n"), err

    status, _, err = run(folder, "runs", "run")
    assert (status, err) == (2, "error: run is itself a run: name the folder around it, or see posttrain report run\n")
    status, out, err = run(folder, "runs", ".")
    assert (status, out) == (0, "runs.html\n"), err


@pytest.mark.slow
def test_sigterm_saves_and_exits_with_status_75(folder: Path) -> None:
    process = start(folder, "train", "job.yaml", "trainer.steps=100000")
    metrics = folder / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.is_file() and len(metrics.read_text().splitlines()) > 2):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert "go on with --resume auto" in err
    assert any((folder / "run" / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["a.yaml", "--seeds", "4", "5", "--output", "d"], ["a.yaml", "--seeds", "4", "--seeds", "5", "--output", "d"]),
        (["--seeds", "4", "a.yaml", "5"], ["--seeds", "4", "a.yaml", "5"]),
        (["a.yaml", "--seeds"], ["a.yaml", "--seeds"]),
        (["--seeds", "4", "--seeds", "5", "6"], ["--seeds", "4", "--seeds", "5", "--seeds", "6"]),
    ],
)
def test_several_seeds_follow_one_option(arguments: list[str], expected: list[str]) -> None:
    assert repeat_option(arguments, "--seeds") == expected
