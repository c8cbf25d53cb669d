"""BLEUBERI: its reward against BLEU worked out anew, GRPO as its limit, which rows it trains on, bad references."""

import json
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.data.selection import select_by_score
from posttrain.errors import DataError, TrainingDiverged
from posttrain.job import Job
from posttrain.rewards.references.bleu import BleuConfig
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.trainers.bleuberi import BLEUBERITrainer
from posttrain.trainers.bleuberi_config import BLEUBERIConfig
from posttrain.trainers.grpo import GRPOTrainer
from posttrain.trainers.grpo_config import GRPOConfig
from posttrain.training.run_config import RunConfig
from posttrain.training.run_log import read_metrics
from posttrain.types import Example, Rollout, RolloutGroup, Sampling

EXAMPLES = [Example(id=f"p{n}", prompt=f"say {n}", references=[f"{n} {n}", f"so {n}"]) for n in range(8)]
SETTINGS: dict[str, Any] = {
    "steps": 4,
    "prompts_per_step": 3,
    "rollouts_per_prompt": 4,
    "learning_rate": 1e-3,
    "eval_rollouts": 1,
    "sampling": Sampling(max_completion_tokens=8),
}


class Parity:
    """The parity of a completion's tokens, which varies even among an untrained model's; counts its calls."""

    def __init__(self) -> None:
        self.judged: list[str] = []

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        self.judged += [item.example.id for item in inputs]
        return [RewardOutput(float(sum(item.completion_ids) % 2)) for item in inputs]

    def close(self) -> None:
        pass


class Constant(Parity):
    """A tenth for every completion: a mean of three tenths is not exactly one."""

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return [RewardOutput(0.1) for _ in inputs]


def make(folder: Path, model: Path, examples: Sequence[Example] = EXAMPLES, reward: Any = None, **keys: Any) -> Any:
    components = {} if reward is None else {"reward": reward}
    return BLEUBERITrainer(
        model,
        BLEUBERIConfig.model_validate({**SETTINGS, **keys}),
        train_dataset=examples,
        run=RunConfig(folder=str(folder), seed=42),
        **components,
    )


def group(rewards: Sequence[float | None], texts: Sequence[str] | None = None) -> RolloutGroup:
    texts = texts or [""] * len(rewards)
    rollouts = [
        Rollout("r", i, [5], [6, 7], [1, 1], [-1.0, -1.0], "stop", 0, text, reward=reward)
        for i, (reward, text) in enumerate(zip(rewards, texts, strict=True))
    ]
    return RolloutGroup(EXAMPLES[0], rollouts)


# ---- reward -------------------------------------------------------------------------------------------------------


def smoothed_bleu(completion: str, references: Sequence[str]) -> float:
    """Words that white space separates; add-one at every order; the shortest reference sets the length."""
    words, logs = completion.split(), []
    for order in range(1, 5):
        grams, *wanted = (
            Counter(zip(*(text[start:] for start in range(order)), strict=False))
            for text in (words, *map(str.split, references))
        )
        most = Counter[tuple[str, ...]]()
        for counts in wanted:
            most |= counts
        logs.append(math.log(((grams & most).total() + 1) / (max(len(words) - order + 1, 0) + 1)))
    ratio = len(words) / min(len(text.split()) for text in references)
    return (1.0 if ratio > 1 else math.exp(1 - 1 / ratio)) * math.exp(math.fsum(logs) / 4)


