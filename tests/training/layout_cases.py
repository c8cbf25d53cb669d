"""One rank of a launch that runs the same updates in every layout: run by ``test_layouts.py``.

``[accelerate launch --config_file FILE] layout_cases.py MODEL_FOLDER OUTPUT_FOLDER [SEQUENCE_PARALLEL]``

Each case updates a few times from the same samples and leaves its losses and its whole weights in ``OUTPUT_FOLDER``.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from posttrain.build import quiet_libraries
from posttrain.rewards.math.exact_integer import ExactIntegerReward
from posttrain.rollout.weight_sync import policy_buckets
from posttrain.trainers.grpo import GRPOTrainer
from posttrain.trainers.grpo_config import GRPOConfig
from posttrain.trainers.oreal import CLONE, PUSH_DOWN, OREALTrainer
from posttrain.trainers.oreal_config import OREALConfig
from posttrain.training.accelerator import leave_process_group, zero_stage
from posttrain.training.model import backbone_of
from posttrain.training.model_config import LoRAConfig, ModelConfig
from posttrain.training.run_config import RunConfig
from posttrain.types import Example, Origin, Sampling, TrainingSample

EXAMPLES = [Example(id=f"{a}+1", prompt=f"{a}+1=", answer=str(a + 1)) for a in range(6)]
# a large epsilon keeps AdamW's first step from being the sign of the gradient, which rounding decides where it is small
SETTINGS: dict[str, Any] = {
    "prompts_per_step": 4,
    "rollouts_per_prompt": 4,
    "learning_rate": 1e-2,
    "epsilon": 1e-3,
    "kl_coef": 0.1,
    "sampling": Sampling(max_completion_tokens=30),
}
THRESHOLDS = ("positive_threshold", "negative_threshold")
UPDATES = 3  # OREAL's first changes its token model alone, whose zero head gives no weights
WHOLE, CUT = 4096, 16  # tokens of a micro-batch


def sample(number: int, completion: int, weight: float) -> TrainingSample:
    length = 3 + completion
    return TrainingSample(
        id=f"{number:02d}",
        input_ids=[60 + (7 * number + i) % 40 for i in range(length)],
        origin=[Origin.PROMPT] * 3 + [Origin.POLICY] * completion,
        trained=[0] * 3 + [1] * completion,
        token_weights=[0.0] * 3 + [weight] * completion,
        behaviour_logprobs=[0.0] * 3 + [-1.0] * completion,
        objective=CLONE if weight > 0 else PUSH_DOWN,
    )


def samples(lengths: Sequence[int], weights: Sequence[float]) -> list[TrainingSample]:
    return [sample(number, *each) for number, each in enumerate(zip(lengths, weights, strict=True))]


UNEQUAL = samples([2, 5, 9, 1, 12, 7, 3, 11, 6, 4], [1.0, -0.5, 0.25, -1.0, 0.5, -0.25, 0.75, -0.75, 0.3, -0.2])
ONE_ALONE = samples([9], [1.0])  # two ranks: the second has none
# longest first to the least loaded of two ranks: the first gets 20, 10 and 9, the second 18, 12 and 8
ONE_FLAT = samples([20, 18, 12, 10, 9, 8], [1.0, 0.0, 0.0, -0.5, 0.5, 0.0])


CASES: dict[str, tuple[str, int, bool, list[TrainingSample]]] = {
    **{
        f"{method}-{'cut' if budget == CUT else 'whole'}-{'lora' if lora else 'full'}": (method, budget, lora, UNEQUAL)
        for method in ("grpo", "oreal")
        for budget in (WHOLE, CUT)
        for lora in (False, True)
    },
    "grpo-a-rank-without-samples": ("grpo", WHOLE, False, ONE_ALONE),
    "oreal-a-rank-without-samples": ("oreal", WHOLE, False, ONE_ALONE),
    "grpo-a-rank-without-advantages": ("grpo", CUT, False, ONE_FLAT),
}


def trainer_of(method: str, budget: int, model_config: ModelConfig, folder: Path) -> Any:
    settings = {**SETTINGS, "tokens_per_micro_batch": budget}
    components: dict[str, Any] = {
        "reward": ExactIntegerReward(),
        "train_dataset": EXAMPLES,
        "model_config": model_config,
        "run": RunConfig(folder=str(folder)),
    }
    if method == "grpo":
        return GRPOTrainer(str(model_config.path), GRPOConfig.model_validate(settings), **components)
    own = {"policy_freeze_steps": 0, "token_reward_model": {"learning_rate": 1e-2}, **dict.fromkeys(THRESHOLDS, 0.0)}
    return OREALTrainer(str(model_config.path), OREALConfig.model_validate(settings | own), **components)


def whole(model: Any) -> dict[str, torch.Tensor]:
    buckets = policy_buckets(model, 1 << 20, torch.float32)
    return {name: tensor.clone() for bucket in buckets for name, tensor in bucket}


def run_case(name: str, model: str, output: Path, sequence_parallel: int) -> None:
    method, budget, lora, given = CASES[name]
    adapter = LoRAConfig(rank=4, alpha=8.0) if lora else None
    shared = sequence_parallel > 1
    model_config = ModelConfig(
        path=model, lora=adapter, sequence_parallel=sequence_parallel, gradient_checkpointing=shared
    )
    trainer = trainer_of(method, budget, model_config, output / "run")
    lengths: list[int] = []  # of what the policy is given at a time
    backbone_of(trainer.causal_lm).register_forward_pre_hook(
        lambda _, __, given: lengths.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    if zero_stage(trainer.accelerator) == 3:
        held = [trainer.policy, *([trainer.token_model.model.module] if method == "oreal" else [])]
        held += [] if lora else [trainer.reference.module]
        largest = [max(module.parameters(), key=lambda p: p.ds_numel) for module in held]
        assert all(parameter.numel() == 0 for parameter in largest), "a model is not split"
    metrics = []
    for _ in range(UPDATES):
        weighted, own = trainer.before_update(list(given))
        metrics.append(own | trainer.update_policy(weighted))
    if shared:
        assert max(lengths) <= -(-sum(len(each.input_ids) for each in given) // sequence_parallel)
    weights = {"policy": whole(trainer.causal_lm)}
    if method == "oreal":
        token_model = trainer.token_model.model
        weights["token_model"] = whole(getattr(token_model, "module", token_model))
    if trainer.accelerator.is_main_process:
        torch.save({"metrics": metrics, "weights": weights}, output / f"{name}.pt")
    trainer.close()


def main(model: str, output: str, sequence_parallel: str = "1") -> None:
    quiet_libraries()
    torch.set_num_threads(1)
    for name in CASES:
        run_case(name, model, Path(output), int(sequence_parallel))
    leave_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
