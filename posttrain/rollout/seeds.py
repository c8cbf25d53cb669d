"""Seeds that depend on what is drawn, not on when: the reason a lost rollout can be drawn again."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from any sequence of names and numbers; the same parts always give the same seed."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
