"""HumanEval's own harness and ours: the same verdicts on right and on slightly wrong programs.

The harness runs the prompt, the completion, the tests and a call of ``check`` as one program (arXiv 2107.03374); here
in a plain process, since the programs are known.
"""

import gzip
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from posttrain.rewards.code.code import CodeReward
from posttrain.rewards.reward import RewardInput
from posttrain.types import Example

HUMANEVAL = Path(__file__).parents[4] / "shared/data/humaneval/humaneval.jsonl.gz"
CHANGES = [("<", "<="), ("+", "-"), ("return ", "return not "), (" 1", " 2"), ("range(", "range(1, 1 + "), ("==", "!=")]


def passes(row: dict[str, Any], completion: str) -> bool:
    program = f"{row['prompt']}{completion}\n{row['test']}\ncheck({row['entry_point']})"
    command = [sys.executable, "-I", "-"]
    try:
        return subprocess.run(command, input=program.encode(), capture_output=True, timeout=20).returncode == 0
    except subprocess.TimeoutExpired:
        return False


@pytest.mark.slow
def test_every_verdict_is_the_harnesss() -> None:
    if not HUMANEVAL.is_file():
        pytest.skip("humaneval/humaneval.jsonl.gz is not beside the checkout")
    with gzip.open(HUMANEVAL, "rt") as file:
        rows = [json.loads(line) for line in file][::8]
    completions = [
        (row, row["canonical_solution"].replace(old, new, 1))
        for place, row in enumerate(rows)
        for old, new in [("", ""), CHANGES[place % len(CHANGES)], CHANGES[(place + 1) % len(CHANGES)]]
    ]
    with ThreadPoolExecutor(2) as threads:
        told = list(threads.map(lambda each: passes(*each), completions))
    reward = CodeReward(workers=2, timeout_s=20).build()
    inputs = [
        RewardInput(Example(row["task_id"], row["prompt"], metadata=row), completion) for row, completion in completions
    ]
    found = [output.score == 1.0 for output in reward.score(inputs)]
    reward.close()
    assert found == told
    assert sum(told) < len(told) - 10, "changes make programs wrong"
