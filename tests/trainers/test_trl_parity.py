"""Loss and every parameter's gradient are those of TRL's GRPOTrainer, for the same model, rollouts and rewards.

TRL runs two optimizer steps on one batch of pinned rollouts. Its first step has ratios of 1; before its second the
policy has moved, so that ratios differ from 1 and clipping acts. Our trainer is given TRL's weights before each of the
two, and the same rollouts.
"""

import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.data.chat import PromptEncoder
from posttrain.data.tiny_model import TinyModelConfig, create_tiny_model
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.trainers.grpo import GRPOTrainer
from posttrain.trainers.grpo_config import GRPOConfig
from posttrain.training.run_config import RunConfig
from posttrain.training.update import UpdateResult
from posttrain.types import Example, Rollout, RolloutGroup

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="TRL currently supports vLLM versions", category=UserWarning)
    import trl

# float32: sums of some hundred products in another order differ by a few units in the last place, 6e-8 each.
TOLERANCE = 1e-5
PROMPTS, GROUP = 6, 4
MAX_COMPLETION = 24
# Large enough that ratios after one plain gradient step leave the clipping range on both sides.
LEARNING_RATE = 0.4
TRL_SETTINGS: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "seed": 0,
    "max_steps": 2,
    "num_iterations": 2,
    "num_generations": GROUP,
    "per_device_train_batch_size": PROMPTS * GROUP,
    "gradient_accumulation_steps": 1,
    "max_completion_length": MAX_COMPLETION,
    "learning_rate": LEARNING_RATE,
    "lr_scheduler_type": "constant",
    "optim": "sgd",
    "max_grad_norm": 1.0,
    "gradient_checkpointing": False,
    "disable_dropout": True,
    "use_bias_correction_kl": False,  # TRL's default multiplies the KL term by the ratio (arXiv 2512.02556)
    "shuffle_dataset": False,
    "save_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "logging_strategy": "no",
    "log_level": "error",
}


@dataclass
class Captured:
    """One optimizer step of either side: ``weights`` are those before it."""

    loss: float
    gradients: dict[str, Tensor]
    weights: dict[str, Tensor]


class CapturingGRPO(trl.GRPOTrainer):
    """Records every optimizer step's loss and gradients before the optimizer acts on them."""

    captured: list[Captured]

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any) -> Tensor:
        first = self._step % self.args.gradient_accumulation_steps == 0
        if first:
            self.captured.append(Captured(0.0, {}, {n: w.detach().clone() for n, w in model.named_parameters()}))
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.captured[-1].loss += loss.item()
        self.captured[-1].gradients = {n: w.grad.clone() for n, w in model.named_parameters()}
        return loss


@pytest.fixture(scope="module")
def reference_folder(tmp_path_factory: pytest.TempPathFactory, tiny_model_config: TinyModelConfig) -> Path:
    config = tiny_model_config.model_copy(update={"seed": 1})
    return create_tiny_model(tmp_path_factory.mktemp("reference"), config)


@pytest.fixture(scope="module")
def groups(tiny_model_folder: Path) -> list[RolloutGroup]:
    """Pinned rollouts of skewed lengths, some truncated, with random rewards; one group has no spread."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    encoder, draw = PromptEncoder(tokenizer), random.Random(0)
    groups = []
    for number in range(PROMPTS):
        example = Example(id=str(number), prompt=[{"role": "user", "content": "9" * (number + 1)}])
        prompt = encoder.prompt_ids(example)
        rollouts = []
        for index in range(GROUP):
            truncated = draw.random() < 0.2
            length = MAX_COMPLETION if truncated else 1 + int(MAX_COMPLETION * draw.random() ** 2)
            completion = [draw.randrange(5, len(tokenizer)) for _ in range(length)]
            if not truncated:
                completion[-1] = tokenizer.eos_token_id
            rollout = Rollout(
                request_id=str(number),
                index=index,
                prompt_ids=prompt,
                completion_ids=completion,
                action_mask=[1] * length,
                logprobs=completion_logprobs(model, prompt, completion),
                finish_reason="length" if truncated else "stop",
                policy_version=0,
                text=tokenizer.decode(completion),
                reward=1.0 if number == 2 else draw.gauss(0, 1),
            )
            rollouts.append(rollout)
        groups.append(RolloutGroup(example, rollouts))
    return groups


def completion_logprobs(model: nn.Module, prompt: list[int], completion: list[int]) -> list[float]:
    ids = torch.tensor([prompt + completion])
    with torch.no_grad():
        logprobs = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return logprobs.gather(1, torch.tensor(completion)[:, None])[:, 0].tolist()


def run_trl(
    model: Path,
    groups: list[RolloutGroup],
    folder: Path,
    change: Callable[[Any], None] = lambda trainer: None,
    **settings: Any,
) -> list[Captured]:
    """Two optimizer steps of TRL's trainer on ``groups``. ``change`` is applied to the trainer before it runs."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]

    def pinned(prompts: list[Any], trainer: Any) -> dict[str, list[Any]]:
        assert prompts == [group.example.prompt for group in groups for _ in group.rollouts]
        return {
            "prompt_ids": [rollout.prompt_ids for rollout in rollouts],
            "completion_ids": [rollout.completion_ids for rollout in rollouts],
            "logprobs": [rollout.logprobs for rollout in rollouts],
            "pinned_reward": [rollout.reward for rollout in rollouts],
        }

    trainer = CapturingGRPO(
        model=str(model),
        reward_funcs=lambda pinned_reward, **_: pinned_reward,
        args=trl.GRPOConfig(output_dir=str(folder), **(TRL_SETTINGS | settings)),
        train_dataset=Dataset.from_list([{"prompt": group.example.prompt} for group in groups]),
        rollout_func=pinned,
    )
    trainer.captured = []
    change(trainer)
    trainer.train()
    return trainer.captured


