"""The maths reward against math-verify, one pair after the other with its default timeouts, on 5,000 GSM8K solutions.

    python benchmarks/math_answer.py [--pairs 5000] [--rounds 3] [--workers 2] [--gsm8k train.jsonl.gz]

GSM8K's own solutions (generated ones where the file is absent), without calculator marks; 40 in 100 end with a wrong
number: off by a little, ten times too much, or an intermediate result. A third each end as ``#### 18``, ``The answer is
18.`` and ``$\\boxed{18}$``. Ours finds the answer in the whole solution; the peer, ``verify(parse(gold),
parse(line))``, is given the last line, because math-verify alone does not know ``####``. Each side runs in a process of
its own, in turn, so that every cache is cold; the import of math-verify, which our worker processes need as well, is
counted for neither. The last line is one JSON object: pairs per second, the median of the rounds; in ``setting`` the
ratio with the start of our workers counted, and the verdicts that differ, which must be 0.
"""

import argparse
import gzip
import json
import random
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

GSM8K = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "gsm8k" / "train.jsonl.gz"
WRONG = 0.4
ENDINGS = ("#### {}", "The answer is {}.", "The final answer is $\\boxed{{{}}}$.")


def solutions(path: Path, count: int) -> list[tuple[str, str]]:
    """Reasoning and answer of ``count`` problems."""
    if path.exists():
        with gzip.open(path, "rt") as file:
            rows = [json.loads(line)["answer"] for _, line in zip(range(count), file, strict=False)]
        parted = [re.sub(r"<<.*?>>", "", row).rpartition("#### ") for row in rows]
        return [(reasoning, answer) for reasoning, _, answer in parted]
    draw = random.Random(1)
    sums = [(draw.randrange(2, 500), draw.randrange(2, 90), draw.randrange(2, 30)) for _ in range(count)]
    return [
        (
            f"She buys {a} apples and {b} pears.\nThat is {a} + {b} = {a + b} a day.\nIn {c} days: {(a + b) * c}.\n",
            answer,
        )
        for a, b, c in sums
        for answer in [str((a + b) * c)]
    ]


def pairs(path: Path, count: int) -> list[tuple[str, str]]:
    """Gold answer and solution, the same for both sides."""
    draw = random.Random(0)
    made = []
    for number, (reasoning, gold) in enumerate(solutions(path, count)):
        value = int(re.sub(r"[^\d-]", "", gold))
        steps = [step for step in re.findall(r"(?<![\w.,])\d+(?![\w.,])", reasoning) if int(step) != value]
        wrong = draw.choice([str(value + draw.choice([-10, -2, -1, 1, 2, 10])), str(value * 10 + 1), *steps[-1:]])
        answer = wrong if draw.random() < WRONG else gold
        made.append((gold, reasoning + ENDINGS[number % len(ENDINGS)].format(answer)))
    return made


def run_ours(rows: list[tuple[str, str]], workers: int) -> tuple[float, float, list[bool]]:
    """Seconds with workers that have started, seconds of their start, and verdicts."""
    from posttrain.rewards.math.math_answer import MathAnswerReward
    from posttrain.rewards.reward import RewardInput
    from posttrain.types import Example

    inputs = [RewardInput(Example(str(number), "", gold), text) for number, (gold, text) in enumerate(rows)]
    reward = MathAnswerReward(workers=workers)
    begun = time.perf_counter()
    reward.score([RewardInput(Example("", "", "1"), f"#### {number}") for number in range(-8, 0)])
    started = time.perf_counter()
    outputs = reward.score(inputs)
    seconds = time.perf_counter() - started
    reward.close()
    return seconds, started - begun, [output.score == 1 for output in outputs]


def run_peer(rows: list[tuple[str, str]]) -> tuple[float, float, list[bool]]:
    """Seconds, nothing to start, and verdicts."""
    from math_verify import parse, verify

    started = time.perf_counter()
    verdicts = [verify(parse(gold), parse(text.rpartition("\n")[2])) for gold, text in rows]
    seconds = time.perf_counter() - started
    return seconds, 0.0, verdicts


def measured(side: str, arguments: argparse.Namespace) -> tuple[float, float, list[bool]]:
    """One side's result, from a process of its own."""
    options = ["--pairs", str(arguments.pairs), "--workers", str(arguments.workers), "--gsm8k", str(arguments.gsm8k)]
    command = [sys.executable, __file__, "--side", side, *options]
    seconds, start, verdicts = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    print(f"{side}: {seconds:.2f} s, start {start:.2f} s", flush=True)
    return seconds, start, verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gsm8k", type=Path, default=GSM8K)
    parser.add_argument("--side", choices=["ours", "peer"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        rows = pairs(arguments.gsm8k, arguments.pairs)
        print(json.dumps(run_ours(rows, arguments.workers) if arguments.side == "ours" else run_peer(rows)))
        return
    rounds = [(measured("ours", arguments), measured("peer", arguments)) for _ in range(arguments.rounds)]
    ours = statistics.median(ours for (ours, _, _), _ in rounds)
    start = statistics.median(start for (_, start, _), _ in rounds)
    peer = statistics.median(peer for _, (peer, _, _) in rounds)
    differ = sum(a != b for a, b in zip(rounds[0][0][2], rounds[0][1][2], strict=True))
    result = {
        "name": "math_answer",
        "ours": round(arguments.pairs / ours, 1),
        "peer": round(arguments.pairs / peer, 1),
        "ratio": round(peer / ours, 2),
        "setting": {
            "pairs": arguments.pairs,
            "workers": arguments.workers,
            "data": "gsm8k" if arguments.gsm8k.exists() else "generated",
            "right_share": round(sum(rounds[0][1][2]) / arguments.pairs, 3),
            "verdicts_that_differ": differ,
            "ratio_with_the_start_of_workers": round(peer / (ours + start), 2),
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
