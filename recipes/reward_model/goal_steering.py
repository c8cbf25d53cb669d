"""What Q is good for while a policy samples: dropping rollouts of a majority vote on the way, and guiding the decoding.

    python recipes/reward_model/goal_steering.py --seeds 1 2 3

Fine-tunes a small policy on the running totals of goal_conditioned.yaml and samples it hot, so that half of its answers
are wrong; trains reward models from it on pairs of a right and a wrong rollout of the training problems, with and
without the contrastive term. The filter's threshold is fitted on a third of the held-out problems; every number is of
the rest.
"""

import argparse
import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from guided_decoding import decode_guided
from trajectory_filter import Ballot, Vote, filter_outcome, fit_threshold

from posttrain.build import run_job
from posttrain.data.chat import PromptEncoder
from posttrain.job import METHODS, Job, load_job
from posttrain.rewards.learned.goal_conditioned import GoalConditionedReward
from posttrain.rewards.reward import RewardInput
from posttrain.rollout.engine import RolloutEngine
from posttrain.rollout.seeds import derive_seed
from posttrain.training.model import load_tokenizer
from posttrain.types import Example, Rollout, RolloutRequest, Sampling

HERE = Path(__file__).parent
ROLLOUTS, CHUNK_TOKENS, WINDOW, TEMPERATURE = 8, 3, 3, 1.5
ARMS = {"bradley_terry": None, "goal_conditioned": {"coefficient": 0.5}}


def policy_job(job: Job[Any], folder: Path) -> Job[Any]:
    """Supervised fine-tuning on the right totals of the reward model's problems."""
    data = {**job.data.problems.model_dump(), "working": "totals"}
    trainer = {"steps": 1200, "batch_size": 64, "learning_rate": 2e-3, "warmup_steps": 20}
    return job_of("sft", job.model.model_dump(), data, trainer, folder, seed=job.run.seed)


def reward_model_job(policy: Path, pairs: Path, contrastive: Any, folder: Path, seed: int) -> Job[Any]:
    """A reward model from the policy, on its own rollouts."""
    data = {"type": "preference", "path": str(pairs), "eval_fraction": 0.1}
    trainer = {"steps": 1000, "batch_size": 64, "learning_rate": 1e-3, "warmup_steps": 20, "contrastive": contrastive}
    return job_of("reward_model", {"path": str(policy)}, data, trainer, folder, seed)


def job_of(method: str, model: Any, data: Any, trainer: Any, folder: Path, seed: int) -> Job[Any]:
    run = {"folder": str(folder), "seed": seed, "threads": 1}
    job_class: Any = Job[METHODS[method][0]]  # type: ignore[misc]
    return job_class.model_validate({"method": method, "model": model, "data": data, "trainer": trainer, "run": run})


def sample(engine: RolloutEngine, encoder: PromptEncoder, examples: Sequence[Example]) -> list[list[Rollout]]:
    """``ROLLOUTS`` rollouts of each example."""
    drawn = engine.generate([request_of(encoder, example) for example in examples])
    return [drawn[start : start + ROLLOUTS] for start in range(0, len(drawn), ROLLOUTS)]


def request_of(encoder: PromptEncoder, example: Example) -> RolloutRequest:
    return RolloutRequest(
        id=example.id,
        example=example,
        prompt_ids=encoder.prompt_ids(example),
        sampling=Sampling(max_completion_tokens=12, temperature=TEMPERATURE),
        seed=derive_seed("steering", example.id),
        n=ROLLOUTS,
    )