class NoReward:
    """The rollouts are scored already."""

    def score(self, inputs: list[RewardInput]) -> list[RewardOutput]:
        raise AssertionError("nothing is sampled")

    def close(self) -> None:
        pass


def run_ours(
    model: Path, groups: list[RolloutGroup], folder: Path, weights: dict[str, Tensor], **settings: Any
) -> Captured:
    """Loss and gradients of our trainer on ``groups``, in several micro-batches, from a policy with ``weights``."""
    sampling = {"max_completion_tokens": MAX_COMPLETION, "temperature": settings.pop("temperature", 1.0)}
    config = GRPOConfig(
        prompts_per_step=PROMPTS,
        rollouts_per_prompt=GROUP,
        tokens_per_micro_batch=100,
        sampling=sampling,
        **settings,
    )
    trainer = GRPOTrainer(
        model,
        config,
        reward=NoReward(),
        train_dataset=[group.example for group in groups],
        run=RunConfig(folder=str(folder)),
    )
    trainer.causal_lm.load_state_dict(weights, strict=False)
    captured: list[Captured] = []

    def run_without_step(batches: Any, loss: Any, learning_rate: float) -> UpdateResult:
        assert len(batches) > 1
        total, metrics, _ = trainer.update.backward(batches, loss)
        gradients = {name: weight.grad.clone() for name, weight in trainer.causal_lm.named_parameters()}
        captured.append(Captured(total, gradients, weights))
        trainer.update.optimizer.zero_grad()
        return UpdateResult(total, 0.0, True, metrics)

    trainer.update.run = run_without_step
    trainer.update_policy(trainer.assign_credit(groups))
    trainer.close()
    return captured[0]


def assert_equal(ours: Captured, theirs: Captured) -> None:
    assert ours.loss == pytest.approx(theirs.loss, rel=TOLERANCE, abs=TOLERANCE * 0.1)
    assert ours.gradients.keys() == theirs.gradients.keys()
    for name, gradient in theirs.gradients.items():
        difference = (ours.gradients[name] - gradient).norm() / gradient.norm()
        assert difference <= TOLERANCE, f"{name}: {difference:.1e}"


def ratios(model: Path, groups: list[RolloutGroup], weights: dict[str, Tensor]) -> Tensor:
    """Of every completion token, the policy with ``weights`` to the one that sampled."""
    policy = AutoModelForCausalLM.from_pretrained(model)
    policy.load_state_dict(weights, strict=False)
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    new = [completion_logprobs(policy, rollout.prompt_ids, rollout.completion_ids) for rollout in rollouts]
    old = [rollout.logprobs for rollout in rollouts]
    return torch.cat([torch.tensor(n) - torch.tensor(o) for n, o in zip(new, old, strict=True)]).exp()


@pytest.mark.parametrize("loss", ["grpo", "bnpo", "dr_grpo", "dapo"])
def test_each_loss_on_and_off_policy(
    loss: str, tiny_model_folder: Path, groups: list[RolloutGroup], tmp_path: Path
) -> None:
    on_policy, off_policy = run_trl(tiny_model_folder, groups, tmp_path, loss_type=loss)
    moved = ratios(tiny_model_folder, groups, off_policy.weights)
    assert (moved > 1.2).float().mean() > 0.02
    assert (moved < 0.8).float().mean() > 0.02
    assert_equal(run_ours(tiny_model_folder, groups, tmp_path, on_policy.weights, loss=loss), on_policy)
    ours = run_ours(tiny_model_folder, groups, tmp_path, off_policy.weights, loss=loss, updates_per_step=2)
    assert_equal(ours, off_policy)


