"""Sampling that runs ahead of the update: what is then trained on, what corrects for it, and what it is without."""

import math
import threading
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM

from posttrain.errors import EngineDied
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.rollout.config import TransformersEngineConfig
from posttrain.trainers.batches import Batch, BatchQueue
from posttrain.trainers.credit import StepCounts, training_sample
from posttrain.trainers.grpo import GRPOTrainer
from posttrain.trainers.grpo_config import GRPOConfig
from posttrain.trainers.mismatch import MismatchMonitor
from posttrain.trainers.policy_trainer import PolicyTrainer
from posttrain.training.packing import collate
from posttrain.training.run_config import RunConfig
from posttrain.types import Example, Rollout, RolloutGroup, RolloutRequest, Sampling

EXAMPLES = [Example(id=str(n), prompt=f"{n}=", answer=str(n)) for n in range(40)]
STEPS = 5


class TurnsOfOneAndZero:
    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return [RewardOutput(float(i % 2)) for i, _ in enumerate(inputs)]

    def close(self) -> None:
        pass


def make(folder: Path, model: Path, **keys: object) -> GRPOTrainer:
    settings = {
        "steps": STEPS,
        "prompts_per_step": 4,
        "rollouts_per_prompt": 4,
        "learning_rate": 1e-2,
        "eval_rollouts": 1,
        "sampling": Sampling(max_completion_tokens=4),
    }
    return GRPOTrainer(
        model,
        GRPOConfig.model_validate({**settings, **keys}),
        reward=TurnsOfOneAndZero(),
        train_dataset=EXAMPLES,
        engine=TransformersEngineConfig(device="cpu"),
        run=RunConfig(folder=str(folder)),
    )


