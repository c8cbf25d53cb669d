"""The page of a comparison: one HTML file that needs nothing from outside. It links to the pages of its runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from posttrain.config_file import parse_yaml
from posttrain.report.page import REPORT_FILE
from posttrain.report.run_index import setting_text
from posttrain.report.templates import write_page
from posttrain.training.run_folder import leaves

PAGE_FILE = "comparison.html"
Rows = Sequence[Sequence[str]]  # texts; the first row holds the headers


@dataclass(frozen=True, slots=True)
class MetricSection:
    """The curves of a metric, which are an SVG, its tables, and what a reader must know of them."""

    name: str
    picture: str
    tables: Sequence[Rows]
    note: str


def write_comparison_page(
    folder: Path,
    facts: str,
    remarks: Sequence[str],
    metrics: Sequence[MetricSection],
    jobs: Mapping[str, str],
    seeds: Sequence[int],
) -> None:
    """Write ``comparison.html`` into ``folder``, beside the runs ``seed-SEED/ARM``; ``jobs`` are by arm, as YAML. It
    links to those that have a page."""
    name = " / ".join(folder.resolve().parts[-2:])
    pages = {arm: {seed: f"seed-{seed}/{arm}/{REPORT_FILE}" for seed in seeds} for arm in jobs}
    write_page(
        folder / PAGE_FILE,
        "comparison.html",
        title=f"Comparison · {name}",
        scripts=["theme"],
        kind="Comparison",
        name=name,
        facts=facts,
        remarks=remarks,
        metrics=metrics,
        run_pages={
            arm: {seed: page for seed, page in of_arm.items() if (folder / page).is_file()}
            for arm, of_arm in pages.items()
        },
        settings=setting_rows(jobs),
    )


def setting_rows(jobs: Mapping[str, str]) -> list[list[str]]:
    """A header, and a row for each dotted key that two jobs set to different values; – where one has no such key.

    ``run``, which says where and how, is left out.
    """
    settings = [{key: setting_text(value) for key, value in leaves(parse_yaml(job))} for job in jobs.values()]
    keys = dict.fromkeys(key for values in settings for key in values if not key.startswith("run."))
    rows = [[key, *(values.get(key, "–") for values in settings)] for key in keys]
    return [["setting", *jobs], *(row for row in rows if len({*row[1:]} - {"–"}) > 1)]
