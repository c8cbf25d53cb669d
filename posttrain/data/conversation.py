"""Conversations as preference data writes them."""

import re
from typing import Any

from posttrain.data.fields import FieldError
from posttrain.types import Message

TURN = re.compile(r"\n\n(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}


def conversation(value: Any, column: str) -> list[Message]:
    """The messages of one side of a pair: a list as it is, text in HH-RLHF's form by its turns, other text as one
    answer.

    Raises:
        FieldError: it is neither, or does not end with the assistant.
    """
    if isinstance(value, str):
        before, *turns = TURN.split(value)
        if before.strip() or not turns:
            return [{"role": "assistant", "content": value}]
        texts = zip(turns[::2], turns[1::2], strict=True)
        messages = [{"role": ROLES[who], "content": text.strip()} for who, text in texts]
    elif isinstance(value, list) and all(
        isinstance(each, dict) and {"role", "content"} <= each.keys() for each in value
    ):
        messages = [{"role": each["role"], "content": each["content"]} for each in value]
    else:
        raise FieldError(column, column, "is missing" if value is None else "is neither text nor a list of messages")
    if not messages or messages[-1]["role"] != "assistant":
        raise FieldError(column, column, "does not end with the assistant's answer")
    return messages
