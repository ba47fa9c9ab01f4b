"""The page of an output without a reference: what differs from training in words, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ldmdown.data.grid import SourceGrid
from ldmdown.drawing import style
from ldmdown.drawing.html import Cell, bullets, figure, number, table, write_page
from ldmdown.drawing.plots import SPECTRA, TICKS, WIDTH
from ldmdown.scoring.measures import DERIVATIVES, SEASONS, VARIABLE_WORDS, WAVELENGTHS, described
from ldmdown.scoring.plausibility import OUTPUT, Plausibility
from ldmdown.typing import FloatArray

COLOURS = {OUTPUT: style.SYSTEMS[0]}
TRAINING_COLOURS = ("#000000", "#0072B2", "#009E73", "#CC79A7")
TITLE_WIDTH = 36  # of a small figure [characters]
KEEPING = ("box_bias", "box_rmse")
BOXES_BY_HOUR = [f"box_rmse {name} {ground}" for ground in ("land", "sea") for name in ("t2m", "u10", "v10")]
BY_HOUR = ["detail t2m land", "detail wind land", "detail wind sea", "lapse_rate land"]
BY_HOUR += [f"{name} {season}" for name in ("lapse_rate land", "breeze land", "breeze sea") for season in SEASONS]
CAPTIONS = {
    "bias": "Mean of the output over each cell of ERA5 less ERA5, over all hours: red is too high. Temperature differs "
    "over mountains where ERA5's smoother terrain has other heights.",
    "boxes_by_hour": "How much box means differ from ERA5, by hour of the day (UTC), over land and sea.",
    "by_hour": "By hour of the day (UTC; of the breeze local solar time, and the wind towards the land within 10 km of "
    "the shore, on its land and sea side): the output, and the training hours' means.",
    "spectra": "Power density by wavelength of the output and of the training hours, whose weather is another's: the "
    "slopes and the short waves compare, the level of the long ones does not.",
    "derivatives": "How often the wind diverges and turns by so much, on a logarithmic axis.",
}


def write_plausibility(path: Path, found: Plausibility, figures: Mapping[str, Figure]) -> None:
    """Write the page, from the results and the figures of `plausibility_figures`."""
    outside = [one.text for one in found.verdicts if one.within is False]
    others = [one.text for one in found.verdicts if one.within is not False]
    drawn = {name: figure(one, CAPTIONS[name], CAPTIONS[name]) for name, one in figures.items()}
    shown = {"What differs from training": [bullets(outside)] if outside else []}
    shown["As in training" if found.training else "What it shows"] = [bullets(others)] if others else []
    shown |= {
        "Does it keep to ERA5?": [
            _table(found, keeping=True),
            *(drawn[name] for name in ("bias", "boxes_by_hour") if name in drawn),
        ],
        "Does it behave as weather?": [
            _table(found, keeping=False),
            *([_resolutions(found)] if found.training else []),
            *(drawn[name] for name in ("by_hour", "spectra", "derivatives") if name in drawn),
        ],
    }
    lead = Markup("<p>{}</p>").format(
        f"{found.records[OUTPUT].hours} hours of {found.output.name}, {found.first} to {found.last} UTC, and the ERA5 "
        f"that they were made from ({found.era5.name}); checkpoint {found.checkpoint}. No reference is needed: the "
        f"training hours show what is usual."
    )
    footer = f"ldmdown {found.ldmdown}, {found.created}. The numbers: scores.json."
    write_page(path, found.title, shown, lead=lead + (bullets(found.notes) if found.notes else ""), footer=footer)


def plausibility_figures(found: Plausibility, boxes: SourceGrid, bias: Mapping[str, FloatArray]) -> dict[str, Figure]:
    """Every figure for which there are numbers, by the stem of its file's name; `bias` (rows, cols) is on `boxes`."""
    output = found.records[OUTPUT]
    with matplotlib.rc_context(style.LOOK):
        kinds = {"boxes_by_hour": BOXES_BY_HOUR, "by_hour": BY_HOUR}
        shown = {kind: [key for key in keys if key in output.numbers] for kind, keys in kinds.items()}
        drawn = {kind: _by_hour(found, keys) for kind, keys in shown.items() if keys}
        if any(np.isfinite(field).any() for field in bias.values()):
            drawn["bias"] = _bias(boxes, bias)
        if output.spectra:
            drawn["spectra"] = _spectra(found)
        if output.densities:
            drawn["derivatives"] = _derivatives(found)
        return drawn


