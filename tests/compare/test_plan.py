"""Comparison files: what they ask for, and what is wrong with them."""

from pathlib import Path

import pytest

from posttrain.compare.expectation import Expectation
from posttrain.compare.plan import arm_job, load_comparison, overrides, plan_runs
from posttrain.errors import JobError
from posttrain.rewards.reward import RewardInput
from posttrain.types import Example

JOB = """
method: oreal
model: {tiny: {layers: 1}}
data: {type: arithmetic}
reward: {type: math_answer}
trainer: {steps: 20, sampling: {max_completion_tokens: 16}}
warm_start: {steps: 3}
"""
COMPARISON = """
job: jobs/job.yaml
seeds: [1, 2]
budget: {kind: rollouts, value: 100}
arms:
  first: {}
  second: {trainer: {learning_rate: 0.5, sampling: {temperature: 0.7}}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "job.yaml").write_text(JOB)
    (tmp_path / "comparison.yaml").write_text(COMPARISON)
    return tmp_path / "comparison.yaml"


def test_runs_in_order(path: Path) -> None:
    runs = plan_runs(load_comparison(path, output=Path("out")), ["train"])
    assert [(run.arm, run.seed) for run in runs] == [("first", 1), ("second", 1), ("first", 2), ("second", 2)]
    assert runs[3].command == (
        *("train", "out/seed-2/second/job.yaml"),
        *('run.folder="out/seed-2/second"', "--resume", "auto"),
    )
    assert runs[3].folder == Path("out/seed-2/second")


def test_a_shared_warm_start_comes_first(path: Path) -> None:
    path.write_text(COMPARISON + "shared: [warm_start]\n")
    comparison = load_comparison(path, [7], Path("out"))
    runs = plan_runs(comparison, ["train"])
    assert [run.name for run in runs] == ["warm start, seed 7", "first, seed 7", "second, seed 7"]
    assert "method: sft" in runs[0].job_yaml
    assert arm_job(comparison, "second", 7, Path("out/seed-7")).run.warm_start_folder == "out/seed-7/warm_start"


def test_arms_differ_in_what_they_say_only(path: Path) -> None:
    comparison = load_comparison(path)
    first, second = (arm_job(comparison, arm, 1, Path("out")) for arm in ("first", "second"))
    assert second.trainer.learning_rate == 0.5
    assert second.trainer.sampling.temperature == 0.7
    assert second.trainer.sampling.max_completion_tokens == 16
    changed = {"learning_rate": 0.5, "sampling": second.trainer.sampling}
    assert first.trainer.model_copy(update=changed) == second.trainer
    assert (first.run.seed, first.run.folder) == (1, "out/first")


def test_a_budget_of_steps_sets_them(path: Path) -> None:
    path.write_text(COMPARISON.replace("kind: rollouts, value: 100", "kind: steps, value: 12"))
    assert arm_job(load_comparison(path), "first", 1, Path("out")).trainer.steps == 12


def test_an_arm_may_have_a_job_of_its_own(path: Path) -> None:
    (path.parent / "jobs" / "sft.yaml").write_text(
        "method: sft\nmodel: {path: x}\ndata: {type: arithmetic}\ntrainer: {steps: 3}\n"
    )
    arm = '  sft: {job: jobs/sft.yaml, model.path: "{folder}/first/model"}\nown_budget: [sft]\n'
    path.write_text(COMPARISON.replace("kind: rollouts", "kind: steps") + arm)
    comparison = load_comparison(path, [7], Path("out"))
    job = arm_job(comparison, "sft", 7, Path("out/seed-7"))
    assert (job.method, job.model.path, job.trainer.steps) == ("sft", "out/seed-7/first/model", 3)
    assert arm_job(comparison, "first", 7, Path("out/seed-7")).trainer.steps == 100
    path.write_text(COMPARISON + "own_budget: [third]\n")
    with pytest.raises(JobError, match=r"own_budget: there is no arm 'third' \(arms: first, second\)"):
        load_comparison(path)


def test_a_run_needs_the_runs_that_it_starts_from(path: Path) -> None:
    third = '  third: {model: {path: "{folder}/second/model", tiny: null}, warm_start: null}\n'
    early = 'arms:\n  early: {trainer.token_reward_model.model: "{folder}/third/model"}\n'
    path.write_text(COMPARISON.replace("arms:\n", early) + third + "shared: [warm_start]\n")
    runs = plan_runs(load_comparison(path, [3], Path("out")))
    assert {run.arm: [folder.name for folder in run.needs] for run in runs} == {
        "warm_start": [],
        "early": ["warm_start"],  # third comes later: a run cannot wait for it
        "first": ["warm_start"],
        "second": ["warm_start"],
        "third": ["second"],
    }


def test_metrics(path: Path) -> None:
    assert load_comparison(path).config.metrics == ["eval/accuracy"]
    path.write_text(COMPARISON + "metrics: [eval/length_mean, eval/accuracy]\n")
    config = load_comparison(path).config
    assert (config.metric, config.metrics) == ("eval/length_mean", ["eval/length_mean", "eval/accuracy"])
    path.write_text(COMPARISON + "metrics: [eval/length_mean]\nmetric: eval/accuracy\n")
    with pytest.raises(JobError, match="metrics: the first, eval/length_mean, is the main one: drop `metric: eval/acc"):
        load_comparison(path)


def test_a_budget_of_tokens_stops_the_run(path: Path) -> None:
    path.write_text(COMPARISON.replace("kind: rollouts", "kind: training_tokens"))
    assert arm_job(load_comparison(path), "first", 1, Path("out")).trainer.max_trained_tokens == 100


def test_overrides() -> None:
    changes = {
        "trainer": {"a": 1e-6, "b": {"c": None}},
        "trainer.d": "yes: no",
        "reward": {"type": "math_answer", "x": [1, 2]},
    }
    assert dict(overrides(changes)) == {
        "trainer.a": "1e-06",
        "trainer.b.c": "null",
        "trainer.d": '"yes: no"',
        "reward": '{"type": "math_answer", "x": [1, 2]}',
    }


def test_files_may_start_from_others(path: Path, tmp_path: Path) -> None:
    (tmp_path / "short").mkdir()
    short = tmp_path / "short" / "gate.yaml"
    short.write_text("base: ../comparison.yaml\nseeds: [9]\n")
    comparison = load_comparison(short)
    assert comparison.job_file.resolve() == (tmp_path / "jobs" / "job.yaml").resolve()
    assert comparison.config.seeds == [9]
    assert comparison.output == Path("runs/compare/short/gate")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seeds: [1, 2]", "seed: [1, 2]"), r"comparison.yaml:3: seed: unknown key; did you mean seeds\?"),
        (("learning_rate", "learning_rat"), r"arms.second: .*trainer.learning_rat.*did you mean learning_rate\?"),
        (("[1, 2]", "[1, 1]"), "seeds: should be different numbers from 0"),
        (("first:", "warm_start:"), "'warm_start' cannot name an arm"),
        (("first:", "../first:"), "'../first' cannot name an arm"),
        (("kind: rollouts", "kind: epochs"), "budget.kind: 'epochs' is not a choice"),
        (("jobs/job.yaml", "jobs/jop.yaml"), r"no such file; did you mean .*jobs/job.yaml"),
        (("arms:", "expect: [third end > 0]\narms:"), r"expect: .*there is no arm 'third' \(arms: first, second\)"),
        (("arms:", "expect: [first end = 0]\narms:"), "expect: 'first end = 0' is not of the form"),
    ],
)
def test_mistakes(path: Path, change: tuple[str, str], message: str) -> None:
    path.write_text(COMPARISON.replace(*change))
    with pytest.raises(JobError, match=message):
        plan_runs(load_comparison(path))


def test_arms_that_cannot_share_a_warm_start(path: Path) -> None:
    path.write_text(COMPARISON.replace("first: {}", "first: {warm_start.steps: 9}") + "shared: [warm_start]\n")
    with pytest.raises(JobError, match="second would be warm-started otherwise than first"):
        plan_runs(load_comparison(path))


# ---- expectations -------------------------------------------------------------------------------------------------

MEASURED = {
    "a": {"start": {1: 0.1, 2: 0.3}, "end": {1: 0.5, 2: 0.9}, "gain": {1: 0.4, 2: 0.6}, "seconds": {}},
    "b-c.d": {"start": {}, "end": {2: 0.6, 3: 0.0}, "gain": {}, "seconds": {}},
}


@pytest.mark.parametrize(
    ("text", "measured", "holds"),
    [
        ("a end >= 0.7", 0.7, True),
        ("a end > 0.7", 0.7, False),
        ("a start <= 0.25", 0.2, True),
        ("a gain < 5e-1", 0.5, False),
        ("a end > b-c.d end", 0.3, True),  # of seed 2, the only one that both have
        ("a end>b-c.d end + 0.35", 0.3, False),
        ("b-c.d end < a end - .2", -0.3, True),
        ("b-c.d end < a end - 0.4", -0.3, False),
        ("a seconds < 300", None, False),
    ],
)
def test_expectations(text: str, measured: float | None, holds: bool) -> None:
    expectation = Expectation.parse(text)
    assert expectation.measured(MEASURED) == (None if measured is None else pytest.approx(measured))
    assert expectation.holds(MEASURED) is holds


@pytest.mark.parametrize(
    "text", ["", "a end", "a end >= ", "a middle > 0", "a end > b", "a end > b end + c", "end > 0"]
)
def test_not_expectations(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not of the form `ARM MEASURE >= NUMBER`"):
        Expectation.parse(text)


def test_the_hacking_recipe_trains_on_a_proxy_and_grades_by_the_task() -> None:
    path = Path(__file__).parents[2] / "recipes/grpo/hacking.yaml"
    comparison = load_comparison(path)
    assert len(plan_runs(comparison)) == 3 * (1 + len(comparison.config.arms))
    for arm in comparison.config.arms:
        job = arm_job(comparison, arm, 1, Path("out"))
        item = RewardInput(Example("1", "2+3=", answer="5"), "9,9,9,5")
        assert [output.score for output in job.reward.build().score([item])] == [1 + 0.5 * 4]
        assert [output.score for output in job.data.build().reward().score([item])] == [1]


def test_all_methods_are_compared_on_the_same_held_out_problems_at_the_same_rollouts() -> None:
    comparison = load_comparison(Path(__file__).parents[2] / "recipes/compare/learning.yaml")
    config = comparison.config
    jobs = {arm: arm_job(comparison, arm, 1, Path("out")) for arm in config.arms}
    held_out = {
        arm: [
            (example.id, example.answer) for example in job.data.build().eval_examples() if example.task == "verifiable"
        ]
        for arm, job in jobs.items()
    }
    assert len(held_out["grpo"]) == 200
    assert all(problems == held_out["grpo"] for problems in held_out.values())
    for arm in config.arms.keys() - config.own_budget:
        trainer = jobs[arm].trainer
        assert trainer.steps * trainer.prompts_per_step * trainer.rollouts_per_prompt == config.budget.value
    assert jobs["agent_r"].trainer.search.children == jobs["agent_r"].trainer.rollouts_per_prompt
    job = jobs["bleuberi"]
    example = job.data.build().train_examples()[0]
    texts = (example.answer, example.demonstration[0], "x")
    bare, worked, wrong = (
        output.score for output in job.reward.build().score([RewardInput(example, t) for t in texts])
    )
    assert bare == 1 > max(worked, wrong) > 0  # smoothed: no answer is worth nothing
