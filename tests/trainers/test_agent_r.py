"""Agent-R end to end on a small vault: what is trained, what is kept, and what is said where nothing is found."""

import base64
import copy
import json
import logging
import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_dataset

from posttrain.build import build_trainer
from posttrain.compare.plan import load_comparison, plan_runs
from posttrain.data.tiny_model import TinyModelConfig, create_tiny_model
from posttrain.errors import JobError, TrainingDiverged
from posttrain.job import Job, load_job
from posttrain.report.searches import searches
from posttrain.trainers.agent_r import GENERAL, GOOD, AgentRTrainer
from posttrain.trainers.agent_r_config import AgentRConfig
from posttrain.trainers.sft_config import SFTConfig
from posttrain.training.packing import collate
from posttrain.training.run_log import read_metrics
from posttrain.types import Origin

WORDS = Path(__file__).parents[2] / "recipes" / "agent_r" / "words.txt"
VAULT = {"type": "vault", "locks": 1, "signs": 2, "keys": 2, "misleading": 0.5, "max_steps": 7}
DATA = {
    "type": "environment",
    "environment": VAULT,
    "train_tasks": 8,
    "eval_tasks": 4,
    "max_turn_tokens": 30,
    "workers": 1,
}
MODEL = TinyModelConfig(
    hidden_size=64, intermediate_size=128, layers=2, heads=2, key_value_heads=1, max_length=320,
    vocabulary="bpe", vocabulary_size=600, corpus_file=str(WORDS),
)  # fmt: skip


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cloned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that speaks the vault's language: it imitates solutions, half of them with a needless reset."""
    folder = tmp_path_factory.mktemp("cloned")
    data = {"type": "environment_demonstrations", "environment": {**VAULT, "spare_resets": 0.5}, "episodes": 60}
    job = Job[SFTConfig].model_validate(
        {
            "method": "sft",
            "model": {"tiny": MODEL.model_dump()},
            "data": data,
            "trainer": {"steps": 60, "batch_size": 32, "learning_rate": 5e-3},
            "run": {"folder": str(folder)},
        }
    )
    trainer = build_trainer(job, create_tiny_model(folder / "start", MODEL))
    trainer.train()
    return folder / "model"


@pytest.fixture
def job_of(cloned: Path, tmp_path: Path) -> Callable[..., Job[AgentRConfig]]:
    def load(folder: str = "run", data: dict[str, Any] | None = None, **keys: Any) -> Job[AgentRConfig]:
        reflection = {"alpha": [1.0], "judge": "oracle", "on_replay_failure": "recover", **keys.pop("reflection", {})}
        settings = {
            "steps": 1,
            "prompts_per_step": 6,
            "sampling": {"max_completion_tokens": 200},
            "search": {"iterations": 4, "children": 3, "max_depth": 7, "in_flight": 1},
            "learning_rate": 1e-3,
            "eval_rollouts": 1,
            "reflection": reflection,
            **keys,
        }
        return Job[AgentRConfig].model_validate(
            {
                "method": "agent_r",
                "model": {"path": str(cloned)},
                "data": data or DATA,
                "trainer": settings,
                "run": {"folder": str(tmp_path / folder)},
            }
        )

    return load


@pytest.fixture
def make(cloned: Path, job_of: Callable[..., Job[AgentRConfig]]) -> Iterator[Callable[..., AgentRTrainer]]:
    made: list[AgentRTrainer] = []

    def build(*arguments: Any, **keys: Any) -> AgentRTrainer:
        made.append(build_trainer(job_of(*arguments, **keys), cloned))
        return made[-1]

    yield build
    for trainer in made:
        trainer.close()


def rows_of(trainer: AgentRTrainer) -> list[dict[str, Any]]:
    return list(map(json.loads, (trainer.folder / "iterations" / "step_000000.jsonl").read_text().splitlines()))


