"""A split that no seed moves: what is held out once is held out always."""

import zlib
from collections.abc import Callable
from itertools import islice

LOOKED_AT = 1_000_000  # at least, where tasks of a split are rare


def is_one_in(share: int, text: str) -> bool:
    """Whether ``text`` is of the one in ``share`` texts that are held out; it depends on the text alone."""
    return zlib.crc32(text.encode()) % share == 0


def first_tasks(name: str, split: str, count: int, is_held_out: Callable[[int], bool]) -> list[str]:
    """``NAME/N`` for the first ``count`` numbers N of ``split``, train or eval; fewer where there are not so many."""
    numbers = (number for number in range(max(LOOKED_AT, 10 * count)) if is_held_out(number) == (split == "eval"))
    return [f"{name}/{number}" for number in islice(numbers, count)]
