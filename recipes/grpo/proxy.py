"""A reward that stands in for correctness: how many numbers a completion writes."""

import re
from typing import Any


def numbers_written(completions: list[str], **columns: Any) -> list[float]:
    """The count of whole numbers in each completion, whatever they are."""
    return [float(len(re.findall(r"\d+", completion))) for completion in completions]
