"""``posttrain init``: the job it writes is valid for every method, and what is missing is said."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from posttrain.cli.init import complete
from posttrain.errors import JobError
from posttrain.job import METHODS, load_job
from posttrain.starter.job_file import ON_ENVIRONMENTS, Wishes, default_reward, fields_read, guess_column, write_job

ROW = {"question": "2+3?", "answer": "5", "solution": "2+3 is 5", "chosen": "5", "rejected": "6", "prompt": "2+3?"}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(ROW | {"question": f"{n}+3?", "prompt": f"{n}+3?"}) + "\n" for n in range(20)))
    return path


def wishes_of(method: str, rows: Path) -> Wishes:
    wishes = Wishes(method, "a/model", str(rows), reward=default_reward(method))
    wishes.preferences, wishes.environment = str(rows), "vault"
    wishes.columns = {name: guess_column(name, list(ROW)) or "" for name in fields_read(method, wishes.reward)}
    return wishes


@pytest.mark.parametrize("method", METHODS)
def test_the_job_of_every_method_is_valid(method: str, rows: Path, tmp_path: Path) -> None:
    path = tmp_path / "first.yaml"
    path.write_text(write_job(wishes_of(method, rows), path))
    job: Any = load_job(path)
    assert (job.method, job.model.path, job.run.folder) == (method, "a/model", "runs/first")
    if method not in ON_ENVIRONMENTS:
        task = job.data.build()
        assert len(task.train_examples()) >= 19


def test_a_path_that_yaml_would_misread_is_quoted(rows: Path, tmp_path: Path) -> None:
    wishes = wishes_of("grpo", rows)
    wishes.model = "yes: #1"
    (tmp_path / "first.yaml").write_text(write_job(wishes, tmp_path / "first.yaml"))
    assert load_job(tmp_path / "first.yaml").model.path == "yes: #1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": None}, "--data is missing: data"),
        ({"columns": {"prompt": "prompt"}}, "--answer-column is missing: column with the answer .there are prompt."),
        ({"reward": "learned"}, "--reward-source is missing: the reward's model"),
        ({"method": "urpo", "preferences": None}, "--preferences is missing"),
    ],
)
def test_what_is_missing_is_said(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "bare.jsonl").write_text('{"prompt": "2+3?"}\n')
    wishes = wishes_of("grpo", tmp_path / "bare.jsonl")
    for name, value in changes.items():
        setattr(wishes, name, value)
    with pytest.raises(JobError, match=message):
        complete(wishes)


def test_an_unknown_method_is_said(tmp_path: Path) -> None:
    done = init("grop", "--output", str(tmp_path / "job.yaml"), stdin=subprocess.DEVNULL)
    assert (done.returncode, "there is no method 'grop'; choose one of agent_r" in done.stderr) == (2, True)


def init(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "posttrain", "init", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def test_flags_alone_write_a_checked_job(rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "job.yaml"
    done = init("grpo", "--model", "a/b", "--data", str(rows), "--output", str(output), stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert "grpo on 19 examples, 1 held out" in done.stdout
    assert f"posttrain train {output} --dry-run" in done.stdout
    again = init("grpo", "--model", "a/b", "--data", str(rows), "--output", str(output), stdin=subprocess.DEVNULL)
    assert (again.returncode, "is there already" in again.stderr) == (2, True)


def test_a_bad_column_leaves_no_job_behind(rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "job.yaml"
    arguments = ["grpo", "--data", str(rows), "--answer-column", "anwser", "--output", str(output)]
    done = init(*arguments, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert "no column 'anwser'" in done.stderr
    assert not output.exists()


def test_a_person_is_asked_for_what_is_not_given(rows: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    output = tmp_path / "job.yaml"
    os.write(ours, f"a/b\n{rows}\n\n\n".encode())
    done = init("grpo", "--output", str(output), stdin=theirs)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 0, done.stderr
    job: Any = load_job(output)
    assert job.model.path == "a/b"
    assert job.data.columns == {"prompt": "prompt", "answer": "answer"}
