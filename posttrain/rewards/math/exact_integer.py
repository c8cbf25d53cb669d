"""The cheapest judgement there is: the last integer of a completion against the example's answer."""

import re
from typing import Literal

from posttrain.rewards.on_error import ConfiguredReward
from posttrain.rewards.reward import RewardInput, RewardOutput

# A minus right after a digit or parenthesis is an operator, not a sign.
INTEGER = re.compile(r"(?:(?<![0-9)])-)?[0-9]+")


class ExactIntegerReward(ConfiguredReward):
    """1.0 if the last integer of the completion is the example's answer, else 0.0; it costs microseconds.

    An example whose answer is not an integer is ``invalid_input``.
    """

    type: Literal["exact_integer"] = "exact_integer"

    def judged(self, item: RewardInput) -> RewardOutput:
        answer = item.example.answer
        if not isinstance(answer, str) or not INTEGER.fullmatch(answer):
            return RewardOutput(None, error="invalid_input", message=f"the answer {answer!r} is not an integer")
        integers = INTEGER.findall(item.completion)
        return RewardOutput(float(bool(integers) and _normalised(integers[-1]) == _normalised(answer)))


def _normalised(integer: str) -> str:
    """Without leading zeros. Text, because a completion may hold more digits than Python converts to a number."""
    digits = integer.lstrip("-").lstrip("0") or "0"
    return f"-{digits}" if integer.startswith("-") and digits != "0" else digits
