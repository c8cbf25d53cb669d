"""A GRPO step whose rollouts are sampled while the policy is updated, against sampling and updating in turn.

    OMP_NUM_THREADS=1 python benchmarks/overlap.py [--prompts 8] [--steps 5] [--blocks 3]

One vLLM server on a core of its own, the trainer on another; both sides use that server, in turns of a few steps. The
peer has ``max_staleness`` 0, ours 1; the peer is spared the forward pass of the importance correction. Updates go over
the batch as often as makes them last as long as the generation. Wanted: at most 0.75 of the peer's seconds, as the
median over pairs of neighbouring turns (0.5 would be all hidden). The last line is JSON.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from posttrain.types import Sampling

GROUP = 8


def make_trainer(folder: Path, model: Path, url: str, prompts: int, staleness: int, updates: int) -> Any:
    """GRPO on additions with random weights: the length of a completion is near the budget."""
    from posttrain.rollout.config import VLLMServerEngineConfig
    from posttrain.tasks.arithmetic import ArithmeticConfig
    from posttrain.trainers.grpo import GRPOTrainer
    from posttrain.trainers.grpo_config import GRPOConfig
    from posttrain.training.run_config import RunConfig

    task = ArithmeticConfig(train_size=1000, eval_size=4).build()
    config = GRPOConfig(
        steps=1000,
        prompts_per_step=prompts,
        rollouts_per_prompt=GROUP,
        updates_per_step=updates,
        max_staleness=staleness,
        max_empty_steps=1000,
        entropy_coef=1e-6,  # every token has a gradient, whatever the rewards say
        sampling=Sampling(max_completion_tokens=64),
    )
    return GRPOTrainer(
        model,
        config,
        reward=task.reward(),
        train_dataset=task.train_examples(),
        engine=VLLMServerEngineConfig(urls=[url]),
        run=RunConfig(folder=str(folder)),
    )


def seconds_of_steps(trainer: Any, steps: int) -> list[dict[str, float]]:
    """The timings of ``steps`` steps, after one that is not counted; the server may hold the other side's weights."""
    trainer.sync()
    timings = []
    for _ in range(steps + 1):
        started = time.perf_counter()
        metrics = trainer.train_step()[0]
        timings.append(
            {"step": time.perf_counter() - started} | {p: metrics[f"time/{p}"] for p in ("generate", "update")}
        )
    return timings[1:]


def median_of(timings: list[dict[str, float]], phase: str) -> float:
    return statistics.median(each[phase] for each in timings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5, help="of a turn")
    parser.add_argument("--blocks", type=int, default=3, help="turns of each side")
    options = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1"}
    from posttrain.data.tiny_model import TinyModelConfig, create_tiny_model
    from posttrain.rollout.config import VLLMServerEngineConfig
    from posttrain.rollout.replica import ServerProcess

    own_core, server_core = sorted(os.sched_getaffinity(0))[:2]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = create_tiny_model(folder / "model", TinyModelConfig())
        os.sched_setaffinity(0, {server_core})  # inherited by the server
        settings = VLLMServerEngineConfig(max_num_seqs=options.prompts * GROUP)
        server = ServerProcess(str(model), settings, 0, 0, folder / "server.log")
        try:
            server.start()
            os.sched_setaffinity(0, {own_core})
            trial = make_trainer(folder / "trial", model, server.url, options.prompts, 0, 1)
            timings = seconds_of_steps(trial, 2)
            updates = max(1, round(median_of(timings, "generate") / median_of(timings, "update")))
            sides = {
                side: make_trainer(folder / side, model, server.url, options.prompts, staleness, updates)
                for side, staleness in (("ours", 1), ("peer", 0))
            }
            runs: dict[str, list[list[dict[str, float]]]] = {side: [] for side in sides}
            for block in range(options.blocks):
                for side in sorted(sides, reverse=block % 2 == 1):
                    runs[side].append(seconds_of_steps(sides[side], options.steps))
        finally:
            server.stop()
    seconds = {side: [median_of(block, "step") for block in blocks] for side, blocks in runs.items()}
    peers = [timing for block in runs["peer"] for timing in block]
    setting = {
        "unit": "seconds of a step",
        "rollouts": options.prompts * GROUP,
        "updates_per_step": updates,
        "peer_generate": median_of(peers, "generate"),
        "peer_update": median_of(peers, "update"),
        "ratios": [round(a / b, 3) for a, b in zip(seconds["ours"], seconds["peer"], strict=True)],
    }
    ours, peer = (statistics.median(seconds[side]) for side in ("ours", "peer"))
    ratio = statistics.median(a / b for a, b in zip(seconds["ours"], seconds["peer"], strict=True))
    print(json.dumps({"name": "overlap", "ours": ours, "peer": peer, "ratio": ratio, "setting": setting}))


if __name__ == "__main__":
    main()
