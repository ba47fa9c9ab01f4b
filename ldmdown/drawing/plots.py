"""The figures of a scorecard, each from one part of its results; what the results do not hold is not drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from ldmdown.drawing import maps, style
from ldmdown.drawing.map_fields import MapFields
from ldmdown.scoring.results import Distribution, Results
from ldmdown.typing import FloatArray

WIDTH = 10.0  # of every figure [inches]
TAIL_SHARE = 0.01  # of the reference's distribution, on each side
NOT_SHOWN = 1e-5  # of the reference's distribution of changes and derivatives, on each side, about
MIN_TAIL_WIDTH = 0.05  # of the whole range; a narrower tail is not drawn
MAX_BINS = 120
DERIVATIVES = ("divergence", "vorticity")
BOXES = ("rmse", "bias", "r2", "pcc")
SPECTRA = {"t2m": ("2 metre temperature", "K²"), "ke": ("Kinetic energy of the 10 metre wind", "m² s⁻²")}

MIN_RATIO_DB, MIN_POWER = -22, 1e-4  # that are shown: of ratios, and of power over the reference's least
TICKS = (500, 200, 100, 50, 20, 10, 5)  # [km]


def figures(results: Results, shown: MapFields | None = None) -> dict[str, Figure]:
    """Every figure that the results and the fields have the content for, by the stem of its file's name."""
    with matplotlib.rc_context(style.LOOK):
        drawn = {name: draw(results) for name, (holds, draw) in CURVES.items() if holds(results)}
        return drawn | maps.figures(results, shown and shown.north_up, style.main_variables(results))


def boxplots(results: Results) -> Figure:
    """Hourly scores: a box holds half of the hours, its whiskers nine tenths."""
    hourly, names = results.hourly, style.main_variables(results)
    systems = results.ordered(hourly)
    colours = style.colours(results.systems)
    figure = Figure(figsize=(WIDTH, (max(1.2, 0.24 * len(systems)) + 0.8) * len(names)))
    rows = figure.subplots(len(names), len(BOXES), squeeze=False, sharey=True)
    for axes, name in zip(rows, names, strict=True):
        for axis, score in zip(axes, BOXES, strict=True):
            for place, system in enumerate(systems):
                values = getattr(hourly[system][name], score)
                _box(axis, place, values[np.isfinite(values)], colours[system])
            axis.set_title(style.labelled(results.score_info[score].short_name, results.units(score, name)))
            if score == "bias":
                axis.axvline(0, color="black", linewidth=0.8, zorder=1)
            axis.grid(visible=False, axis="y")
        axes[0].set_yticks(range(len(systems)), systems)
        axes[0].set_ylim(len(systems) - 0.5, -0.5)
        axes[0].set_ylabel(results.long_name(name))
    return figure


def _box(axis: Axes, place: int, values: FloatArray, colour: str) -> None:
    axis.boxplot(
        [values],
        positions=[place],
        widths=0.62,
        whis=(5, 95),
        showfliers=False,
        orientation="horizontal",
        patch_artist=True,
        medianprops={"color": "white", "linewidth": 1.4},
        boxprops={"facecolor": colour, "edgecolor": colour},
        whiskerprops={"color": colour},
        capprops={"color": colour},
    )


def distributions(results: Results) -> Figure:
    """Frequencies, and their tails on a logarithmic axis; wind speed has only one."""
    names = [name for name in style.main_variables(results) if name in results.distribution]
    figure = Figure(figsize=(WIDTH, 2.9 * len(names) + 0.5))
    cells = figure.add_gridspec(len(names), 3, width_ratios=(1.25, 1, 1))
    for row, name in enumerate(names):
        part, units = results.distribution[name], results.variables[name].units
        edges, densities = join_bins(part)
        edges = style.displayed(edges, units)
        (left, right), (low, high) = _span(densities.values(), edges), tails(densities["reference"], edges)
        zoomed = {"The lowest hundredth": (left, low), "The highest hundredth": (high, right)}
        if low - left < MIN_TAIL_WIDTH * (right - left):
            del zoomed["The lowest hundredth"]
        places = [cells[row, 0], cells[row, 1], cells[row, 2]] if len(zoomed) == 2 else [cells[row, 0], cells[row, 1:]]
        whole, *zooms = (figure.add_subplot(place) for place in places)
        for axis in (whole, *zooms):
            for system, line in _lines(results, densities):
                axis.stairs(densities[system], edges, baseline=None, **line)
            axis.set_xlabel(f"{results.long_name(name)} [{style.units_of_fields(units)}]")
        whole.set(xlim=(left, right), ylim=(0, None), title="All values")
        whole.set_ylabel(f"Frequency [{style.per(style.units_of_fields(units))}]")
        for axis, (title, limits) in zip(zooms, zoomed.items(), strict=True):
            axis.set(xlim=limits, yscale="log", title=title)
            _fit_logarithmic(axis, densities.values(), edges, limits)
    _legend(figure, results, results.distribution[names[0]].density)
    return figure


