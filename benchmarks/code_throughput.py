"""Programs per second of the code reward, isolated, against a fresh Python process for each program, not isolated.

HumanEval's canonical solutions with their tests (programs of the same form are generated where the data is absent),
two at a time, both ways taking turns. All must pass both ways. Wanted: at least 20 programs/s. The last line is JSON.

    OMP_NUM_THREADS=1 python benchmarks/code_throughput.py
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from posttrain.rewards.code.code import CodeReward
from posttrain.rewards.reward import Reward, RewardInput
from posttrain.types import Example

DATA = Path(__file__).parents[2] / "shared/data/humaneval/humaneval.jsonl.gz"


def rows(path: Path) -> list[dict[str, str]]:
    if path.exists():
        with gzip.open(path, "rt") as file:
            return [json.loads(line) for line in file]
    return [
        {
            "task_id": f"generated/{number}",
            "prompt": f'def add(x: int) -> int:\n    """x plus {number}"""\n',
            "canonical_solution": f"    return x + {number}\n",
            "test": "def check(candidate):\n"
            + "".join(f"    assert candidate({x}) == {x + number}\n" for x in range(8)),
            "entry_point": "add",
        }
        for number in range(164)
    ]


def run_ours(reward: Reward, programs: list[dict[str, str]]) -> int:
    """How many pass."""
    items = [
        RewardInput(
            Example(row["task_id"], row["prompt"], metadata={key: row[key] for key in ("test", "entry_point")}),
            row["canonical_solution"],
        )
        for row in programs
    ]
    return sum(output.score == 1 for output in reward.score(items))


def run_peer(executor: ThreadPoolExecutor, programs: list[dict[str, str]]) -> int:
    """How many pass, by the exit status."""

    def passes(row: dict[str, str]) -> bool:
        source = f"{row['prompt']}{row['canonical_solution']}\n{row['test']}\ncheck({row['entry_point']})\n"
        python = os.path.realpath(sys.executable)
        return subprocess.run([python, "-c", source], capture_output=True, check=False, timeout=60).returncode == 0

    return sum(executor.map(passes, programs))


def main() -> None:
    parser = argparse.ArgumentParser(description="The code reward against a process for each program.")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args()
    programs = rows(options.data)
    reward = CodeReward(workers=options.workers).build()
    executor = ThreadPoolExecutor(options.workers)
    seconds = {"ours": 0.0, "peer": 0.0}
    for _ in range(options.rounds):
        for name, passed in (
            ("ours", lambda: run_ours(reward, programs)),
            ("peer", lambda: run_peer(executor, programs)),
        ):
            start = time.perf_counter()
            if passed() != len(programs):
                raise AssertionError(f"{name}: not every solution passes")
            seconds[name] += time.perf_counter() - start
    reward.close()
    rates = {name: options.rounds * len(programs) / value for name, value in seconds.items()}
    for name, rate in rates.items():
        print(f"{name:5} {rate:8.1f} programs/s")
    setting = {"programs": len(programs), "data": "humaneval" if options.data.exists() else "generated"}
    setting |= {
        "workers": options.workers,
        "cores": os.cpu_count(),
        "isolation": {"ours": "namespaces", "peer": "none"},
    }
    result = {"name": "code_throughput", "ours": round(rates["ours"], 1), "peer": round(rates["peer"], 1)}
    print(json.dumps({**result, "ratio": round(rates["ours"] / rates["peer"], 2), "setting": setting}))


if __name__ == "__main__":
    main()