@pytest.mark.parametrize("loss", ["grpo", "dr_grpo", "dapo"])
def test_trl_accumulating_over_batches(
    loss: str, tiny_model_folder: Path, groups: list[RolloutGroup], tmp_path: Path
) -> None:
    """``bnpo`` is left out: in TRL it divides by the tokens of each batch, here by those of the step."""
    accumulation = {"per_device_train_batch_size": PROMPTS * GROUP // 3, "gradient_accumulation_steps": 3}
    _, theirs = run_trl(tiny_model_folder, groups, tmp_path, loss_type=loss, **accumulation)
    assert_equal(run_ours(tiny_model_folder, groups, tmp_path, theirs.weights, loss=loss, updates_per_step=2), theirs)


@pytest.mark.parametrize("loss", ["grpo", "bnpo", "dr_grpo", "dapo"])
def test_kl_to_another_model(
    loss: str, tiny_model_folder: Path, reference_folder: Path, groups: list[RolloutGroup], tmp_path: Path
) -> None:
    """TRL's reference is always the model that it starts from: its weights are replaced by those of another."""

    def use_reference(trainer: Any) -> None:
        trainer.ref_model.load_state_dict(AutoModelForCausalLM.from_pretrained(reference_folder).state_dict())

    captured = run_trl(tiny_model_folder, groups, tmp_path, use_reference, loss_type=loss, beta=0.3)
    for updates, theirs in enumerate(captured, start=1):
        ours = run_ours(
            tiny_model_folder,
            groups,
            tmp_path,
            theirs.weights,
            loss=loss,
            kl_coef=0.3,
            reference_model=str(reference_folder),
            updates_per_step=updates,
        )
        assert_equal(ours, theirs)


OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "advantages scaled over the batch": ({"scale_rewards": "batch"}, {"advantage_scale": "batch"}),
    "advantages not scaled": ({"scale_rewards": "none"}, {"advantage_scale": "none"}),
    "clip higher": ({"epsilon": 0.1, "epsilon_high": 0.4}, {"clip_low": 0.1, "clip_high": 0.4}),
    "dual clip": ({"delta": 1.3}, {"dual_clip": 1.3}),
    "entropy bonus": ({"entropy_coef": 0.02}, {"entropy_coef": 0.02}),
    "KL to the initial policy": ({"beta": 0.3}, {"kl_coef": 0.3}),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_each_option(option: str, tiny_model_folder: Path, groups: list[RolloutGroup], tmp_path: Path) -> None:
    trl_settings, settings = OPTIONS[option]
    _, theirs = run_trl(tiny_model_folder, groups, tmp_path, **trl_settings)
    ours = run_ours(tiny_model_folder, groups, tmp_path, theirs.weights, updates_per_step=2, **settings)
    assert_equal(ours, theirs)
    without = run_ours(tiny_model_folder, groups, tmp_path, theirs.weights, updates_per_step=2)
    with pytest.raises(AssertionError):
        assert_equal(without, theirs)


@pytest.mark.parametrize("loss", ["grpo", "bnpo", "dr_grpo", "dapo"])
def test_truncated_completions_masked(
    loss: str, tiny_model_folder: Path, groups: list[RolloutGroup], tmp_path: Path
) -> None:
    """A masked rollout trains no token, and still counts where a loss is a mean over rollouts."""
    _, theirs = run_trl(tiny_model_folder, groups, tmp_path, loss_type=loss, mask_truncated_completions=True)
    ours = run_ours(
        tiny_model_folder, groups, tmp_path, theirs.weights, loss=loss, mask_truncated=True, updates_per_step=2
    )
    finished = [rollout.finish_reason == "stop" for group in groups for rollout in group.rollouts]
    assert 0 < sum(finished) < len(finished)
    assert_equal(ours, theirs)


def test_temperature(tiny_model_folder: Path, groups: list[RolloutGroup], tmp_path: Path) -> None:
    theirs, _ = run_trl(tiny_model_folder, groups, tmp_path, temperature=0.7)
    assert_equal(run_ours(tiny_model_folder, groups, tmp_path, theirs.weights, temperature=0.7), theirs)


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_importance_correction(mode: str, tiny_model_folder: Path, groups: list[RolloutGroup], tmp_path: Path) -> None:
    """TRL corrects only for vLLM: it is told that the pinned rollouts come from there, with log-probs a little off."""
    noisy = [RolloutGroup(group.example, [with_noise(rollout) for rollout in group.rollouts]) for group in groups]

    def pretend_vllm(trainer: Any) -> None:
        trainer.use_vllm = True
        trainer.vllm_generation = SimpleNamespace(sync_weights=lambda: None)
        trainer._last_loaded_step = -1

    settings = {"vllm_importance_sampling_mode": mode, "vllm_importance_sampling_clip_max": 1.1}
    theirs, _ = run_trl(tiny_model_folder, noisy, tmp_path, pretend_vllm, **settings)
    ours = run_ours(tiny_model_folder, noisy, tmp_path, theirs.weights, importance_correction=mode, importance_cap=1.1)
    assert_equal(ours, theirs)


def with_noise(rollout: Rollout) -> Rollout:
    draw = random.Random(f"{rollout.request_id}/{rollout.index}")
    return replace(rollout, logprobs=[logprob + draw.gauss(0, 0.1) for logprob in rollout.logprobs])
