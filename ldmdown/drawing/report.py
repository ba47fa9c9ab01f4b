"""One self-contained page: sections of tables, figures and a map; it reads nothing from any network.

A piece is a string of HTML; `page` puts pieces under headings. `write_report` makes the page of `evaluate`.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from ldmdown.drawing import style
from ldmdown.drawing.comparison import comparison
from ldmdown.drawing.pictures import Pictures as Pictures

Results = Mapping[str, Any]

DOTS_PER_INCH = 160  # of inline pictures: sharp on dense screens, and in print
SHOWN_PER_INCH = 100  # pixels of the page
LARGE = 250_000  # bytes; a PNG above it, a map with noise, is kept as WebP


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, the number it is sorted by, a second line, its mark, and the colour of its key."""

    text: str
    value: float | None = None
    note: str = ""
    mark: Literal["", "best", "tie"] = ""
    colour: str = ""


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
    own = files("ldmdown.drawing")
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
    width, height = (int(size * SHOWN_PER_INCH) for size in drawn.get_size_inches())
    return (
        f'<figure>\n<div class="scroll paper" tabindex="0" role="region" aria-label="{html.escape(caption)}">'
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
    buffer, kind = io.BytesIO(), "png"
    drawn.savefig(buffer, format=kind, dpi=DOTS_PER_INCH, facecolor="white")
    if buffer.tell() > LARGE:
        picture, buffer, kind = Image.open(buffer).convert("RGB"), io.BytesIO(), "webp"
        picture.save(buffer, kind, quality=86, method=2)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _cell(content: str | float) -> Cell:
    return Cell(content) if isinstance(content, str) else Cell(number(content), float(content))


def _td(cell: Cell, first: bool) -> str:
    name, scope = ("th", ' scope="row"') if first else ("td", "")
    value = "" if cell.value is None or not np.isfinite(cell.value) else f' data-value="{cell.value:.6g}"'
    mark = f' class="{cell.mark}"' if cell.mark else ""
    note = f"<small>{html.escape(cell.note)}</small>" if cell.note else ""
    key = f'<span class="key" style="background:{cell.colour}"></span>' if cell.colour else ""
    return f"<{name}{scope}{mark}{value}>{key}{html.escape(cell.text)}{note}</{name}>"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


# The page of a scorecard

SHORT = {
    "rmse": "RMSE",
    "bias": "Bias",
    "mae": "MAE",
    "r2": "R²",
    "pcc": "PCC",
    "crps": "CRPS",
    "rmse_of_mean": "RMSE of the mean",
    "spread_skill": "Spread / error",
    "energy_score": "Energy score",
    "variogram_score": "Variogram score",
    "wasserstein": "Wasserstein",
    "p1_error": "1st percentile",
    "p999_error": "99.9th percentile",
    "above_15": "Above 15 m s⁻¹",
    "change_ratio": "Hourly change",
    "lag1_error": "Lag-1 correlation",
}
GROUPS = {
    "As single fields": ("rmse", "bias", "mae", "r2", "pcc"),
    "As ensembles": ("crps", "rmse_of_mean", "spread_skill", "energy_score", "variogram_score"),
    "Distribution and time": ("wasserstein", "p1_error", "p999_error", "above_15", "change_ratio", "lag1_error"),
}
BETTER = {"low": "the lower, the better", "high": "the higher, the better", "zero": "best at 0", "one": "best at 1"}
UNMARKED: Mapping[str, Any] = {"system": None, "level_with": []}
MARKS = """<p>★ marks the best of the systems that compete (an ideal ensemble and a reconstruction, which know the
truth, do not), ≈ those whose difference from the best does not stand. Small numbers are 95 % intervals from a
bootstrap over days. A click on a header sorts.</p>"""
FIGURES = {
    "snapshots": (
        "An hour",
        "{variable} at {time} UTC and, below each map, the framed part of it. Of ensembles the first member.",
        "Maps of {variable} of the reference and of {systems}, with a closer look at a part.",
    ),
    "boxplots": (
        "Hour by hour",
        "Scores of single hours: a box holds half of them, its whiskers nine tenths; the white line is the median.",
        "Box plots of hourly RMSE, bias, R² and correlation of {systems}. {best}",
    ),
    "surfaces": (
        "Where",
        "Errors over land, sea, mountains and coasts.",
        "Bars of RMSE and bias over kinds of ground, of {systems}.",
    ),
    "rmse": (
        "Where",
        "RMSE of {variable} in each cell over all hours, on one scale.",
        "Maps of the RMSE of {variable}, of {systems}. {best}",
    ),
    "bias": (
        "Where",
        "Bias of {variable} in each cell over all hours, on one scale: red is too high.",
        "Maps of the bias of {variable}, of {systems}.",
    ),
    "stations_rmse": (
        "Stations",
        "RMSE of {variable} at stations.",
        "Maps of the RMSE of {variable} at stations, of {systems}.",
    ),
    "stations_bias": (
        "Stations",
        "Bias of {variable} at stations: red is too high.",
        "Maps of the bias of {variable} at stations, of {systems}.",
    ),
    "distributions": (
        "Distributions",
        "How often values occur; the tails, beyond a hundredth of the reference, on a logarithmic axis.",
        "Frequency distributions of the reference and of {systems}, with their tails.",
    ),
    "derivatives": (
        "Distributions",
        "How often the wind diverges and turns by so much, on a logarithmic axis.",
        "Frequency distributions of divergence and vorticity of the reference and of {systems}.",
    ),
    "spectra": (
        "Scales",
        "Power by wavelength, and its ratio to the reference's; dots mark the effective resolution, the shortest "
        "wavelength down to which power stays within 1 dB (shaded), but for chance.",
        "Power spectra of temperature and kinetic energy of the reference and of {systems}, with their ratios in "
        "decibels.",
    ),
    "ranks": (
        "Ensembles",
        "Where the reference falls among the members: level if it might be one of them, hollow if they spread too "
        "little.",
        "Rank histograms of the ensembles.",
    ),
    "reliability": (
        "Ensembles",
        "How often an event happens when so many of the members say so; below, how often they do.",
        "Reliability diagrams of the ensembles.",
    ),
    "diurnal": (
        "Time",
        "The mean of each hour of the day.",
        "Diurnal cycles of the reference and of {systems}.",
    ),
    "hour_to_hour": (
        "Time",
        "How often a cell changes by so much within an hour, on a logarithmic axis.",
        "Frequency distributions of changes from hour to hour of the reference and of {systems}.",
    ),
}  # by the stem of the file's name: heading, caption, description


def write_report(path: Path, results: Results, pictures: Pictures | None, figures: Mapping[str, Any]) -> None:
    """The page of a scorecard, from what `evaluate` writes as scores.json and from the figures of `plots`."""
    parts: dict[str, list[str]] = {"Scores": [MARKS, *_score_tables(results)]}
    if results.get("ratio_to_ideal"):
        parts["Against the ideal ensemble"] = [_ratios(results)]
    if pictures and pictures.snapshots:
        parts["Before and after"] = [_comparison(results, pictures.north_up)]
    for kind, (heading, caption, alt) in FIGURES.items():
        for name in ("", *results["variables"]):
            stem = f"{kind}_{name}" if name else kind
            if stem in figures:
                words = _words(results, pictures, name)
                drawn = figure(figures[stem], caption.format(**words), alt.format(**words))
                parts.setdefault(heading, []).append(drawn)
    if results.get("spectra"):
        parts.setdefault("Scales", []).append(_resolution(results))
    if results.get("stations"):
        parts.setdefault("Stations", []).append(_stations(results))
    parts["What the scores mean"] = [_meanings(results)]
    grid, hours = results["grid"], results["hours"]
    lead = (
        f"<p>{_counted(hours['count'], 'hour')} on {_counted(hours['days'], 'day')}, "
        f"{hours['first']} to {hours['last']} UTC; "
        f"{grid['rows']} × {grid['cols']} cells of {grid['spacing_km']:g} km ({html.escape(grid['crs'])}); "
        f"reference: {html.escape(results['reference']['name'])}.</p>"
    )
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in results["notes"])
    footer = f"ldmdown {html.escape(results['ldmdown'])}, {html.escape(results['created'])}. The numbers: scores.json."
    text = page(results["title"], parts, lead=lead + (f"<ul>{notes}</ul>" if notes else ""), footer=footer)
    beside = path.with_name(f"{path.name}.tmp")
    beside.write_text(text, encoding="utf-8")
    beside.rename(path)