def _table(found: Plausibility, *, keeping: bool) -> Markup:
    """Numbers of the output and of training, with the intervals that hold 95 % of the hours."""
    rows: list[list[Cell | str | float]] = []
    for one in found.verdicts:
        if (one.key.split()[0] in KEEPING) is keeping:
            sentence, units = described(one.key)
            ranges = [record.numbers.get(one.key) for record in found.records.values()]
            cells = [
                Cell(number(part.mean), part.mean, f"{number(part.low)} … {number(part.high)}") if part else Cell("–")
                for part in ranges
            ]
            rows.append([Cell(style.labelled(sentence, units)), *cells])
    rows.sort(key=lambda row: str(row[0]))
    return table(
        "Means over the hours (RMS of what varies), and below them the interval of 95 % of the hours (breeze: days)",
        ["", *found.records],
        rows,
    )


def _resolutions(found: Plausibility) -> Markup:
    rows: list[list[Cell | str | float]] = [
        [SPECTRA[kind][0], *parts.values()] for kind, parts in found.effective_resolution_km.items()
    ]
    names = next(iter(found.effective_resolution_km.values()), {})
    return table("Effective resolution [km] beside each source of training", ["", *names], rows)


def _lines(found: Plausibility) -> dict[str, dict[str, Any]]:
    """How the output and each source of training are drawn."""
    colours = COLOURS | dict(zip(found.training, TRAINING_COLOURS, strict=False))
    return {name: {"label": name, "color": colours.get(name), "linewidth": 1.5} for name in found.records}


def _by_hour(found: Plausibility, keys: Sequence[str]) -> Figure:
    rows = -(-len(keys) // 3)
    drawn = Figure(figsize=(WIDTH, 2.5 * rows + 0.4))
    axes = drawn.subplots(rows, 3, squeeze=False, sharex=True).ravel()
    for axis in axes[len(keys) :]:
        axis.set_visible(False)
    for axis, key in zip(axes, keys, strict=False):
        for name, line in _lines(found).items():
            if key in found.records[name].numbers:
                axis.plot(range(24), found.records[name].numbers[key].diurnal, marker="o", markersize=3, **line)
        sentence, units = described(key)
        axis.set_title(fill(sentence[:1].upper() + sentence[1:], TITLE_WIDTH), fontsize=7.5)
        axis.set(ylabel=f"[{style.written(units)}]", xticks=range(0, 24, 6))
    lines = [Line2D([], [], **line) for line in _lines(found).values()]
    drawn.legend(handles=lines, loc="outside upper center", ncols=5)
    return drawn


def _bias(boxes: SourceGrid, bias: Mapping[str, FloatArray]) -> Figure:
    drawn = Figure(figsize=(WIDTH, 3.6))
    for axis, (name, field) in zip(drawn.subplots(1, len(bias), squeeze=False)[0], bias.items(), strict=True):
        words, units = VARIABLE_WORDS[name]
        most = float(np.nanquantile(np.abs(field), 0.99)) or 1.0
        shown = axis.pcolormesh(boxes.x, boxes.y, field, cmap=style.DIVERGING, vmin=-most, vmax=most)
        axis.set(title=words.capitalize(), aspect=1 / np.cos(np.radians(boxes.y.mean())))
        axis.grid(visible=False)
        style.label_degrees(axis, 4)
        drawn.colorbar(shown, ax=axis, orientation="horizontal", label=f"[{style.written(units)}]", extend="both")
    return drawn


def _spectra(found: Plausibility) -> Figure:
    kinds = list(found.records[OUTPUT].spectra)
    drawn = Figure(figsize=(WIDTH, 3.4))
    for axis, kind in zip(drawn.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        for name, line in _lines(found).items():
            if kind in found.records[name].spectra:
                power = found.records[name].spectra[kind]
                held = np.isfinite(power)
                axis.plot(WAVELENGTHS[held], power[held], **line)
        title, units = SPECTRA[kind]
        axis.set(xscale="log", yscale="log", xlabel="Wavelength [km]", title=title, ylabel=f"[{units} km²]")
        axis.invert_xaxis()
        axis.set_xticks(TICKS, map(str, TICKS))
        axis.minorticks_off()
    drawn.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return drawn


def _derivatives(found: Plausibility) -> Figure:
    names = list(found.records[OUTPUT].densities)
    drawn = Figure(figsize=(WIDTH, 3.2))
    for axis, kind in zip(drawn.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for name, line in _lines(found).items():
            if kind in found.records[name].densities:
                axis.stairs(found.records[name].densities[kind] / 1e4, DERIVATIVES.edges * 1e4, baseline=None, **line)
        axis.set(yscale="log", xlabel=f"{kind.capitalize()} [10⁻⁴ s⁻¹]", ylabel="Frequency [10⁴ s]")
    drawn.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return drawn
