"""Calling a reward and holding it to its contract: a failure is a value, and too many of them stop the run."""

import math
import traceback
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

from posttrain.errors import RewardFailure, UserError
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput
from posttrain.types import ErrorKind, RolloutGroup

EXAMPLES_NAMED = 3


def score_checked(reward: Reward, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
    """The outputs of ``reward``, each with either a finite score or an error.

    Raises:
        RewardFailure: the reward raised, or broke its contract (see ``outputs_of``).
    """
    return [
        replace(output, error="invalid_input", message="no reward applies to this example")
        if output.score is None and output.error is None
        else output
        for output in outputs_of(reward, inputs)
    ]


def outputs_of(reward: Reward, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
    """The outputs of ``reward``; a score that is not finite has become an error.

    The one place that calls ``Reward.score``. Unlike in ``score_checked``, a reward may say that it does not apply.

    Raises:
        RewardFailure: the reward raised an exception, returned another number of outputs than inputs, or something
            that is not a ``RewardOutput``; the message names the reward's class and the examples.
    """
    if not inputs:
        return []
    try:
        outputs = reward.score(inputs)
    except UserError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise RewardFailure(
            f"{_label(reward)} raised {type(error).__name__}: {error} (at {frame.filename}:{frame.lineno}), scoring "
            f"{_examples(inputs)}. Mend the reward; for a completion that it cannot judge it should return "
            "RewardOutput(score=None, error=..., message=...)."
        ) from error
    if not isinstance(outputs, Sequence) or len(outputs) != len(inputs):
        returned = f"{len(outputs)} outputs" if isinstance(outputs, Sequence) else type(outputs).__name__
        raise RewardFailure(
            f"{_label(reward)} returned {returned} for {len(inputs)} completions of {_examples(inputs)}. "
            "A reward returns one RewardOutput for each input, in order."
        )
    return [_valid(reward, item, output) for item, output in zip(inputs, outputs, strict=True)]


def _valid(reward: Reward, item: RewardInput, output: RewardOutput) -> RewardOutput:
    where = f"{_label(reward)} returned for example {item.example.id!r}"
    if not isinstance(output, RewardOutput):
        raise RewardFailure(f"{where} a {type(output).__name__}, not a RewardOutput.")
    if output.error is not None and output.error not in get_args(ErrorKind):
        raise RewardFailure(f"{where} the error {output.error!r}; the kinds are {', '.join(get_args(ErrorKind))}.")
    if output.error is not None and output.score is not None:
        raise RewardFailure(f"{where} both the score {output.score!r} and the error {output.error!r}; choose one.")
    if output.score is None:
        return output
    try:
        score = float(output.score)
    except (TypeError, ValueError) as error:
        raise RewardFailure(f"{where} the score {output.score!r}, which is not a number.") from error
    if not math.isfinite(score):
        return replace(output, score=None, error="not_finite", message=f"{_label(reward)} gave {score}")
    return replace(output, score=score)


def _label(reward: Reward) -> str:
    name = getattr(reward, "name", "")
    return type(reward).__name__ + (f" {name!r}" if name else "")


def _examples(inputs: Sequence[RewardInput]) -> str:
    ids = list(dict.fromkeys(item.example.id for item in inputs))
    more = f" and {len(ids) - EXAMPLES_NAMED} more" if len(ids) > EXAMPLES_NAMED else ""
    return ("example " if len(ids) == 1 else "examples ") + ", ".join(map(repr, ids[:EXAMPLES_NAMED])) + more


class ErrorBudget:
    """Stops the run when more than ``max_error_fraction`` of the rewards of the last ``window`` steps failed.

    One failure alone is always within the budget, unless the fraction is 0: a small batch with one pathological
    completion must not end a run.
    """

    def __init__(self, max_error_fraction: float, window: int = 20) -> None:
        self.max_error_fraction = max_error_fraction
        self._steps: deque[dict[str, Any]] = deque(maxlen=window)

    def record(self, step: int, groups: Sequence[RolloutGroup]) -> None:
        """Count the failed rewards of a step.

        Raises:
            RewardFailure: the budget is spent; the message names the kinds of failure and three examples.
        """
        failed = [(group.example.id, rollout) for group in groups for rollout in group.rollouts if rollout.error]
        examples = [
            f"step {step}, example {example_id!r}: {rollout.error}"
            + (f" ({rollout.error_message})" if rollout.error_message else "")
            for example_id, rollout in failed[:EXAMPLES_NAMED]
        ]
        kinds_now = dict(Counter(str(rollout.error) for _, rollout in failed))
        count = sum(len(group.rollouts) for group in groups)
        self._steps.append({"rollouts": count, "kinds": kinds_now, "examples": examples})
        rollouts = sum(entry["rollouts"] for entry in self._steps)
        kinds = sum((Counter(entry["kinds"]) for entry in self._steps), Counter[str]())
        allowed = self.max_error_fraction * rollouts
        if self.max_error_fraction > 0:
            allowed = max(allowed, 1.0)
        if kinds.total() > allowed:
            named = [line for entry in reversed(self._steps) for line in entry["examples"]][:EXAMPLES_NAMED]
            raise RewardFailure(
                f"{kinds.total()} of the {rollouts} rewards of the last {len(self._steps)} steps failed, more than "
                f"trainer.max_error_fraction ({self.max_error_fraction:g}) allows: "
                + ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
                + ". For example: "
                + "; ".join(named)
                + "."
            )

    def state_dict(self) -> dict[str, Any]:
        """The window, as plain values."""
        return {"steps": list(self._steps)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict``."""
        self._steps.clear()
        self._steps.extend(state["steps"])
