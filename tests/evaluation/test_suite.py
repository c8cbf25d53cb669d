"""Suite files: those of the project load, and mistakes in one's own are told where they are."""

import json
import shutil
from pathlib import Path

import pytest

from posttrain.config_file import load_config
from posttrain.errors import JobError
from posttrain.evaluation.suite import SuiteConfig, model_folder

SUITES = sorted((Path(__file__).parents[2] / "eval" / "suites").glob("*.yaml"))


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_the_suites_of_the_project_load(path: Path) -> None:
    suite = load_config(SuiteConfig, path)
    assert suite.sets
    assert len(path.read_text().splitlines()) <= 50
    assert path.read_text().startswith("# ")


def test_all_kinds_of_suites_are_there() -> None:
    assert [path.stem for path in SUITES] == [
        "code", "environments", "instruction_following", "judge", "local", "math", "multiple_choice", "preference",
        "references",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("sets: {a: {task: {type: gsm9k, path: x}}}", "suite.yaml:1: sets.a.task.*gsm8k"),
        ("sets: {a: {tsk: {type: arithmetic}}}", "suite.yaml:1: sets.a.tsk: unknown key; did you mean task"),
        ("set: {a: {task: {type: arithmetic}}}", "suite.yaml:1: set: unknown key; did you mean sets"),
        ("sets: {}", "sets"),
        ("sets: {a: {task: {type: arithmetic}, rollouts: 4}}", "are all equal at sampling.temperature 0"),
        ("sets: {a: {task: {type: arithmetic}}}\nmodel: {}", "exactly one of path"),
        ("sets: {'a/b': {task: {type: arithmetic}}}", "sets"),
    ],
)
def test_mistakes_in_a_suite(tmp_path: Path, yaml: str, message: str) -> None:
    file = tmp_path / "suite.yaml"
    file.write_text(yaml)
    with pytest.raises(JobError, match=message):
        load_config(SuiteConfig, file)


def test_a_model_is_found_in_a_run(tmp_path: Path, tiny_model_folder: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "job.yaml").write_text("method: grpo\n")
    with pytest.raises(JobError, match=r"the run .*run has no model yet"):
        model_folder(str(run))
    shutil.copytree(tiny_model_folder, run / "model")
    assert model_folder(str(run)) == str(run / "model")
    assert model_folder(str(tiny_model_folder)) == str(tiny_model_folder)
    assert model_folder("owner/name") == "owner/name"


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="there is no folder"):
        model_folder(str(tmp_path / "absent"))
    with pytest.raises(JobError, match=r"neither a run nor a model: it has no config.json"):
        model_folder(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    with pytest.raises(JobError, match=r"has no tokenizer; copy tokenizer\*"):
        model_folder(str(tmp_path))
