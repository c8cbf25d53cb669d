"""Reward-model training: TRL's loss is ours, lambda 0 is plain Bradley-Terry, draws and resume are exact, it learns."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from posttrain.data.chat import EncodedText, PromptEncoder, fitted
from posttrain.errors import DataError, Interrupted
from posttrain.job import load_job
from posttrain.objectives.preference import bradley_terry_loss, contrastive_loss, goal_state
from posttrain.planning import make_plan
from posttrain.trainers.preference_rows import Pair, contrastive_draws, preference_pairs
from posttrain.trainers.reward_model import RewardModelTrainer
from posttrain.trainers.reward_model_config import RewardModelConfig
from posttrain.trainers.trl_session import Session
from posttrain.training.memory import Launch
from posttrain.training.model_config import LoRAConfig, ModelConfig
from posttrain.training.run_config import RunConfig
from posttrain.training.run_log import read_metrics
from posttrain.types import Example

CONTRASTIVE = {"coefficient": 0.5, "temperature": 0.7, "samples": 3}


def examples(count: int = 24, offset: int = 0) -> list[Example]:
    """Polite answers are better than rude ones."""
    return [
        Example(
            id=f"e{number}",
            prompt=[{"role": "user", "content": "Hello" + "?" * (number % 5)}],
            candidates=["thank you" + "." * (number % 3), "go away" + "!" * (number % 4)],
            task="preference",
            metadata={"margin": 0.1 * (number % 3), "topic": "even" if number % 2 == 0 else "odd"},
        )
        for number in range(offset, offset + count)
    ]


def make_trainer(model: Path, folder: Path, seed: int = 0, lora: bool = False, **config: Any) -> RewardModelTrainer:
    settings = {"steps": 4, "batch_size": 8, "learning_rate": 1e-3} | config
    return RewardModelTrainer(
        model,
        RewardModelConfig(**settings),
        train_dataset=examples(),
        eval_dataset=examples(8, offset=100),
        model_config=ModelConfig(path=str(model), lora=LoRAConfig(rank=4, alpha=8.0) if lora else None),
        run=RunConfig(folder=str(folder), seed=seed),
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForSequenceClassification.from_pretrained(folder).state_dict()


def assert_equal_weights(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], tolerance: float = 0) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert (value - theirs[name]).abs().max() <= tolerance, name


def test_first_loss_is_the_objectives(tiny_model_folder: Path, tmp_path: Path) -> None:
    """One step's loss through TRL, padded and cut into micro-batches, against the pure functions row by row."""
    trainer = make_trainer(
        tiny_model_folder,
        tmp_path,
        steps=1,
        centring=0.01,
        contrastive=CONTRASTIVE,
        tokens_per_micro_batch=120,
    )
    model = trainer.model.eval()
    total = 0.0
    for index in trainer.order:
        pair = trainer.train_pairs.rows[index]
        with torch.no_grad():
            chosen, rejected = (
                model(torch.tensor([side.ids]), output_hidden_states=True) for side in (pair.chosen, pair.rejected)
            )
        loss = bradley_terry_loss(chosen.logits[0, 0], rejected.logits[0, 0], pair.margin, 0.01)
        h_w, h_l = chosen.hidden_states[-1][0], rejected.hidden_states[-1][0]
        for source, future, other in contrastive_draws(pair, 3, f"0/0/{index}"):
            loss = loss + 0.5 / 3 * contrastive_loss(h_w[source], h_w[future], h_l[other], 0.7)
        total += loss.item()
    trainer.train()
    first = next(line for line in read_metrics(tmp_path) if line["step"] == 1)
    assert first["reward_model/loss"] == pytest.approx(total / 8, rel=1e-5)
    assert first["batch/trained_tokens"] == sum(trainer.train_pairs.rows[index].tokens for index in trainer.order)


