"""GRPO's own choices around the loss, which is held to TRL's elsewhere."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.trainers.credit import StepCounts
from posttrain.trainers.grpo import GRPOTrainer
from posttrain.trainers.grpo_config import GRPOConfig
from posttrain.training.packing import collate
from posttrain.training.run_config import RunConfig
from posttrain.types import Example, Rollout, RolloutGroup, Sampling

EXAMPLES = [Example(id=str(n), prompt=f"{n}=", answer=str(n)) for n in range(40)]


class EveryThirdProblemHasSpread:
    """1 and 0 by turns on problems divisible by three, and 0 on all others."""

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return [RewardOutput(float(i % 2 and int(item.example.id) % 3 == 0)) for i, item in enumerate(inputs)]

    def close(self) -> None:
        pass


def make(folder: Path, model: Path, **keys: object) -> GRPOTrainer:
    settings = {"prompts_per_step": 6, "rollouts_per_prompt": 2, "sampling": Sampling(max_completion_tokens=3)}
    return GRPOTrainer(
        model,
        GRPOConfig.model_validate({**settings, **keys}),
        reward=EveryThirdProblemHasSpread(),
        train_dataset=EXAMPLES,
        run=RunConfig(folder=str(folder)),
    )


def test_dynamic_sampling_replaces_groups_without_spread(tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer = make(tmp_path, tiny_model_folder, dynamic_sampling=True, max_resampling_rounds=20)
    groups = trainer.collect(trainer.sampler.next(6))
    assert len(groups) == 6
    assert all(int(group.example.id) % 3 == 0 for group in groups)
    ids = [rollout.request_id for group in groups for rollout in group.rollouts]
    assert len(set(ids)) == 6


def test_dynamic_sampling_stops_after_its_rounds(tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer = make(tmp_path, tiny_model_folder, dynamic_sampling=True, max_resampling_rounds=1)
    groups = trainer.collect(trainer.sampler.next(6))
    assert 0 < len(groups) <= 6
    assert trainer.planned <= 12


def test_a_failed_reward_has_no_part_in_the_baseline(tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer = make(tmp_path, tiny_model_folder, rollouts_per_prompt=4)

    def group(rewards: list[float | None]) -> RolloutGroup:
        rollouts = [
            Rollout("r", i, [5], [6, 7], [1, 1], [-1.0, -1.0], "stop", 0, "", reward=reward)
            for i, reward in enumerate(rewards)
        ]
        return RolloutGroup(EXAMPLES[0], rollouts)

    (first, second, third) = trainer.assign_credit([group([1.0, 0.0, 1.0, None])])
    assert [s.token_weights[-1] for s in (first, second, third)] == pytest.approx(
        [0.5772502865, -1.1545005730, 0.5772502865], abs=1e-9
    )
    alone = trainer.assign_credit([group([1.0, None, None, None])])
    assert [s.token_weights for s in alone] == [[0.0, 0.0, 0.0]]


def gradients(folder: Path, model: Path, rewards: list[tuple[int, float | None]], loss: str) -> list[torch.Tensor]:
    """Every parameter's gradient of one step on a group: rollouts by their number, with their rewards."""
    trainer = make(folder, model, rollouts_per_prompt=4, loss=loss)
    rollouts = [
        Rollout("r", i, [5, 6], [7 + i, 8, 9][: 2 + i % 2], [1, 1, 1][: 2 + i % 2], [-1.0] * (2 + i % 2), "stop", 0, "",
                reward=reward, error="timeout" if reward is None else None)
        for i, reward in rewards
    ]  # fmt: skip
    samples = trainer.assign_credit([RolloutGroup(EXAMPLES[0], rollouts)])
    trainer.update.optimizer.zero_grad = lambda: None  # type: ignore[method-assign]
    trainer.update_policy(samples)
    return [weight.grad.clone() for weight in trainer.causal_lm.parameters()]


@pytest.mark.parametrize("loss", ["grpo", "dapo", "dr_grpo"])
def test_the_gradient_is_that_of_the_group_without_the_failed_rollout(
    tmp_path: Path, tiny_model_folder: Path, loss: str
) -> None:
    failed = gradients(tmp_path / "a", tiny_model_folder, [(0, 1.0), (1, None), (2, 0.0), (3, 0.5)], loss)
    without = gradients(tmp_path / "b", tiny_model_folder, [(0, 1.0), (2, 0.0), (3, 0.5)], loss)
    as_zero = gradients(tmp_path / "c", tiny_model_folder, [(0, 1.0), (1, 0.0), (2, 0.0), (3, 0.5)], loss)
    assert all(map(torch.equal, failed, without))
    assert any(gradient.any() for gradient in failed)
    assert not all(map(torch.allclose, failed, as_zero))


def test_one_rollout_is_no_group() -> None:
    with pytest.raises(ValueError, match="rollouts_per_prompt must be at least 2"):
        GRPOConfig(rollouts_per_prompt=1)


@pytest.mark.parametrize("scope", ["token", "sequence"])
def test_the_chi_squared_penalty_of_a_micro_batch(tmp_path: Path, tiny_model_folder: Path, scope: str) -> None:
    """Two rollouts of 2 and 3 tokens, without advantage: the loss is the penalty alone, over 5 tokens."""
    trainer = make(tmp_path, tiny_model_folder, chi2_coef=0.3, chi2_scope=scope, chi2_max_log_ratio=0.5)
    rollouts = [
        Rollout("r", i, [5], [7] * n, [1] * n, [-1.0] * n, "stop", 0, "", reward=1.0) for i, n in ((0, 2), (1, 3))
    ]
    samples = trainer.assign_credit([RolloutGroup(EXAMPLES[0], rollouts)])
    assert [trainer.has_gradient(sample) for sample in samples] == [True, True]
    trainer.counts = StepCounts.of(samples)
    batch = collate(samples)
    logprobs = torch.full((5,), -1.0, requires_grad=True)
    batch.reference_logprobs = -1.0 - torch.tensor([0.2, -0.3, 0.1, 0.4, 0.3])
    output = trainer.loss(logprobs, torch.zeros(5), batch)
    (gradient,) = torch.autograd.grad(output.loss, logprobs)
    # log-ratios of the completions: -0.1, and 0.8 which is clamped to 0.5
    held = {"token": [0.2, -0.3, 0.1, 0.4, 0.3], "sequence": [-0.1, -0.1, 0.5, 0.5, 0.5]}[scope]
    excess = torch.tensor(held).exp() - 1
    torch.testing.assert_close(output.loss, 0.3 * excess.sum() / 5)
    torch.testing.assert_close(gradient, 0.3 * 2 * excess / 5)
    torch.testing.assert_close(output.metrics["policy/chi2"], excess.sum() / 5)
    assert output.metrics["policy/chi2_clamped_fraction"].item() == pytest.approx(0.6 if scope == "sequence" else 0)
