"""The maps of a scorecard: errors, a snapshot with a closer look at the Alps, stations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle

from ldmdown.drawing import style
from ldmdown.drawing.map_fields import MapFields
from ldmdown.scoring.results import Results
from ldmdown.typing import FloatArray

Box = tuple[slice, slice]  # of rows and columns

MAPS_ABREAST = 5  # maps side by side
WIDTH, BAR_WIDTH, MAX_MAP_WIDTH = 10.0, 0.9, 2.9  # of a figure, its colour bar, a map [inches]
TICKS: Any = {"labelsize": 6.5, "length": 2, "pad": 1.5}
ALPS = (6.4, 45.4, 13.6, 47.2)  # west, south, east, north [degrees]
SCORES = ("rmse", "bias")


def figures(results: Results, shown: MapFields | None, names: Sequence[str]) -> dict[str, Figure]:
    """Draw every map of these variables that there is content for, by the stem of the file's name."""
    drawn = {}
    if shown:
        for name in names:
            if name in shown.snapshots.get("reference", {}):
                drawn[f"snapshots_{name}"] = snapshots(results, shown, name)
        for score in SCORES:
            for name in names:
                if name in shown.maps.get(score, {}):
                    drawn[f"{score}_{name}"] = error_maps(results, shown, score, name)
    if results.stations:
        for name in names:
            if any(name in scores for scores in results.stations.scores.values()):
                drawn |= {f"stations_{score}_{name}": stations(results, score, name) for score in SCORES}
    return drawn


def error_maps(results: Results, shown: MapFields, score: str, name: str) -> Figure:
    """A score of every cell over all hours, a map a system, on one scale."""
    fields = {system: shown.maps[score][name][system] for system in results.ordered(shown.maps[score][name])}
    limits = _limits(score, fields.values())
    whole = _whole(shown)
    figure, axes = _panels(len(fields), [_aspect(shown, whole)])
    for (axis,), (system, field) in zip(axes, fields.items(), strict=True):
        image = draw(axis, shown, field, whole, **limits)
        axis.set_title(system)
    _bar(figure, image, axes, _label(results, score, name), score)
    return figure


def snapshots(results: Results, shown: MapFields, name: str) -> Figure:
    """An hour of every system, and below each map a part of it, the Alps if they are there."""
    held = ["reference", *results.ordered(shown.snapshots)]
    units = results.variables[name].units
    fields = {system: style.displayed(shown.snapshots[system][name], units) for system in held}
    low, high = np.nanpercentile(fields["reference"], [0.1, 99.9])
    whole, near = _whole(shown), alps(shown)
    figure, axes = _panels(len(fields), [_aspect(shown, whole), _aspect(shown, near)])
    for (axis, below), (system, field) in zip(axes, fields.items(), strict=True):
        for one, box in ((axis, whole), (below, near)):
            image = draw(one, shown, field, box, vmin=low, vmax=high, cmap=style.FIELDS.get(name, style.DIVERGING))
        axis.add_patch(_frame(shown, near))
        axis.set_title(system)
    label = f"{results.variables[name].long_name} [{style.units_of_fields(units)}], {shown.snapshot_time} UTC"
    _bar(figure, image, axes, label)
    return figure


def draw(axis: Axes, shown: MapFields, field: FloatArray, box: Box, **scale: Any) -> AxesImage:
    """A part of a field along the axes of its grid, with parallels and meridians, labelled where they leave it."""
    rows, cols = box
    left, right, bottom, top = _extent(shown, box)
    aspect = _aspect(shown, box) * (right - left) / (top - bottom)
    image = axis.imshow(
        field[box], extent=(left, right, bottom, top), aspect=aspect, interpolation="antialiased", **scale
    )
    axis.grid(visible=False)
    x, y = shown.x[cols], shown.y[rows]
    lon, lat = shown.lon[box], shown.lat[box]
    for lines, values in ((lon, style.whole_degrees(lon)), (lat, style.whole_degrees(lat))):
        axis.contour(x, y, lines, values, colors="black", linewidths=0.4, alpha=0.35)
    meridians, parallels = style.whole_degrees(lon[-1]), style.whole_degrees(lat[:, 0])
    axis.set_xticks(np.interp(meridians, lon[-1], x), [style.degrees(value, "EW") for value in meridians])
    axis.set_yticks(np.interp(parallels, lat[::-1, 0], y[::-1]), [style.degrees(value, "NS") for value in parallels])
    axis.tick_params(**TICKS)
    axis.spines[["top", "right"]].set_visible(True)
    return image


