"""The environment protocol: text in, text out; and the grammar of an action."""

from dataclasses import dataclass
from typing import Protocol

ACTION = "Action:"
WITHOUT_ACTION = f"Nothing happens: write exactly one line that starts with '{ACTION}'."


@dataclass(slots=True, frozen=True)
class StepResult:
    """What a turn led to. ``reward`` is the score so far, in [0, 1]: the last one counts. ``failed`` says why the
    environment broke its contract, or did not answer in time; the episode then has no reward. ``valid`` is False where
    the environment saw no action in the turn, or none that it could carry out."""

    observation: str
    reward: float = 0.0
    done: bool = False
    failed: str = ""
    valid: bool = True


class Environment(Protocol):
    """One episode at a time. The same task, seed and actions give the same episode.

    A turn that is no valid action is answered by an observation, and is never an exception.
    """

    def reset(self, task_id: str, seed: int) -> str:
        """Begin an episode: the first observation, with the task. Raises KeyError for an unknown task."""
        ...

    def step(self, turn: str) -> StepResult:
        """The policy's whole turn, of which the environment reads the action (see ``parse_action``)."""
        ...

    def close(self) -> None:
        """End what the episode runs on."""
        return None  # most run on nothing


def parse_action(turn: str) -> str | None:
    """What follows ``Action:`` on the only line that starts with it; None where there are none or several."""
    lines = [line.strip() for line in turn.splitlines()]
    actions = [line.removeprefix(ACTION).strip() for line in lines if line.startswith(ACTION)]
    return actions[0] if len(actions) == 1 else None
