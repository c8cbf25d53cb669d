"""The page on own methods, rewards, tasks, environments and engines: what it shows runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from posttrain.training.run_log import read_metrics

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r'```(?:python|yaml) title="([\w.]+)"\n(.*?)```', re.DOTALL)
FILES = dict(BLOCK.findall((ROOT / "docs" / "extend.md").read_text()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def train(folder: Path, job: str, *overrides: str) -> str:
    command = [sys.executable, "-m", "posttrain", "train", job, *overrides]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_job_learns_with_own_parts(folder: Path) -> None:
    train(folder, "own.yaml", "trainer.save_every=15")
    rewards = [row["reward/mean"] for row in read_metrics(folder / "runs" / "own") if "reward/mean" in row]
    assert len(rewards) == 30
    assert sum(rewards[-5:]) > sum(rewards[:5]) + 0.5  # at random one character in 26 is a digit
    drawn = (folder / "drawn.txt").read_text().splitlines()
    versions = {line.split()[1] for line in drawn}
    assert {"0", "29"} <= versions
    (newest,) = sorted((folder / "runs" / "own" / "checkpoints").glob("*30"))
    expected = rewards[0]
    for reward in rewards:
        expected = 0.9 * expected + 0.1 * reward
    saved = torch.load(newest / "trainer.pt", weights_only=True)["trainer"]["baseline"]
    assert saved == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_grpo_trains_in_the_environment(folder: Path) -> None:
    text = (folder / "own.yaml").read_text()
    text = re.sub(r"(?m)^method: .*", "method: grpo", text)
    text = re.sub(r"(?m)^data: .*", 'data: {type: environment, environment: {type: "guess:Guess"}, train_tasks: 6, '
                  "eval_tasks: 2, max_turn_tokens: 12, workers: 1}", text)  # fmt: skip
    text = re.sub(r"(?m)^(reward|engine): .*\n", "", text)
    text = text.replace("max_length: 64", "max_length: 512").replace(
        "max_completion_tokens: 6", "max_completion_tokens: 400"
    )
    (folder / "game.yaml").write_text(text)
    train(folder, "game.yaml", "trainer.steps=1", "trainer.prompts_per_step=4", "trainer.max_empty_steps=5")
    assert (folder / "runs" / "own" / "report.html").is_file()


def test_the_method_is_about_sixty_lines() -> None:
    assert len(FILES["reinforce.py"].splitlines()) <= 60
    assert FILES.keys() == {"reinforce.py", "brevity.py", "doubling.py", "guess.py", "noted.py", "own.yaml"}
