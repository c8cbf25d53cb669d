"""GRPO on episodes of an environment: what is trained, what an environment may cost, and what a job may say."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from posttrain.build import build_trainer, run_job, starting_model
from posttrain.errors import DataError, JobError
from posttrain.job import Job, load_job
from posttrain.planning import make_plan
from posttrain.training.memory import Launch
from posttrain.training.run_log import read_metrics, read_rollouts
from posttrain.types import Origin, Rollout, RolloutGroup

JOB = """
method: grpo
model:
  tiny: {hidden_size: 32, intermediate_size: 64, layers: 1, heads: 1, key_value_heads: 1, max_length: 64}
data:
  type: environment
  environment: {type: "letters_environment:Letters"}
  workers: 1
  train_tasks: [a, b, c]
  eval_tasks: [f]
  max_turn_tokens: 4
trainer:
  steps: 2
  prompts_per_step: 3
  rollouts_per_prompt: 6
  tokens_per_micro_batch: 128
  learning_rate: 1e-2
  eval_rollouts: 2
  max_error_fraction: 0.5
  sampling: {max_completion_tokens: 30}
"""
NUMBERS = {1.0: 1.3053097494, 0.0: -0.7831858496, 0.5: 0.2610619499}  # advantages in a group of 1, 0, 0, 0.5


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)


def load(folder: Path, *overrides: str) -> Job[Any]:
    (folder / "job.yaml").write_text(JOB)
    return load_job(folder / "job.yaml", [f"run.folder={folder}/run", *overrides])


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[Any]:
    job = load(tmp_path)
    trainer = build_trainer(job, starting_model(job))
    yield trainer
    trainer.close()


def test_advantages_are_on_the_turns_and_observations_are_masked(trainer: Any) -> None:
    groups = trainer.collect(trainer.sampler.next(3))
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    assert {rollout.finish_reason for rollout in rollouts} == {"stop"}
    assert all(rollout.reward in (0, 0.25, 0.5, 0.75, 1) for rollout in rollouts)
    assert len({rollout.reward for rollout in rollouts}) > 2
    four = groups[0].rollouts[:4]
    for rollout, reward in zip(four, (1.0, 0.0, 0.0, 0.5), strict=True):
        rollout.reward = reward
    for rollout, sample in zip(four, trainer.assign_credit([RolloutGroup(groups[0].example, four)]), strict=True):
        advantage, completion = NUMBERS[rollout.reward], sample.input_ids[len(rollout.prompt_ids) :]
        assert completion == rollout.completion_ids
        between = between_turns(trainer, rollout)
        for place, origin in enumerate(sample.origin[len(rollout.prompt_ids) :], start=len(rollout.prompt_ids)):
            sampled = place - len(rollout.prompt_ids) not in between
            assert origin is (Origin.POLICY if sampled else Origin.ENVIRONMENT)
            assert sample.trained[place] == int(sampled)
            assert sample.token_weights[place] == pytest.approx(advantage if sampled else 0.0, abs=1e-10)
        assert not any(sample.token_weights[: len(rollout.prompt_ids)])


def between_turns(trainer: Any, rollout: Rollout) -> range:
    """The places of the observation, found by its text: the only one, since there are two turns."""
    ids, tokenizer = rollout.completion_ids, trainer.engine.tokenizer
    observation = tokenizer.encode("<|user|>seen<|end|><|assistant|>")
    starts = [n for n in range(len(ids)) if ids[n : n + len(observation)] == observation]
    (start,) = starts
    turn_ended = ids[start - 1] == tokenizer.eos_token_id and start <= 4 and rollout.action_mask[start - 1]
    return range(start if turn_ended else start - 1, start + len(observation))


def test_a_dead_process_costs_rollouts_and_not_the_run(tmp_path: Path) -> None:
    run_job(load(tmp_path, "data.train_tasks=[deadly]", "trainer.prompts_per_step=1", "trainer.rollouts_per_prompt=12"))
    lost = 0
    for step in (1, 2):
        (group,) = read_rollouts(tmp_path / "run", step)
        scores = [rollout["reward"] for rollout in group["rollouts"]]
        lost += scores.count(None)
        assert len(set(scores) - {None}) > 1
    assert 0 < lost < 24
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [0, 1, 2]


def test_the_dry_run_tells_of_episodes(tmp_path: Path) -> None:
    plan = make_plan(load(tmp_path), Launch())
    assert plan.sections["Episodes"] == [
        ("environment", "letters_environment:Letters: 1 processes, 30 s for a step"),
        ("tokens of an episode", "at most 30, with the observations"),
        ("tokens of a turn", "at most 4; 7 such turns fill an episode"),
    ]
    assert "Reward on one example" not in plan.sections
    assert dict(plan.sections["Batch"])["on each rank"] == "3 prompts, 18 rollouts, at most 630 tokens"  # of 5 + 30


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.max_turn_tokens=31", r"data.max_turn_tokens \(31\) is more than .*max_completion_tokens \(30\)"),
        ("data.environment={type: vault, locks: 0}", "data.environment.locks: .*greater than or equal to 1"),
        ("data.environment={type: vault, lock: 2}", "data.environment.lock: .*did you mean locks"),
        ("data.environment={type: valut}", "'valut' is not a choice.*vault"),
        (
            "data.environment={type: http, url: 'http://x', dialect: webshop, train: [0, 9], held_out: [8, 9]}",
            "overlap",
        ),
        ("data.train_tasks=0", "data.train_tasks: "),
        ("data.workers=0", "data.workers: .*greater than or equal to 1"),
        ("data.worker=1", "data.worker: unknown key; did you mean workers?"),
    ],
)
def test_a_job_with_a_mistake_is_refused_by_its_key(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        load(tmp_path, override)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("data.train_tasks=[a, x]", "data.environment: task 'x' does not begin: KeyError: 'x'"),
        ("data.eval_tasks=[vault/1]", "data.environment: task 'vault/1' does not begin"),
        ("data.train_tasks=[]", "data.train_tasks: there is no task to train on"),
    ],
)
def test_tasks_that_are_not_there_are_named_before_anything_runs(tmp_path: Path, tasks: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_plan(load(tmp_path, tasks), Launch())
