"""The dry run: what it prints, what it refuses, and that it leaves nothing behind."""

import re
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import DataError, JobError, RewardFailure, UserError
from posttrain.job import Job, load_job
from posttrain.planning import human_bytes, make_plan, print_plan
from posttrain.training.memory import Launch

JOB = """\
method: oreal
model:
  tiny: {hidden_size: 64, intermediate_size: 128, layers: 2, heads: 2, max_length: 256}
data: {type: arithmetic, train_size: 100, eval_size: 20}
trainer:
  steps: 5
  prompts_per_step: 8
  rollouts_per_prompt: 4
  tokens_per_micro_batch: 64
  policy_freeze_steps: 1
  sampling: {max_completion_tokens: 10}
run: {folder: runs/planned}
"""


class Broken:
    """A user's own reward with a mistake in it."""

    def score(self, inputs: list[Any]) -> list[Any]:
        return [1 / 0 for _ in inputs]

    def close(self) -> None:
        pass


def load(tmp_path: Path, *overrides: str) -> Job[Any]:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return load_job(path, overrides)


def lines_of(job: Job[Any], section: str, launch: Launch | None = None) -> dict[str, str]:
    plan = make_plan(job, launch or Launch())
    return dict(next(lines for title, lines in plan.sections.items() if title.startswith(section)))


def test_the_printed_plan_fits_80_columns_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = load(tmp_path)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    print_plan(job)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    for title in ("Model", "Data", "Reward on one example", "Batch", "Memory on each rank"):
        assert f"\n{title}" in f"\n{printed}"
    assert printed.endswith("The job is sound. Nothing was trained or written.\n")
    assert list((tmp_path / "empty").iterdir()) == []


def test_the_batch_arithmetic_is_that_of_the_ranks(tmp_path: Path) -> None:
    job = load(tmp_path)
    alone = lines_of(job, "Batch")
    assert alone["rollouts per step"] == "8 prompts x 4 rollouts = 32"
    longest = int(re.search(r"to (\d+) tokens", lines_of(job, "Data")["training examples"]).group(1))  # type: ignore[union-attr]
    assert alone["on each rank"] == f"8 prompts, 32 rollouts, at most {32 * (longest + 10):,} tokens"
    shared = lines_of(job, "Batch", Launch(ranks=3, ranks_per_node=3))
    assert shared["on each rank"].startswith("3 prompts, 12 rollouts, ")
    assert shared["optimizer updates"] == "5 steps x 1 = 5"


def test_expected_pairs_follow_the_formula(tmp_path: Path) -> None:
    """1 - p^K - (1-p)^K of the prompts, K = 16: .5599, .9719, .99997."""
    job = load(tmp_path, "trainer.rollouts_per_prompt=16", "trainer.prompts_per_step=1000")
    line = lines_of(job, "Batch")["prompts with a pair"]
    assert line == "559.9 at 5%, 971.9 at 20%, 1000.0 at 50%, 971.9 at 80%, 559.9 at 95% pass rate"


def test_the_reward_judges_the_demonstration(tmp_path: Path) -> None:
    lines = lines_of(load(tmp_path), "Reward")
    assert lines["completion"].startswith("its demonstration: '")
    assert lines["score"] == "1"


def test_the_memory_of_oreal_is_two_trained_models_and_a_frozen_one(tmp_path: Path) -> None:
    both = lines_of(load(tmp_path), "Memory")
    assert both["policy and optimizer"] == both["token reward model"] == "1.59 MB"
    assert both["reference model"] == "397 kB"
    bare = lines_of(load(tmp_path, "trainer.token_weighting=none", "trainer.kl_coef=0"), "Memory")
    assert not bare.keys() & {"reference model", "token reward model"}
    shared = lines_of(load(tmp_path, "trainer.token_reward_model={sharing: lora_on_reference, lora_rank: 2}"), "Memory")
    assert shared["token reward model"].endswith("kB")


