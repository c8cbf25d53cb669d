"""Gathering a step's rollouts: while the engine still generates, finished groups are scored on another thread."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from posttrain.rewards.checked import score_checked
from posttrain.rewards.judge.borrowed_engine import borrowers_in
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput
from posttrain.rollout.engine import RolloutEngine
from posttrain.rollout.pending import in_request_order
from posttrain.trainers.stragglers import Stragglers
from posttrain.types import Rollout, RolloutGroup, RolloutRequest


@dataclass(slots=True)
class CollectionTimes:
    """Seconds until the engine was done, and seconds that scoring took beyond that."""

    generate: float
    score: float


@dataclass(slots=True)
class FollowUp:
    """What a drawn group asks the engine for while others are still drawn. ``conclude`` gets those rollouts, in the
    order of ``requests``; with ``instead`` the group is not scored by the reward."""

    requests: Sequence[RolloutRequest]
    conclude: Callable[[list[Rollout]], None]
    instead: bool
    rollouts: list[Rollout] = field(default_factory=list)


def collect_groups(
    engine: RolloutEngine,
    requests: Sequence[RolloutRequest],
    reward: Reward,
    on_scored: Callable[[RolloutGroup], None] | None = None,
    follow_up: Callable[[RolloutGroup], FollowUp | None] = lambda group: None,
    stragglers: Stragglers | None = None,
) -> tuple[list[RolloutGroup], CollectionTimes]:
    """Sample ``requests`` and score them, one whole group a call: the groups in order of their number.

    ``on_scored`` is called with each group once it is scored, on the scoring thread. A reward that judges with the
    policy itself is lent the engine, and waits until all rollouts are drawn. ``follow_up`` is called with each group
    as it is drawn; what it requests is submitted at once, and concluded when everything else is done. ``stragglers``
    says how many groups are enough, and keeps the others.
    """

    def score(group: RolloutGroup) -> None:
        record_scores(group.rollouts, score_checked(reward, reward_inputs(group)))
        if on_scored is not None:
            on_scored(group)

    by_id = {request.id: request for request in requests}
    expected: dict[int, int] = {}
    for request in requests:
        expected[request.group] = expected.get(request.group, 0) + request.n
    groups: dict[int, RolloutGroup] = {request.group: RolloutGroup(request.example, []) for request in requests}
    scoring: list[Future[None]] = []
    following: list[FollowUp] = []
    asked: dict[str, FollowUp] = {}
    turn = threading.Lock()
    for borrower in borrowers_in(reward):
        borrower.lend_engine(engine, turn)
    started = time.perf_counter()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="reward") as executor:
        with turn:
            engine.submit(requests)
            for rollout in engine.finished() if stragglers is None else stragglers.whole_groups(engine, requests):
                if rollout.request_id in asked:
                    asked[rollout.request_id].rollouts.append(rollout)
                    continue
                number = by_id[rollout.request_id].group
                group = groups[number]
                group.rollouts.append(rollout)
                if len(group.rollouts) == expected[number]:
                    group.rollouts.sort(key=lambda r: (r.request_id, r.index))
                    following_up = follow_up(group)
                    if following_up is not None:
                        following.append(following_up)
                        asked |= {request.id: following_up for request in following_up.requests}
                        engine.submit(following_up.requests)
                    if following_up is None or not following_up.instead:
                        scoring.append(executor.submit(score, group))
        generated = time.perf_counter()
        for future in scoring:
            future.result()
        for each in following:
            each.conclude(in_request_order(each.rollouts, each.requests))
    times = CollectionTimes(generated - started, time.perf_counter() - generated)
    return [groups[number] for number in sorted(groups) if groups[number].rollouts], times


def reward_inputs(group: RolloutGroup) -> list[RewardInput]:
    """What a reward sees of a group."""
    return [
        RewardInput(group.example, rollout.text, rollout.completion_ids, rollout.finish_reason, rollout.outcome)
        for rollout in group.rollouts
    ]


def record_scores(rollouts: Sequence[Rollout], outputs: Sequence[RewardOutput]) -> None:
    """Write the reward's verdicts into the rollouts."""
    for rollout, output in zip(rollouts, outputs, strict=True):
        rollout.reward = output.score
        rollout.reward_parts = output.parts
        rollout.error = output.error
        rollout.error_message = output.message
