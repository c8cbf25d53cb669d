"""The worker's side of ``InstructionsReward``. Language profiles and tokenizers load with this module, before the
clock of the first completion starts."""

import re
from typing import Any

import posttrain.rewards.instructions.instruction_text  # noqa: F401
from posttrain.rewards.instructions.instruction_checks import INSTRUCTIONS, loose_variants


def judge(item: dict[str, Any]) -> dict[str, Any]:
    """``{"text", "instructions": [[id, arguments], ...]}`` -> ``{"strict": [bool, ...], "loose": [bool, ...]}``, or
    ``{"invalid": why}`` for an argument that is not a regular expression."""
    verdicts: dict[str, Any] = {"strict": [], "loose": []}
    for instruction_id, arguments in item["instructions"]:
        try:
            strict = follows(item["text"], instruction_id, arguments)
            loose = strict or any(
                follows(variant, instruction_id, arguments) for variant in loose_variants(item["text"])[1:]
            )
        except re.error as error:
            return {"invalid": f"{instruction_id}: {arguments} holds what is not a regular expression: {error}"}
        verdicts["strict"].append(strict)
        verdicts["loose"].append(loose)
    return verdicts


def follows(text: str, instruction_id: str, arguments: dict[str, Any]) -> bool:
    """Whether ``text`` is not blank and passes the check."""
    return bool(text.strip()) and INSTRUCTIONS[instruction_id](text, **arguments)