def alps(shown: MapFields) -> Box:
    """The cells over the Alps; if the grid shows no more, or nothing, of them its middle third, two cells at least."""
    west, south, east, north = ALPS
    inside = (shown.lon > west) & (shown.lon < east) & (shown.lat > south) & (shown.lat < north)
    rows, cols = np.flatnonzero(inside.mean(axis=1) > 0.3), np.flatnonzero(inside.any(axis=0))
    if rows.size < 8 or rows.size > inside.shape[0] / 1.5 or cols.size > inside.shape[1] / 1.5:
        third, other = (size // 3 for size in inside.shape)
        return slice(third, max(2 * third, third + 2)), slice(other, max(2 * other, other + 2))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1)


def stations(results: Results, score: str, name: str) -> Figure:
    """A score at every station, a map a system, on one scale."""
    part = results.stations
    assert part is not None
    lon, lat = (np.array([getattr(station, axis) for station in part.stations]) for axis in ("lon", "lat"))
    fields = {system: part.scores[system][name][score] for system in results.ordered(part.scores)}
    stretch = 1 / np.cos(np.radians(lat.mean()))
    height, width = (max(float(np.ptp(part)), 0.2) for part in (lat, lon))  # of one station too
    figure, axes = _panels(len(fields), [1.05 * height * stretch / width])
    limits = _limits(score, fields.values())
    for (axis,), (system, field) in zip(axes, fields.items(), strict=True):
        image = axis.scatter(lon, lat, c=field, s=18, linewidths=0.4, edgecolors="#5b6570", **limits)
        axis.set(aspect=stretch, title=system)
        axis.margins(0.06)
        style.label_degrees(axis, 4)
        axis.tick_params(**TICKS)
    _bar(figure, image, axes, _label(results, score, name), score)
    return figure


def _limits(score: str, fields: Iterable[FloatArray]) -> dict[str, Any]:
    """One scale for the errors of all systems, but for the largest hundredth."""
    values = np.concatenate([field[np.isfinite(field)] for field in fields])
    top = float(np.percentile(np.abs(values), 99)) if values.size else 1.0
    return {
        "vmin": 0 if score == "rmse" else -top,
        "vmax": top,
        "cmap": style.ERRORS if score == "rmse" else style.DIVERGING,
    }


def _panels(count: int, aspects: Sequence[float]) -> tuple[Figure, list[list[Axes]]]:
    """For each of so many systems, axes one below the other, of these heights over widths."""
    lines = -(-count // MAPS_ABREAST)
    across = -(-count // lines)
    width = min(MAX_MAP_WIDTH, (WIDTH - BAR_WIDTH) / across)
    heights = [(width - 0.32) * aspect for aspect in aspects] * lines
    size = width * across + BAR_WIDTH, sum(heights) + 0.25 * len(heights) + 0.22 * lines
    figure = Figure(size, layout=ConstrainedLayoutEngine(h_pad=0.02, w_pad=0.02, hspace=0.02, wspace=0.02))
    axes = figure.subplots(len(heights), across, squeeze=False, height_ratios=heights)
    tall = len(aspects)
    columns = [
        [axes[one // across * tall + place, one % across] for place in range(tall)] for one in range(lines * across)
    ]
    for unused in columns[count:]:
        for axis in unused:
            axis.remove()
    return figure, columns[:count]


def _label(results: Results, score: str, name: str) -> str:
    variable = results.variables[name]
    return style.labelled(f"{results.score_info[score].short_name}, {variable.long_name}", variable.units)


def _bar(figure: Figure, image: Any, axes: Sequence[Sequence[Axes]], label: str, score: str = "") -> None:
    every = [axis for column in axes for axis in column]
    extend = "max" if score == "rmse" else "both"
    bar = figure.colorbar(image, ax=every, label=label, extend=extend, extendfrac=0.025, aspect=36, pad=0.015)
    bar.outline.set_visible(False)


def _whole(shown: MapFields) -> Box:
    return slice(0, len(shown.y)), slice(0, len(shown.x))


def _extent(shown: MapFields, box: Box) -> tuple[float, float, float, float]:
    """Outer edges of a part of the grid: left, right, bottom, top [m]."""
    x, y = shown.x[box[1]], shown.y[box[0]]
    half = abs(x[1] - x[0]) / 2
    return float(x[0] - half), float(x[-1] + half), float(y[-1] - half), float(y[0] + half)


def _aspect(shown: MapFields, box: Box) -> float:
    """Height over width, on the ground."""
    rows, cols = (part.stop - part.start for part in box)
    return shown.cell_shape * rows / cols


def _frame(shown: MapFields, box: Box) -> Rectangle:
    left, right, bottom, top = _extent(shown, box)
    return Rectangle((left, bottom), right - left, top - bottom, fill=False, edgecolor="black", linewidth=0.8)