def _score_tables(results: Results) -> list[str]:
    """Tables of the main variables; of the others folded away."""
    main, folded = style.main_variables(results), []
    pieces = []
    for name, variable in results["variables"].items():
        tables = [
            _score_table(results, name, group, scores)
            for group, scores in GROUPS.items()
            if any(score in _scores(results, system, name) for system in results["scores"] for score in scores)
        ]
        if tables and name in main:
            pieces += [f"<h3>{html.escape(_capital(variable['long_name']))}</h3>", *tables]
        elif tables:
            summary = f"<summary>{html.escape(_capital(variable['long_name']))}</summary>"
            folded.append(f"<details>{summary}\n" + "\n".join(tables) + "</details>")
    return pieces + folded


def _score_table(results: Results, name: str, caption: str, scores: Sequence[str]) -> str:
    systems = [one for one in results["systems"] if not _scores(results, one["name"], name).keys().isdisjoint(scores)]
    held = [score for score in scores if any(score in _scores(results, one["name"], name) for one in systems)]
    colours = style.colours(results["systems"])
    columns = []
    for score in held:
        values = [_scores(results, system["name"], name).get(score) for system in systems]
        best = results["best"].get(name, {}).get(score, UNMARKED)
        columns.append(_score_cells([system["name"] for system in systems], values, best))
    rows = [
        [_system(system, place, colours), *(column[place] for column in columns)]
        for place, system in enumerate(systems)
    ]
    return table(caption, ["System", *(_header(results, score, name) for score in held)], rows)