def write_pairs(file: Path, examples: Sequence[Example], groups: Sequence[Sequence[Rollout]]) -> None:
    """The first right and the first wrong finished rollout of every problem that has both."""
    lines = []
    for example, group in zip(examples, groups, strict=True):
        finished = [rollout for rollout in group if rollout.finish_reason == "stop"]
        right = next((rollout.text for rollout in finished if is_right(example, rollout)), None)
        wrong = next((rollout.text for rollout in finished if rollout.text and not is_right(example, rollout)), None)
        if right and wrong:
            lines.append(json.dumps({"id": example.id, "prompt": example.prompt, "chosen": right, "rejected": wrong}))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def answer_of(text: str) -> str:
    """The last integer, as the task judges it."""
    return (re.findall(r"\d+", text) or [""])[-1]


def is_right(example: Example, rollout: Rollout) -> bool:
    return answer_of(rollout.text) == example.answer


def vote(reward: GoalConditionedReward, example: Example, rollouts: Sequence[Rollout]) -> Vote:
    """The rollouts of one problem with the Q of their tokens."""
    outputs = reward.score([RewardInput(example, r.text, r.completion_ids, r.finish_reason) for r in rollouts])
    return Vote(
        str(example.answer),
        [Ballot(answer_of(r.text), output.token_scores) for r, output in zip(rollouts, outputs, strict=True)],
    )


def measure(
    engine: RolloutEngine, reward: GoalConditionedReward, encoder: PromptEncoder, examples: Sequence[Example]
) -> dict[str, float]:
    """Accuracies of sampling, voting, filtered voting, best of n and guided decoding."""
    groups = sample(engine, encoder, examples)
    votes = [vote(reward, example, group) for example, group in zip(examples, groups, strict=True)]
    third = len(votes) // 3
    threshold = fit_threshold(votes[:third], WINDOW)
    outcome = filter_outcome(votes[third:], WINDOW, threshold)
    lowest = reward.model_copy(update={"pooling": "min"})
    right: dict[str, list[bool]] = {"sampled": [], "best_of_n": [], "guided_by_min": [], "guided_by_last": []}
    for example, group, of_group in list(zip(examples, groups, votes, strict=True))[third:]:
        best = max(range(ROLLOUTS), key=lambda index: min(of_group.ballots[index].q_values))
        right["sampled"] += [is_right(example, rollout) for rollout in group]
        right["best_of_n"].append(is_right(example, group[best]))
        for name, guide in (("guided_by_min", lowest), ("guided_by_last", reward)):
            guided = decode_guided(engine, guide, request_of(encoder, example), CHUNK_TOKENS, ROLLOUTS)
            right[name].append(is_right(example, guided))
    return {name: statistics.mean(values) for name, values in right.items()} | {
        "majority": outcome.accuracy_unfiltered,
        "majority_filtered": outcome.accuracy,
        "tokens_saved": outcome.tokens_saved,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--runs", type=Path, default=Path("runs/goal-steering"))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    rows = []
    for seed in arguments.seeds:
        job = load_job(HERE / "goal_conditioned.yaml", [f"run.seed={seed}"])
        task, folder = job.data.build(), arguments.runs / str(seed)
        policy = run_job(policy_job(job, folder / "policy"), resume="auto").model_folder
        engine = job.engine.build(policy)
        encoder = PromptEncoder(load_tokenizer(policy))
        train = task.train_examples()
        write_pairs(folder / "pairs.jsonl", train, sample(engine, encoder, train))
        for arm, contrastive in ARMS.items():
            reward_job = reward_model_job(policy, folder / "pairs.jsonl", contrastive, folder / arm, seed)
            reward = GoalConditionedReward(model=str(run_job(reward_job, resume="auto").model_folder)).build()
            rows.append({"arm": arm, "seed": seed, **measure(engine, reward, encoder, task.eval_examples())})
            print(json.dumps(rows[-1]), flush=True)
    names = [name for name in rows[0] if name not in ("arm", "seed")]
    means = {arm: {name: statistics.mean(r[name] for r in rows if r["arm"] == arm) for name in names} for arm in ARMS}
    print(json.dumps(means))
    if arguments.output:
        arguments.output.write_text(json.dumps({"rows": rows, "means": means}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
