"""Jobs: every section checked, impossible combinations refused, and a resolved job that gives the same job back."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.config import Config
from posttrain.errors import JobError
from posttrain.job import METHODS, Job, load_job, trainer_class
from posttrain.rollout.config import TransformersEngineConfig
from posttrain.trainers.grpo_config import GRPOConfig
from posttrain.trainers.oreal_config import OREALConfig
from posttrain.trainers.sft_config import SFTConfig

RECIPES = sorted((Path(__file__).parents[1] / "recipes").rglob("*.yaml"))
JOBS = [path for path in RECIPES if "method:" in path.read_text() and "arms:" not in path.read_text()]
JOB = """\
method: oreal
model:
  tiny: {layers: 2}
data:
  type: arithmetic
trainer:
  steps: 20
  learning_rate: 1e-4
  sampling: {max_completion_tokens: 16}
run:
  folder: runs/first
"""


class TabularConfig(Config):
    """Of ``TabularTrainer``."""

    temperature: float = 1.0


class TabularTrainer:
    """A user's own method, as a job names it."""

    config_class = TabularConfig


class Unconfigured:
    """Not a trainer."""


def job_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return path


def message(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(JobError) as caught:
        load_job(job_file(tmp_path, text), overrides)
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_sections_become_the_components_configs(tmp_path: Path) -> None:
    job = load_job(job_file(tmp_path, JOB), ["trainer.learning_rate=1e-6", "run.seed=7"])
    assert isinstance(job.trainer, OREALConfig)
    assert (job.trainer.learning_rate, job.trainer.steps, job.run.seed) == (1e-6, 20, 7)
    assert job.engine == TransformersEngineConfig()
    assert job.reward is None


def test_the_method_chooses_the_trainers_keys(tmp_path: Path) -> None:
    text = JOB.replace("oreal", "grpo")
    assert isinstance(load_job(job_file(tmp_path, text)).trainer, GRPOConfig)
    assert "trainer.pair_selection: unknown key" in message(tmp_path, text, "trainer.pair_selection=all")


def test_a_trainer_section_may_be_left_out(tmp_path: Path) -> None:
    text = "method: sft\nmodel: {path: some/model}\ndata: {type: arithmetic}"
    assert load_job(job_file(tmp_path, text)).trainer == SFTConfig()


def test_a_method_of_ones_own_brings_its_config(tmp_path: Path) -> None:
    method = f"{__name__}:TabularTrainer"
    text = f"method: {method}\nmodel: {{path: a/b}}\ndata: {{type: arithmetic}}\ntrainer: {{temperature: 2}}"
    job = load_job(job_file(tmp_path, text))
    assert job.trainer == TabularConfig(temperature=2)
    assert trainer_class(job.method) is TabularTrainer
    assert "trainer.heat: unknown key" in message(tmp_path, text, "trainer.heat=1")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_trainer_with_that_config(method: str) -> None:
    assert trainer_class(method).config_class is METHODS[method][0]


@pytest.mark.parametrize("path", JOBS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_recipes_are_valid_jobs(path: Path) -> None:
    load_job(path)


@pytest.mark.parametrize("path", JOBS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_resolved_job_is_the_same_job(path: Path, tmp_path: Path) -> None:
    job = load_job(path)
    again = load_job(job_file(tmp_path, job.to_yaml()))
    assert again == job
    assert again.to_yaml() == job.to_yaml()


@settings(max_examples=30, deadline=None)
@given(
    learning_rate=st.floats(min_value=1e-12, max_value=1.0),
    seed=st.integers(min_value=0, max_value=2**63),
    folder=st.text(min_size=1, max_size=20),
    betas=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_any_value_survives_the_resolved_job(
    tmp_path_factory: pytest.TempPathFactory, learning_rate: float, seed: int, folder: str, betas: tuple[float, float]
) -> None:
    job = Job[GRPOConfig].model_validate(
        {
            "method": "grpo",
            "model": {"path": folder},
            "data": {"type": "arithmetic"},
            "trainer": {"learning_rate": learning_rate, "betas": betas},
            "run": {"folder": folder, "seed": seed},
        }
    )
    path = tmp_path_factory.mktemp("resolved") / "job.yaml"
    path.write_text(job.to_yaml(), encoding="utf-8")
    assert load_job(path) == job


@pytest.mark.parametrize(
    ("change", "overrides", "expected"),
    [
        (
            ("", ""),
            ("trainer.larning_rate=1",),
            "override 'trainer.larning_rate=1': trainer.larning_rate: unknown key; did",
        ),
        (("steps: 20", "stepps: 20"), (), "job.yaml:7: trainer.stepps: unknown key; did you mean steps?"),
        (("run:", "runn:"), (), "job.yaml:10: runn: unknown key; did you mean run?"),
        (("steps: 20", "steps: many"), (), "job.yaml:7: trainer.steps: input should be a valid integer"),
        (
            ("steps: 20", "steps: 0"),
            (),
            "job.yaml:7: trainer.steps: input should be greater than or equal to 1, but it is 0",
        ),
        (
            ("method: oreal", "method: orel"),
            (),
            "job.yaml:1: method: 'orel' is not a choice; did you mean oreal?",
        ),
        (
            ("method: oreal\n", ""),
            (),
            f"job.yaml: method: missing (known: {', '.join(METHODS)}, package.module:Name of your own",
        ),
        (
            ("method: oreal", "method: nowhere:Trainer"),
            (),
            "job.yaml:1: method: should name a trainer class with a config_cl",
        ),
        (
            ("type: arithmetic", "type: arithmetics"),
            (),
            "job.yaml:5: data.type: 'arithmetics' is not a choice; did you mean ",
        ),
        (
            ("tiny: {layers: 2}", "tiny: {layers: 2}\n  path: a/b"),
            (),
            "job.yaml:2: model: give exactly one of path (a folder",
        ),
        (
            ("", ""),
            ("trainer.rollouts_per_prompt=1",),
            "override 'trainer.rollouts_per_prompt=1': trainer.rollouts_per_promp",
        ),
        (
            ("", ""),
            ("run.trackers=[tensorbord]",),
            "override 'run.trackers=[tensorbord]': run.trackers.0: 'tensorbord' is not",
        ),
    ],
)
def test_mistakes_name_file_line_and_key(
    tmp_path: Path, change: tuple[str, str], overrides: tuple[str, ...], expected: str
) -> None:
    assert message(tmp_path, JOB.replace(*change), *overrides).startswith(expected)


def test_a_class_without_config_is_no_method(tmp_path: Path) -> None:
    text = JOB.replace("oreal", f"{__name__}:Unconfigured")
    assert "has no attribute 'config_class'" in message(tmp_path, text)


@pytest.mark.parametrize("method", ["oreal", "grpo"])
def test_a_method_that_compares_rollouts_needs_a_group(tmp_path: Path, method: str) -> None:
    text = JOB.replace("oreal", method).replace("steps: 20", "rollouts_per_prompt: 1")
    expected = r"job\.yaml:7: trainer\.rollouts_per_prompt: rollouts_per_prompt must be at least 2: \w+ compares"
    assert re.match(expected, message(tmp_path, text))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ("trainer.sampling.max_completion_tokens=1024",),
            "override 'trainer.sampling.max_completion_tokens=1024': trainer.sampling.max_completion_tokens: "
            "trainer.sampling.max_completion_tokens (1024) leaves no room for a prompt: model.tiny.max_length is 1024",
        ),
        (
            ("run.warm_start_folder=w",),
            "override 'run.warm_start_folder=w': run.warm_start_folder: run.warm_start_folder keeps",
        ),
        (
            ("model.attention=flash_attention_2",),
            "override 'model.attention=flash_attention_2': model.attention: model.att",
        ),
        (
            ("method=sft", "trainer={}", "warm_start={}"),
            "override 'warm_start={}': warm_start: warm_start is for methods that",
        ),
        (
            ("method=sft", "trainer={}", "reward={type: math_answer}"),
            "override 'reward={type: math_answer}': reward: reward is not used by method sft",
        ),
    ],
)
def test_impossible_combinations_are_refused(tmp_path: Path, overrides: tuple[str, ...], expected: str) -> None:
    assert message(tmp_path, JOB, *overrides).startswith(expected)


def test_config_classes_check_assignments_too(tmp_path: Path) -> None:
    job: Any = load_job(job_file(tmp_path, JOB))
    with pytest.raises(ValueError, match="greater than 0"):
        job.trainer.learning_rate = -1.0
