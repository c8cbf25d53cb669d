"""The page of a comparison: one HTML file that needs nothing from outside. It links to the pages of its runs."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import quote

from posttrain.config_file import parse_yaml
from posttrain.report.page import REPORT_FILE, asset
from posttrain.report.run_index import setting_text
from posttrain.training.run_folder import leaves

PAGE_FILE = "comparison.html"
Rows = Sequence[Sequence[str]]  # texts; the first row holds the headers


def write_comparison_page(
    folder: Path,
    facts: str,
    remarks: Sequence[str],
    sections: Sequence[str],
    jobs: Mapping[str, str],
    seeds: Sequence[int],
) -> None:
    """Write ``comparison.html`` into ``folder``, beside the runs ``seed-SEED/ARM``; ``jobs`` are by arm, as YAML."""
    name = " / ".join(folder.resolve().parts[-2:])
    pages = _section("Run pages", *(_links(folder, arm, seeds) for arm in jobs))
    settings = _section("Settings that differ", _table(setting_rows(jobs)))
    page = Template(asset("comparison.html")).substitute(
        title=escape(f"Comparison · {name}"),
        name=escape(name),
        facts=escape(facts),
        remarks="".join(f'<p class="notice">{escape(remark)}</p>' for remark in remarks),
        sections="\n".join([*sections, pages, settings]),
        css=asset("page.css"),
        script=asset("theme.js"),
    )
    folder.joinpath(PAGE_FILE).write_text(page, encoding="utf-8")


def metric_section(metric: str, picture: str, tables: Sequence[Rows], note: str) -> str:
    """HTML of the curves of a metric, which are an SVG, of its tables, and of what a reader must know of them."""
    noted = f'<p class="constant">{escape(note)}</p>'
    return _section(metric, f'<div class="picture">{picture}</div>', *map(_table, tables), noted)


def setting_rows(jobs: Mapping[str, str]) -> list[list[str]]:
    """A header, and a row for each dotted key that two jobs set to different values; – where one has no such key.

    ``run``, which says where and how, is left out.
    """
    settings = [{key: setting_text(value) for key, value in leaves(parse_yaml(job))} for job in jobs.values()]
    keys = dict.fromkeys(key for values in settings for key in values if not key.startswith("run."))
    rows = [[key, *(values.get(key, "–") for values in settings)] for key in keys]
    return [["setting", *jobs], *(row for row in rows if len({*row[1:]} - {"–"}) > 1)]


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def _table(rows: Rows) -> str:
    header, *body = ([escape(cell) for cell in row] for row in rows)
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    lines = [f'<th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}' for first, *rest in body]
    table = f"<thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{line}</tr>' for line in lines)}</tbody>"
    return f'<div class="scroll" tabindex="0"><table class="runs">{table}</table></div>'


def _links(folder: Path, arm: str, seeds: Sequence[int]) -> str:
    """To the runs of an arm that have a page."""
    pages = {seed: f"seed-{seed}/{arm}/{REPORT_FILE}" for seed in seeds}
    links = [f'<a href="{quote(page)}">seed {seed}</a>' for seed, page in pages.items() if (folder / page).is_file()]
    return f"<p>{escape(arm)}: {', '.join(links) or 'none'}</p>"