def _score_cells(systems: Sequence[str], values: Sequence[Any], best: Mapping[str, Any]) -> list[Cell]:
    """A column, written with as many decimals as give its largest value three digits."""
    known = [abs(one["value"]) for one in values if one and one["value"] is not None]
    decimals = max(0, 2 - int(np.floor(np.log10(max(known))))) if known and max(known) > 0 else 2
    cells = []
    for system, one in zip(systems, values, strict=True):
        if not one or one["value"] is None:
            cells.append(Cell("–"))
            continue
        ends = [one["low"], one["high"]]
        note = "" if None in ends else " … ".join(_decimal(end, decimals) for end in ends)
        mark: Literal["", "best", "tie"] = "best" if system == best["system"] else ""
        mark = "tie" if system in best["level_with"] else mark
        cells.append(Cell(_decimal(one["value"], decimals), one["value"], note, mark))
    return cells


def _ratios(results: Results) -> str:
    """Scores over the ideal ensemble's, of the main variables."""
    ratios, names = results["ratio_to_ideal"], [*style.main_variables(results), "all"]
    columns = [
        (name, score) for name in names for score in SHORT if any(score in one.get(name, {}) for one in ratios.values())
    ]
    systems = [system for system in results["systems"] if system["name"] in ratios]
    colours = style.colours(results["systems"])
    cells = [
        _score_cells(
            [system["name"] for system in systems],
            [ratios[system["name"]].get(name, {}).get(score) for system in systems],
            UNMARKED,
        )
        for name, score in columns
    ]
    rows = [
        [_system(system, place, colours), *(column[place] for column in cells)] for place, system in enumerate(systems)
    ]
    header = ["System", *(f"{SHORT[score]}, {name}" for name, score in columns)]
    return table(
        "Scores over the ideal ensemble's; RMSE over that of its mean: 1 is the best that can be", header, rows
    )


