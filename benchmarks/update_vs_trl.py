"""One optimizer step of ours against TRL's GRPOTrainer, on the same model and the same pre-generated rollouts.

    python benchmarks/update_vs_trl.py [--threads 2] [--rounds 5] [--trl-batch-size 8]

A Qwen2 of 9.4 million parameters in float32 on the CPU, 64 rollouts (8 prompts x 8) with completions of 32 to 512
tokens, evenly spread on a log scale, and once more with completions that all have the mean length. Both sides take
turns in one process, each with its own copy of the model, and start from the same weights. Timed are forward, backward,
gradient clipping and the optimizer; ours includes packing, while TRL's padding of the rollouts is not counted. TRL cuts
the 64 rollouts into batches of ``--trl-batch-size``: 8 is the fastest of 8, 16, 32 and 64. Two rounds warm up.
The last line is one JSON object: completion tokens (padding not counted) per second, and in ``setting`` the
equal-length case and the first loss of both, which must agree.
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

WARM_UP = 2
PROMPTS, GROUP = 8, 8
SHORTEST, LONGEST = 32, 512
TOKENS_PER_MICRO_BATCH = 2048
LEARNING_RATE = 1e-4
MODEL = {"hidden_size": 384, "intermediate_size": 1280, "layers": 5, "heads": 6, "key_value_heads": 2}


def completion_lengths(skewed: bool, shortest: int = SHORTEST, longest: int = LONGEST) -> list[int]:
    """64 lengths in random order: evenly spread on a log scale, or all equal to the mean of those."""
    count = PROMPTS * GROUP
    lengths = [round(shortest * (longest / shortest) ** (place / (count - 1))) for place in range(count)]
    random.Random(0).shuffle(lengths)
    return lengths if skewed else [round(sum(lengths) / count)] * count


def make_groups(lengths: list[int]) -> list[Any]:
    """Rollouts of random tokens with random rewards."""
    from posttrain.types import Example, Rollout, RolloutGroup

    draw = random.Random(1)
    rollouts = [
        Rollout(
            request_id=f"{number:03d}",
            index=number % GROUP,
            prompt_ids=[3, *([20 + number // GROUP] * 12), 1, 4],
            completion_ids=[draw.randrange(5, 261) for _ in range(length)],
            action_mask=[1] * length,
            logprobs=[0.0] * length,  # with one update per batch the ratio is 1 whatever they are
            finish_reason="stop",
            policy_version=0,
            text="",
            reward=draw.random(),
        )
        for number, length in enumerate(lengths)
    ]
    return [
        RolloutGroup(Example(id=str(number), prompt=str(number)), rollouts[number * GROUP : (number + 1) * GROUP])
        for number in range(PROMPTS)
    ]


def longest_of(groups: list[Any]) -> int:
    return max(len(rollout.completion_ids) for group in groups for rollout in group.rollouts)


def our_step(
    model: Path, groups: list[Any], folder: Path, tokens_per_micro_batch: int, model_config: Any
) -> Callable[[], dict[str, float]]:
    """A function that runs one of our updates on ``groups`` and returns its metrics."""
    from posttrain.rewards.trl_function import TRLFunctionReward
    from posttrain.trainers.grpo import GRPOTrainer
    from posttrain.trainers.grpo_config import GRPOConfig
    from posttrain.training.run_config import RunConfig

    trainer = GRPOTrainer(
        model,
        GRPOConfig(
            learning_rate=LEARNING_RATE,
            tokens_per_micro_batch=tokens_per_micro_batch,
            sampling={"max_completion_tokens": longest_of(groups)},
        ),
        reward=TRLFunctionReward(function=lambda completions, **_: [0.0] * len(completions)),
        train_dataset=[group.example for group in groups],
        model_config=model_config,
        run=RunConfig(folder=str(folder)),
    )
    samples = trainer.assign_credit(groups)
    return lambda: trainer.update_policy(samples)


def trl_trainer(
    model: Path, groups: list[Any], folder: Path, batch_size: int, steps: int, settings: dict[str, Any]
) -> Any:
    """TRL's trainer with the rollouts pinned and these ``settings`` of its config; ``generation_seconds`` is what its
    last step spent outside the update."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TRL currently supports vLLM versions", category=UserWarning)
        import trl
    from datasets import Dataset

    rollouts = [rollout for group in groups for rollout in group.rollouts]

    class TimedGRPO(trl.GRPOTrainer):
        generation_seconds = 0.0

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            started = now()
            output = super()._generate_and_score_completions(inputs)
            self.generation_seconds = now() - started
            return output

    arguments = trl.GRPOConfig(
        output_dir=str(folder),
        max_steps=steps,
        num_generations=GROUP,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=PROMPTS * GROUP // batch_size,
        max_completion_length=longest_of(groups),
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        optim="adamw_torch",
        gradient_checkpointing=False,
        disable_dropout=True,
        shuffle_dataset=False,
        bf16=False,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        log_level="error",
        **settings,
    )
    return TimedGRPO(
        model=str(model),
        reward_funcs=lambda pinned_reward, **_: pinned_reward,
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": group.example.prompt} for group in groups] * steps),
        rollout_func=lambda prompts, trainer: {
            "prompt_ids": [rollout.prompt_ids for rollout in rollouts],
            "completion_ids": [rollout.completion_ids for rollout in rollouts],
            "logprobs": [rollout.logprobs for rollout in rollouts],
            "pinned_reward": [rollout.reward for rollout in rollouts],
        },
    )


