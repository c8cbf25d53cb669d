"""Reward against KL: what a coefficient of the log-ratio in RAFT's rank key costs, and what it saves.

    python recipes/raft/tradeoff.py --seeds 1 2 3 --output recipes/raft/results/tradeoff

Trains small.yaml with each coefficient, from one warm start a seed, and writes points.json and tradeoff.svg. A point is
one evaluation: mean@8 on held-out prompts, and the KL to the initial policy that the following step measured on what it
sampled, in nats a completion.
"""

import argparse
import json
import statistics
from pathlib import Path

from posttrain.build import run_job
from posttrain.job import load_job
from posttrain.report.comparison import BOTTOM, HEIGHT, LEFT, LIGHT, TOP, WIDTH, Axis
from posttrain.training.run_log import read_metrics

JOB = Path(__file__).parent / "small.yaml"
COEFFICIENTS = (0.0, 0.05, 0.5)

Points = list[tuple[float, float]]  # (KL, reward)


def train(coefficient: float, seed: int, runs: Path) -> Points:
    """Run one arm to its end, or go on with it, and read its points."""
    folder = runs / f"seed-{seed}" / f"beta-{coefficient:g}"
    settings = [
        f"run.seed={seed}",
        f"run.folder={folder}",
        f"run.warm_start_folder={runs / f'seed-{seed}' / 'warm_start'}",
        f"trainer.kl_rank_coef={coefficient}",
        "trainer.measure_kl=true",
    ]
    run_job(load_job(JOB, settings), resume="auto")
    return points(read_metrics(folder))


def points(metrics: list[dict[str, float]]) -> Points:
    """Each evaluation with the KL of the step after it, which samples from the same weights."""
    kl = {row["step"] - 1: row["raft/kl_to_initial"] for row in metrics if "raft/kl_to_initial" in row}
    evaluated = {row["step"]: row["eval/accuracy"] for row in metrics if "eval/accuracy" in row}
    return [(round(kl[step], 6), reward) for step, reward in evaluated.items() if step in kl]


def picture(curves: dict[str, list[Points]]) -> str:
    """An SVG with a dot for each evaluation of each seed, the last ones large."""
    every = [point for arm in curves.values() for seed in arm for point in seed]
    x = Axis.over([kl for kl, _ in every], LEFT, WIDTH - LEFT)
    y = Axis.over([reward for _, reward in every], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">',
        "<style>text { font: 13px system-ui, sans-serif; fill: #1b1c1e } line { stroke: #e4e4df }</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="28">held-out reward over KL to the initial policy, nats a completion</text>',
    ]
    for tick in y.ticks:
        at = y.pixel(tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - LEFT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4}" text-anchor="end">{tick:g}</text>')
    parts += [f'<text x="{x.pixel(t)}" y="{HEIGHT - 30}" text-anchor="middle">{t:g}</text>' for t in x.ticks]
    for place, (name, arm) in enumerate(curves.items()):
        across = LEFT + 110 * place
        parts.append(f'<circle cx="{across + 6}" cy="46" r="6" fill="{LIGHT[place]}"/>')
        parts.append(f'<text x="{across + 18}" y="50">{name}</text>')
        for seed in arm:
            for number, (kl, reward) in enumerate(seed, start=1):
                radius = 6 if number == len(seed) else 3
                at = f'cx="{x.pixel(kl)}" cy="{y.pixel(reward)}"'
                parts.append(f'<circle {at} r="{radius}" fill="{LIGHT[place]}" opacity=".75"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--runs", type=Path, default=Path("runs/raft-tradeoff"))
    parser.add_argument("--output", type=Path, default=Path("runs/raft-tradeoff"))
    options = parser.parse_args()
    curves: dict[str, list[Points]] = {f"beta {coefficient:g}": [] for coefficient in COEFFICIENTS}
    for seed in options.seeds:
        for coefficient, arm in zip(COEFFICIENTS, curves.values(), strict=True):
            arm.append(train(coefficient, seed, options.runs))
    for name, arm in curves.items():
        ends = zip(*(seed_points[-1] for seed_points in arm), strict=True)
        kl, reward = map(statistics.mean, ends)
        print(f"{name}: KL {kl:.3f}, reward {reward:.3f}; rewards {[round(p[-1][1], 3) for p in arm]}")
    options.output.mkdir(parents=True, exist_ok=True)
    content = {"seeds": options.seeds, "points (KL, reward)": curves}
    (options.output / "points.json").write_text(json.dumps(content, indent=1) + "\n")
    (options.output / "tradeoff.svg").write_text(picture(curves))


if __name__ == "__main__":
    main()
