"""Two models on one suite, prompt by prompt."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from posttrain.errors import JobError
from posttrain.evaluation.metrics import estimate, sign_flip_p
from posttrain.training.run_folder import differences

RESULT_FILE = "result.json"


def compare_results(first: str | Path, second: str | Path) -> dict[str, dict[str, Any]]:
    """For each set the means of both, the second's less the first's with its interval, and the p-value of a sign-flip
    test (of one answer to a prompt, right or wrong: the exact McNemar test).

    Raises:
        JobError: a folder has no result, or they are of different suites; the message says in what they differ.
    """
    a, b = read_result(first), read_result(second)
    keys = ("sets", "seed")
    changes = list(differences({key: a["suite"][key] for key in keys}, {key: b["suite"][key] for key in keys}))
    if changes:
        more = f"; and {len(changes) - 3} more" if len(changes) > 3 else ""
        raise JobError(f"{first} and {second} are results of different suites: {'; '.join(changes[:3])}{more}")
    return {name: _paired(name, a["sets"][name]["scores"], b["sets"][name]["scores"]) for name in a["sets"]}


def read_result(folder: str | Path) -> dict[str, Any]:
    """The ``result.json`` of a folder.

    Raises:
        JobError: there is none, or it cannot be read.
    """
    file = Path(folder) / RESULT_FILE
    try:
        result: dict[str, Any] = json.loads(file.read_bytes())
        return {key: result[key] for key in ("model", "suite", "sets")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JobError(f"{folder} holds no result of posttrain eval: {file} cannot be read ({error!r})") from error


def _paired(name: str, a: dict[str, list[float]], b: dict[str, list[float]]) -> dict[str, Any]:
    if a.keys() != b.keys():
        raise JobError(f"sets.{name}: the two results are of different prompts: has the data changed in between?")
    deltas = [fmean(b[key]) - fmean(a[key]) for key in a]
    found = estimate(np.array(deltas), range(len(deltas)))
    assert found is not None
    return {
        "prompts": len(a),
        "first": fmean(map(fmean, a.values())),
        "second": fmean(map(fmean, b.values())),
        "difference": asdict(found),
        "better": sum(delta > 0 for delta in deltas),
        "worse": sum(delta < 0 for delta in deltas),
        "p": sign_flip_p(deltas, math.lcm(*map(len, a.values()))),
    }
