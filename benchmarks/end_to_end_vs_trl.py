"""A whole GRPO job of ours against the same job of TRL's GRPOTrainer, vLLM in the process of both.

    OMP_NUM_THREADS=1 python benchmarks/end_to_end_vs_trl.py [--steps 20] [--seeds 0 1 2] [--engine vllm]

A tiny Qwen2 (2.3 million parameters) in float32 on the CPU learns from random weights to write digits and to end: the
reward is the share of a completion's tokens that are digits, and 0 where it was cut off. 4 prompts x 8 rollouts of at
most 256 tokens, one AdamW update a step. The two jobs are two processes that take turns step by step, each with its own
model and engine; a step is all of it: generation, reward, update, weights to the engine, log. Two steps warm up.

TRL's settings are those under which its loss is ours (loss ``dapo``, no reference model, no correction for the engine's
log-probs, which costs TRL another forward pass), without gradient checkpointing and with its fastest batch size of
those tried in ``update_vs_trl.py``. TRL's vLLM runs on a CPU with three changes, made here: float32 and eager mode, as
ours has them, and our own transfer of the weights into vLLM in the place of TRL's, because the CPU build packs its
weights for its kernels and TRL's ``load_weights`` then fails. With ``--engine transformers`` both sides sample with
transformers.
The last line is one JSON object: seconds a step (medians over all seeds), ``ratio`` = ours / peer as the median over
neighbouring steps, wanted at most 0.6. ``setting`` has each seed's learning curve (mean reward by step) of both sides,
and their rewards over the last quarter of the steps.
"""

import argparse
import functools
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from turns import Side, report, rounds_asked_for

WARM_UP = 2
PROMPTS, GROUP, MAX_COMPLETION = 4, 8, 256
MAX_LENGTH = 384
TOKENS_PER_MICRO_BATCH = 2048
TRL_BATCH_SIZE = 8
LEARNING_RATE = 1e-3