def _resolution(results: Results) -> str:
    """Effective resolutions."""
    titles = {"t2m": "2 metre temperature", "ke": "kinetic energy"}
    parts = {kind: part["effective_resolution_km"] for kind, part in results["spectra"].items()}
    colours = style.colours(results["systems"])
    rows = [
        [
            _system(system, place, colours),
            *(Cell(number(one[system["name"]], 2), one[system["name"]]) for one in parts.values()),
        ]
        for place, system in enumerate(results["systems"])
    ]
    return table("Effective resolution", ["System", *(f"{_capital(titles[kind])} [km]" for kind in parts)], rows)


def _stations(results: Results) -> str:
    """Scores over all stations."""
    part, colours = results["stations"], style.colours(results["systems"])
    about = ", heights corrected" if part["height_corrected"] else ""
    caption = f"{len(part['stations'])} stations, {part['hours']} hours, {part['interpolation']}{about}"
    columns = [
        (name, score)
        for name in results["variables"]
        for score in ("rmse", "bias", "mae", "pcc")
        if any(name in one for one in part["all"].values())
    ]
    rows = []
    for place, system in enumerate(system for system in results["systems"] if system["name"] in part["all"]):
        scores = part["all"][system["name"]]
        values = [scores.get(name, {}).get(score) for name, score in columns]
        rows.append([_system(system, place, colours), *(Cell(number(value), value) for value in values)])
    header = ["System", *(f"{_header(results, score, name)}, {name}" for name, score in columns)]
    return table(caption, header, rows)


def _comparison(results: Results, pictures: Pictures) -> str:
    """Interpolation on the left, the first other system on the right; the reference may be chosen too."""
    held = [system for system in results["systems"] if system["name"] in pictures.snapshots]
    coarse = [system["name"] for system in held if system["kind"] == "interpolation" or system["regridded"]]
    fine = [system["name"] for system in held if system["name"] not in coarse]
    best = [system["name"] for system in held if system["kind"] in ("member", "prediction") and system["name"] in fine]
    right = [*best, *fine, "reference"][0]
    left = [*coarse, *(name for name in fine if name != right), "reference"][0]
    systems = list(dict.fromkeys((left, right, "reference")))
    names = [name for name in style.main_variables(results) if name in pictures.snapshots[right]]
    return comparison(pictures, left, right, systems, {name: results["variables"][name] for name in names})


def _meanings(results: Results) -> str:
    """A list of the scores that are held."""
    held = {score for variables in results["scores"].values() for scores in variables.values() for score in scores}
    items = []
    for score, info in results["score_info"].items():
        if score in held:
            doi = f' (<a href="https://doi.org/{info["doi"]}">doi:{info["doi"]}</a>)' if info["doi"] else ""
            items.append(
                f"<dt>{SHORT.get(score, score)}</dt>"
                f"<dd>{html.escape(_capital(info['long_name']))}; {BETTER[info['better']]}{doi}.</dd>"
            )
    return f"<dl>{''.join(items)}</dl>"


def _words(results: Results, pictures: Pictures | None, name: str) -> dict[str, str]:
    """What captions speak of."""
    names = [name] if name else style.main_variables(results)
    best = [
        f"Lowest RMSE of {results['variables'][one]['long_name']}: {results['best'][one]['rmse']['system']}."
        for one in names
        if "rmse" in results["best"].get(one, {})
    ]
    return {
        "systems": ", ".join(system["name"] for system in results["systems"]),
        "variable": results["variables"][name]["long_name"] if name else "",
        "time": pictures.snapshot_time if pictures else "",
        "best": " ".join(best),
    }


def _scores(results: Results, system: str, name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = results["scores"][system].get(name, {})
    return found


def _system(system: Mapping[str, Any], place: int, colours: Mapping[str, str]) -> Cell:
    """The name of a row."""
    kind = system["kind"] if system["members"] == 1 else f"{system['members']} members"
    return Cell(system["name"], float(place), kind, colour=colours[system["name"]])


def _header(results: Results, score: str, name: str) -> str:
    """A score with its units, which do not break."""
    units = results["score_info"][score]["units"]
    units = results["variables"][name]["units"] if units == "field" else units
    return style.labelled(SHORT.get(score, score), units).replace(" s⁻¹", "\u00a0s⁻¹")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _decimal(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}".replace("-", "−")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
