"""Steps per second of environments in worker processes, against the same turns taken in this process.

Sixteen episodes are under way at a time, and a thread for each process asks for the next step of one of them, as the
engine of episodes does. Both ways must see the same. A process apart costs a round trip of some tenths of a millisecond
a step: much beside a game of ours, little beside a simulator. ScienceWorld is left out where it is not installed. The
last line is JSON.

    OMP_NUM_THREADS=1 python benchmarks/environments.py
"""

import argparse
import json
import os
import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

from posttrain.agents.crafting import CraftingConfig
from posttrain.agents.environment import ACTION, StepResult
from posttrain.agents.environment_pool import EnvironmentPool, EnvironmentsConfig, Position
from posttrain.agents.live_environments import checked
from posttrain.agents.scienceworld import ScienceWorldConfig
from posttrain.agents.vault import VaultConfig

AT_A_TIME = 16
ACTIONS = {
    "vault": ["take gold", "take iron", "take jade", "turn gold", "turn iron", "reset lock"],
    "crafting": ["get 1 oak", "get 2 clay", "craft 1 plank using 1 oak", "inventory", "dance"],
    "scienceworld": ["look around", "open door to hallway", "go to hallway", "go to kitchen", "inventory", "wait1"],
}
CONFIGS = {
    "vault": VaultConfig(max_steps=15),
    "crafting": CraftingConfig(max_steps=15),
    "scienceworld": ScienceWorldConfig(max_steps=15, task_types=["boil", "find-plant"]),
}


def episodes(name: str, number: int) -> list[tuple[Position, list[str]]]:
    """Where each begins, and its turns."""
    rng, config = random.Random(0), CONFIGS[name]
    ids = config.task_ids("train")[:number]
    actions = [[f"{ACTION} {action}" for action in rng.choices(ACTIONS[name], k=config.max_steps)] for _ in ids]
    return [(Position(task_id, 0), turns) for task_id, turns in zip(ids, actions, strict=True)]


def directly(environment: Any, start: Position, turns: list[str]) -> list[StepResult]:
    environment.reset(start.task_id, start.seed)
    results: list[StepResult] = []
    for turn in turns:
        results.append(checked(environment.step(turn)))
        if results[-1].done:
            break
    return results


def through_pool(
    pool: EnvironmentPool, executor: ThreadPoolExecutor, batch: list[tuple[Position, list[str]]]
) -> list[list[StepResult]]:
    """A step of each episode in turn, until all are over."""
    positions, results = [start for start, _ in batch], [list[StepResult]() for _ in batch]
    going = list(range(len(batch)))
    while going:
        for index in going:
            positions[index] = positions[index].after(batch[index][1][len(results[index])])
        answers = executor.map(lambda index: pool.at([positions[index]])[0], going)
        for index, answer in zip(going, answers, strict=True):
            results[index].append(answer)
        going = [i for i in going if not results[i][-1].done and len(results[i]) < len(batch[i][1])]
    return results


def measure(name: str, number: int, workers: int) -> tuple[float, float]:
    """Steps per second: through the pool, and directly."""
    all_of_them = episodes(name, number)
    pool = EnvironmentPool(EnvironmentsConfig(environment=CONFIGS[name], workers=workers))
    environment = CONFIGS[name].build()
    seconds, steps = {"ours": 0.0, "peer": 0.0}, 0
    with ThreadPoolExecutor(workers) as executor:
        first = [start for start, _ in all_of_them[:AT_A_TIME]]
        list(executor.map(lambda start: pool.at([start]), first))  # processes and simulators have started
        for begin in range(0, number, AT_A_TIME):
            batch = all_of_them[begin : begin + AT_A_TIME]
            start = time.perf_counter()
            ours = through_pool(pool, executor, batch)
            seconds["ours"] += time.perf_counter() - start
            start = time.perf_counter()
            peer = [directly(environment, *episode) for episode in batch]
            seconds["peer"] += time.perf_counter() - start
            if ours != peer:
                raise AssertionError(f"{name}: the two ways saw something else")
            steps += sum(map(len, peer))
    pool.close()
    return steps / seconds["ours"], steps / seconds["peer"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Environments in worker processes against the same ones in process.")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--episodes", type=int, default=160, help="of a game; a tenth of them of ScienceWorld")
    options = parser.parse_args()
    ours, peer = dict[str, float](), dict[str, float]()
    for name in CONFIGS:
        if name == "scienceworld" and (find_spec("scienceworld") is None or shutil.which("java") is None):
            continue
        number = options.episodes // 10 if name == "scienceworld" else options.episodes
        ours[name], peer[name] = measure(name, number, options.workers)
        print(f"{name:13} {ours[name]:8.0f} steps/s in {options.workers} processes, {peer[name]:8.0f} in this one")
    result = {
        "name": "environments",
        "ours": {name: round(value, 1) for name, value in ours.items()},
        "peer": {name: round(value, 1) for name, value in peer.items()},
        "ratio": {name: round(ours[name] / peer[name], 3) for name in ours},
        "setting": {"workers": options.workers, "at a time": AT_A_TIME, "cores": os.cpu_count(), "unit": "steps/s"},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