def join_bins(part: Distribution) -> tuple[FloatArray, dict[str, FloatArray]]:
    """Edges and densities by system, with so many neighbouring bins joined that a few remain."""
    edges = part.edges
    starts = np.arange(0, len(edges) - 1, -(-len(edges) // MAX_BINS))
    wide = edges[[*starts, -1]]
    densities: dict[str, FloatArray] = {
        system: np.add.reduceat(values * np.diff(edges), starts) / np.diff(wide)
        for system, values in part.density.items()
    }
    return wide, densities


def tails(density: FloatArray, edges: FloatArray, share: float = TAIL_SHARE) -> tuple[float, float]:
    """Values that a share of a distribution lies below, and above."""
    below = np.append(0, np.cumsum(density * np.diff(edges)))
    low, high = np.interp([share, 1 - share], below / below[-1], edges)
    return float(low), float(high)


def _span(densities: Iterable[FloatArray], edges: FloatArray) -> tuple[float, float]:
    """From the first to the last edge of bins that any density fills."""
    filled = np.flatnonzero(np.any([density > 0 for density in densities], axis=0))
    return float(edges[filled[0]]), float(edges[filled[-1] + 1])


def _fit_logarithmic(
    axis: Axes, densities: Iterable[FloatArray], edges: FloatArray, limits: tuple[float, float]
) -> None:
    """The y axis to what is seen between the limits, five decades at most."""
    seen = (edges[1:] > limits[0]) & (edges[:-1] < limits[1])
    values = np.concatenate([density[seen & (density > 0)] for density in densities])
    if values.size:
        axis.set_ylim(max(values.min() / 1.5, values.max() * 1e-5), values.max() * 1.7)


def spectra(results: Results) -> Figure:
    """Power by wavelength, and below it the ratio to the reference's."""
    parts = results.spectra
    figure = Figure(figsize=(WIDTH, 5.0))
    columns = figure.subplots(2, len(parts), squeeze=False, sharex="col", height_ratios=(1.5, 1)).T
    nyquist = 2 * results.grid.spacing_km
    for (top, bottom), (name, part) in zip(columns, parts.items(), strict=True):
        wavelength = part.wavelength_km
        powers, ratios = part.power, part.ratio_db
        title, units = SPECTRA[name]
        for system, line in _lines(results, powers):
            top.plot(wavelength, powers[system], **line)
            if system != "reference":
                bottom.plot(wavelength, ratios[system], **line)
        for system, line in _lines(results, part.effective_resolution_km):
            reached = part.effective_resolution_km[system]
            if np.isfinite(reached):
                ratio = np.interp(reached, wavelength[::-1], ratios[system][::-1])
                bottom.plot(reached, ratio, "o", color=line["color"], markersize=4.5, markeredgecolor="white", zorder=5)
        bottom.axhspan(-1, 1, color="#eef1f3", zorder=0)
        bottom.axhline(0, color="black", linewidth=0.8)
        every = np.concatenate(list(ratios.values()))
        bottom.set_ylim(max(MIN_RATIO_DB, np.nanmin(every) - 1), min(-MIN_RATIO_DB / 2, max(3, np.nanmax(every) + 1)))
        for axis in (top, bottom):
            axis.axvline(nyquist, color="#5b6570", linewidth=0.9, linestyle=(0, (2, 2)))
            axis.set(xscale="log", xlim=(wavelength.max(), min(wavelength.min(), nyquist) * 0.93))
        note: Any = {"transform": top.get_xaxis_transform(), "color": "#5b6570", "fontsize": "small"}
        top.text(nyquist * 1.04, 0.98, f"two cells: {nyquist:g} km", ha="right", va="top", **note)
        top.set(yscale="log", title=title, ylabel=f"Power [{units}]")
        top.set_ylim(bottom=powers["reference"].min() * MIN_POWER or None)  # a power of 0 gives none
        bottom.set(xlabel="Wavelength [km]", ylabel="Ratio to the reference [dB]")
        bottom.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        bottom.xaxis.set_minor_formatter(NullFormatter())
        bottom.set_xticks([tick for tick in TICKS if wavelength.min() <= tick <= wavelength.max()])
    _legend(figure, results, next(iter(parts.values())).power)
    return figure


def ranks(results: Results) -> Figure:
    """Where the reference falls among the members, as multiples of the even share."""
    part, names = results.rank_histogram, style.main_variables(results)
    colours = style.colours(results.systems)
    figure = Figure(figsize=(WIDTH, 1.7 * len(part) + 0.5))
    rows = figure.subplots(len(part), len(names), squeeze=False, sharex="row", sharey=True)
    for axes, (system, histograms) in zip(rows, part.items(), strict=True):
        for axis, name in zip(axes, names, strict=True):
            counts = histograms[name]
            axis.bar(np.arange(len(counts)), counts / counts.mean(), width=0.86, color=colours[system])
            axis.axhline(1, color="black", linewidth=0.9)
            axis.set_xticks(range(len(counts)))
            axis.grid(visible=False, axis="x")
            axis.set_title(f"{system}: {results.long_name(name)}")
        axes[0].set_ylabel("Share / even share")
    for axis in rows[-1]:
        axis.set_xlabel("Members below the reference")
    return figure


def reliability(results: Results) -> Figure:
    """How often an event happens when it is forecast with a probability; below, how often that is."""
    part = results.reliability
    events = list(dict.fromkeys(event for one in part.values() for event in one))
    figure = Figure(figsize=(min(WIDTH, 3.3 * len(events)), 4.9))
    columns = figure.subplots(2, len(events), squeeze=False, sharex=True, sharey="row", height_ratios=(3, 1)).T
    for (top, bottom), event in zip(columns, events, strict=True):
        top.plot([0, 1], [0, 1], color="black", linewidth=0.8)
        for system, line in _lines(results, part):
            if event in part[system]:
                curve = part[system][event]
                top.plot(curve.forecast, curve.observed, marker="o", markersize=3.5, **line)
                cases = np.where(curve.count > 0, curve.count, np.nan)
                bottom.plot(curve.forecast, cases, marker="o", markersize=2.5, **line)
        top.set(title=event.replace("s-1", "s⁻¹"), xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        bottom.set(yscale="log", xlabel="Forecast probability")
    columns[0][0].set_ylabel("Observed frequency")
    columns[0][1].set_ylabel("Cases")
    _legend(figure, results, part)
    return figure


def diurnal(results: Results) -> Figure:
    """The mean of each hour of the day."""
    part, names = results.diurnal, style.main_variables(results)
    figure = Figure(figsize=(WIDTH, 3.0))
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        units = results.variables[name].units
        for system, line in _lines(results, part[name]):
            means = style.displayed(part[name][system], units)
            known = np.flatnonzero(np.isfinite(means))
            axis.plot(known, means[known], marker="o" if len(known) < 24 else "", markersize=3, **line)
        axis.set(xlim=(0, 23), xlabel="Hour [UTC]", title=results.long_name(name))
        axis.set_ylabel(f"Mean [{style.units_of_fields(units)}]")
        axis.set_xticks(range(0, 24, 3))
    _legend(figure, results, part[names[0]])
    return figure


def hour_to_hour(results: Results) -> Figure:
    """How often a cell changes by so much within an hour."""
    part = results.hour_to_hour
    names = [name for name in style.main_variables(results) if name in part]
    return _logarithmic(results, part, names, "Change in an hour")


def derivatives(results: Results) -> Figure:
    """How often the wind diverges, and turns, by so much."""
    names = [name for name in DERIVATIVES if name in results.distribution]
    return _logarithmic(results, results.distribution, names, "")


def _logarithmic(results: Results, part: Mapping[str, Distribution], names: Sequence[str], label: str) -> Figure:
    """Densities side by side on a logarithmic axis."""
    figure = Figure(figsize=(WIDTH, 3.0))
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        units = results.variables[name].units
        scale, shown = (1e4, "10⁻⁴ s⁻¹") if units == "s-1" else (1.0, style.written(units))
        edges, densities = join_bins(part[name])
        edges, densities = edges * scale, {system: values / scale for system, values in densities.items()}
        for system, line in _lines(results, densities):
            axis.stairs(densities[system], edges, baseline=None, **line)
        top = 1.4 * max(map(abs, tails(densities["reference"], edges, NOT_SHOWN)))
        limits = -top, top
        axis.set(yscale="log", xlim=limits, title=results.long_name(name).capitalize())
        axis.set(xlabel=f"{label or name.capitalize()} [{shown}]", ylabel=f"Frequency [{style.per(shown)}]")
        _fit_logarithmic(axis, densities.values(), edges, limits)
    _legend(figure, results, part[names[0]].density)
    return figure


def surfaces(results: Results) -> Figure:
    """RMSE and bias over land, sea, mountains and coasts."""
    part, names = results.by_surface, style.main_variables(results)
    systems = results.ordered(set.intersection(*(set(one) for one in part.values())))
    colours = style.colours(results.systems)
    figure = Figure(figsize=(WIDTH, 4.6))
    rows = figure.subplots(2, len(names), squeeze=False, sharex=True)
    width = 0.84 / len(systems)
    for axes, score in zip(rows, ("rmse", "bias"), strict=True):
        for axis, name in zip(axes, names, strict=True):
            for place, system in enumerate(systems):
                at = np.arange(len(part)) + (place - (len(systems) - 1) / 2) * width
                values = [one[system][name][score] for one in part.values()]
                axis.bar(at, values, width=0.9 * width, color=colours[system], label=system)
            axis.axhline(0, color="black", linewidth=0.8)
            axis.set_xticks(range(len(part)), list(part))
            axis.grid(visible=False, axis="x")
            axis.set_title(results.long_name(name))
            axis.set_ylabel(style.labelled(results.score_info[score].short_name, results.units(score, name)))
    figure.legend(*rows[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=min(5, len(systems)))
    return figure


def _holds(part: str, *names: str) -> Callable[[Results], bool]:
    """Whether the results hold a part, and in it one of these names."""
    return lambda results: any(name in getattr(results, part) for name in names or getattr(results, part))


CURVES: dict[str, tuple[Callable[[Results], bool], Callable[[Results], Figure]]] = {
    "boxplots": (_holds("hourly"), boxplots),
    "surfaces": (_holds("by_surface"), surfaces),
    "distributions": (_holds("distribution", "t2m", "u10", "ws10"), distributions),
    "spectra": (lambda results: any(part.wavelength_km.size for part in results.spectra.values()), spectra),
    "derivatives": (_holds("distribution", *DERIVATIVES), derivatives),
    "ranks": (_holds("rank_histogram"), ranks),
    "reliability": (_holds("reliability"), reliability),
    "diurnal": (_holds("diurnal"), diurnal),
    "hour_to_hour": (_holds("hour_to_hour"), hour_to_hour),
}  # the stem of the file's name: when it is drawn, and how


def _lines(results: Results, held: Iterable[str]) -> list[tuple[str, dict[str, Any]]]:
    """How the line of each system that is held looks, in table order; the reference first."""
    colours = style.colours(results.systems)
    kinds = {"reference": "reference", **{system.name: system.kind for system in results.systems}}
    return [
        (
            name,
            {
                "label": name,
                "color": colours[name],
                "linewidth": 2.0 if name == "reference" else 1.4,
                "linestyle": style.LINES.get(kinds[name], "solid"),
            },
        )
        for name in kinds
        if name in set(held)
    ]


def _legend(figure: Figure, results: Results, held: Iterable[str]) -> None:
    handles = [Line2D([], [], **line) for _, line in _lines(results, held)]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(5, len(handles)), handlelength=3.4)
