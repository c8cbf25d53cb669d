"""One update: what is not finite never reaches the weights, and the same result comes from any cut."""

from pathlib import Path

import pytest
import torch

from posttrain.errors import TrainingDiverged
from posttrain.rewards.math.exact_integer import ExactIntegerReward
from posttrain.trainers.grpo import GRPOTrainer
from posttrain.trainers.grpo_config import GRPOConfig
from posttrain.training.packing import MicroBatch
from posttrain.training.run_config import RunConfig
from posttrain.training.update import LossOutput
from posttrain.types import Example, Origin, Sampling, TrainingSample

EXAMPLES = [Example(id=f"{a}+1", prompt=f"{a}+1=", answer=str(a + 1)) for a in range(6)]


def sample(name: str, completion: int, weight: float) -> TrainingSample:
    length = 3 + completion
    return TrainingSample(
        id=name,
        input_ids=[60 + i for i in range(length)],
        origin=[Origin.PROMPT] * 3 + [Origin.POLICY] * completion,
        trained=[0] * 3 + [1] * completion,
        token_weights=[0.0] * 3 + [weight] * completion,
        behaviour_logprobs=[0.0] * 3 + [-1.0] * completion,
    )


SAMPLES = [sample("a", 2, 1.0), sample("b", 5, -0.5), sample("c", 9, 0.25), sample("d", 1, -1.0)]


def make(folder: Path, model: Path, **keys: object) -> GRPOTrainer:
    settings = {"prompts_per_step": 4, "rollouts_per_prompt": 4, "learning_rate": 1e-3, "max_skipped_updates": 2}
    return GRPOTrainer(
        model,
        GRPOConfig.model_validate({"sampling": Sampling(max_completion_tokens=10), **settings, **keys}),
        reward=ExactIntegerReward(),
        train_dataset=EXAMPLES,
        run=RunConfig(folder=str(folder)),
    )


def weights(trainer: GRPOTrainer) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainer.causal_lm.named_parameters()}


def test_a_loss_that_is_not_finite_is_skipped_named_and_stops_the_run(tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer = make(tmp_path, tiny_model_folder, tokens_per_micro_batch=16)
    before = weights(trainer)

    def poisoned(batch: MicroBatch) -> LossOutput:
        logprobs, _ = trainer.update.model(batch)
        poison = float("nan") if any(s.id == "c" for s in batch.samples) else 1.0
        return LossOutput(logprobs.sum() * poison)

    result = trainer.update.run(trainer.update.micro_batches(SAMPLES), poisoned, 1e-3)
    assert (result.applied, result.offending_samples) == (False, ["c"])
    assert all(torch.equal(before[name], value) for name, value in weights(trainer).items())
    trainer.guard(trainer.update, result)
    result = trainer.update.run(trainer.update.micro_batches(SAMPLES), poisoned, 1e-3)
    with pytest.raises(TrainingDiverged, match=r"2 updates in a row .*samples: c\)"):
        trainer.guard(trainer.update, result)


def test_a_gradient_that_is_not_finite_is_skipped_too(tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer = make(tmp_path, tiny_model_folder)
    before = weights(trainer)

    def overflowing(batch: MicroBatch) -> LossOutput:
        logprobs, _ = trainer.update.model(batch)
        zero = (logprobs - logprobs.detach()).sum()
        return LossOutput(torch.sqrt(zero.clamp(min=0.0)))  # 0, with an infinite slope

    result = trainer.update.run(trainer.update.micro_batches(SAMPLES), overflowing, 1e-3)
    assert not result.applied
    assert all(torch.equal(before[name], value) for name, value in weights(trainer).items())


def test_a_finite_update_ends_the_row(tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer = make(tmp_path, tiny_model_folder)
    trainer.update.skipped = 1
    metrics = trainer.update_policy(list(SAMPLES))
    assert trainer.update.skipped == 0
    assert metrics["policy/gradient_norm"] > 0


def test_minibatches_are_updates_of_their_own(tmp_path: Path, tiny_model_folder: Path) -> None:
    whole = make(tmp_path / "whole", tiny_model_folder, minibatches_per_step=2)
    metrics = whole.update_policy(list(SAMPLES))
    halves = make(tmp_path / "halves", tiny_model_folder, minibatches_per_step=2)
    middle = len(SAMPLES) // 2
    for part in (SAMPLES[:middle], SAMPLES[middle:]):
        minibatch = halves.minibatch(list(part))
        halves.enter(minibatch)
        for batch in minibatch.batches:
            halves.prepare(batch)
        halves.update.run(minibatch.batches, halves.policy_loss, halves.learning_rate)
    assert metrics["batch/samples"] == sum(any(sample.token_weights) for sample in SAMPLES)
    assert all(torch.equal(weights(whole)[name], value) for name, value in weights(halves).items())


def test_steps_without_gradient_are_counted_and_stop_the_run(tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer = make(tmp_path, tiny_model_folder, max_empty_steps=3)
    trainer.update_policy([])
    trainer.update_policy([])
    trainer.update_policy(list(SAMPLES))
    assert trainer.empty_steps == 0
    trainer.update_policy([])
    trainer.update_policy([])
    with pytest.raises(TrainingDiverged, match="nothing to learn from in 3 steps in a row"):
        trainer.update_policy([])


@pytest.mark.parametrize("loss", ["grpo", "dapo", "dr_grpo"])
def test_one_or_four_micro_batches(loss: str, tmp_path: Path, tiny_model_folder: Path) -> None:
    ends = []
    for budget in (4096, 16):
        trainer = make(tmp_path / str(budget), tiny_model_folder, loss=loss, tokens_per_micro_batch=budget)
        metrics = trainer.update_policy(list(SAMPLES))
        ends.append((metrics, weights(trainer)))
    (whole, one), (cut, four) = ends
    assert (whole["batch/micro_batches"], cut["batch/micro_batches"]) == (1.0, 3.0)
    assert cut["policy/loss"] == pytest.approx(whole["policy/loss"], rel=1e-5)
    assert cut["policy/gradient_norm"] == pytest.approx(whole["policy/gradient_norm"], rel=1e-4)
    for name, parameter in one.items():
        torch.testing.assert_close(four[name], parameter, rtol=0, atol=2e-5)


def test_samples_without_weight_count_and_are_not_run(tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer = make(tmp_path, tiny_model_folder)
    metrics = trainer.update_policy([*SAMPLES, sample("zero", 7, 0.0)])
    assert metrics["batch/samples"] == 4.0
    assert trainer.counts.total.tokens == 2 + 5 + 9 + 1 + 7
    assert metrics["batch/trained_tokens"] == 17.0


def test_a_step_without_any_gradient_changes_nothing(tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer = make(tmp_path, tiny_model_folder)
    before = weights(trainer)
    metrics = trainer.update_policy([sample("zero", 7, 0.0)])
    assert metrics["batch/samples"] == 0.0
    assert all(torch.equal(before[name], value) for name, value in weights(trainer).items())