@pytest.mark.parametrize("penalty", ["kl_coef", "chi2_coef", "entropy_coef"])
def test_a_divergence_needs_memory_for_its_reference(tmp_path: Path, penalty: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB.replace("oreal", "grpo").replace("policy_freeze_steps: 1", f"{penalty}: 0.1"))
    assert ("reference model" in lines_of(load_job(path), "Memory")) == (penalty != "entropy_coef")


def test_the_deepspeed_estimate_is_deepspeeds(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed", reason="the extra posttrain[deepspeed] is not installed")
    lines = lines_of(load(tmp_path), "Memory", Launch(2, 2, zero_stage=2))
    assert lines["DeepSpeed's estimate"].startswith("ZeRO-2, policy only: 1.09 MB a rank")  # (2 + 18 / 2) bytes each


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("trainer.kl_reference=old",), "trainer.kl_reference: old has no gradient"),
        (
            ("trainer.policy_freeze_steps=0",),
            "trainer.policy_freeze_steps: 0 starts the policy on a token reward model",
        ),
        (("trainer.policy_freeze_steps=5",), "the policy is frozen for 5 steps and there are 5: it never learns"),
        (("data.train_size=6",), "a step samples 8 prompts and there are 6: some come twice"),
    ],
)
def test_settings_that_are_rarely_meant_are_warned_of(
    tmp_path: Path, overrides: tuple[str, ...], expected: str
) -> None:
    assert make_plan(load(tmp_path), Launch()).warnings == []
    (warning,) = make_plan(load(tmp_path, *overrides), Launch()).warnings
    assert warning.startswith(expected)


def test_a_supervised_job_has_demonstrations_and_no_rollouts(tmp_path: Path) -> None:
    plan = make_plan(load(tmp_path, "method=sft", "trainer={steps: 5, batch_size: 40}"), Launch())
    assert [title.split()[0] for title in plan.sections] == ["Model", "Data", "Memory"]
    line = dict(plan.sections["Data"])["demonstrations"]
    assert re.fullmatch(r"100, with their prompts \d+ to \d+ tokens; 5 steps of 40 see each 2 times", line)


def refused(job: Job[Any], kind: type[UserError], launch: Launch | None = None) -> str:
    with pytest.raises(kind) as caught:
        make_plan(job, launch or Launch())
    return str(caught.value)


def test_a_prompt_longer_than_the_context_is_refused(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "short", "prompt": "1+1="}\n{"id": "long", "prompt": "%s"}\n' % ("1+" * 200))
    job = load(tmp_path, f"data={{type: rows, path: {rows}}}", "reward={type: math_answer}")
    assert re.match(r"the prompt of example 'long' has \d+ tokens, more than the 246", refused(job, DataError))


def test_a_completion_that_fills_a_models_context_is_refused(tmp_path: Path, tiny_model_folder: Path) -> None:
    job = load(tmp_path, f"model={{path: {tiny_model_folder}}}", "trainer.sampling.max_completion_tokens=256")
    assert refused(job, JobError) == (
        "trainer.sampling.max_completion_tokens (256) leaves no room for a prompt: the model's context is 256 tokens"
    )


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "nowhere"
    message = refused(load(tmp_path, f"model={{path: {folder}}}"), JobError)
    assert message.startswith(f"model.path: cannot load '{folder}'")


def test_missing_data_is_refused(tmp_path: Path) -> None:
    job = load(tmp_path, f"data={{type: gsm8k, path: {tmp_path}/nothing.jsonl}}")
    assert "nothing.jsonl" in refused(job, DataError)


def test_a_warm_start_needs_demonstrations(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "first", "prompt": "1+1=", "answer": "2"}\n')
    job = load(tmp_path, f"data={{type: rows, path: {rows}}}", "reward={type: math_answer}", "warm_start={steps: 1}")
    assert refused(job, DataError).startswith("example 'first' has no demonstration")


def test_data_without_a_judgement_needs_a_reward(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "1+1="}\n')
    assert refused(load(tmp_path, f"data={{type: rows, path: {rows}}}"), JobError).startswith(
        "reward: data of this type"
    )


