"""The cheapest judgement there is: the last integer of a completion against the example's answer."""

import re
from collections.abc import Sequence
from typing import Literal

from posttrain.rewards.on_error import BaseRewardConfig
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput

# A minus right after a digit or parenthesis is an operator, not a sign.
INTEGER = re.compile(r"(?:(?<![0-9)])-)?[0-9]+")


class ExactIntegerConfig(BaseRewardConfig):
    """1 where the last integer of the completion is the answer, else 0."""

    type: Literal["exact_integer"] = "exact_integer"

    def make(self) -> Reward:
        return ExactIntegerReward()


class ExactIntegerReward:
    """1.0 if the last integer of the completion is the example's answer, else 0.0; it costs microseconds.

    An example whose answer is not an integer is ``invalid_input``.
    """

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return [_judged(item) for item in inputs]

    def close(self) -> None:
        """There is nothing to end."""


def _judged(item: RewardInput) -> RewardOutput:
    answer = item.example.answer
    if not isinstance(answer, str) or not INTEGER.fullmatch(answer):
        return RewardOutput(None, error="invalid_input", message=f"the answer {answer!r} is not an integer")
    integers = INTEGER.findall(item.completion)
    return RewardOutput(float(bool(integers) and _normalised(integers[-1]) == _normalised(answer)))


def _normalised(integer: str) -> str:
    """Without leading zeros. Text, because a completion may hold more digits than Python converts to a number."""
    digits = integer.lstrip("-").lstrip("0") or "0"
    return f"-{digits}" if integer.startswith("-") and digits != "0" else digits