def test_without_staleness_a_step_is_its_stages_one_after_the_other(tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer, by_hand = (make(tmp_path / name, tiny_model_folder, max_staleness=0) for name in ("one", "two"))
    for step in range(3):
        metrics, groups, _ = trainer.train_step()
        by_hand.planned, by_hand.collecting = 0, step
        expected = by_hand.collect(by_hand.sampler.next(4))
        update = by_hand.update_policy(by_hand.assign_credit(expected))
        by_hand.step += 1
        by_hand.sync()
        assert groups == expected
        assert {name: metrics[name] for name in update} == update
        assert metrics["batch/tokens_of_older_policies"] == 0
    for one, two in zip(trainer.causal_lm.parameters(), by_hand.causal_lm.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("staleness", [1, 2])
def test_rollouts_are_of_the_policy_so_many_steps_ago(tmp_path: Path, tiny_model_folder: Path, staleness: int) -> None:
    trainer = make(tmp_path, tiny_model_folder, max_staleness=staleness)
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    policies = [deepcopy(trainer.causal_lm.state_dict())]
    for step in range(STEPS):
        metrics, groups, _ = trainer.train_step()
        policies.append(deepcopy(trainer.causal_lm.state_dict()))
        version = max(0, step - staleness)
        plain.load_state_dict(policies[version])
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        assert {rollout.policy_version for rollout in rollouts} == {version}
        assert {rollout.request_id.split("/")[0] for rollout in rollouts} == {f"{step:06d}"}
        sampled = sum(len(rollout.completion_ids) for rollout in rollouts)
        assert metrics["batch/tokens_of_older_policies"] == (sampled if step else 0)
        for rollout in rollouts:
            ids = torch.tensor([rollout.prompt_ids + rollout.completion_ids])
            with torch.no_grad():
                logits = plain(input_ids=ids).logits[0, len(rollout.prompt_ids) - 1 : -1]
            expected = logits.log_softmax(-1)[range(len(logits)), rollout.completion_ids]
            assert rollout.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
    assert not trainer.batches.ready
    assert trainer.sampler.position == 4 * STEPS


def test_the_next_batch_is_sampled_while_the_policy_is_updated(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(tmp_path, tiny_model_folder, max_staleness=1)
    updating, sampling = threading.Event(), threading.Event()
    real_update, real_collect = trainer.update_policy, trainer.collect

    def update(samples: Any) -> dict[str, float]:
        updating.set()
        assert sampling.wait(20)
        return real_update(samples)

    def collect(examples: Sequence[Example]) -> list[RolloutGroup]:
        if trainer.collecting == 1:
            assert updating.wait(20)
            sampling.set()
        return real_collect(examples)

    monkeypatch.setattr(trainer, "update_policy", update)
    monkeypatch.setattr(trainer, "collect", collect)
    trainer.train_step()
    assert len(trainer.batches.ready) == 1


@pytest.mark.parametrize(
    ("keys", "factors"),
    [
        ({}, [1.0, 1.0, 1.0]),
        ({"max_staleness": 1}, [2.0, 3.0, 0.5]),
        ({"max_staleness": 1, "importance_correction": "token_mask"}, [2.0, 0.0, 0.5]),
        ({"max_staleness": 1, "importance_correction": "none"}, [1.0, 1.0, 1.0]),
    ],
)
@pytest.mark.parametrize("updates", [1, 2])
def test_stale_tokens_are_weighed_by_truncated_ratios(
    tmp_path: Path, tiny_model_folder: Path, keys: dict[str, Any], factors: list[float], updates: int
) -> None:
    """At the first update the ratio to the old policy is 1: the loss is minus the mean of the weights."""
    trainer = make(tmp_path, tiny_model_folder, updates_per_step=updates, loss="grpo", entropy_coef=0.0, **keys)
    rollout = Rollout("r", 0, [70, 71], [80, 81, 82], [1, 1, 1], [0.0] * 3, "stop", 0, "")
    now = trainer.trainer_logprobs(collate([training_sample(rollout, 0.25)]))
    rollout.logprobs = (now - torch.tensor([2.0, 5.0, 0.5]).log()).tolist()
    samples, forward, passes = [training_sample(rollout, 0.25)], trainer.update.model.forward, []
    batch = collate(samples)
    trainer.counts, trainer.tokens_run = StepCounts.of(samples), 3
    trainer.update.model.forward = lambda batch: passes.append(batch) or forward(batch)
    trainer.prepare(batch)
    loss = trainer.policy_loss(batch).loss.item()
    corrected = factors[0] != 1.0
    if updates == 1 or corrected:  # otherwise the engine, wrong here, is the old policy
        assert loss == pytest.approx(-0.25 * sum(factors) / 3, rel=1e-4)
    in_prepare = [0.25 * factor if updates == 2 else 0.25 for factor in factors]
    assert batch.weights.tolist() == pytest.approx(in_prepare, rel=1e-4)
    assert len(passes) == 1 + (updates == 2 and corrected)
    cut = torch.cat(trainer.mismatch.truncated).tolist() if trainer.mismatch.truncated else []
    assert cut == ([False, True, False] if corrected else [])


def test_the_mismatch_of_known_log_ratios() -> None:
    monitor = MismatchMonitor()
    monitor.observe(torch.ones(150), torch.zeros(150))
    monitor.clear()
    monitor.observe(torch.zeros(99), torch.zeros(99))
    monitor.observe(torch.tensor([-1.0, float("nan")]), torch.tensor([-1.0 - math.log(2), 0.0]))
    monitor.truncated.append(torch.tensor([True, False, False, False]))
    metrics = monitor.metrics(Accelerator(cpu=True))
    assert metrics == {
        "policy/logprob_mismatch": pytest.approx(math.log(2) / 101),
        "policy/logprob_mismatch_p99": pytest.approx(0.0),
        "policy/engine_kl": pytest.approx((2 - 1 - math.log(2)) / 101),
        "policy/importance_cut_fraction": 0.25,
    }
    monitor.observe(torch.full([3], 0.5), torch.zeros(3))
    assert monitor.metrics(Accelerator(cpu=True))["policy/logprob_mismatch_p99"] == pytest.approx(0.5)


def test_a_failed_collection_gives_its_examples_back(tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer = make(tmp_path, tiny_model_folder)
    real = trainer.engine.submit

    def failing(requests: Sequence[RolloutRequest]) -> None:
        raise EngineDied("gone")

    trainer.engine.submit = failing  # type: ignore[method-assign]
    with pytest.raises(EngineDied):
        trainer.train_step()
    trainer.engine.submit = real  # type: ignore[method-assign]
    assert trainer.train_step()[1] == make(tmp_path / "other", tiny_model_folder).train_step()[1]


@pytest.mark.parametrize("staleness", [0, 1])
def test_a_run_whose_engine_dies_is_saved(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, staleness: int
) -> None:
    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def collect(trainer: PolicyTrainer, examples: Sequence[Example]) -> Any:
            if trainer.collecting == 3:
                raise EngineDied("no rollout replica is left")
            return real(trainer, examples)

        return collect

    def run(name: str, resume: str | None = None) -> torch.Tensor:
        trainer = make(tmp_path / name, tiny_model_folder, max_staleness=staleness)
        trainer.train(resume)
        return torch.cat([parameter.flatten() for parameter in trainer.causal_lm.parameters()])

    with monkeypatch.context() as patch:
        patch.setattr(GRPOTrainer, "collect", dying(GRPOTrainer.collect))
        with pytest.raises(EngineDied, match=r"no rollout replica is left. Saved after step 3; go on with --resume"):
            run("died")
    resumed = run("died", "auto")
    if staleness == 0:
        assert torch.equal(resumed, run("whole"))


def test_batches_in_a_checkpoint() -> None:
    rollout = Rollout("a", 0, [1], [2, 3], [0, 1], [0.0, -0.1], "stop", 4, "x", reward=0.1 + 0.2)
    batch = Batch([RolloutGroup(EXAMPLES[0], [rollout])], {"generate": 1.5})
    assert Batch.from_json(batch.to_json()) == Batch(batch.groups, {})


def test_nothing_is_collected_beyond_the_last_step() -> None:
    collected: list[int] = []

    def collect(step: int) -> Batch:
        collected.append(step)
        return Batch([], {"step": float(step)})

    queue = BatchQueue(collect, ahead=3, steps=5)
    for step in range(5):
        assert queue.take(step).timings == {"step": step}
        with queue.running_ahead(step):
            pass
    assert collected == [0, 1, 2, 3, 4]