def test_a_reward_that_raises_is_refused_before_anything_runs(tmp_path: Path) -> None:
    job = load(tmp_path, f"reward={{type: {__name__}:Broken}}")
    assert re.match(
        r"Broken raised ZeroDivisionError: division by zero \(at .*\), scoring example", refused(job, RewardFailure)
    )


def test_fewer_prompts_than_ranks_are_refused(tmp_path: Path) -> None:
    message = refused(load(tmp_path), JobError, Launch(16, 8))
    assert message == (
        "trainer.prompts_per_step (8) is less than the 16 ranks, and some would have no prompt: take at least 16 "
        "prompts, or at most 8 ranks"
    )


@pytest.mark.parametrize(
    ("size", "text"),
    [(12, "12 B"), (999, "999 B"), (1000, "1 kB"), (1.5e9, "1.5 GB"), (2.59e11, "259 GB"), (5e12, "5 TB")],
)
def test_sizes_are_readable(size: float, text: str) -> None:
    assert human_bytes(size) == text


def test_an_open_group_that_does_not_fit_in_one_question_is_warned_of(tmp_path: Path) -> None:
    settings = "trainer={steps: 5, prompts_per_step: 8, sampling: {max_completion_tokens: 8}, %s}"
    job = ("method=urpo", "data={type: addition_referee, problems: {min_operand: 10, train_size: 40, eval_size: 4}}")
    fits = load(tmp_path, *job, settings % "referee_max_completion_tokens: 12, referee_candidate_tokens: 4")
    assert make_plan(fits, Launch()).warnings == []
    (warning,) = make_plan(load(tmp_path, *job, settings % "referee_max_completion_tokens: 190"), Launch()).warnings
    assert warning.startswith("a referee's question with 8 answers of 8 tokens and its reply need 260 tokens")


AGENT_R = """\
method: agent_r
model:
  tiny: {hidden_size: 64, intermediate_size: 128, layers: 2, heads: 2, max_length: 512}
data:
  type: environment
  environment: {type: vault, max_steps: 12}
  train_tasks: 10
  eval_tasks: 2
  max_turn_tokens: 30
  workers: 1
trainer:
  steps: 2
  prompts_per_step: 7
  search: {iterations: 5, children: 4, max_depth: 20}
  reflection: {max_pairs_per_task: 3}
  updates_per_step: 2
  minibatches_per_step: 3
  sampling: {max_completion_tokens: 200}
"""


def test_the_arithmetic_of_a_search(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(AGENT_R)
    lines = lines_of(load_job(path), "Batch", Launch(2, 2))
    assert lines["trees"] == "7 an iteration, 4 on each rank"
    assert lines["expansions, at most"] == "5 walks x 12 turns = 60 of a tree"  # the episode ends before the depth
    assert lines["environment steps, at most"] == (
        f"420 expansions x 4 children = 1,680, and {7 * 3 * 13} in revisions, an iteration"
    )
    assert lines["tokens sampled, at most"] == "50,400 in the search of an iteration"
    assert lines["judgements, at most"] == "252 of 256 tokens"
    assert lines["sequences trained, at most"] == "7 x (3 revisions + 3 good ways) = 42 an iteration"
    assert lines["optimizer updates"] == "2 iterations x 6 = 12"
    recovering = load_job(path, ["trainer.reflection={on_replay_failure: recover, recovery_tries: 2, judge: oracle}"])
    lines = lines_of(recovering, "Batch")
    assert f"and {7 * 8 * (13 + 2 * 12):,} in revisions" in lines["environment steps, at most"]
    assert "judgements, at most" not in lines
    general = "trainer.general={type: arithmetic}"
    lines = lines_of(load_job(path, [general, "trainer.train_on=good_only"]), "Batch")
    assert lines["sequences trained, at most"] == (
        "7 x (0 revisions + 3 good ways) / 0.2 for the general data = 105 an iteration"
    )


def test_a_search_needs_an_environment(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(AGENT_R)
    job = load_job(path, ["data={type: arithmetic, train_size: 10, eval_size: 2}"])
    assert refused(job, JobError).startswith("agent_r searches an environment")
