"""The page of `evaluate`: tables and figures of scores, and a map to compare fields on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from ldmdown.drawing import style
from ldmdown.drawing.comparison import comparison
from ldmdown.drawing.html import Cell, figure, number, render, table, write_page
from ldmdown.drawing.map_fields import MapFields
from ldmdown.scoring.results import Best, Results, Score, ScoredSystem

GROUPS = {
    "As single fields": ("rmse", "bias", "mae", "r2", "pcc"),
    "As ensembles": ("crps", "rmse_of_mean", "spread_skill", "energy_score", "variogram_score"),
    "Distribution and time": ("wasserstein", "p1_error", "p999_error", "above_15", "change_ratio", "lag1_error"),
}
BETTER = {"low": "the lower, the better", "high": "the higher, the better", "zero": "best at 0", "one": "best at 1"}
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
    "diurnal": ("Time", "The mean of each hour of the day.", "Diurnal cycles of the reference and of {systems}."),
    "hour_to_hour": (
        "Time",
        "How often a cell changes by so much within an hour, on a logarithmic axis.",
        "Frequency distributions of changes from hour to hour of the reference and of {systems}.",
    ),
}  # by the stem of the file's name: heading, caption, description


def write_report(path: Path, results: Results, maps: MapFields | None, figures: Mapping[str, Figure]) -> None:
    """Write the page of a scorecard, from its results and from the figures of `plots`."""
    sections: dict[str, list[Markup]] = {"Scores": [_score_tables(results)] if any(results.scores.values()) else []}
    if results.ratio_to_ideal:
        sections["Against the ideal ensemble"] = [_ratios(results)]
    if maps and maps.snapshots:
        sections["Before and after"] = [_comparison(results, maps.north_up)]
    for kind, (heading, caption, alt) in FIGURES.items():
        for name in ("", *results.variables):
            stem = f"{kind}_{name}" if name else kind
            if stem in figures:
                words = _words(results, maps, name)
                drawn = figure(figures[stem], caption.format(**words), alt.format(**words))
                sections.setdefault(heading, []).append(drawn)
    if results.spectra:
        sections.setdefault("Scales", []).append(_resolution(results))
    if results.stations:
        sections.setdefault("Stations", []).append(_stations(results))
    sections["What the scores mean"] = [_meanings(results)]
    lead = render("lead.html", **{name: getattr(results, name) for name in ("hours", "grid", "reference", "notes")})
    footer = f"ldmdown {results.ldmdown}, {results.created}. The numbers: scores.json."
    write_page(path, results.title, sections, lead=lead, footer=footer)


def _score_tables(results: Results) -> Markup:
    """Tables of the main variables; those of the others are folded."""
    tables = {
        name: [
            _score_table(results, name, group, scores)
            for group, scores in GROUPS.items()
            if any(score in one.get(name, {}) for one in results.scores.values() for score in scores)
        ]
        for name in results.variables
    }
    main = style.main_variables(results)
    titled = {name: (_sentence(results.long_name(name)), found) for name, found in tables.items() if found}
    return render(
        "scores.html",
        main=dict(one for name, one in titled.items() if name in main),
        folded=dict(one for name, one in titled.items() if name not in main),
    )


def _score_table(results: Results, name: str, caption: str, scores: Sequence[str]) -> Markup:
    found = {system: parts.get(name, {}) for system, parts in results.scores.items()}
    systems = [one for one in results.systems if not found[one.name].keys().isdisjoint(scores)]
    held = [score for score in scores if any(score in one for one in found.values())]
    best = results.best.get(name, {})
    columns = {
        _header(results, score, name): _score_cells(
            systems, [found[one.name].get(score) for one in systems], best.get(score)
        )
        for score in held
    }
    return _system_table(results, caption, systems, columns)


def _system_table(
    results: Results, caption: str, systems: Sequence[ScoredSystem], columns: Mapping[str, Sequence[Cell]]
) -> Markup:
    """A table with a row a system."""
    colours = style.colours(results.systems)
    rows: list[list[Cell]] = []
    for place, one in enumerate(systems):
        note = one.kind if one.members == 1 else f"{one.members} members"
        head = Cell(one.name, float(place), note, colour=colours[one.name])
        rows.append([head, *(cells[place] for cells in columns.values())])
    return table(caption, ["System", *columns], rows)


def _score_cells(systems: Sequence[ScoredSystem], values: Sequence[Score | None], best: Best | None) -> list[Cell]:
    """A column, written with as many decimals as give its largest value three digits."""
    known = [abs(one.value) for one in values if one and np.isfinite(one.value)]
    decimals = max(0, 2 - int(np.floor(np.log10(max(known))))) if known and max(known) > 0 else 2
    cells = []
    for system, one in zip(systems, values, strict=True):
        if not one or not np.isfinite(one.value):
            cells.append(Cell("–"))
            continue
        value, *ends = (f"{number:.{decimals}f}".replace("-", "−") for number in (one.value, one.low, one.high))
        note = " … ".join(ends) if np.isfinite([one.low, one.high]).all() else ""
        mark: Literal["", "best", "tie"] = "best" if best and system.name == best.system else ""
        mark = "tie" if best and system.name in best.not_significantly_different_from else mark
        cells.append(Cell(value, one.value, note, mark))
    return cells


def _ratios(results: Results) -> Markup:
    """Scores over the ideal ensemble's, of the main variables."""
    ratios = results.ratio_to_ideal
    systems = [system for system in results.systems if system.name in ratios]
    columns = {
        f"{results.score_info[score].short_name}, {name}": _score_cells(
            systems, [ratios[one.name].get(name, {}).get(score) for one in systems], None
        )
        for name in (*style.main_variables(results), "all")
        for score in results.score_info
        if any(score in one.get(name, {}) for one in ratios.values())
    }
    caption = "Scores over the ideal ensemble's; RMSE over that of its mean: 1 is the best that can be"
    return _system_table(results, caption, systems, columns)


