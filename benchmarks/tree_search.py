"""Simulations per second of many search trees together, against one tree and one node at a time, as in the release of
Agent-R: same engine, same model.

A simulation is a walk from the root to the end of an episode of the vault. Wanted: at least 5 times as many, as the
median over pairs of neighbouring runs. The last line is JSON; ``occupancy`` is the mean number of rollouts that the
engine has, over the time of the search.

    OMP_NUM_THREADS=1 python benchmarks/tree_search.py
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from posttrain.agents.environment_pool import EnvironmentPool, Position
from posttrain.agents.search import TreeSearch
from posttrain.agents.tree_search import SearchConfig, Tree
from posttrain.agents.vault import VaultConfig
from posttrain.data.tiny_model import TinyModelConfig, create_tiny_model
from posttrain.rollout.config import TransformersEngineConfig, VLLMEngineConfig
from posttrain.tasks.environment import EnvironmentTask
from posttrain.types import Example, Rollout, RolloutRequest, Sampling


class Watched:
    """An engine, and how many rollouts it has, integrated over time."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.inside, self.since, self.integral = 0, time.perf_counter(), 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def submit(self, requests: Sequence[RolloutRequest]) -> None:
        self._change(sum(request.n for request in requests))
        self.engine.submit(requests)

    def finished(self) -> Iterator[Rollout]:
        for rollout in self.engine.finished():
            self._change(-1)
            yield rollout

    def _change(self, by: int) -> None:
        now = time.perf_counter()
        self.integral += self.inside * (now - self.since)
        self.inside, self.since = self.inside + by, now


def search(
    engine: Any, pool: EnvironmentPool, examples: Sequence[Example], config: SearchConfig, sampling: Sampling
) -> int:
    """Trees of ``examples`` grown together: their simulations."""
    starts = [Position(example.metadata["task_id"], example.metadata["seed"]) for example in examples]
    roots = [Tree(start, first, config, seed=0) for start, first in zip(starts, pool.at(starts), strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        trees = TreeSearch(
            engine, pool, dict(enumerate(zip(examples, roots, strict=True))), sampling, Path(folder)
        ).run()
    return sum(tree.walks for tree in trees)


def main() -> None:
    parser = argparse.ArgumentParser(description="Many trees together against one at a time.")
    parser.add_argument("--engine", choices=["vllm", "transformers"], default="vllm")
    parser.add_argument("--trees", type=int, default=24)
    parser.add_argument("--one-by-one", type=int, default=2, help="trees that are also grown one at a time")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-turn-tokens", type=int, default=64)
    parser.add_argument(
        "--hidden-size", type=int, default=64, help="of the model; 64 and 2 layers as in recipes/agent_r"
    )
    parser.add_argument("--layers", type=int, default=2)
    options = parser.parse_args()
    task = EnvironmentTask(environment=VaultConfig(max_steps=6), train_tasks=options.trees).build()
    examples = task.train_examples()
    configs = {"together": SearchConfig(iterations=4), "alone": SearchConfig(iterations=4, in_flight=1)}
    config, sampling = configs["together"], Sampling(max_completion_tokens=options.max_turn_tokens)
    with tempfile.TemporaryDirectory() as folder:
        width = options.hidden_size
        sizes = {"hidden_size": width, "intermediate_size": 4 * width, "layers": options.layers}
        model = create_tiny_model(folder, TinyModelConfig(**sizes, heads=2, key_value_heads=1))
        inside = VLLMEngineConfig(max_num_seqs=512) if options.engine == "vllm" else TransformersEngineConfig()
        engine = inside.build(model, 0)
    pool = EnvironmentPool(task)
    rates, occupancy = dict[str, list[float]](together=[], alone=[]), dict[str, list[float]](together=[], alone=[])
    search(engine, pool, examples[:2], config, sampling)
    for repeat in range(options.repeats):
        groups = {"together": [examples], "alone": [[example] for example in examples[: options.one_by_one]]}
        for side in sorted(groups, reverse=repeat % 2 == 1):
            watched, start = Watched(engine), time.perf_counter()
            walks = [search(watched, pool, group, configs[side], sampling) for group in groups[side]]
            seconds = time.perf_counter() - start
            rates[side].append(sum(walks) / seconds)
            occupancy[side].append(watched.integral / seconds)
            print(f"{side:9} {rates[side][-1]:7.2f} simulations/s, {occupancy[side][-1]:6.1f} rollouts in the engine")
    engine.close()
    pool.close()
    task.close()
    middle = {side: statistics.median(values) for side, values in rates.items()}
    setting = {
        "engine": options.engine,
        "model": {"architecture": "Qwen2, float32"} | sizes,
        "trees": options.trees,
        "iterations": config.iterations,
        "children": config.children,
        "in_flight": {side: config.in_flight for side, config in configs.items()},
        "max_turn_tokens": options.max_turn_tokens,
        "occupancy": {side: round(statistics.median(values), 1) for side, values in occupancy.items()},
        "repeats": options.repeats,
        "cores": os.cpu_count(),
    }
    ratio = statistics.median(ours / peer for ours, peer in zip(rates["together"], rates["alone"], strict=True))
    result = {"name": "tree_search", "ours": round(middle["together"], 2), "peer": round(middle["alone"], 2)}
    print(json.dumps(result | {"ratio": round(ratio, 2), "setting": setting}))


if __name__ == "__main__":
    main()
