"""The model card: what it says is what the run folder says, and nothing is uploaded from a run without a model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from posttrain.errors import JobError
from posttrain.job import load_job
from posttrain.report.model_card import model_card, write_model_folder

JOB = """\
method: grpo
model: {path: Qwen/Qwen2.5-0.5B-Instruct}
data: {type: rows, path: openai/gsm8k, columns: {prompt: question}}
reward: {type: math_answer}
run: {folder: run, seed: 7}
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "model").mkdir(parents=True)
    (tmp_path / "job.yaml").write_text(JOB)
    (folder / "job.yaml").write_text(load_job(tmp_path / "job.yaml").to_yaml())
    (folder / "model" / "config.json").write_text("{}")
    (folder / "model" / "model.safetensors").write_bytes(b"weights")
    environment = {
        "posttrain": "0.1.0", "command": "posttrain train job.yaml", "git_revision": "abc", "accelerators": [],
        "cpu_cores": 2, "packages": {"torch": "2.13.0", "trl": "1.16.0"},
    }  # fmt: skip
    (folder / "environment.json").write_text(json.dumps(environment))
    lines = [{"step": 0, "eval/accuracy": 0.25}, {"step": 1, "policy/loss": 1.0}, {"step": 2, "eval/accuracy": 0.5}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_it_says_how_the_model_was_made(run: Path) -> None:
    card = ModelCard(model_card(run, "me/better"))
    data = card.data.to_dict()
    assert data["base_model"] == "Qwen/Qwen2.5-0.5B-Instruct"
    assert data["datasets"] == "openai/gsm8k"
    assert data["tags"] == ["posttrain", "grpo"]
    for words in ("arXiv 2402.03300", "for 2 steps", "`math_answer`", "seed | 7", "torch 2.13.0, trl 1.16.0",
                  "| `eval/accuracy` | 0.250 | 0.500 |", "on 2 CPU cores", 'from_pretrained("me/better")'):  # fmt: skip
        assert words in card.text
    shown = card.text.split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(shown) == yaml.safe_load((run / "job.yaml").read_text())


def test_a_local_model_and_a_run_without_evaluation(run: Path) -> None:
    text = (run / "job.yaml").read_text().replace("Qwen/Qwen2.5-0.5B-Instruct", "./models/mine")
    (run / "job.yaml").write_text(text.replace("openai/gsm8k", "data/rows.jsonl"))
    (run / "metrics.jsonl").write_text('{"step": 1, "policy/loss": 1.0}\n')
    card = ModelCard(model_card(run, "me/better"))
    assert {"base_model", "datasets"}.isdisjoint(card.data.to_dict())
    assert "The run was not evaluated." in card.text


def test_the_folder_is_what_would_be_uploaded(run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "posttrain", "push", str(run), "me/better", "--folder", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    with pytest.raises(JobError, match="is there already"):
        write_model_folder(run, "me/better", tmp_path / "out")


def test_without_a_connection_the_reason_is_said(run: Path) -> None:
    command = [sys.executable, "-m", "posttrain", "push", str(run), "me/better"]
    done = subprocess.run(
        command, env={"HF_HUB_OFFLINE": "1", "PATH": "", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "error: me/better was not uploaded" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_no_finished_run_is_refused(run: Path, tmp_path: Path) -> None:
    (run / "model" / "config.json").unlink()
    with pytest.raises(JobError, match="has no finished model"):
        model_card(run, "me/better")
    with pytest.raises(JobError, match="is not a run folder"):
        model_card(tmp_path / "nothing", "me/better")
