"""A LoRA run: the adapter alone is trained, the reference is the base, and what is written loads everywhere."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from posttrain.rewards.math.exact_integer import ExactIntegerReward
from posttrain.trainers.grpo import GRPOTrainer
from posttrain.trainers.grpo_config import GRPOConfig
from posttrain.training.model_config import LoRAConfig, ModelConfig
from posttrain.training.run_config import RunConfig
from posttrain.types import Example, Sampling

EXAMPLES = [Example(id=str(n), prompt=f"{n}+1=", answer=str(n + 1)) for n in range(4)]
IDS = torch.arange(40, 60)[None]


class OneForALateToken:
    """A reward with spread on any policy: whether the first token's id is even."""

    def score(self, inputs):  # type: ignore[no-untyped-def]
        from posttrain.rewards.reward import RewardOutput

        return [RewardOutput(float(item.completion_ids[0] % 2 == 0)) for item in inputs]

    def close(self) -> None:
        pass


@pytest.fixture(params=["kl_coef", "chi2_coef"])
def trainer(request: pytest.FixtureRequest, tmp_path: Path, tiny_model_folder: Path) -> GRPOTrainer:
    return GRPOTrainer(
        tiny_model_folder,
        GRPOConfig(
            steps=2,
            prompts_per_step=4,
            rollouts_per_prompt=4,
            sampling=Sampling(max_completion_tokens=4),
            learning_rate=1e-2,
            **{request.param: 0.1},
        ),
        reward=OneForALateToken(),
        grader=ExactIntegerReward(),
        train_dataset=EXAMPLES,
        model_config=ModelConfig(path=str(tiny_model_folder), lora=LoRAConfig(rank=4)),
        run=RunConfig(folder=str(tmp_path)),
    )


def test_a_lora_run(trainer: GRPOTrainer, tiny_model_folder: Path) -> None:
    from peft import PeftModel

    start = {name: p.detach().clone() for name, p in trainer.causal_lm.named_parameters()}
    summary = trainer.train()
    moved = {name for name, p in trainer.causal_lm.named_parameters() if not torch.equal(p, start[name])}
    assert moved
    assert all(".lora_" in name for name in moved)

    base = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    with torch.no_grad():
        untrained = base(IDS).logits
        merged = AutoModelForCausalLM.from_pretrained(summary.model_folder)(IDS).logits
        adapted = PeftModel.from_pretrained(base, summary.model_folder / "adapter")(IDS).logits
    torch.testing.assert_close(merged, adapted, rtol=0, atol=1e-5)
    assert (merged - untrained).abs().max() > 1e-3


def test_the_reference_is_the_base_with_the_adapter_off(trainer: GRPOTrainer) -> None:
    before = trainer.assign_credit(trainer.collect(EXAMPLES))
    (batch,) = trainer.update.micro_batches(before)
    trainer.prepare(batch)
    assert batch.reference_logprobs is not None
    first = batch.reference_logprobs.clone()
    trainer.update_policy(before)
    trainer.prepare(batch)
    torch.testing.assert_close(batch.reference_logprobs, first, rtol=0, atol=0)
    with torch.no_grad():
        assert not torch.equal(trainer.update.model(batch)[0], first)
