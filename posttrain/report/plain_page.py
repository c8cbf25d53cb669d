"""A page of figures, notices and sections without a script: one file that needs nothing from outside."""

import html
from collections.abc import Iterable, Mapping, Sequence
from string import Template

from posttrain.report.page import asset, tile


def plain_page(
    kind: str,
    name: str,
    facts: str,
    tiles: Iterable[tuple[str, str, str]],
    sections: Mapping[str, str],
    notices: Iterable[str] = (),
) -> bytes:
    """The page of a ``kind`` of result; ``sections`` are HTML by their title, everything else is plain text."""
    return (
        Template(asset("plain_page.html"))
        .substitute(
            kind=html.escape(kind),
            title=html.escape(kind.capitalize()),
            name=html.escape(name),
            css=asset("page.css"),
            facts=html.escape(facts),
            tiles="\n".join(tile(*figure) for figure in tiles),
            notices="\n".join(f'<p class="notice">{html.escape(notice)}</p>' for notice in notices),
            sections="\n".join(
                f"<section><h2>{html.escape(title)}</h2>{content}</section>" for title, content in sections.items()
            ),
        )
        .encode("utf-8", errors="replace")
    )


def table(rows: Sequence[Sequence[str]]) -> str:
    """``rows`` of plain text, the first one the header."""
    header, *body = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return f"<table><tr>{header.replace('td>', 'th>')}</tr>{''.join(f'<tr>{row}</tr>' for row in body)}</table>"


def text(content: str) -> str:
    """``content`` as it is, in a fixed pitch."""
    return f'<pre class="job">{html.escape(content)}</pre>'