def test_lambda_zero_is_plain_bradley_terry_to_the_bit(tiny_model_folder: Path, tmp_path: Path) -> None:
    plain = make_trainer(tiny_model_folder, tmp_path / "plain").train()
    zero = make_trainer(tiny_model_folder, tmp_path / "zero", contrastive=CONTRASTIVE | {"coefficient": 0.0}).train()
    half = make_trainer(tiny_model_folder, tmp_path / "half", contrastive=CONTRASTIVE).train()
    assert_equal_weights(weights(zero.model_folder), weights(plain.model_folder))
    with pytest.raises(AssertionError):
        assert_equal_weights(weights(half.model_folder), weights(plain.model_folder))


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_same_seed_same_model_however_the_batch_is_cut(tiny_model_folder: Path, tmp_path: Path, lora: bool) -> None:
    whole, again, cut, other = (
        weights(
            make_trainer(tiny_model_folder, tmp_path / name, lora=lora, contrastive=CONTRASTIVE, **more)
            .train()
            .model_folder
        )
        for name, more in {
            "whole": {},
            "again": {},
            "cut": {"tokens_per_micro_batch": 60},
            "other": {"seed": 1},
        }.items()
    )
    assert_equal_weights(again, whole)
    # Adam divides by the gradient's size: rounding of a near-zero gradient moves a weight by up to the learning rate
    assert_equal_weights(cut, whole, tolerance=4e-3 if lora else 1e-3)
    with pytest.raises(AssertionError):
        assert_equal_weights(other, whole)


def test_it_learns_and_its_scores_mean_something(tiny_model_folder: Path, tmp_path: Path) -> None:
    summary = make_trainer(tiny_model_folder, tmp_path, steps=40, eval_every=20, goal_key="topic").train()
    assert summary.last["eval/accuracy"] == 1.0
    assert summary.last["eval/loss"] < 0.5 * summary.first["eval/loss"]
    assert [line["step"] for line in read_metrics(tmp_path) if "eval/accuracy" in line] == [0, 20, 40]
    tokenizer = AutoTokenizer.from_pretrained(summary.model_folder)
    model = AutoModelForSequenceClassification.from_pretrained(summary.model_folder)
    assert (model.config.num_labels, model.config.pad_token_id) == (1, tokenizer.pad_token_id)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert sum(scores["scores"]["counts"]["chosen"]) == sum(count for count, _, _ in scores["reliability"]) == 8
    page = summary.report.read_text()
    assert "Scores of held-out pairs" in page and "<svg viewBox" in page


def test_goal_states_are_those_of_the_preferred(tiny_model_folder: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_model_folder, tmp_path, goal_key="topic")
    folder = trainer.train().model_folder
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    states: dict[str, list[torch.Tensor]] = {"preferred": [], "even": [], "odd": []}
    for pair in trainer.train_pairs.rows:
        with torch.no_grad():
            state = model(torch.tensor([pair.chosen.ids]), output_hidden_states=True).hidden_states[-1][0, -1]
        for name in ("preferred", pair.example.metadata["topic"]):
            states[name].append(state)
    goals = load_file(folder / "goal_states.safetensors")
    assert goals.keys() == states.keys()
    for name, found in states.items():
        assert torch.allclose(goals[name], goal_state(torch.stack(found)), atol=1e-6), name


def test_a_stopped_run_goes_on_bit_for_bit(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"steps": 6, "save_every": 2, "eval_every": 2, "contrastive": CONTRASTIVE}
    whole = make_trainer(tiny_model_folder, tmp_path / "whole", **settings).train()
    begin = Session.on_step_begin

    def begin_and_stop(self: Session, args: object, state: Any, control: object, **kwargs: object) -> None:
        begin(self, args, state, control, **kwargs)
        if state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "on_step_begin", begin_and_stop)
        with pytest.raises(Interrupted, match="after step 3"):
            make_trainer(tiny_model_folder, tmp_path / "parts", **settings).train()
    parts = make_trainer(tiny_model_folder, tmp_path / "parts", **settings).train(resume="auto")
    assert_equal_weights(weights(parts.model_folder), weights(whole.model_folder))
    assert parts.first == {name: value for name, value in whole.first.items() if "time" not in name}


def test_draws_are_uniform_over_what_they_may_be() -> None:
    pair = preference_like(chosen=(3, 4), rejected=(2, 3))
    drawn = [tuple(draw) for number in range(400) for draw in contrastive_draws(pair, 2, f"0/{number}")]
    later = {(s, u) for s, u, _ in drawn}
    assert later == {(s, u) for s in range(3, 7) for u in range(s + 1, 7)}
    assert {v for _, _, v in drawn} == {2, 3, 4}
    share = sum(s == 3 for s, _, _ in drawn) / len(drawn)
    assert abs(share - 1 / 3) < 4 * (2 / 9 / len(drawn)) ** 0.5
    assert contrastive_draws(pair, 2, "0/7") == contrastive_draws(pair, 2, "0/7")


def test_a_completion_of_one_token_is_its_own_future() -> None:
    assert contrastive_draws(preference_like(chosen=(3, 1), rejected=(2, 1)), 1, "x") == [[3, 3, 2]]


