"""A page of figures, notices and sections without a script: one file that needs nothing from outside."""

import html
from collections.abc import Iterable, Mapping, Sequence
from string import Template

from posttrain.report.page import asset, tile

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light">
<title>$name · $kind</title>
<style>
$css
.tile small { padding-right: 12px; white-space: normal }
table { border-collapse: collapse; font-size: 13px; margin-bottom: 16px }
th, td { padding: 4px 18px 4px 0; text-align: right; border-bottom: 1px solid var(--line) }
th:first-child, td:first-child { text-align: left }
</style>
</head>
<body>
<header class="masthead">
<div class="title"><h1>$title <span>$name</span></h1></div>
<p class="facts">$facts</p>
<dl class="tiles">
$tiles
</dl>
$notices
</header>
<main>
$sections
</main>
</body>
</html>
""")


def plain_page(
    kind: str,
    name: str,
    facts: str,
    tiles: Iterable[tuple[str, str, str]],
    sections: Mapping[str, str],
    notices: Iterable[str] = (),
) -> bytes:
    """The page of a ``kind`` of result; ``sections`` are HTML by their title, everything else is plain text."""
    return _PAGE.substitute(
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
    ).encode("utf-8", errors="replace")


def table(rows: Sequence[Sequence[str]]) -> str:
    """``rows`` of plain text, the first one the header."""
    header, *body = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return f"<table><tr>{header.replace('td>', 'th>')}</tr>{''.join(f'<tr>{row}</tr>' for row in body)}</table>"


def text(content: str) -> str:
    """``content`` as it is, in a fixed pitch."""
    return f'<pre class="job">{html.escape(content)}</pre>'