def test_the_default_reward_of_a_group_is_smoothed_bleu(tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer = make(tmp_path, tiny_model_folder)
    example = replace(EXAMPLES[0], references=["the cat sat on the mat", "a cat is on the mat today"])
    texts = ["a cat sat on the mat", "cat", "the the the the the the the", "on the mat today a cat is sat"]
    outputs = trainer.reward.score([RewardInput(example, text) for text in texts])
    assert [output.score for output in outputs] == pytest.approx(
        [smoothed_bleu(text, example.references) for text in texts], abs=1e-12
    )
    assert outputs[1].score == pytest.approx(math.exp(-5))  # one word of six: only brevity holds it down
    assert trainer.grader is trainer.reward


def test_a_job_names_the_reward_or_gets_bleu() -> None:
    def job(**keys: Any) -> Job[BLEUBERIConfig]:
        model = {"tiny": {"max_length": 1024}}
        return Job[BLEUBERIConfig].model_validate(
            {"method": "bleuberi", "model": model, "data": {"type": "rewriting"}, **keys}
        )

    assert job().reward == job(reward=None).reward == BleuConfig()
    assert job(reward={"type": "rouge_l"}).reward.type == "rouge_l"


# ---- advantages ---------------------------------------------------------------------------------------------------


def test_advantages_by_hand(tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer = make(tmp_path, tiny_model_folder)
    samples = trainer.assign_credit([group([0.5, 0.3, 0.1, None])])
    assert [sample.token_weights[-1] for sample in samples] == pytest.approx([0.2 / 0.2001, 0, -0.2 / 0.2001], abs=1e-9)


def test_groups_of_little_spread_have_no_advantage(tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer = make(tmp_path, tiny_model_folder, min_reward_std=0.01, kl_coef=0.0)
    little, enough = [0.01, 0.02, 0.03], [0.01, 0.03, 0.05]  # standard deviations 0.01 and 0.02
    groups = [group(little), group(enough), group([0.1, 0.1, 0.1]), group([0.3, None, None])]
    samples = trainer.assign_credit(groups)
    weights = [sample.token_weights[-1] for sample in samples]
    assert weights == pytest.approx([0, 0, 0, -0.02 / 0.0201, 0, 0.02 / 0.0201, 0, 0, 0, 0], abs=1e-9)
    assert weights.count(0.0) == 8
    assert trainer.before_update(samples)[1] == {
        "bleuberi/low_spread_fraction": 0.75,
        "bleuberi/length_ratio": pytest.approx(2 / (3.5 + 1)),  # "0 0" and "so 0" have 3 and 4 tokens, and an end
    }


def test_without_selection_and_limit_it_is_grpo(tmp_path: Path, tiny_model_folder: Path) -> None:
    """Equal to the last bit, over two steps with their updates."""
    ours = make(tmp_path / "ours", tiny_model_folder, reward=Parity(), loss="grpo", warmup_steps=0)
    grpo = GRPOTrainer(
        tiny_model_folder,
        GRPOConfig.model_validate({**SETTINGS, "loss": "grpo", "kl_coef": 0.04, "max_grad_norm": 0.2}),
        reward=Parity(),
        train_dataset=EXAMPLES,
        run=RunConfig(folder=str(tmp_path / "grpo"), seed=42),
    )
    for trainer in (ours, grpo):
        trainer.sync()
    for _ in range(2):
        (mine, _, my_samples), (theirs, _, their_samples) = ours.train_step(), grpo.train_step()
        assert my_samples == their_samples
        assert any(any(sample.token_weights) for sample in my_samples)
        assert mine["policy/loss"] == theirs["policy/loss"]
    assert all(map(torch.equal, ours.causal_lm.parameters(), grpo.causal_lm.parameters()))
    assert isinstance(ours.config, GRPOConfig)


def test_steps_without_any_spread_train_nothing_and_end_the_run(tmp_path: Path, tiny_model_folder: Path) -> None:
    keys = {"rollouts_per_prompt": 3, "steps": 9, "max_empty_steps": 3, "log_rollouts_every": 0}
    trainer = make(tmp_path, tiny_model_folder, reward=Constant(), **keys)
    before = [weight.clone() for weight in trainer.causal_lm.parameters()]
    with pytest.raises(TrainingDiverged, match="nothing to learn from in 3 steps in a row"):
        trainer.train()
    assert all(map(torch.equal, before, trainer.causal_lm.parameters()))
    (_, *steps) = read_metrics(tmp_path)
    assert [line["step"] for line in steps] == [1, 2]
    assert [line["bleuberi/low_spread_fraction"] for line in steps] == [1.0, 1.0]
    assert [line["batch/samples"] for line in steps] == [0.0, 0.0]


# ---- selection ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["hard", "easy", "medium"])
def test_rows_are_selected_by_the_rewards_of_the_starting_policy(
    mode: Any, tmp_path: Path, tiny_model_folder: Path
) -> None:
    reward = Parity()
    keys = {"selection": mode, "selection_size": 3, "selection_rollouts": 4}
    trainer = make(tmp_path, tiny_model_folder, reward=reward, **keys)
    assert Counter(reward.judged) == {example.id: 4 for example in EXAMPLES}
    scores = trainer.pool_scores(EXAMPLES)
    assert len(set(scores.values())) > 2, "the rows must differ"
    expected = select_by_score(scores, mode, 3)
    rows = [json.loads(line) for line in (tmp_path / "selected.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [example.id for example in trainer.sampler.examples] == expected
    assert [row["score"] for row in rows] == [scores[name] for name in expected]
    by_id = {example.id: example for example in EXAMPLES}
    assert [(row["prompt"], row["references"]) for row in rows] == [
        (by_id[name].prompt, by_id[name].references) for name in expected
    ]


def test_random_rows_are_drawn_without_an_answer(tmp_path: Path, tiny_model_folder: Path) -> None:
    reward = Parity()
    trainer = make(tmp_path, tiny_model_folder, reward=reward, selection="random", selection_size=3)
    assert reward.judged == []
    expected = select_by_score({example.id: 0.0 for example in EXAMPLES}, "random", 3, seed=42)
    assert [example.id for example in trainer.sampler.examples] == expected
    lines = (tmp_path / "selected.jsonl").read_text().splitlines()
    assert [json.loads(line)["score"] for line in lines] == [None] * 3


def test_what_was_selected_is_read_and_not_selected_again(tmp_path: Path, tiny_model_folder: Path) -> None:
    keys: dict[str, Any] = {"selection": "hard", "selection_size": 3}
    first = make(tmp_path, tiny_model_folder, reward=Parity(), **keys)
    file, reward = tmp_path / "selected.jsonl", Parity()
    written = file.stat().st_mtime_ns
    again = make(tmp_path, tiny_model_folder, reward=reward, **keys)
    assert reward.judged == []
    assert again.sampler.examples == first.sampler.examples
    assert file.stat().st_mtime_ns == written
    with pytest.raises(DataError, match=r"selected\.jsonl names 'p\d', no training row"):
        make(tmp_path, tiny_model_folder, [replace(EXAMPLES[0], id="other")], reward=reward, **keys)


def test_rows_that_could_not_be_judged_are_not_selected(tmp_path: Path, tiny_model_folder: Path) -> None:
    class HalfBroken(Parity):
        def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
            broken = RewardOutput(None, error="timeout", message="too slow")
            return [broken if int(i.example.id[1:]) % 2 else RewardOutput(0.5) for i in inputs]

    trainer = make(tmp_path / "a", tiny_model_folder, reward=HalfBroken(), selection="hard", selection_size=4)
    assert sorted(example.id for example in trainer.sampler.examples) == ["p0", "p2", "p4", "p6"]
    with pytest.raises(DataError, match="5 rows are to be selected, and only 4 can be"):
        make(tmp_path / "b", tiny_model_folder, reward=HalfBroken(), selection="hard", selection_size=5)


# ---- what is refused, and warned of -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "chosen", "message"),
    [
        ({"references": []}, None, "example 'p1' has no references: give it some, or leave the row out"),
        ({"references": ["fine", " \n"]}, None, "reference 1 of example 'p1' is blank"),
        ({"references": ["only one"]}, [0, 1], r"example 'p1' has no reference 1 \(it has 1, counted from 0\)"),
        ({"references": ["", "fine"]}, [-1], "example 'p0' has no reference -1"),
        ({"id": "p0"}, None, "2 training examples have the id 'p0': ids must differ"),
    ],
)
def test_bad_rows_are_named(
    changed: dict[str, Any], chosen: list[int] | None, message: str, tmp_path: Path, tiny_model_folder: Path
) -> None:
    examples = [EXAMPLES[0], replace(EXAMPLES[1], **changed)]
    with pytest.raises(DataError, match=message):
        make(tmp_path, tiny_model_folder, examples, references=chosen)


def test_chosen_references_are_those_trained_on(tmp_path: Path, tiny_model_folder: Path) -> None:
    blank_first = [replace(example, references=["", *example.references]) for example in EXAMPLES]
    trainer = make(tmp_path, tiny_model_folder, blank_first, references=[2])
    assert [example.references for example in trainer.sampler.examples] == [[f"so {n}"] for n in range(8)]
    assert blank_first[0].references == ["", "0 0", "so 0"]


def test_references_that_teach_badly_are_warned_of(
    tmp_path: Path, tiny_model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    examples = [
        replace(EXAMPLES[0], references=["nine more", "12345678"]),  # of 8 tokens, one is too long
        replace(EXAMPLES[1], references=["same", "same "]),
        replace(EXAMPLES[2], prompt=[{"role": "user", "content": "say 2 here"}], references=["say 2"]),
    ]
    with caplog.at_level(logging.WARNING, logger="posttrain.trainers.references"):
        make(tmp_path / "a", tiny_model_folder, examples)
    assert [record.getMessage() for record in caplog.records] == [
        "1 of 5 references (20.0 %) are longer than max_completion_tokens (8)",
        "1 of 5 references (20.0 %) are equal to another of their row",
        "1 of 5 references (20.0 %) are part of their prompt",
    ]
    caplog.clear()
    make(tmp_path / "b", tiny_model_folder)
    assert not caplog.records


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rollouts_per_prompt": 1}, "rollouts_per_prompt must be at least 2"),
        ({"selection": "hard"}, "selection and selection_size belong together"),
        ({"selection_size": 5}, "selection and selection_size belong together"),
        ({"selection": "hardest", "selection_size": 5}, "'hard', 'easy', 'medium', 'random' or 'all'"),
        ({"references": []}, "at least 1 item"),
    ],
)
def test_settings_that_do_not_fit_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BLEUBERIConfig.model_validate(keys)
