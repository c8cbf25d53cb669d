"""The policy's own good rollouts, kept to be imitated."""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from operator import attrgetter
from typing import Any

from posttrain.objectives.self_imitation import recalibrated_advantage
from posttrain.trainers.credit import scored
from posttrain.types import Origin, Rollout, RolloutGroup

AGE = attrgetter("policy_version")


class ReplayBuffer:
    """Rollouts by task, an example's id, and the last ``recent`` rewards of each task, which tell whether its rollouts
    are still better than usual.

    Of a task the ``per_task`` best are kept, of equals the newest; of all, the newest ``size``.
    """

    def __init__(self, size: int, per_task: int, recent: int) -> None:
        self.size, self.per_task, self.recent = size, per_task, recent
        self.rollouts: dict[str, list[Rollout]] = {}
        self.rewards: dict[str, deque[float]] = {}

    def __len__(self) -> int:
        return sum(map(len, self.rollouts.values()))

    def observe(self, groups: Sequence[RolloutGroup]) -> None:
        """Take in the rewards of a step, and drop what is no better than usual any more."""
        for group in groups:
            rewards = self.rewards.setdefault(group.example.id, deque(maxlen=self.recent))
            rewards.extend(rollout.reward for rollout in scored(group) if rollout.reward is not None)
        for task in {group.example.id for group in groups}:
            self._set(task, [each for each in self.rollouts.get(task, []) if self.advantage(task, each) > 0])

    def advantage(self, task: str, rollout: Rollout) -> float:
        """How much better than the task's recent median ``rollout`` is; 0 where it is no better."""
        assert rollout.reward is not None
        return recalibrated_advantage(rollout.reward, self.rewards[task])

    def keep(self, task: str, rollout: Rollout) -> None:
        """Add a rollout of an observed task, if there is a place for it."""
        if self.advantage(task, rollout) == 0:
            return
        best = sorted([*self.rollouts.get(task, []), rollout], key=lambda each: (each.reward, each.policy_version))
        self._set(task, best[-self.per_task :])
        if len(self) > self.size:
            oldest = min(self.rollouts, key=lambda name: min(map(AGE, self.rollouts[name])))
            self._set(oldest, sorted(self.rollouts[oldest], key=AGE)[1:])

    def draw(self, count: int, seed: int) -> list[tuple[Rollout, float]]:
        """At most ``count`` different rollouts, all equally likely, with their advantages."""
        kept = [(each, self.advantage(task, each)) for task, own in self.rollouts.items() for each in own]
        return random.Random(seed).sample(kept, min(count, len(kept)))

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        rows = {task: [asdict(r) | {"given": int(r.given)} for r in own] for task, own in self.rollouts.items()}
        return {"rollouts": rows, "rewards": {task: list(rewards) for task, rewards in self.rewards.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict``."""
        self.rollouts = {
            task: [Rollout(**row | {"given": Origin(row["given"])}) for row in rows]
            for task, rows in state["rollouts"].items()
        }
        self.rewards = {task: deque(rewards, maxlen=self.recent) for task, rewards in state["rewards"].items()}

    def _set(self, task: str, rollouts: list[Rollout]) -> None:
        self.rollouts[task] = rollouts
        if not rollouts:
            del self.rollouts[task]
