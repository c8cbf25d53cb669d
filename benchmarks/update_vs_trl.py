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


def completion_lengths(skewed: bool) -> list[int]:
    """64 lengths in random order: evenly spread on a log scale, or all equal to the mean of those."""
    count = PROMPTS * GROUP
    lengths = [round(SHORTEST * (LONGEST / SHORTEST) ** (place / (count - 1))) for place in range(count)]
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


def our_step(model: Path, groups: list[Any], folder: Path) -> Callable[[], float]:
    """A function that runs one of our updates on ``groups`` and returns its loss."""
    from posttrain.rewards.trl_function import TRLFunctionReward
    from posttrain.trainers.grpo import GRPOTrainer
    from posttrain.trainers.grpo_config import GRPOConfig
    from posttrain.training.run_config import RunConfig

    trainer = GRPOTrainer(
        model,
        GRPOConfig(
            learning_rate=LEARNING_RATE,
            tokens_per_micro_batch=TOKENS_PER_MICRO_BATCH,
            sampling={"max_completion_tokens": LONGEST},
        ),
        reward=TRLFunctionReward(function=lambda completions, **_: [0.0] * len(completions)),
        train_dataset=[group.example for group in groups],
        run=RunConfig(folder=str(folder)),
    )
    samples = trainer.assign_credit(groups)
    return lambda: trainer.update_policy(samples)["policy/loss"]


def trl_trainer(model: Path, groups: list[Any], folder: Path, batch_size: int, steps: int) -> Any:
    """TRL's trainer with the rollouts pinned; ``generation_seconds`` is what its last step spent outside the update."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TRL currently supports vLLM versions", category=UserWarning)
        import trl
    from datasets import Dataset

    rollouts = [rollout for group in groups for rollout in group.rollouts]

    class TimedGRPO(trl.GRPOTrainer):
        generation_seconds = 0.0

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            started = time.perf_counter()
            output = super()._generate_and_score_completions(inputs)
            self.generation_seconds = time.perf_counter() - started
            return output

    arguments = trl.GRPOConfig(
        output_dir=str(folder),
        max_steps=steps,
        num_generations=GROUP,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=PROMPTS * GROUP // batch_size,
        max_completion_length=LONGEST,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        optim="adamw_torch",
        gradient_checkpointing=False,
        disable_dropout=True,
        shuffle_dataset=False,
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        log_level="error",
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


def compare(model: Path, lengths: list[int], folder: Path, batch_size: int, rounds: int) -> dict[str, Any]:
    """Run ``rounds`` timed rounds after the warm-up, TRL's step and ours in turn."""
    from transformers import PrinterCallback, TrainerCallback

    groups = make_groups(lengths)
    ours = our_step(model, groups, folder / "ours")
    trainer = trl_trainer(model, groups, folder / "trl", batch_size, WARM_UP + rounds)
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    losses: dict[str, list[float]] = {"ours": [], "peer": []}

    class TakeTurns(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds["peer"].append(time.perf_counter() - self.started - trainer.generation_seconds)
            started = time.perf_counter()
            losses["ours"].append(ours())
            seconds["ours"].append(time.perf_counter() - started)

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
        "skewed": {name: value for name, value in skewed.items() if name not in ("ours", "peer", "ratio")},
        "equal_lengths": equal,
        "torch": torch.__version__,
    }
    print(
        json.dumps({"name": "update_vs_trl", **{k: skewed[k] for k in ("ours", "peer", "ratio")}, "setting": setting})
    )


if __name__ == "__main__":
    main()
