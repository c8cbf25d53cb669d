"""What a comparison found: one row a run, statistics over seeds, and which expectations hold."""

import difflib
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from posttrain.compare.config import BudgetConfig, ComparisonConfig
from posttrain.compare.expectation import MEASURES, Expectation
from posttrain.errors import JobError
from posttrain.evaluation.metrics import sign_flip_p
from posttrain.training.run_log import read_metrics

Curve = tuple[tuple[float, float], ...]

# What a run spends in one logged step, the first that it logs; "steps" is the step itself. A tree search draws more
# than it has ends.
SPENT_METRICS = {
    "rollouts": ("batch/sampled_turns", "batch/rollouts"),
    "environment_steps": ("batch/environment_steps",),
    "training_tokens": ("batch/trained_tokens",),
    "seconds": ("time/step",),
}


@dataclass(frozen=True, slots=True)
class RunResult:
    """One arm on one seed. ``curves`` hold (budget spent, value) wherever a metric was logged; ``metric`` is the one
    that ``start``, ``end`` and ``curve`` are of."""

    arm: str
    seed: int
    metric: str
    seconds: float
    warm_start_seconds: float
    budget: float
    within_budget: bool
    curves: dict[str, Curve]

    @property
    def curve(self) -> Curve:
        return self.curves[self.metric]

    @property
    def start(self) -> float:
        return self.curve[0][1]

    @property
    def end(self) -> float:
        return self.curve[-1][1]

    def measured(self) -> tuple[float, ...]:
        """A value for each of ``MEASURES``."""
        return self.start, self.end, self.end - self.start, self.seconds + self.warm_start_seconds


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that did not end well, and the last lines that it printed."""

    arm: str
    seed: int
    last_lines: list[str]


@dataclass(frozen=True, slots=True)
class Spread:
    """Over seeds. ``std`` is that of a sample (n - 1); None for a single seed."""

    mean: float
    std: float | None
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        if not values:
            return None
        std = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), std, min(values), max(values))


@dataclass
class ComparisonResult:
    """Everything that the table, the picture and ``result.json`` show."""

    config: ComparisonConfig
    rows: list[RunResult] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """All runs ended well, within the budget, and every expectation holds."""
        return (
            not self.failures
            and all(row.within_budget for row in self.rows)
            and all(expectation.holds(self.measurements) for expectation in self.expectations)
        )

    @property
    def expectations(self) -> list[Expectation]:
        return [Expectation.parse(text) for text in self.config.expect]

    def of(self, metric: str) -> "ComparisonResult":
        """The same of another metric, where it was logged, without expectations: these are of the main metric."""
        config = self.config.model_copy(update={"metric": metric, "expect": []})
        rows = [replace(row, metric=metric) for row in self.rows if metric in row.curves]
        return ComparisonResult(config, rows)

    @property
    def others(self) -> list["ComparisonResult"]:
        """One for each metric but the main one."""
        return [self.of(metric) for metric in self.config.metrics[1:]]

    @cached_property
    def measurements(self) -> dict[str, dict[str, dict[int, float]]]:
        """arm -> measure -> seed -> value; filled when all runs are done."""
        found: dict[str, dict[str, dict[int, float]]] = {
            arm: {measure: {} for measure in MEASURES} for arm in self.config.arms
        }
        for row in self.rows:
            for measure, value in zip(MEASURES, row.measured(), strict=True):
                found[row.arm][measure][row.seed] = value
        return found

    def spread(self, arm: str, measure: str) -> Spread | None:
        return Spread.of(list(self.measurements[arm][measure].values()))

    def differences(self, arm: str) -> dict[int, float]:
        """``end`` of ``arm`` less that of the first arm, by seed, where both ended."""
        own, first = self.measurements[arm]["end"], self.measurements[next(iter(self.config.arms))]["end"]
        return {seed: own[seed] - first[seed] for seed in own if seed in first}

    def curves(self, arm: str) -> list[Curve]:
        return [row.curve for row in self.rows if row.arm == arm]

    def to_json(self) -> dict[str, Any]:
        """Plain values: the rows, then what is computed from them."""
        return {
            "metric": self.config.metric,
            "budget": self.config.budget.model_dump(),
            "seeds": self.config.seeds,
            "passed": self.passed,
            "rows": [_row_json(row) for result in (self, *self.others) for row in result.rows],
            "arms": self._arms_json(),
            "arms_by_other_metric": {other.config.metric: other._arms_json() for other in self.others},
            "expectations": [
                {
                    "text": expectation.text,
                    "measured": expectation.measured(self.measurements),
                    "holds": expectation.holds(self.measurements),
                }
                for expectation in self.expectations
            ],
            "failures": [asdict(failure) for failure in self.failures],
        }

    def _arms_json(self) -> dict[str, Any]:
        return {arm: self._arm_json(arm) for arm in self.config.arms}

    def _arm_json(self, arm: str) -> dict[str, Any]:
        differences = self.differences(arm)
        spreads = {measure: self.spread(arm, measure) for measure in MEASURES}
        paired = Spread.of(list(differences.values()))
        return {
            **{measure: asdict(spread) if spread else None for measure, spread in spreads.items()},
            "difference_to_first_arm": paired
            and {
                **asdict(paired),
                "sign_flip_p": sign_flip_p(list(differences.values()), grid=1),
                "per_seed": differences,
            },
        }


def _row_json(row: RunResult) -> dict[str, Any]:
    names = ("arm", "seed", "metric", "start", "end", "seconds", "warm_start_seconds", "budget", "within_budget")
    return {name: getattr(row, name) for name in names}


def read_run(
    folder: Path, arm: str, seed: int, config: ComparisonConfig, seconds: float, warm_start_seconds: float
) -> RunResult:
    """The result of a finished run from its ``metrics.jsonl``.

    Raises:
        JobError: the run logged no such metric.
    """
    metrics = read_metrics(folder)
    curves, spent = dict[str, list[tuple[float, float]]](), 0.0
    for line in metrics:
        spent = _spent(line, spent, config.budget)
        for name in config.metrics:
            if math.isfinite(value := line.get(name, math.nan)):
                curves.setdefault(name, []).append((spent, value))
    if config.metric not in curves:
        known = sorted({name for line in metrics for name in line})
        near = difflib.get_close_matches(config.metric, known, n=3) or known[:8]
        raise JobError(f"{folder}: {config.metric} was never logged; nearest: {', '.join(near) or 'nothing was'}")
    slack = 0.0 if config.budget.kind == "steps" else config.budget.tolerance * config.budget.value
    return RunResult(
        arm=arm,
        seed=seed,
        metric=config.metric,
        seconds=seconds,
        warm_start_seconds=warm_start_seconds,
        budget=spent,
        within_budget=arm in config.own_budget or abs(spent - config.budget.value) <= slack,
        curves={name: tuple(curve) for name, curve in curves.items()},
    )


def _spent(line: dict[str, float], before: float, budget: BudgetConfig) -> float:
    if budget.kind == "steps":
        return line["step"]
    value = next((line[name] for name in SPENT_METRICS[budget.kind] if name in line), 0.0)
    return before + (value if math.isfinite(value) else 0.0)
