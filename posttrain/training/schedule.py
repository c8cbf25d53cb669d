"""Learning rates as a pure function of the step: nothing to save, nothing to restore."""

import math
from typing import Literal


def learning_rate(
    step: int,
    *,
    peak: float,
    minimum: float,
    warmup_steps: int,
    total_steps: int,
    schedule: Literal["constant", "linear", "cosine"],
) -> float:
    """The rate of step ``step`` (from 0): ``(step + 1) / warmup_steps`` of the peak while warming up, then constant,
    or falling to ``minimum`` at ``total_steps`` (a step that is never taken)."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant":
        return peak
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    falling = 1.0 - progress if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return minimum + (peak - minimum) * falling