def shown_ways(folder: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The trees of the run page, each with each of its ways."""
    trees = [json.loads(zlib.decompress(base64.b64decode(tree["data"]))) for tree in searches(folder)[0]["trees"]]
    return [(tree, way) for tree in trees for way in tree["ways"]]


def test_an_iteration_trains_on_revisions_and_good_ways(make: Callable[..., AgentRTrainer]) -> None:
    trainer = make(updates_per_step=2, minibatches_per_step=2)
    before = trainer.causal_lm.state_dict()["model.embed_tokens.weight"].clone()
    metrics, groups, samples = trainer.train_step()
    assert metrics["agent_r/pairs"] > 0
    kept = metrics["agent_r/spliced"] + metrics["agent_r/recovered"]
    assert kept > 0
    assert kept + metrics["agent_r/failed"] + metrics["agent_r/too_long"] == pytest.approx(1)
    assert 0 < metrics["agent_r/transition_q1"] <= metrics["agent_r/transition_q3"] <= 1
    assert 1 <= metrics["agent_r/children"] <= 3
    searched = sum(3 * sum(bool(node.children) for node in tree.nodes) for _, tree in trainer.trees.values())
    assert metrics["batch/environment_steps"] > searched
    assert metrics["policy/loss"] > 0
    assert not torch.equal(before, trainer.causal_lm.state_dict()["model.embed_tokens.weight"])
    assert {sample.objective for sample in samples} == {"revision", GOOD}
    by_id = {f"{r.request_id}/{r.index}": r for group in groups for r in group.rollouts}
    for sample in samples:
        of_origin = dict.fromkeys(Origin, 0)
        for origin, trained in zip(sample.origin, sample.trained, strict=True):
            of_origin[origin] += trained
        assert of_origin[Origin.ENVIRONMENT] == of_origin[Origin.PROMPT] == 0
        assert (of_origin[Origin.REVISION] > 0) == (sample.objective == "revision")
        assert sample.objective == "revision" or by_id[sample.id].reward == 1.0
    rows = rows_of(trainer)
    assert sorted(row["id"] for row in rows) == sorted(sample.id for sample in samples)
    assert len(
        load_dataset(
            "json",
            data_files=str(trainer.folder / "iterations" / "*.jsonl"),
            split="train",
            cache_dir=str(trainer.folder / "cache"),
        )
    ) == len(rows)
    for row in rows:
        assert row["reward"] == 1.0
        if row["objective"] == "revision":
            assert row["how"] in ("spliced", "recovered") and 1 <= row["bad_steps"] <= row["steps"]
            revised = [part for part in row["parts"] if part["origin"] == "revision"]
            assert len(revised) == 1 and revised[0]["trained"] and "Action: wait" in revised[0]["text"]
    ways = shown_ways(trainer.folder)
    assert sum("bad" in way for _, way in ways) == sum(row["objective"] == "revision" for row in rows) > 0
    for tree, way in ways:
        nodes = dict(zip(tree["kept"], tree["nodes"], strict=True))
        assert nodes[way["good"]][5] == 1.0
        if "bad" in way:  # the last turn before the revision is that of the node where the bad way is left
            before = "".join(way["tokens"][: way["origin"].index(int(Origin.REVISION))]).split("<|assistant|>")[-2]
            assert before.startswith(nodes[way["left"]][1]) and nodes[way["bad"]][5] < 1.0


@pytest.mark.parametrize("action", ["wait", "none"])
def test_a_recovered_sample_replays_to_its_score(make: Callable[..., AgentRTrainer], action: str) -> None:
    trainer = make(reflection={"revision_action": action, "recovery_tries": 8})
    trainer.assign_credit(trainer.collect(trainer.sampler.next(6)))
    rows = [row for row in rows_of(trainer) if row["objective"] == "revision"]
    assert any(row["how"] == "recovered" for row in rows)
    environment = trainer.environments.pool.config.environment.build()
    for row in rows:
        text = "".join(part["text"] for part in row["parts"])
        environment.reset(row["task"].removesuffix("/0"), 0)
        turns = [turn.partition("<|end|>")[0] for turn in text.split("<|assistant|>")[1:]]
        said = [turn.partition("<|user|>")[2].removesuffix("<|end|>") for turn in text.split("<|assistant|>")[1:-1]]
        results = [environment.step(turn) for turn in turns]
        assert results[-1].reward == 1.0
        assert [result.observation for result in results[:-1]] == said


def test_good_only_is_rejection_sampling(make: Callable[..., AgentRTrainer]) -> None:
    trainer = make(train_on="good_only")
    metrics, _, samples = trainer.train_step()
    assert {sample.objective for sample in samples} == {GOOD} and metrics["agent_r/pairs"] == 0
    assert make("other", train_on="revisions_only").train_step()[0]["agent_r/pairs"] > 0


def test_all_judgements_of_a_round_are_one_batch(
    make: Callable[..., AgentRTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(reflection={"judge": "self", "judgement_tokens": 4, "on_replay_failure": "drop"})
    groups = trainer.collect(trainer.sampler.next(6))
    inside, asked = trainer.environments.engine, []
    generate = inside.generate
    monkeypatch.setattr(inside, "generate", lambda requests: asked.append(requests) or generate(requests))
    monkeypatch.setattr(type(inside), "context_length", 4096)
    inside.model.config.max_position_embeddings = 4096
    trainer.assign_credit(groups)
    assert len(asked) == 1 and len({request.id for request in asked[0]}) == len(asked[0]) > 1
    prompt = trainer.encoder.text(asked[0][0].prompt_ids)
    assert "Lock 1" in prompt and "Judgement: good | bad | uncertain" in prompt
    # a policy of one sentence gives no verdict: every way is kept to its end, after which nothing can be spliced
    assert trainer.found["agent_r/judgements_without_verdict"] == len(asked[0])
    assert trainer.found["agent_r/transition_at_end"] == 1.0 == trainer.found["agent_r/failed"]


def test_the_loss_is_the_mean_of_each_source(make: Callable[..., AgentRTrainer], tmp_path: Path) -> None:
    rows = tmp_path / "general.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"Lock {n}", "demonstration": "It opens."}) + "\n" for n in range(3)))
    general = {"type": "rows", "path": str(rows), "columns": {"prompt": "prompt", "demonstration": "demonstration"}}
    trainer = make(general=general, agent_fraction=0.25)
    samples = trainer.assign_credit(trainer.collect(trainer.sampler.next(6)))
    sources = [sample.objective == GENERAL for sample in samples]
    assert sum(sources) == 3 * (len(sources) - sum(sources))
    few = [next(s for s in samples if s.objective == name) for name in ("revision", GOOD, GENERAL)]
    trainer.enter(trainer.minibatch(few))
    batch = collate(few)
    logprobs = -torch.arange(1.0, len(batch.targets) + 1)
    parts = (-logprobs).split(batch.trained_lengths.tolist())
    expected = 0.25 * torch.cat(parts[:2]).mean() + 0.75 * parts[2].mean()
    assert trainer.loss(logprobs, logprobs, batch).loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_run_that_died_goes_on_with_its_trees(
    make: Callable[..., AgentRTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make()
    examples = first.sampler.next(6)
    samples = first.assign_credit(first.collect(examples))
    files = sorted((first.folder / "trees").rglob("*.jsonl"))
    assert len(files) == 6
    again = make()
    with monkeypatch.context() as patched:
        refuse = lambda requests: pytest.fail("sampled again") if requests else None  # noqa: E731
        patched.setattr(again.environments.engine, "submit", refuse)
        restored = again.collect(examples)
    tokens = [(sample.id, sample.input_ids, sample.trained) for sample in again.assign_credit(restored)]
    assert tokens == [(sample.id, sample.input_ids, sample.trained) for sample in samples]


def test_no_pair_is_explained(make: Callable[..., AgentRTrainer], caplog: pytest.LogCaptureFixture) -> None:
    trainer = make(reflection={"beta": 1.0})
    with caplog.at_level(logging.WARNING):
        trainer.train_step()
    assert "no pair" in caplog.text and "of a good and a bad way. Of 6 tasks" in caplog.text
    with pytest.raises(TrainingDiverged, match=r"trainer\.reflection\.beta"):
        make("other", reflection={"beta": 1.0}, train_on="revisions_only").train_step()


def test_a_search_of_one_end_a_task_is_explained(make: Callable[..., AgentRTrainer]) -> None:
    search = {"iterations": 1, "children": 1, "max_depth": 7, "in_flight": 1}
    with pytest.raises(
        TrainingDiverged, match=r"and 6 have one end alone\. Where one end is all: more trainer\.search"
    ):
        make(search=search, train_on="revisions_only").train_step()


def test_from_the_base_an_iteration_is_the_first_of_a_new_run(make: Callable[..., AgentRTrainer]) -> None:
    def weights(trainer: AgentRTrainer) -> dict[str, torch.Tensor]:
        return copy.deepcopy(trainer.causal_lm.state_dict())

    restarted, fresh = make("base", restart_from="base", steps=2), make("fresh", steps=2)
    restarted.train_step()
    first = weights(restarted)
    _, _, samples = restarted.train_step()
    fresh.update_policy(samples)
    second = weights(restarted)
    assert all(torch.equal(value, second[name]) for name, value in weights(fresh).items())
    assert not torch.equal(first["model.embed_tokens.weight"], second["model.embed_tokens.weight"])
    restarted.before_update([])  # nothing to train on: the policy stays
    assert all(torch.equal(value, second[name]) for name, value in weights(restarted).items())


def test_two_ranks_find_what_one_finds(
    make: Callable[..., AgentRTrainer], job_of: Callable[..., Job[AgentRConfig]], tmp_path: Path
) -> None:
    alone, folder = make("alone", minibatches_per_step=2), tmp_path / "shared"
    alone.train()
    (tmp_path / "job.yaml").write_text(job_of("shared", minibatches_per_step=2).model_dump_json())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    finished = subprocess.run(
        [*command, "-m", "posttrain", "train", str(tmp_path / "job.yaml")],
        env={**os.environ, "ACCELERATE_USE_CPU": "true"}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert [len(list((folder / "trees" / "iteration_0").glob(f"rank{rank}/*.jsonl"))) for rank in (0, 1)] == [3, 3]
    rows = [(each / "iterations" / "step_000000.jsonl").read_text() for each in (alone.folder, folder)]
    assert rows[0] == rows[1] and rows[0].count('"objective": "revision"') > 0
    one, two = (next(m for m in read_metrics(each) if "policy/loss" in m) for each in (alone.folder, folder))
    found = {name: value for name, value in one.items() if name.startswith("agent_r/")}
    assert found["agent_r/pairs"] > 0 and found.items() <= two.items()
    assert two["policy/loss"] == pytest.approx(one["policy/loss"], rel=1e-4)


def test_alpha_follows_the_iteration(make: Callable[..., AgentRTrainer]) -> None:
    trainer = make(reflection={"alpha": [0.5, 0.7]})
    alphas = list[float]()
    for trainer.step in range(3):
        alphas.append(trainer.alpha)
    assert alphas == [0.5, 0.7, 0.7]


def test_evaluation_has_success_and_recovery(make: Callable[..., AgentRTrainer]) -> None:
    found = make().evaluate()
    assert {"eval/accuracy", "eval/success", "eval/recovery", "eval/steps", "eval/loops"} <= found.keys()
    assert "eval/recovery" not in make("other", data={**DATA, "mistakes": False}).evaluate()


def test_other_data_are_refused(make: Callable[..., AgentRTrainer]) -> None:
    with pytest.raises(JobError, match=r"data\.type"):
        make(data={"type": "arithmetic", "train_size": 10, "eval_size": 2})


def test_the_recipes_are_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(WORDS.parents[2])
    job = load_job(WORDS.with_name("quickstart.yaml"))
    assert job.method == "agent_r" and job.trainer.reflection.judge == "oracle"
    planned = [plan_runs(load_comparison(WORDS.with_name(name))) for name in ("learning.yaml", "ablation.yaml")]
    assert [run.arm for run in planned[0][:3]] == ["warm_start", "agent-r", "rejection-sampling"]
    assert [run.arm for run in planned[1][:2]] == ["warm_start", "good-ways-only"]
