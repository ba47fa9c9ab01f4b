"""One self-contained page: sections of tables, figures and a map; it reads nothing from any network.

A piece is a string of HTML; `page` puts pieces under headings.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

import numpy as np

from ldmdown.pictures import Pictures as Pictures

DOTS_PER_INCH = 160  # of inline pictures: sharp on a screen of double density, and in print
LARGE = 250_000  # bytes; a PNG above it, a map with noise, is kept as WebP


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, the number it is sorted by, a second line, and its mark."""

    text: str
    value: float | None = None
    note: str = ""
    mark: Literal["", "best", "tie"] = ""


def page(title: str, parts: Mapping[str, Sequence[str]], *, lead: str = "", footer: str = "") -> str:
    """A whole document.

    Parameters
    ----------
    parts
        the pieces (HTML) under each heading, in order; a heading without pieces is left out.
    lead, footer
        HTML under the title and at the end.
    """
    shown = {heading: pieces for heading, pieces in parts.items() if pieces}
    links = "".join(f'<li><a href="#{_slug(heading)}">{html.escape(heading)}</a></li>' for heading in shown)
    sections = "\n".join(
        f'<section aria-labelledby="{_slug(heading)}">\n<h2 id="{_slug(heading)}">{html.escape(heading)}</h2>\n'
        + "\n".join(pieces)
        + "\n</section>"
        for heading, pieces in shown.items()
    )
    own = files("ldmdown")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html.escape(title)}</title>
<style>
{own.joinpath("report.css").read_text()}</style>
</head>
<body>
<header>
<h1>{html.escape(title)}</h1>
{lead}
</header>
<nav aria-label="Contents"><ul>{links}</ul></nav>
<main>
{sections}
</main>
<footer>{footer}</footer>
<script>
{own.joinpath("report.js").read_text()}</script>
</body>
</html>
"""


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[Cell | str | float]]) -> str:
    """A table whose first column names the rows; where cells have values, its headers are buttons that sort.

    Numbers are written with three digits that count; NaN as a dash.
    """
    body = [[cell if isinstance(cell, Cell) else _cell(cell) for cell in row] for row in rows]
    sortable = [len(rows) > 1 and any(row[place].value is not None for row in body) for place in range(len(header))]
    heads = "".join(
        f'<th scope="col"><button type="button">{html.escape(name)}</button></th>'
        if sorts
        else f'<th scope="col">{html.escape(name)}</th>'
        for name, sorts in zip(header, sortable, strict=True)
    )
    lines = "\n".join(
        "<tr>" + "".join(_td(cell, place == 0) for place, cell in enumerate(row)) + "</tr>" for row in body
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(caption)}"><table>\n'
        f"<caption>{html.escape(caption)}</caption>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n"
        "</table></div>"
    )


def figure(drawn: Any, caption: str, alt: str) -> str:
    """A matplotlib figure inside the page; on a narrow screen it scrolls in its own frame.

    Parameters
    ----------
    drawn
        a `matplotlib.figure.Figure`.
    caption
        what is to be seen, and in what units.
    alt
        the same for those who do not see it: what kind of picture, of what, and what it says.
    """
    width, height = (int(size * DOTS_PER_INCH / 2) for size in drawn.get_size_inches())
    return (
        f'<figure>\n<div class="scroll paper" tabindex="0" role="region" aria-label="{html.escape(alt)}">'
        f'<img src="{_inline(drawn)}" width="{width}" height="{height}" alt="{html.escape(alt)}"></div>\n'
        f"<figcaption>{html.escape(caption)}</figcaption>\n</figure>"
    )


def number(value: float | None, digits: int = 3) -> str:
    """With so many digits that count, never as a power of ten; a dash for what is missing."""
    if value is None or not np.isfinite(value):
        return "–"
    before = int(np.floor(np.log10(abs(value)))) if value else 0
    return f"{value:,.{max(0, digits - 1 - before)}f}".replace("-", "−")


def _inline(drawn: Any) -> str:
    """As a data URI."""
    data = _saved(drawn, "png")
    if len(data) <= LARGE:
        return "data:image/png;base64," + base64.b64encode(data).decode()
    data = _saved(drawn, "webp", pil_kwargs={"quality": 88, "method": 4})
    return "data:image/webp;base64," + base64.b64encode(data).decode()


def _saved(drawn: Any, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    drawn.savefig(buffer, format=kind, dpi=DOTS_PER_INCH, facecolor="white", **options)
    return buffer.getvalue()


def _cell(content: str | float) -> Cell:
    return Cell(content) if isinstance(content, str) else Cell(number(content), float(content))


def _td(cell: Cell, first: bool) -> str:
    name, scope = ("th", ' scope="row"') if first else ("td", "")
    value = "" if cell.value is None or not np.isfinite(cell.value) else f' data-value="{cell.value:.6g}"'
    mark = f' class="{cell.mark}"' if cell.mark else ""
    note = f"<small>{html.escape(cell.note)}</small>" if cell.note else ""
    return f"<{name}{scope}{mark}{value}>{html.escape(cell.text)}{note}</{name}>"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