def preference_like(chosen: tuple[int, int], rejected: tuple[int, int]) -> Pair:
    sides = [EncodedText([0] * (start + length), start, 0) for start, length in (chosen, rejected)]
    return Pair(Example(id="x", prompt="p"), sides[0], sides[1], 0.0)


def test_long_prompts_lose_their_beginning_and_long_completions_are_left_out(tiny_model_folder: Path) -> None:
    assert fitted([1, 2, 3, 4, 5], 3, 4) == EncodedText([2, 3, 4, 5], 2, truncated_tokens=1)
    assert fitted([1, 2, 3, 4, 5], 3, 5) == EncodedText([1, 2, 3, 4, 5], 3, truncated_tokens=0)
    assert fitted([1, 2, 3, 4, 5], 1, 4) is None and fitted([1, 2, 3], 0, 2) is None
    assert fitted([1, 2], 0, 2) == EncodedText([1, 2], 0, truncated_tokens=0)
    encoder = PromptEncoder(AutoTokenizer.from_pretrained(tiny_model_folder))
    long = Example(id="long", prompt="ab", candidates=["c" * 30, "d"])
    truncated = Example(id="truncated", prompt="a" * 30, candidates=["c", "d"])
    pairs = preference_pairs([long, truncated, examples(1)[0]], encoder, max_length=25)
    assert (len(pairs.rows), pairs.left_out, pairs.truncated) == (2, 1, 1)
    assert len(pairs.rows[0].chosen.ids) == 25


def test_every_two_of_a_ranking_are_a_pair(tiny_model_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    pairs = preference_pairs([Example(id="r", prompt="p", candidates=["a", "b", "c"])], PromptEncoder(tokenizer), 64)
    texts = [(tokenizer.decode(p.chosen.ids[1:2]), tokenizer.decode(p.rejected.ids[1:2])) for p in pairs.rows]
    assert texts == [("a", "b"), ("a", "c"), ("b", "c")]


def test_examples_without_candidates_are_named(tiny_model_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    with pytest.raises(DataError, match="'bare' has no two ranked candidates"):
        preference_pairs([Example(id="bare", prompt="p")], PromptEncoder(tokenizer), 64)


def test_equal_sides_teach_nothing_in_expectation() -> None:
    """Where preferred and dispreferred texts are the same, exchanging the sides turns the gradient around."""
    rng = random.Random(0)
    rewards = torch.tensor([rng.gauss(0, 1) for _ in range(6)], dtype=torch.float64, requires_grad=True)
    (bradley_terry_loss(rewards, rewards).sum()).backward()
    assert rewards.grad is not None
    assert rewards.grad.abs().max() == 0


ROOT = Path(__file__).parents[2]
JOBS = [*sorted((ROOT / "reward_models").glob("*-train.yaml")), *sorted((ROOT / "recipes/reward_model").glob("*.yaml"))]


@pytest.mark.parametrize("file", JOBS, ids=lambda path: path.name)
def test_jobs_that_people_copy_are_sound(file: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": example.prompt, "chosen": example.candidates[0], "rejected": "no"} for example in examples()]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = [f"data.path={pairs}"] if "type: preference" in file.read_text() else []
    if "Qwen" in file.read_text():
        overrides.append(f"model.path={tiny_model_folder}")
    plan = make_plan(load_job(file, overrides), Launch.of_environment())
    assert any(name == "pairs" and " 0 are too long" in value for name, value in plan.sections["Data"])


@pytest.mark.slow
def test_two_ranks_train_the_same_model(tmp_path: Path) -> None:
    launchers = {"one": [], "two": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]}
    found = {}
    for name, launcher in launchers.items():
        job = [str(ROOT / "recipes/reward_model/goal_conditioned.yaml"), f"run.folder={tmp_path / name}"]
        settings = ["trainer.steps=6", "trainer.eval_every=3", "data.problems.train_size=200"]
        command = [sys.executable, *launcher, "-m", "posttrain", "train", *job, *settings]
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
        finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        found[name] = [line for line in read_metrics(tmp_path / name) if "eval/loss" in line]
        found[name].append(load_file(tmp_path / name / "model" / "goal_states.safetensors"))
    for ours, theirs in zip(*(lines[:-1] for lines in found.values()), strict=True):
        assert ours["eval/loss"] == pytest.approx(theirs["eval/loss"], abs=1e-6)
        assert ours.get("reward_model/contrastive_loss", 0) == pytest.approx(
            theirs.get("reward_model/contrastive_loss", 0), abs=1e-5
        )
    assert torch.allclose(found["one"][-1]["preferred"], found["two"][-1]["preferred"], atol=1e-5)
