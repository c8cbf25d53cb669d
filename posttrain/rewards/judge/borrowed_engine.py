"""Rewards that judge with the policy's own engine, wherever they are in a composition."""

import threading
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from posttrain.rewards.reward import Reward
from posttrain.rollout.engine import RolloutEngine


@runtime_checkable
class BorrowsEngine(Protocol):
    """A reward that uses ``engine`` while it holds ``turn``, as the owner does while it draws rollouts."""

    def lend_engine(self, engine: RolloutEngine, turn: threading.Lock) -> None: ...


def borrowers_in(reward: Reward) -> Iterator[BorrowsEngine]:
    """Those of ``reward`` and of the rewards that it holds: in attributes, and in lists, tuples and mappings there."""
    waiting: list[Any] = [reward]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, BorrowsEngine):
            yield value
        if isinstance(value, Reward):
            waiting += getattr(value, "__dict__", {}).values()
        elif isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
