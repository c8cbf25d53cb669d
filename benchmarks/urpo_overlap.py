"""URPO's rollouts in one batch of the engine against player and referee one after the other.

    OMP_NUM_THREADS=1 python benchmarks/urpo_overlap.py [--engine vllm] [--prompts 32] [--repeats 7]

Ours is ``URPOTrainer.sample``: players and referees of preferences are submitted together, and an open group's question
as soon as its last answer is drawn. The peer runs the same requests on the same engine in two phases: all players, then
all referees, the questions about open groups among them. Both score; they take turns in one process.

Overlap pays where lengths differ. Random weights stop at one of a few tokens, so lengths are geometric: answers with a
truth are the longest (mean about 53 tokens, at most 256, like reasoning beside chat), open answers have half of that,
judgements about 38 and at most 128. ``--equal`` makes open answers as long as the others. Wanted: at most 0.8 of the
peer's seconds, as the median over pairs of neighbouring runs. The last line is JSON.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from posttrain.types import Rollout, RolloutGroup, RolloutRequest, Sampling

GROUP = 8
FIRST_STOP = 100  # of the vocabulary's 266 tokens
PLAYER_TOKENS, REFEREE_TOKENS = 256, 128
STOP_TOKENS = {"verifiable": 4, "open": 9, "referee": 6}


def sampling(kind: str, stop_tokens: dict[str, int]) -> Sampling:
    """Completions of a mean length of 266 / (stop tokens + 1), cut at the budget."""
    return Sampling(
        max_completion_tokens=REFEREE_TOKENS if kind == "referee" else PLAYER_TOKENS,
        stop_token_ids=tuple(range(FIRST_STOP, FIRST_STOP + stop_tokens[kind])),
    )


def make_trainer(folder: Path, engine: str, prompts: int, together: int, stop_tokens: dict[str, int]) -> Any:
    """URPO on additions with random weights and an open gate."""
    from posttrain.data.tiny_model import TinyModelConfig, create_tiny_model
    from posttrain.rollout.config import TransformersEngineConfig, VLLMEngineConfig
    from posttrain.tasks.addition_referee import AdditionRefereeConfig
    from posttrain.trainers.urpo import URPOTrainer
    from posttrain.trainers.urpo_config import URPOConfig
    from posttrain.training.run_config import RunConfig

    task = AdditionRefereeConfig().build()
    engine_configs = {
        "vllm": VLLMEngineConfig(max_num_seqs=together),
        "transformers": TransformersEngineConfig(max_num_seqs=together),
    }
    config = URPOConfig(
        steps=1,
        prompts_per_step=prompts,
        rollouts_per_prompt=GROUP,
        sampling=sampling("verifiable", stop_tokens),
        referee_max_completion_tokens=REFEREE_TOKENS,
        referee_candidate_tokens=PLAYER_TOKENS // 4,
        referee_template="compact",
        referee_min_accuracy=0,
    )
    trainer = URPOTrainer(
        create_tiny_model(folder / "model", TinyModelConfig()),
        config,
        reward=task.reward(),
        train_dataset=task.train_examples(),
        engine=engine_configs[engine],
        run=RunConfig(folder=str(folder / "run")),
    )
    trainer.judgement_sampling = sampling("referee", stop_tokens)
    return trainer


def planned(trainer: Any, prompts: int, stop_tokens: dict[str, int]) -> list[RolloutRequest]:
    """A step's requests, each with the lengths of its kind."""
    return [
        replace(each, sampling=sampling("referee" if each.role == "referee" else each.example.task, stop_tokens))
        for each in trainer.plan(trainer.sampler.next(prompts))
    ]


def two_phases(trainer: Any, requests: Sequence[RolloutRequest]) -> list[RolloutGroup]:
    """All players, then all referees; every group is scored as in ``sample``."""
    from posttrain.rewards.checked import score_checked
    from posttrain.trainers.collection import record_scores, reward_inputs

    groups = {request.group: RolloutGroup(request.example, []) for request in requests}
    number_of = {request.id: request.group for request in requests}

    def draw(some: Sequence[RolloutRequest]) -> dict[str, list[Rollout]]:
        rollouts: dict[str, list[Rollout]] = {request.id: [] for request in some}
        for rollout in trainer.engine.generate(some):
            rollouts[rollout.request_id].append(rollout)
        return rollouts

    for name, rollouts in draw([each for each in requests if each.role == "player"]).items():
        groups[number_of[name]].rollouts = rollouts
    following = {number: trainer.follow_up(group) for number, group in groups.items() if group.rollouts}
    questions = [request for each in following.values() if each is not None for request in each.requests]
    judged = draw([*(each for each in requests if each.role == "referee"), *questions])
    for number, group in groups.items():
        group.rollouts = group.rollouts or next(judged[each.id] for each in requests if each.group == number)
        if (each := following.get(number)) is not None:
            each.conclude([rollout for request in each.requests for rollout in judged[request.id]])
        if each is None or not each.instead:
            record_scores(group.rollouts, score_checked(trainer.reward, reward_inputs(group)))
    return [groups[number] for number in sorted(groups)]


def seconds_of(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def tokens_of(groups: Sequence[RolloutGroup], task: str) -> list[int]:
    return [len(rollout.completion_ids) for g in groups if g.example.task == task for rollout in g.rollouts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["vllm", "transformers"], default="vllm")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--together", type=int, help="rollouts decoded together; a quarter of the step's")
    parser.add_argument("--equal", action="store_true", help="open answers as long as those with a truth")
    options = parser.parse_args()
    together = options.together or options.prompts * GROUP // 4
    os.environ |= {"HF_HUB_OFFLINE": "1"}
    stop_tokens = STOP_TOKENS | ({"open": STOP_TOKENS["verifiable"]} if options.equal else {})
    with tempfile.TemporaryDirectory() as name:
        trainer = make_trainer(Path(name), options.engine, options.prompts, together, stop_tokens)
        requests = planned(trainer, options.prompts, stop_tokens)
        sides: dict[str, Callable[[], list[RolloutGroup]]] = {
            "ours": lambda: trainer.sample(requests),
            "peer": lambda: two_phases(trainer, requests),
        }
        drawn = {side: run() for side, run in sides.items()}
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for repeat in range(options.repeats):
            for side in sorted(sides, reverse=repeat % 2 == 1):
                seconds[side].append(seconds_of(sides[side]))
        trainer.engine.close()
    kinds = ("verifiable", "open", "preference")
    lengths = {side: {kind: tokens_of(groups, kind) for kind in kinds} for side, groups in drawn.items()}
    totals = {side: sum(map(sum, columns.values())) for side, columns in lengths.items()}
    assert abs(totals["ours"] - totals["peer"]) <= 0.02 * totals["peer"], f"the sides drew different rollouts: {totals}"
    setting = {
        "unit": "seconds of a step's collection",
        "engine": options.engine,
        "rollouts": {kind: len(some) for kind, some in lengths["ours"].items()},
        "mean_length": {kind: round(statistics.mean(some)) for kind, some in lengths["ours"].items()},
        "longest": {kind: max(some) for kind, some in lengths["ours"].items()},
        "decoded_together": together,
        "ratios": [round(a / b, 3) for a, b in zip(seconds["ours"], seconds["peer"], strict=True)],
    }
    ours, peer = (statistics.median(seconds[side]) for side in ("ours", "peer"))
    ratio = statistics.median(a / b for a, b in zip(seconds["ours"], seconds["peer"], strict=True))
    print(json.dumps({"name": "urpo_overlap", "ours": ours, "peer": peer, "ratio": ratio, "setting": setting}))


if __name__ == "__main__":
    main()
