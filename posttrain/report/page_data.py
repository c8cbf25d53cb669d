"""What the run page shows, as data: metric curves thinned to what a screen can hold, and samples within a budget."""

import base64
import json
import math
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from posttrain.report.overlap import Comparison, overlap
from posttrain.training.run_log import logged_steps, read_rollouts

MOST_POINTS = 1000  # of a curve
MOST_SAMPLE_STEPS = 24
SAMPLE_BYTES = 3_000_000  # of all samples together, compressed and in base64
FIRST_TOKENS, LAST_TOKENS = 1200, 400  # shown of a long completion


def curves(metrics: Sequence[dict[str, float]], most: int = MOST_POINTS) -> dict[str, Any]:
    """The metrics by name: ``steps``, and for each name a list of numbers or None as long as ``steps``.

    A run with more than ``most`` steps is thinned: a point is the mean of ``steps_per_point`` lines.
    """
    names = list(dict.fromkeys(name for line in metrics for name in line if name != "step"))
    size = max(1, math.ceil(len(metrics) / most))
    buckets = [metrics[start : start + size] for start in range(0, len(metrics), size)]
    return {
        "steps": [int(bucket[-1]["step"]) for bucket in buckets],
        "steps_per_point": size,
        "series": {name: [_mean(line.get(name, math.nan) for line in bucket) for bucket in buckets] for name in names},
    }


def not_finite(metrics: Sequence[dict[str, float]]) -> dict[str, list[int]]:
    """The steps at which a metric was logged and was not finite."""
    found: dict[str, list[int]] = {}
    for line in metrics:
        for name, value in line.items():
            if not math.isfinite(value):
                found.setdefault(name, []).append(int(line["step"]))
    return found


def samples(folder: Path, how: Comparison) -> list[dict[str, Any]]:
    """Rollouts of steps spread over the run, as many groups of each as ``SAMPLE_BYTES`` allows.

    Each step is ``step``, ``groups_in_step`` and ``groups``; each group is what a list shows of it and ``data``, its
    rollouts as JSON, deflated, in base64. They are ranked, and compared with the group's references as ``how`` says.
    """
    steps = spread(logged_steps(folder), MOST_SAMPLE_STEPS)
    budget = SAMPLE_BYTES // max(1, len(steps))
    return [_sampled_step(step, read_rollouts(folder, step), budget, how) for step in steps]


def _sampled_step(step: int, records: Sequence[dict[str, Any]], budget: int, how: Comparison) -> dict[str, Any]:
    groups, left = dict[int, dict[str, Any]](), budget
    for index in _pushed_and_not(records):
        group = _group(records[index], how)
        left -= len(group["data"])
        if left < 0:
            break
        groups[index] = group
    return {"step": step, "groups_in_step": len(records), "groups": [groups[index] for index in sorted(groups)]}


def _pushed_and_not(records: Sequence[dict[str, Any]]) -> list[int]:
    """Indices of the groups, those that move the policy and those that do not in turns, each kind in its order."""
    kinds: dict[bool, list[int]] = {True: [], False: []}
    for index, record in enumerate(records):
        kinds[any(map(_pushed, record["rollouts"]))].append(index)
    ranked = [(rank, not kind, index) for kind, indices in kinds.items() for rank, index in enumerate(indices)]
    return [index for _, _, index in sorted(ranked)]


def _group(record: dict[str, Any], how: Comparison) -> dict[str, Any]:
    rollouts = sorted(record["rollouts"], key=_rank)
    references = record.get("references", [])  # which older logs lack
    shown = {
        "prompt": record["prompt"],
        "answer": record["answer"],
        "references": references,
        "rollouts": [_rollout(rollout | overlap(rollout, references, how)) for rollout in rollouts],
    }
    return {
        "example_id": record["example_id"],
        "rewards": [rollout["reward"] for rollout in rollouts],
        "pushed": [_pushed(rollout) for rollout in rollouts],
        "data": packed(shown),
    }


def packed(shown: Any) -> str:
    """``shown`` as JSON, deflated, in base64."""
    text = json.dumps(shown, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode("utf-8", errors="replace"), 9)).decode()


def _rank(rollout: dict[str, Any]) -> tuple[float, bool]:
    """By reward, the best first and those without one last; of equals the ones that are pushed up."""
    reward = rollout["reward"]
    return math.inf if reward is None else -reward, _push(rollout) <= 0


def _push(rollout: dict[str, Any]) -> int:
    """1 if the policy was pushed towards the rollout as a whole, -1 if away from it, 0 if neither."""
    weight = math.fsum(weight or 0.0 for weight in rollout["weights"])
    return (weight > 0) - (weight < 0)


def _pushed(rollout: dict[str, Any]) -> bool:
    """Whether any token of the rollout has a weight."""
    return any(rollout["weights"])


def _rollout(rollout: dict[str, Any]) -> dict[str, Any]:
    """``rollout`` without what the page does not show; lists of one value become that value."""
    count = len(rollout["tokens"])
    left_out = max(0, count - FIRST_TOKENS - LAST_TOKENS)

    def shown(values: Sequence[Any]) -> list[Any]:
        return [*values[:FIRST_TOKENS], *values[FIRST_TOKENS + left_out :]]

    return {
        **{name: value for name, value in rollout.items() if name not in ("text", "tokens", "weights", "logprobs")},
        "length": count,
        "left_out": left_out,
        "pushed": _pushed(rollout),
        "push": _push(rollout),
        "tokens": shown(rollout["tokens"]),
        "origin": _uniform(shown(rollout["origin"])),
        "overlap": _uniform(shown(rollout.get("overlap", []))),
        "weights": _uniform([rounded(weight, 3) for weight in shown(rollout["weights"])]),
        "logprobs": _uniform([rounded(logprob, 3) for logprob in shown(rollout["logprobs"])]),
    }


def _uniform(values: list[Any]) -> Any:
    return values[0] if values and all(value == values[0] for value in values) else values


def spread(items: Sequence[int], most: int) -> list[int]:
    """``most`` of ``items`` at equal distances, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]


def _mean(values: Iterable[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return rounded(sum(finite) / len(finite), 5) if finite else None


def rounded(value: float | None, digits: int) -> float | None:
    """``value`` to significant ``digits``."""
    return None if value is None else float(f"{value:.{digits}g}")
