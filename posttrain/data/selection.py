"""Which rows of a pool are trained on, by how well a model does on them: BLEUBERI's hardest, and its ablations."""

import random
from collections.abc import Mapping
from typing import Literal

from posttrain.errors import DataError
from posttrain.rollout.seeds import derive_seed

SelectionMode = Literal["hard", "easy", "medium", "random"]


def select_by_score(scores: Mapping[str, float], mode: SelectionMode, size: int, seed: int = 42) -> list[str]:
    """``size`` of the ids that ``scores`` maps to a score, the highest score first (arXiv 2505.11080 as released).

    ``hard`` is the lowest scores, ``easy`` the highest, and ``medium`` the middle of the sorted list; ``random`` is
    drawn by ``seed`` and looks at no score. Equal scores are in an order drawn by ``seed``: ids may say
    what a row is about.

    Raises:
        DataError: there are fewer than ``size``.
    """
    if len(scores) < size:
        raise DataError(f"{size} rows are to be selected, and only {len(scores)} can be: lower it, or give more rows")
    if mode == "random":
        return random.Random(seed).sample(sorted(scores), size)
    ranked = sorted(scores, key=lambda name: (-scores[name], derive_seed(seed, "tie", name)))
    start = {"easy": 0, "medium": (len(ranked) - size) // 2, "hard": len(ranked) - size}[mode]
    return ranked[start : start + size]