def now() -> float:
    """Seconds, once the GPU (if there is one) has done what it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def compare(
    model: Path,
    lengths: list[int],
    folder: Path,
    batch_size: int,
    rounds: int,
    *,
    tokens_per_micro_batch: int = TOKENS_PER_MICRO_BATCH,
    model_config: Any = None,
    trl_settings: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Run ``rounds`` timed rounds after the warm-up, TRL's step and ours in turn."""
    from transformers import PrinterCallback, TrainerCallback

    groups = make_groups(lengths)
    ours = our_step(model, groups, folder / "ours", tokens_per_micro_batch, model_config)
    settings = {"use_cpu": True} if trl_settings is None else trl_settings
    trainer = trl_trainer(model, groups, folder / "trl", batch_size, WARM_UP + rounds, settings)
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    losses: dict[str, list[float]] = {"ours": [], "peer": []}
    utilisation: list[float] = []

    class TakeTurns(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = now()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds["peer"].append(now() - self.started - trainer.generation_seconds)
            started = now()
            metrics = ours()
            seconds["ours"].append(now() - started)
            losses["ours"].append(metrics["policy/loss"])
            if "speed/mfu" in metrics:
                utilisation.append(metrics["speed/mfu"])

    original = trainer.training_step

    def training_step(*arguments: Any) -> Any:
        loss = original(*arguments)
        losses["peer"].append(loss.item())
        return loss

    trainer.training_step = training_step
    trainer.add_callback(TakeTurns())
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    tokens = sum(lengths)
    speed = {side: tokens / statistics.median(times[WARM_UP:]) for side, times in seconds.items()}
    first_peer_loss = sum(losses["peer"][: PROMPTS * GROUP // batch_size])
    return {
        **speed,
        "ratio": speed["ours"] / speed["peer"],
        "seconds": {side: [round(value, 3) for value in times[WARM_UP:]] for side, times in seconds.items()},
        "mfu": statistics.median(utilisation[WARM_UP:]) if utilisation else None,
        "first_loss": {"ours": losses["ours"][0], "peer": first_peer_loss},
        "completion_tokens": tokens,
        "padded_completion_tokens": max(lengths) * len(lengths),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trl-batch-size", type=int, default=8, help="rollouts in one of TRL's forward passes")
    options = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "OMP_NUM_THREADS": str(options.threads)}

    import torch
    from transformers.utils.logging import disable_progress_bar

    from posttrain.data.tiny_model import TinyModelConfig, create_tiny_model

    disable_progress_bar()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = create_tiny_model(folder / "model", TinyModelConfig(max_length=1024, **MODEL))
        skewed, equal = (
            compare(model, completion_lengths(case), folder, options.trl_batch_size, options.rounds)
            for case in (True, False)
        )
    setting = {
        "unit": "completion tokens per second",
        "model": MODEL,
        "rollouts": PROMPTS * GROUP,
        "completion_lengths": [SHORTEST, LONGEST],
        "threads": options.threads,
        "device": "cpu",
        "dtype": "float32",
        "tokens_per_micro_batch": TOKENS_PER_MICRO_BATCH,
        "trl_batch_size": options.trl_batch_size,
        "skewed": {name: value for name, value in skewed.items() if name not in ("ours", "peer", "ratio", "mfu")},
        "equal_lengths": {name: value for name, value in equal.items() if name != "mfu"},
        "torch": torch.__version__,
    }
    print(
        json.dumps({"name": "update_vs_trl", **{k: skewed[k] for k in ("ours", "peer", "ratio")}, "setting": setting})
    )


if __name__ == "__main__":
    main()
