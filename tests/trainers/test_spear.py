"""SPEAR on a real environment: GRPO to the last bit without its parts, and each part by the numbers."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.agents.crafting import Crafting, CraftingConfig
from posttrain.agents.vault import Vault, VaultConfig
from posttrain.build import build_trainer, run_job, starting_model
from posttrain.job import Job, load_job
from posttrain.objectives.self_imitation import covariances
from posttrain.trainers.credit import StepCounts
from posttrain.trainers.spear import REPLAY
from posttrain.training.packing import collate
from posttrain.training.run_log import read_metrics, read_rollouts
from posttrain.types import TrainingSample

JOB = """
method: spear
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
  steps: 4
  prompts_per_step: 3
  rollouts_per_prompt: 6
  tokens_per_micro_batch: 128
  learning_rate: 1e-2
  eval_rollouts: 2
  sampling: {max_completion_tokens: 30}
"""
WITHOUT_PARTS = [f"trainer.{key}=0" for key in ("imitation_weight", "valid_action_weight", "cov_clip_fraction")]


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)


def load(folder: Path, *overrides: str) -> Job[Any]:
    (folder / "job.yaml").write_text(JOB)
    return load_job(folder / "job.yaml", [f"run.folder={folder}/run", *overrides])


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[Any]:
    job = load(tmp_path, "trainer.valid_action_weight=0")
    trainer = build_trainer(job, starting_model(job))
    yield trainer
    trainer.close()


def test_without_its_parts_it_is_grpo_to_the_last_bit(tmp_path: Path) -> None:
    kl = ["trainer.steps=2", "trainer.updates_per_step=2", "trainer.kl_coef=0.1", "trainer.entropy_coef=0.01"]
    runs = {"grpo": ["method=grpo"], "spear": WITHOUT_PARTS}
    for name, overrides in runs.items():
        run_job(load(tmp_path, *kl, *overrides, f"run.folder={tmp_path}/{name}"))
    weights = {name: (tmp_path / name / "model" / "model.safetensors").read_bytes() for name in runs}
    assert weights["grpo"] == weights["spear"]
    grpo, spear = (
        [{key: v for key, v in line.items() if not key.startswith(("time/", "speed/", "spear/"))} for line in lines]
        for lines in (read_metrics(tmp_path / "grpo"), read_metrics(tmp_path / "spear"))
    )
    assert [line["policy/gradient_norm"] > 1e-3 for line in grpo[1:]] == [True, True]
    assert grpo == spear
    assert read_rollouts(tmp_path / "grpo", 2) == read_rollouts(tmp_path / "spear", 2)


def test_rollouts_of_earlier_steps_are_replayed_with_a_rising_weight(tmp_path: Path) -> None:
    run_job(load(tmp_path, "trainer.imitation_start=1", "trainer.imitation_ramp_steps=2", "trainer.replays_per_step=3"))
    steps = read_metrics(tmp_path / "run")[1:]
    assert [line["spear/imitation_weight"] for line in steps] == pytest.approx([0, 0, 0.5, 1])
    assert [line["spear/replayed"] for line in steps[:2]] == [0, 0]
    assert steps[2]["spear/replayed"] > 0
    falling = [0.05 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert [line["spear/valid_action_weight"] for line in steps] == pytest.approx(falling)
    assert 0 < steps[3]["spear/kept"] <= 6  # two of each task


def test_only_good_rollouts_are_kept_and_replayed_with_their_new_advantage(trainer: Any) -> None:
    groups = trainer.collect(trainer.sampler.next(3))
    trainer.step = 2
    for rollout, reward in zip(groups[0].rollouts, (0.5, 0.0, 0.0, 0.25, 0.0, 0.75), strict=True):
        rollout.reward = reward
    for rollout in groups[1].rollouts:
        rollout.reward = 1.0
    assert not any(sample.objective == REPLAY for sample in trainer.assign_credit(groups[:2]))
    assert list(trainer.buffer.rollouts) == [groups[0].example.id]
    (replayed,) = [sample for sample in trainer.assign_credit(groups[2:]) if sample.objective == REPLAY][:1]
    kept = [groups[0].rollouts[5], groups[0].rollouts[0]]
    assert {r.index for r in trainer.buffer.rollouts[groups[0].example.id]} == {0, 5}
    (rollout,) = [r for r in kept if replayed.id == f"{r.request_id}/{r.index}"]
    assert replayed.input_ids == rollout.prompt_ids + rollout.completion_ids
    assert {w for w in replayed.token_weights if w} == {rollout.reward - 0.125}  # the median is 0.125
    assert replayed.trained == [0] * len(rollout.prompt_ids) + rollout.action_mask


def two_kinds(trainer: Any, weights: Sequence[float] = (-1.5, 0.5)) -> list[TrainingSample]:
    """A rollout of this step, and one that a policy sampled to which the present one is not near."""
    samples = []
    for number, (weight, old) in enumerate(zip(weights, (-1.0, -5.5), strict=True)):
        length = 4 + number
        samples.append(
            TrainingSample(
                id=f"s{number}",
                input_ids=list(range(10, 12 + length)),
                origin=[0, 0] + [1] * length,
                trained=[0, 0] + [1] * length,
                token_weights=[0.0, 0.0] + [weight] * length,
                behaviour_logprobs=[0.0, 0.0] + [old - 0.2 * place for place in range(length)],
                objective=("policy", REPLAY)[number],
            )
        )
    return samples


def logprobs_of(trainer: Any, samples: Sequence[TrainingSample]) -> dict[str, list[float]]:
    return trainer.update.token_values(samples, trainer.trainer_logprobs)


@pytest.mark.parametrize("together", [True, False])
def test_the_replayed_term_is_a_clipped_mean_of_its_own(trainer: Any, together: bool) -> None:
    samples = two_kinds(trainer)
    now = logprobs_of(trainer, samples)
    trainer.step = 1  # of 4: w = (1 - cos(pi / 4)) / 2
    trainer.counts, trainer.tokens_run = StepCounts.of(samples), 9
    batches = [collate(samples)] if together else [collate([sample]) for sample in samples]
    for batch in batches:
        trainer.prepare(batch)
    loss = sum(trainer.policy_loss(batch).loss.item() for batch in batches)
    ratios = [math.exp(p - (-5.5 - 0.2 * place)) for place, p in enumerate(now["s1"])]
    assert min(ratios) < 1.2 < max(ratios)  # the clip holds some of them
    replayed = -0.5 * sum(min(ratio, 1.2) for ratio in ratios) / 5
    assert loss == pytest.approx(1.5 + 0.1464466094 * replayed, abs=1e-5)  # the step's own ratio is 1


def test_an_importance_correction_leaves_replayed_tokens_alone(trainer: Any) -> None:
    trainer.config.importance_correction, trainer.config.updates_per_step = "token_truncate", 2
    samples = two_kinds(trainer)
    batch, untouched = collate(samples), collate(samples)
    trainer.prepare(batch)
    own = untouched.sample_index == batch.samples.index(samples[0])
    assert not torch.equal(batch.weights[own], untouched.weights[own])
    assert torch.equal(batch.weights[~own], untouched.weights[~own])
    assert torch.equal(batch.behaviour_logprobs[~own], untouched.behaviour_logprobs[~own])


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_tokens_of_the_highest_covariance_lose_their_advantage(trainer: Any, fraction: float) -> None:
    samples = two_kinds(trainer)
    without = replace(samples[0], id="s2", token_weights=[0.0] * 6)  # no advantage: no part in the means
    now = logprobs_of(trainer, samples)["s1"]
    logprobs = torch.tensor(samples[0].behaviour_logprobs[2:] + now).double()
    values = covariances(logprobs, torch.tensor([-1.5] * 4 + [0.5] * 5).double()).tolist()
    trainer.config.cov_clip_fraction = fraction
    clipped, _ = trainer.before_update([samples[0], without, samples[1]])
    weights = clipped[0].token_weights[2:] + clipped[2].token_weights[2:]
    expected = sorted(range(9), key=lambda token: -values[token])[: math.ceil(fraction * 9)]
    assert sorted(token for token, weight in enumerate(weights) if weight == 0) == sorted(expected)
    assert {weight for weight in weights if weight} <= {-1.5, 0.5}
    assert [sample.trained for sample in clipped] == [samples[0].trained, without.trained, samples[1].trained]
    assert clipped[1] == without


def test_every_minibatch_has_its_share_of_what_is_replayed(trainer: Any) -> None:
    own, replayed = two_kinds(trainer)
    trainer.config.minibatches_per_step = 2
    parts = trainer.minibatches([replace(own, id=f"{n}") for n in range(4)] + [replace(replayed, id="r")] * 2)
    assert [[sample.objective for sample in part] for part in parts] == [["policy", "policy", REPLAY]] * 2


def test_valid_actions_earn_a_share_and_are_not_kept_for_it(trainer: Any) -> None:
    group, *_ = trainer.collect(trainer.sampler.next(1))
    assert {rollout.valid_actions for rollout in group.rollouts} == {2}
    trainer.config.valid_action_weight = 0.2
    for rollout, valid in zip(group.rollouts, (0, 1, 2, 4, 8, 8), strict=True):
        rollout.reward, rollout.valid_actions = 0.0, valid
    (advantages,) = trainer.advantages([group.rollouts])
    earned = torch.tensor([0.0, 0.05, 0.1, 0.2, 0.2, 0.2]).double()
    expected = (earned - earned.mean()) / (earned.std() + 1e-4)
    assert advantages.tolist() == pytest.approx(expected.tolist(), abs=1e-9)
    trainer.assign_credit([group])
    assert len(trainer.buffer) == 0
    assert {rollout.reward for rollout in group.rollouts} == {0.0}


@pytest.mark.parametrize(
    ("environment", "task", "valid", "invalid"),
    [
        (Crafting(CraftingConfig()), "crafting/1", ["inventory", "get 1 oak"], ["get 1 lamp", "craft 1 lamp", "sing"]),
        (Vault(VaultConfig()), "vault/1", ["take gold", "turn key", "reset lock"], ["turn key", "take bread"]),
    ],
)
def test_games_say_which_actions_they_could_carry_out(
    environment: Any, task: str, valid: list[str], invalid: list[str]
) -> None:
    environment.reset(task, 0)
    assert all(environment.step(f"Action: {action}").valid for action in valid)
    assert not any(environment.step(f"Action: {action}").valid for action in invalid)
    assert not environment.step("I wait.").valid
