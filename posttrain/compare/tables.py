"""The tables of a comparison: for the terminal at 80 columns and for a README."""

import textwrap
from collections.abc import Callable, Sequence

from posttrain.compare.expectation import MEASURES
from posttrain.compare.result import ComparisonResult, Spread
from posttrain.evaluation.metrics import sign_flip_p
from posttrain.report.formats import duration, number

WIDTH = 80
NAME_WIDTH = 22
Rows = list[list[str]]


def heading(result: ComparisonResult) -> str:
    """Metric, seeds and budget in one line."""
    budget, seeds = result.config.budget, ", ".join(map(str, result.config.seeds))
    value = f"{budget.value:g} {budget.kind.replace('_', ' ')}"
    return f"{result.config.metric} · seed{'s' if len(result.config.seeds) > 1 else ''} {seeds} · {value} a run"


def arm_rows(result: ComparisonResult) -> Rows:
    """A header and a row for each arm: means, the spread of the end over seeds, mean wall clock."""
    rows = [["arm", "start", "end", "std", "min – max", "gain", "time"]]
    for arm in result.config.arms:
        start, end, gain, seconds = (result.spread(arm, measure) for measure in MEASURES)
        if start is None or end is None or gain is None or seconds is None:
            rows.append([arm, *["–"] * 6])
            continue
        between = f"{number(end.min)} – {number(end.max)}"
        numbers = [number(start.mean), number(end.mean), _std(end), between, f"{gain.mean:+.3f}"]
        rows.append([arm, *numbers, duration(seconds.mean)])
    return rows


def difference_rows(result: ComparisonResult) -> Rows:
    """A header and a row for each arm but the first: paired differences of the end to the first arm."""
    first, *others = result.config.arms
    rows = [[f"end − {first}", "mean", "std", "p", *(f"seed {seed}" for seed in result.config.seeds)]]
    for arm in others:
        differences = result.differences(arm)
        spread = Spread.of(list(differences.values()))
        per_seed = [f"{differences[seed]:+.3f}" if seed in differences else "–" for seed in result.config.seeds]
        p = f"{sign_flip_p(list(differences.values()), grid=1):.2g}" if len(differences) > 1 else "–"
        rows.append([arm, f"{spread.mean:+.3f}" if spread else "–", _std(spread), p, *per_seed])
    return rows


def tables(result: ComparisonResult) -> list[Rows]:
    """Both, or the first where there is but one arm."""
    return [arm_rows(result), difference_rows(result)][: len(result.config.arms)]


def about_p(result: ComparisonResult) -> str:
    """What p is, and how small it can get; nothing where there is none."""
    seeds = len(result.config.seeds)
    if seeds == 1 or len(result.config.arms) == 1:
        return ""
    return f"p: exact sign-flip test over seeds, two-sided; with {seeds} it is {2.0 ** (1 - seeds):g} or more"


def remarks(result: ComparisonResult) -> list[str]:
    """A line for each expectation, each run that spent another budget, and each that failed."""
    lines = []
    for expectation in result.expectations:
        value = expectation.measured(result.measurements)
        answer = "holds" if expectation.holds(result.measurements) else "FAILS"
        difference = "difference " if expectation.right is not None else ""
        lines.append(f"{answer}: {expectation.text} ({difference}{'not measured' if value is None else number(value)})")
    budget = result.config.budget
    for row in result.rows:
        if not row.within_budget:
            kind = budget.kind.replace("_", " ")
            lines.append(f"BUDGET: {row.arm}, seed {row.seed} spent {row.budget:g} {kind} of {budget.value:g}")
    lines += [f"FAILED: {failure.arm}, seed {failure.seed}" for failure in result.failures]
    return lines


def terminal_text(result: ComparisonResult) -> str:
    """The tables of each metric and the remarks, no line longer than 80 characters."""
    return _told(result, _wrapped, _aligned, "\n".join(map(_wrapped, remarks(result)))).rstrip()


def markdown(result: ComparisonResult, command: str) -> str:
    """The same for a README."""
    made = f"Made by `{command}`."
    remarked = "\n".join(f"- {line}" for line in remarks(result))
    return f"{_told(result, str, _piped, remarked)}\n\n{made}\n"


def _told(result: ComparisonResult, line: Callable[[str], str], table: Callable[[Rows], str], remarked: str) -> str:
    """Heading and tables of each metric, the remarks after the main one."""
    parts = []
    for each in (result, *result.others):
        parts += [line(heading(each)), *map(table, tables(each)), line(about_p(each))]
        parts.append(remarked if each is result else "")
    return "\n\n".join(filter(None, parts))


def _wrapped(line: str) -> str:
    return textwrap.fill(line, WIDTH, subsequent_indent="    ", break_on_hyphens=False)


def _std(spread: Spread | None) -> str:
    return number(spread.std) if spread is not None and spread.std is not None else "–"


def _piped(rows: Rows) -> str:
    header, *body = rows
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *body))


def _aligned(rows: Rows) -> str:
    """Columns two spaces apart; those that do not fit into 80 characters go on below, under their headers."""
    names = [row[0] if len(row[0]) <= NAME_WIDTH else f"{row[0][: NAME_WIDTH - 1]}…" for row in rows]
    cut = [[name, *row[1:]] for name, row in zip(names, rows, strict=True)]
    widths = [max(len(row[column]) for row in cut) for column in range(len(cut[0]))]
    blocks, block, used = list[list[int]](), list[int](), widths[0]
    for column in range(1, len(widths)):
        if block and used + 2 + widths[column] > WIDTH:
            blocks.append(block)
            block, used = [], widths[0]
        block.append(column)
        used += 2 + widths[column]

    def line(row: Sequence[str], columns: Sequence[int]) -> str:
        return "  ".join([row[0].ljust(widths[0]), *(row[column].rjust(widths[column]) for column in columns)]).rstrip()

    return "\n\n".join("\n".join(line(row, columns) for row in cut) for columns in [*blocks, block])
