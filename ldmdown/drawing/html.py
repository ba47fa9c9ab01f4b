"""Pages in one file, from the templates beside this module: sections of tables and figures; nothing is fetched."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from ldmdown.atomic import replacing

FIGURE_DPI = 160  # of inline pictures: sharp on dense screens, and in print
PIXELS_PER_INCH = 100  # of the page
LARGE_PNG = 250_000  # bytes; a PNG above it, a map with noise, is kept as WebP

_TEMPLATES = Environment(
    loader=PackageLoader("ldmdown.drawing"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
_TEMPLATES.policies["json.dumps_kwargs"] = {"separators": (",", ":")}


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, the number it is sorted by, a second line, its mark, and the colour of its key."""

    text: str
    value: float | None = None
    note: str = ""
    mark: Literal["", "best", "tie"] = ""
    colour: str = ""

    @property
    def sort_key(self) -> str:
        """The number as the page sorts by it, or nothing."""
        return "" if self.value is None or not np.isfinite(self.value) else f"{self.value:.6g}"


def render(template: str, **content: Any) -> Markup:
    """Fill in a template; every text in it is escaped, and what a template made is not escaped again."""
    return Markup(_TEMPLATES.get_template(template).render(content))


def write_page(
    path: Path, title: str, sections: Mapping[str, Sequence[Markup]], *, lead: str = "", footer: str = ""
) -> None:
    """Write a whole document.

    Args:
        sections: the pieces under each heading, in order; a heading without pieces is left out.
        lead: what stands under the title, text or a piece.
    """
    shown = [
        (heading, re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-"), pieces)
        for heading, pieces in sections.items()
        if pieces
    ]
    with replacing(path) as beside:
        beside.write_text(
            render("page.html", title=title, sections=shown, lead=lead, footer=footer) + "\n", encoding="utf-8"
        )


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[Cell | str | float]]) -> Markup:
    """A table whose first column names the rows; where cells have values, its headers are buttons that sort.

    Numbers are written with three significant digits, NaN as a dash.
    """
    body = [[cell if isinstance(cell, Cell) else _cell(cell) for cell in row] for row in rows]
    sortable = [len(rows) > 1 and any(row[place].value is not None for row in body) for place in range(len(header))]
    return render("table.html", caption=caption, header=list(zip(header, sortable, strict=True)), rows=body)


def figure(drawn: Figure, caption: str, alt: str) -> Markup:
    """A figure inside the page; on a narrow screen it scrolls in its own frame.

    Args:
        caption: what is to be seen, and in what units.
        alt: the same for those who do not see it: what kind of picture, of what, and what it says.
    """
    width, height = (int(size * PIXELS_PER_INCH) for size in drawn.get_size_inches())
    return render("figure.html", source=_inline(drawn), width=width, height=height, caption=caption, alt=alt)


def preformatted(text: str) -> Markup:
    """Text as it stands."""
    return Markup("<pre>{}</pre>").format(text)


def bullets(lines: Sequence[str]) -> Markup:
    """A list."""
    return Markup("<ul>{}</ul>").format(Markup("").join(Markup("<li>{}</li>").format(line) for line in lines))


def warning(text: str) -> Markup:
    """A paragraph that stands out."""
    return Markup("<p><strong>{}</strong></p>").format(text)


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, never as a power of ten; a dash for what is missing."""
    if value is None or not np.isfinite(value):
        return "–"
    before = int(np.floor(np.log10(abs(value)))) if value else 0
    return f"{value:,.{max(0, digits - 1 - before)}f}".replace("-", "−")


def _inline(drawn: Figure) -> str:
    """The picture as a data URI."""
    buffer, kind = io.BytesIO(), "png"
    drawn.savefig(buffer, format=kind, dpi=FIGURE_DPI, facecolor="white")
    if buffer.tell() > LARGE_PNG:
        picture, buffer, kind = Image.open(buffer).convert("RGB"), io.BytesIO(), "webp"
        picture.save(buffer, kind, quality=86, method=2)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _cell(content: str | float) -> Cell:
    return Cell(content) if isinstance(content, str) else Cell(number(content), float(content))
