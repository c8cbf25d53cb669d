"""The reward protocol: a batch of ``RewardInput`` in, one ``RewardOutput`` for each out, in order."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from posttrain.types import ErrorKind, Example, FinishReason


@dataclass(slots=True)
class RewardInput:
    """A completion to judge, with the example it answers."""

    example: Example
    completion: str
    completion_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason = "stop"


@dataclass(slots=True)
class RewardOutput:
    """A finite ``score`` with its named ``parts``; or ``error`` and ``message``, why it could not be judged, with
    ``score`` None. A failure is never a score of 0."""

    score: float | None
    parts: dict[str, float] = field(default_factory=dict)
    error: ErrorKind | None = None
    message: str = ""


@runtime_checkable
class Reward(Protocol):
    """Anything that judges completions. ``close`` ends worker processes, if there are any."""

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]: ...

    def close(self) -> None: ...
