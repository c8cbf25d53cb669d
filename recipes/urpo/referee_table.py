"""What became of the referees: right on held-out pairs, each in both orders, at the start and the end of each run.

python recipes/urpo/referee_table.py runs/compare/urpo/learning > recipes/urpo/results/referee.md
"""

import sys
from pathlib import Path

from posttrain.training.run_log import read_metrics

COLUMNS = {
    "right": "eval/referee_accuracy",
    "cannot be read": "eval/referee_malformed_fraction",
    "position bias": "eval/referee_position_bias",
}


def cells(folder: Path) -> list[str]:
    """Start and end of each column, and the first step with an open gate, where it was closed."""
    metrics = read_metrics(folder)
    start, *_, end = (row for row in metrics if "eval/referee_accuracy" in row)
    gates = {row["step"]: row["referee/gate_open"] for row in metrics if "referee/gate_open" in row}
    opens = next((f"{step:.0f}" for step, is_open in gates.items() if is_open and step > min(gates)), "")
    return [*(f"{start[key]:.3f} → {end[key]:.3f}" for key in COLUMNS.values()), opens if not gates[min(gates)] else ""]


def main(comparison: Path) -> None:
    """Print the table: a line for each run."""
    print(f"| arm | seed | {' | '.join(COLUMNS)} | gate opens at |\n| --- | ---: |{' ---: |' * (len(COLUMNS) + 1)}")
    for log in sorted(comparison.glob("seed-*/*/metrics.jsonl"), key=lambda path: (path.parent.name, str(path))):
        folder = log.parent
        if folder.name != "warm_start":
            print(f"| {folder.name} | {folder.parent.name.removeprefix('seed-')} | {' | '.join(cells(folder))} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