def digit_share(completions: Sequence[str], completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """The reward of both sides, in TRL's form."""
    from posttrain.data.tiny_model import END_TOKEN, SPECIAL_TOKENS

    end = SPECIAL_TOKENS.index(END_TOKEN)
    return [
        sum(character.isdigit() for character in text) / len(ids) if ids[-1] == end else 0.0
        for text, ids in zip(completions, completion_ids, strict=True)
    ]


def prompts(seed: int, steps: int) -> list[str]:
    """Additions, enough of them for every step."""
    from posttrain.tasks.arithmetic import ArithmeticConfig

    task = ArithmeticConfig(max_operand=999, train_size=steps * PROMPTS, eval_size=1, seed=seed).build()
    return [str(example.prompt) for example in task.train_examples()]


def run_ours(model: Path, folder: Path, seed: int, steps: int, engine: str) -> None:
    from posttrain.rewards.trl_function import TRLFunctionReward
    from posttrain.rollout.config import TransformersEngineConfig, VLLMEngineConfig
    from posttrain.trainers.grpo import GRPOTrainer
    from posttrain.trainers.grpo_config import GRPOConfig
    from posttrain.trainers.loop import Session
    from posttrain.training.run_config import RunConfig
    from posttrain.types import Example

    config = GRPOConfig(
        steps=steps,
        prompts_per_step=PROMPTS,
        rollouts_per_prompt=GROUP,
        sampling={"max_completion_tokens": MAX_COMPLETION},
        tokens_per_micro_batch=TOKENS_PER_MICRO_BATCH,
        learning_rate=LEARNING_RATE,
    )
    trainer = GRPOTrainer(
        model,
        config,
        reward=TRLFunctionReward(function=digit_share),
        train_dataset=[Example(id=str(row), prompt=prompt) for row, prompt in enumerate(prompts(seed, steps))],
        engine=VLLMEngineConfig(max_num_seqs=PROMPTS * GROUP) if engine == "vllm" else TransformersEngineConfig(),
        run=RunConfig(folder=str(folder), seed=seed),
    )
    rewards: list[float] = []
    assign_credit = trainer.assign_credit

    def recorded(groups: Any) -> Any:
        rewards.append(statistics.fmean(rollout.reward for group in groups for rollout in group.rollouts))
        return assign_credit(groups)

    trainer.assign_credit = recorded  # type: ignore[method-assign]
    session = Session(trainer)
    session.resume(None)
    for _ in rounds_asked_for():
        started = time.perf_counter()
        session.run_step()
        report(seconds=time.perf_counter() - started, reward=rewards[-1], phases=dict(trainer.timings))
    session.close()


def trl_with_vllm_on_cpu() -> Any:
    """TRL, its vLLM set to float32 and eager mode and its weights transferred as ours are."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TRL currently supports vLLM versions", category=UserWarning)
        import trl
        from trl.generation import vllm_generation

    from posttrain.rollout.vllm_weights import replace_weights

    def sync_weights(self: Any) -> None:
        engine = self.llm.llm_engine
        model = engine.model_executor.driver_worker.model_runner.get_model()
        replace_weights(model, engine.vllm_config, [list(self._iter_named_params())])
        self.llm.reset_prefix_cache()

    vllm_generation.LLM = functools.partial(vllm_generation.LLM, dtype="float32", enforce_eager=True)
    vllm_generation.VLLMGeneration.sync_weights = sync_weights
    return trl


def run_peer(model: Path, folder: Path, seed: int, steps: int, engine: str) -> None:
    trl = trl_with_vllm_on_cpu()
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback

    rewards: list[float] = []

    def recorded(**columns: Any) -> list[float]:
        scores = digit_share(**columns)
        rewards.extend(scores)
        return scores

    class TakeTurns(TrainerCallback):
        def __init__(self) -> None:
            self.rounds = rounds_asked_for()

        def on_step_begin(self, _arguments: Any, _state: Any, control: Any, **_: Any) -> None:
            if next(self.rounds, self) is self:
                sys.exit()
            rewards.clear()
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            report(seconds=time.perf_counter() - self.started, reward=statistics.fmean(rewards))

    arguments = trl.GRPOConfig(
        output_dir=str(folder),
        seed=seed,
        max_steps=steps,
        num_generations=GROUP,
        per_device_train_batch_size=TRL_BATCH_SIZE,
        gradient_accumulation_steps=PROMPTS * GROUP // TRL_BATCH_SIZE,
        max_completion_length=MAX_COMPLETION,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        optim="adamw_torch",
        gradient_checkpointing=False,
        disable_dropout=True,
        use_vllm=engine == "vllm",
        vllm_mode="colocate",
        vllm_max_model_length=MAX_LENGTH,
        vllm_importance_sampling_correction=False,
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        log_level="error",
    )
    trainer = trl.GRPOTrainer(
        model=str(model),
        reward_funcs=recorded,
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts(seed, steps)]),
    )
    trainer.add_callback(TakeTurns())
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def compare(model: Path, folder: Path, seed: int, steps: int, engine: str) -> dict[str, list[dict[str, Any]]]:
    """The reports of every step of both jobs, which take turns."""
    common = ["--model", str(model), "--seeds", str(seed), "--steps", str(steps), "--engine", engine]

    def start(side: str) -> Side:
        run_folder = folder / f"{side}-{seed}"
        command = [sys.executable, __file__, "--side", side, "--folder", str(run_folder), *common]
        return Side(command, folder / f"{side}-{seed}.log")

    reports: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    with start("ours") as ours, start("peer") as peer:
        for step in range(steps):
            sides = [("ours", ours), ("peer", peer)]
            for name, side in sides if step % 2 == 0 else sides[::-1]:
                reports[name].append(side.round())
    return reports


def summarise(reports: list[dict[str, list[dict[str, Any]]]], options: argparse.Namespace) -> dict[str, Any]:
    """The last line, from the reports of each seed."""
    seconds = {
        side: [step["seconds"] for each in reports for step in each[side][WARM_UP:]] for side in ("ours", "peer")
    }
    curves = {side: [[round(step["reward"], 3) for step in each[side]] for each in reports] for side in seconds}
    last = max(1, options.steps // 4)
    phases = reports[0]["ours"][0]["phases"]
    return {
        "name": "end_to_end_vs_trl",
        **{side: round(statistics.median(values), 3) for side, values in seconds.items()},
        "ratio": round(statistics.median(a / b for a, b in zip(seconds["ours"], seconds["peer"], strict=True)), 3),
        "setting": {
            "unit": "seconds a step",
            "engine": options.engine,
            "rollouts": PROMPTS * GROUP,
            "max_completion_tokens": MAX_COMPLETION,
            "tokens_per_micro_batch": TOKENS_PER_MICRO_BATCH,
            "trl_batch_size": TRL_BATCH_SIZE,
            "ours_phases": {
                name: round(
                    statistics.median(step["phases"][name] for each in reports for step in each["ours"][WARM_UP:]), 3
                )
                for name in phases
            },
            "seconds": {side: [round(value, 2) for value in values] for side, values in seconds.items()},
            "seeds": options.seeds,
            "reward_by_step": curves,
            "reward_at_the_end": {
                side: [round(statistics.fmean(curve[-last:]), 3) for curve in each] for side, each in curves.items()
            },
            "threads": int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count(),
            "device": "cpu",
            "dtype": "float32",
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--engine", choices=["vllm", "transformers"], default="vllm")
    for hidden in ("--side", "--model", "--folder"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steps <= WARM_UP:
        parser.error(f"--steps must be above {WARM_UP}, which warm up")
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # both would bind themselves to the same core
    if options.side:
        side = run_ours if options.side == "ours" else run_peer
        side(Path(options.model), Path(options.folder), options.seeds[0], options.steps, options.engine)
        return

    from posttrain.data.tiny_model import TinyModelConfig, create_tiny_model

    reports = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = create_tiny_model(folder / "model", TinyModelConfig(max_length=MAX_LENGTH))
        for seed in options.seeds:
            reports.append(compare(model, folder, seed, options.steps, options.engine))
    print(json.dumps(summarise(reports, options)))


if __name__ == "__main__":
    main()
