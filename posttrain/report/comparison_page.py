"""The page of a comparison: one HTML file that needs nothing from outside. It links to the pages of its runs."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from urllib.parse import quote

from posttrain.config_file import parse_yaml
from posttrain.report.page import REPORT_FILE, asset
from posttrain.training.run_folder import leaves

PAGE_FILE = "comparison.html"
Rows = Sequence[Sequence[str]]  # texts; the first row holds the headers


@dataclass(frozen=True, slots=True)
class MetricSection:
    """The curves of a metric as SVG, its tables, and what a reader must know of them."""

    metric: str
    picture: str
    tables: Sequence[Rows]
    note: str


def write_comparison_page(
    folder: Path,
    facts: str,
    remarks: Sequence[str],
    sections: Sequence[MetricSection],
    jobs: Mapping[str, str],
    seeds: Sequence[int],
) -> None:
    """Write ``comparison.html`` into ``folder``, beside the runs ``seed-SEED/ARM``.

    Args:
        folder: of the comparison.
        facts: a line below the title.
        remarks: what holds and what failed.
        sections: the main metric first.
        jobs: arm -> its job on one seed, as YAML.
        seeds: of the runs.
    """
    name = " / ".join(folder.resolve().parts[-2:])
    shown = [_section(section) for section in sections]
    shown.append(f"<section><h2>Runs</h2>{_table(_run_rows(folder, jobs, seeds))}</section>")
    settings = [[html.escape(cell) for cell in row] for row in setting_rows(jobs)]
    if len(settings) > 1:
        shown.append(f"<section><h2>Settings that differ</h2>{_table(settings, 'settings')}</section>")
    page = Template(asset("comparison.html")).substitute(
        title=html.escape(f"Comparison · {name}"),
        name=html.escape(name),
        facts=html.escape(facts),
        remarks="".join(f'<p class="notice">{html.escape(remark)}</p>' for remark in remarks),
        sections="\n".join(shown),
        css=asset("page.css"),
        script=asset("theme.js"),
    )
    folder.joinpath(PAGE_FILE).write_text(page, encoding="utf-8")


def setting_rows(jobs: Mapping[str, str]) -> list[list[str]]:
    """A header, and a row for each dotted key of the jobs that has not the same value in all; – where it is not set."""
    settings = {arm: dict(leaves(parse_yaml(job))) for arm, job in jobs.items()}
    keys = dict.fromkeys(key for values in settings.values() for key in values if key != "run.folder")
    rows = [["setting", *jobs]]
    for key in keys:
        texts = [_text(values[key]) if key in values else "–" for values in settings.values()]
        if len(set(texts)) > 1:
            rows.append([key, *texts])
    return rows


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _section(section: MetricSection) -> str:
    tables = (_table([[html.escape(cell) for cell in row] for row in table]) for table in section.tables)
    note = f'<p class="constant">{html.escape(section.note)}</p>'
    picture = f'<div class="picture">{section.picture}</div>'
    return f"<section><h2>{html.escape(section.metric)}</h2>{picture}{''.join(tables)}{note}</section>"


def _run_rows(folder: Path, arms: Mapping[str, str], seeds: Sequence[int]) -> list[list[str]]:
    """The cells are HTML: a link where a run has a page."""
    rows = [["arm", *(f"seed {seed}" for seed in seeds)]]
    for arm in arms:
        pages = (f"seed-{seed}/{arm}/{REPORT_FILE}" for seed in seeds)
        cells = (f'<a href="{quote(page)}">run page</a>' if (folder / page).is_file() else "–" for page in pages)
        rows.append([html.escape(arm), *cells])
    return rows


def _table(rows: Rows, kind: str = "") -> str:
    """Of cells that are HTML."""
    header, *body = rows
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    lines = (
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>' for first, *rest in body
    )
    table = f'<table class="runs {kind}"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return f'<div class="scroll" tabindex="0">{table}</div>'
