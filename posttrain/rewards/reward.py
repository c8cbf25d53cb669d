"""The reward protocol: a batch of ``RewardInput`` in, one ``RewardOutput`` for each out, in order."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from posttrain.types import ErrorKind, Example, FinishReason


@dataclass(slots=True)
class RewardInput:
    """A completion to judge, with the example it answers; ``outcome`` is the score of the environment it acted in."""

    example: Example
    completion: str
    completion_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason = "stop"
    outcome: float | None = None


@dataclass(slots=True)
class RewardOutput:
    """A finite ``score`` with its named ``parts``; or ``error`` and ``message``, why it could not be judged, with
    ``score`` None. A failure is never a score of 0.

    ``token_scores``, where the reward has them, are one for each completion token.

    ``score`` None without an error: the reward does not apply to this example. A weighted sum leaves that part out;
    where nothing applies, ``score_checked`` makes it an error.
    """

    score: float | None
    parts: dict[str, float] = field(default_factory=dict)
    error: ErrorKind | None = None
    message: str = ""
    token_scores: list[float] = field(default_factory=list)


@runtime_checkable
class Reward(Protocol):
    """Anything that judges completions.

    ``score`` may be called from any thread, and from several at once. ``close`` ends worker processes, if there are
    any; they start again when they are needed.
    """

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]: ...

    def close(self) -> None: ...


def part_name(reward: Reward) -> str:
    """What a reward is called in ``parts`` and metrics: its ``name``, or its class (``MathAnswerReward`` is
    ``math_answer``)."""
    name = getattr(reward, "name", None)
    if isinstance(name, str) and name:
        return name
    class_name = type(reward).__name__
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", class_name.removesuffix("Reward") or class_name).lower()
