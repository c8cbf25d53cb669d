"""What the trainer saw, arm by arm: the proxy and its parts over the last ten steps, on training prompts.

python recipes/grpo/proxy_table.py runs/compare/grpo/hacking > recipes/grpo/results/proxy.md
"""

import sys
from pathlib import Path
from statistics import mean

from posttrain.training.run_log import read_metrics

COLUMNS = {
    "proxy": "reward/mean",
    "correct": "reward/part/correct",
    "numbers": "reward/part/numbers",
    "KL": "policy/kl",
    "chi2": "policy/chi2",
    "clamped": "policy/chi2_clamped_fraction",
}
STEPS = 10


def ends(folder: Path) -> dict[str, float]:
    """The means of a run's last steps, of what it logged."""
    steps = [row for row in read_metrics(folder) if "reward/mean" in row][-STEPS:]
    return {name: mean(row[key] for row in steps) for name, key in COLUMNS.items() if key in steps[0]}


def main(comparison: Path) -> None:
    """Print the table: means over seeds."""
    runs: dict[str, list[dict[str, float]]] = {}
    for log in sorted(comparison.glob("seed-*/*/metrics.jsonl")):
        if log.parent.name != "warm_start":
            runs.setdefault(log.parent.name, []).append(ends(log.parent))
    print(f"| arm | seeds | {' | '.join(COLUMNS)} |\n| --- | ---: |{' ---: |' * len(COLUMNS)}")
    for arm, seeds in runs.items():
        cells = [f"{mean(s[name] for s in seeds):.3f}" if name in seeds[0] else "" for name in COLUMNS]
        print(f"| {arm} | {len(seeds)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
