"""Which reward model knows early that a completion has gone wrong: AUROC on unfinished held-out completions.

    python recipes/reward_model/partial_auroc.py --seeds 1 2 3 --output recipes/reward_model/results/partial_auroc.json

Trains goal_conditioned.yaml and the same job without its contrastive term, for each seed. A held-out pair gives two
beginnings with equally many totals, the wrong total among those of the dispreferred one; the last total is never shown.
Three readings of each model: Q at the last token, the head's score there, and the head's score after an end of turn.
"""

import argparse
import json
import random
import statistics
from collections.abc import Sequence
from pathlib import Path

from posttrain.build import run_job
from posttrain.job import load_job
from posttrain.rewards.learned.goal_conditioned import GoalConditionedReward
from posttrain.rewards.reward import Reward, RewardInput
from posttrain.types import Example

HERE = Path(__file__).parent
ARMS = {"bradley_terry": ["trainer.contrastive=null"], "goal_conditioned": []}
Pairs = Sequence[tuple[Example, Sequence[str]]]  # an example, and a better and a worse completion or beginning


def beginnings(examples: Sequence[Example]) -> Pairs:
    """As many whole steps of the right and of the wrong completion, where one before the last is wrong."""
    rng = random.Random("beginnings")
    pairs = []
    for example in examples:
        right, wrong = (text.split(",") for text in example.candidates)
        first_wrong = next(place for place, (a, b) in enumerate(zip(right, wrong, strict=True)) if a != b)
        if first_wrong < len(right) - 1:
            steps = rng.randint(first_wrong + 1, len(right) - 1)
            pairs.append((example, [",".join(side[:steps]) + "," for side in (right, wrong)]))
    return pairs


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """The share of (positive, negative) in which the positive is higher; a tie counts half."""
    wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    return wins / (len(positive) * len(negative))


def aurocs(reward: Reward, pairs: Pairs, finished: bool) -> dict[str, float]:
    """AUROC of Q and of the head's score over the better and the worse sides of ``pairs``."""
    finish = "stop" if finished else "length"
    better, worse = (
        reward.score([RewardInput(example, sides[place], finish_reason=finish) for example, sides in pairs])
        for place in (0, 1)
    )
    readings = {"q": lambda output: output.score, "head": lambda output: output.parts["reward_model"]}
    return {name: auroc([*map(read, better)], [*map(read, worse)]) for name, read in readings.items()}


def measure(model: Path, examples: Sequence[Example]) -> dict[str, float]:
    """What the readings of ``model`` are worth on whole completions and on beginnings."""
    reward = GoalConditionedReward(model=str(model)).build()
    partial = beginnings(examples)
    unfinished, ended = aurocs(reward, partial, finished=False), aurocs(reward, partial, finished=True)
    whole = aurocs(reward, [(example, example.candidates) for example in examples], finished=True)
    reward.close()
    return {
        "partial_q": unfinished["q"],
        "partial_head": unfinished["head"],
        "partial_head_after_end": ended["head"],
        "whole_q": whole["q"],
        "whole_head": whole["head"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes to the job")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--runs", type=Path, default=Path("runs/partial-auroc"))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    rows = []
    for seed in arguments.seeds:
        for arm, changes in ARMS.items():
            folder = arguments.runs / f"{arm}-{seed}"
            settings = [f"run.seed={seed}", f"run.folder={folder}", *changes, *arguments.overrides]
            job = load_job(HERE / "goal_conditioned.yaml", settings)
            model = run_job(job, resume="auto").model_folder
            rows.append({"arm": arm, "seed": seed, **measure(model, job.data.build().eval_examples())})
            print(json.dumps(rows[-1]), flush=True)
    means = {
        arm: {
            name: statistics.mean(row[name] for row in rows if row["arm"] == arm)
            for name in rows[0]
            if name not in ("arm", "seed")
        }
        for arm in ARMS
    }
    result = {"rows": rows, "means": means, "overrides": arguments.overrides}
    print(json.dumps(means))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
