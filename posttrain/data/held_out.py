"""A split that no seed moves: what is held out once is held out always."""

import zlib


def is_one_in(share: int, text: str) -> bool:
    """Whether ``text`` is of the one in ``share`` texts that are held out; it depends on the text alone."""
    return zlib.crc32(text.encode()) % share == 0
