"""Does Prefix-RFT work as it says it does? Two checks on the runs of a comparison, in the first fifth of the steps.

    python recipes/prefix_rft/mechanism.py runs/prefix-rft-learning --output recipes/prefix_rft/results/mechanism.json

A rollout that continues a prefix succeeds more often than the policy alone, and more groups have a spread of rewards
(without one a group teaches nothing) than in ``grpo``. Exits 1 if either fails on a seed.
"""

import argparse
import json
from pathlib import Path
from statistics import fmean

from posttrain.training.run_log import read_metrics

FIRST = 1 / 5  # of the steps


def first_steps(run: Path) -> list[dict[str, float]]:
    """The rows of training steps in the first fifth of ``run``."""
    rows = [row for row in read_metrics(run) if "reward/mean" in row]
    return rows[: round(len(rows) * FIRST)]


def groups_with_spread(rows: list[dict[str, float]], prompts: int) -> float:
    """The share of groups whose rewards differ."""
    return fmean(1 - row["batch/groups_without_spread"] / prompts for row in rows)


def mechanism(seed: Path, prompts: int = 32) -> dict[str, float]:
    """What the runs of one seed say, ``prompts`` groups a step."""
    hybrid, alone = first_steps(seed / "prefix_rft"), first_steps(seed / "grpo")
    with_prefix = [row for row in hybrid if "prefix/hybrid_reward" in row]
    weights = [row["prefix/hybrid_rollouts"] for row in with_prefix]
    hybrid_reward = sum(
        row["prefix/hybrid_reward"] * weight for row, weight in zip(with_prefix, weights, strict=True)
    ) / sum(weights)
    return {
        "hybrid_reward": hybrid_reward,
        "own_reward": fmean(row["prefix/own_reward"] for row in hybrid),
        "groups_with_spread": groups_with_spread(hybrid, prompts),
        "groups_with_spread_grpo": groups_with_spread(alone, prompts),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path, help="output folder of posttrain compare recipes/prefix_rft/learning")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    result = {folder.name: mechanism(folder) for folder in sorted(arguments.comparison.glob("seed-*"))}
    text = json.dumps({seed: {k: round(v, 4) for k, v in row.items()} for seed, row in result.items()}, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")
    holds = all(
        row["hybrid_reward"] > row["own_reward"] and row["groups_with_spread"] > row["groups_with_spread_grpo"]
        for row in result.values()
    )
    return 0 if result and holds else 1


if __name__ == "__main__":
    raise SystemExit(main())
