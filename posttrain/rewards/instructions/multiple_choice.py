"""The letter that a completion chooses, against the letter of the example: strict, and without mathematics."""

import re
from typing import Literal

from pydantic import Field

from posttrain.rewards.math.answer_extraction import after_thinking, extract_answer
from posttrain.rewards.on_error import ConfiguredReward
from posttrain.rewards.reward import RewardInput, RewardOutput

# A letter, bare or in brackets, TeX or asterisks; then the end, or a mark that parts it from the choice's text.
LETTER = re.compile(
    r"(?:\\text(?:bf)?\{|\\mathrm\{|[\s*(\[$])*([A-Za-z])(?:[\s*)\]}$]*\Z|[\s*]*[).:,;\]}].*)", re.DOTALL
)
TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class MultipleChoiceReward(ConfiguredReward):
    r"""1 where the completion's letter is the example's answer, else 0. Part ``answered``: 1 where it has a letter.

    The letter is what ``<answer>...</answer>`` holds, else the last ``\boxed{...}``, ``####`` line or phrase ("the
    answer is"), else the whole completion, where that is a letter or begins with one as in ``B) Paris``. A letter
    elsewhere in the text is not a choice.

    An example whose answer is not one of ``letters`` is ``invalid_input``.
    """

    type: Literal["multiple_choice"] = "multiple_choice"
    letters: str = Field(default="ABCDEFGHIJ", pattern="^[A-Z]+$", description="that can be chosen")

    def judged(self, item: RewardInput) -> RewardOutput:
        gold = item.example.answer
        answer = _letter(gold) if isinstance(gold, str) else None
        if answer is None or answer not in self.letters:
            message = f"the answer {gold!r:.200} is not one of the letters {self.letters}"
            return RewardOutput(None, error="invalid_input", message=message)
        text = after_thinking(item.completion)
        chosen = None if text is None else chosen_letter(text)
        if chosen is None or chosen not in self.letters:
            return RewardOutput(0.0, {"answered": 0.0}, message="no letter was chosen")
        return RewardOutput(float(chosen == answer), {"answered": 1.0})


def chosen_letter(text: str) -> str | None:
    """The letter, in upper case, that ``text`` chooses; None where it chooses none."""
    tagged = TAGGED.findall(text)
    if tagged:
        return _letter(tagged[-1])
    found = extract_answer(text, expects_text=True)
    return _letter(found.text if found is not None else text)


def _letter(text: str) -> str | None:
    match = LETTER.fullmatch(text.strip())
    return match[1].upper() if match else None