def _resolution(results: Results) -> Markup:
    """Effective resolutions."""
    titles = {"t2m": "2 metre temperature", "ke": "Kinetic energy"}
    columns: dict[str, list[Cell]] = {}
    for kind, part in results.spectra.items():
        reached = [part.effective_resolution_km[one.name] for one in results.systems]
        columns[f"{titles[kind]} [km]"] = [Cell(number(value, 2), value) for value in reached]
    return _system_table(results, "Effective resolution", results.systems, columns)


def _stations(results: Results) -> Markup:
    """Scores over all stations."""
    part = results.stations
    assert part is not None
    about = ", heights corrected" if part.height_corrected else ""
    caption = f"{len(part.stations)} stations, {part.hours} hours, {part.interpolation}{about}"
    systems = [system for system in results.systems if system.name in part.all]
    columns: dict[str, list[Cell]] = {}
    for name in results.variables:
        if any(name in one for one in part.all.values()):
            for score in ("rmse", "bias", "mae", "pcc", "crps", "spread_skill"):
                values = [part.all[one.name].get(name, {}).get(score) for one in systems]
                if any(value is not None for value in values):
                    columns[f"{_header(results, score, name)}, {name}"] = [
                        Cell("–") if value is None else Cell(number(value), value) for value in values
                    ]
    return _system_table(results, caption, systems, columns)


def _comparison(results: Results, maps: MapFields) -> Markup:
    """Interpolation on the left, the first other system on the right; the reference may be chosen too."""
    held = [system for system in results.systems if system.name in maps.snapshots]
    coarse = [system.name for system in held if system.kind in ("interpolation", "regression") or system.regridded]
    fine = [system.name for system in held if system.name not in coarse]
    best = [system.name for system in held if system.kind in ("member", "prediction") and system.name in fine]
    right = [*best, *fine, "reference"][0]
    left = [*coarse, *(name for name in fine if name != right), "reference"][0]
    systems = list(dict.fromkeys((left, right, "reference")))
    names = [name for name in style.main_variables(results) if name in maps.snapshots[right]]
    return comparison(maps, left, right, systems, {name: results.variables[name] for name in names})


def _meanings(results: Results) -> Markup:
    """A list of the scores that are held."""
    systems = [*results.scores.values(), *(results.stations.all.values() if results.stations else ())]
    held = {score for variables in systems for scores in variables.values() for score in scores}
    meanings = [
        (info.short_name, f"{_sentence(info.long_name)}; {BETTER[info.better]}", info.doi)
        for score, info in results.score_info.items()
        if score in held
    ]
    return render("meanings.html", meanings=meanings)


def _words(results: Results, maps: MapFields | None, name: str) -> dict[str, str]:
    """What captions speak of."""
    names = [name] if name else style.main_variables(results)
    best = [
        f"Lowest RMSE of {results.long_name(one)}: {results.best[one]['rmse'].system}."
        for one in names
        if "rmse" in results.best.get(one, {})
    ]
    return {
        "systems": ", ".join(system.name for system in results.systems),
        "variable": results.long_name(name) if name else "",
        "time": maps.snapshot_time if maps else "",
        "best": " ".join(best),
    }


def _header(results: Results, score: str, name: str) -> str:
    """A score with its units, which do not break."""
    label = style.labelled(results.score_info[score].short_name, results.units(score, name))
    return label.replace(" s⁻¹", "\u00a0s⁻¹")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
