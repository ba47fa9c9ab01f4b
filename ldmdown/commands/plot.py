"""`ldmdown plot`: hours of files on maps, one column a file, one row a variable, one scale for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.animation import FFMpegWriter, PillowWriter
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from ldmdown.atomic import replacing
from ldmdown.console import progress_bar
from ldmdown.data.grid import LONLAT
from ldmdown.data.reading.fields import Fields, fields_of
from ldmdown.data.reading.files import GriddedFiles
from ldmdown.data.variables import variable
from ldmdown.drawing import style
from ldmdown.errors import LdmdownError
from ldmdown.options import Box, PlotOptions
from ldmdown.typing import BoolArray, FloatArray

FORMATS = (".png", ".pdf", ".svg", ".webp", ".jpg")
ANIMATIONS: dict[str, Any] = {".gif": PillowWriter, ".mp4": FFMpegWriter}
FRAMES_PER_SECOND = 4
MAX_SCALE_HOURS = 8  # of an animation, from which its scale is taken
WIDTH, MAX_HEIGHT = 4.4, 7.0  # of a map [inches]
FIGURE_DPI = 120
ARROWS = 22  # along each axis
ARROW_KEY = 10  # what the arrow above a map means [m s-1]


def plot(files: Sequence[Path], output: Path, options: PlotOptions = PlotOptions()) -> None:
    """Draw an hour, or an animation of the common hours, of outputs of `downscale`, ERA5 or other gridded files.

    Each of `files` is a file, a folder or a glob: a column. The name of `output` says what is written.

    Raises LdmdownError if a file cannot be read or lacks the variable, the hour or the member, if the extent holds none
    of a file, or if pictures of this name cannot be written.
    """
    _check(output, options.extent)
    read = partial(_columns, files, options)
    moving = output.suffix in ANIMATIONS
    times = _common_times(files, options.time) if moving else [options.time]
    step = -(-len(times) // MAX_SCALE_HOURS)
    sampled = [read(time) for time in times[::step]]
    shown = options.extent or sampled[0][-1].extent
    limits = {name: _limits(name, sampled, shown) for name in options.variables}
    west, south, east, north = shown
    height = min(MAX_HEIGHT, WIDTH * (north - south) * _stretch(shown) / (east - west))
    with matplotlib.rc_context(style.LOOK | {"axes.grid": False}), replacing(output, lock=True) as beside:
        size = WIDTH * len(files) + 1, (height + 0.3) * len(options.variables)
        figure = Figure(figsize=size, layout="constrained")
        if not moving:
            _draw(figure, sampled[0], options, shown, limits)
            figure.savefig(beside, dpi=FIGURE_DPI, format=output.suffix.lstrip("."))
            return
        moved = beside.with_name(f"{beside.name}{output.suffix}")  # writers take the format from the name
        writer = ANIMATIONS[output.suffix](fps=FRAMES_PER_SECOND)
        with writer.saving(figure, str(moved), FIGURE_DPI), progress_bar("hours") as progress:
            for time in progress.track(times, description="drawing"):
                figure.clear()
                _draw(figure, read(time), options, shown, limits)
                writer.grab_frame()
        moved.replace(beside)


def _columns(files: Sequence[Path], options: PlotOptions, time: str | None) -> list[MapHour]:
    """Read an hour of every file; without `time` the first of the first file."""
    names = list(dict.fromkeys([*options.variables, *(("u10", "v10") if options.arrows else ())]))
    hours: list[MapHour] = []
    for file in files:
        hours.append(read_hour(file, names, time or (hours[0].time if hours else None), options.member))
    return hours


def _common_times(files: Sequence[Path], start: str | None) -> list[str]:
    """The hours that all files hold, from `start` on."""
    held = []
    for file in files:
        with GriddedFiles([file]) as opened:
            held.append(opened.hours())
    common = reduce(np.intersect1d, held).astype("datetime64[h]")
    times = common[common >= np.datetime64(start, "h")] if start else common
    if not times.size:
        wrong = "no common hours with the other files" + (f" from {start} on" if start else "")
        raise LdmdownError(files[-1], wrong, fix="give files of the same hours")
    return [str(time) for time in times]


def _stretch(shown: Box) -> float:
    """Height over width of a degree in the middle of an extent."""
    return 1 / float(np.cos(np.radians((shown[1] + shown[3]) / 2)))


def _draw(
    figure: Figure,
    hours: Sequence[MapHour],
    options: PlotOptions,
    shown: Box,
    limits: Mapping[str, tuple[float, float]],
) -> None:
    """Draw the maps of an hour."""
    west, south, east, north = shown
    rows = figure.subplots(len(options.variables), len(hours), squeeze=False)
    for axes, name in zip(rows, options.variables, strict=True):
        mesh = _draw_row(axes, hours, name, limits[name])
        for axis, hour in zip(axes, hours, strict=True):
            title = f"{hour.label}, {hour.time}"
            axis.set(xlim=(west, east), ylim=(south, north), aspect=_stretch(shown), title=title)
            style.label_degrees(axis, 6)
            axis.tick_params(labelsize=7.5, length=2.5)
            axis.spines[["top", "right"]].set_visible(True)
            if options.arrows:
                _draw_arrows(axis, hour, shown)
        units = style.units_of_fields(variable(name).units)
        label = f"{variable(name).long_name} [{units}]"
        figure.colorbar(mesh, ax=list(axes), label=label, aspect=28, pad=0.015, extend="both", extendfrac=0.025)


@dataclass(frozen=True)
class MapHour:
    """Fields (rows, cols) of an hour of a file by name, and where their cells are [degrees]."""

    label: str
    time: str
    lon: FloatArray
    lat: FloatArray
    fields: Mapping[str, FloatArray]

    @property
    def extent(self) -> Box:
        """The box of the centres of the cells."""
        return float(self.lon.min()), float(self.lat.min()), float(self.lon.max()), float(self.lat.max())

    def inside(self, extent: Box) -> BoolArray:
        """Which cells have their centre in the extent."""
        west, south, east, north = extent
        return (self.lon >= west) & (self.lon <= east) & (self.lat >= south) & (self.lat <= north)

    def within(self, field: FloatArray, extent: Box) -> FloatArray:
        """The known values of a field in the extent. Raises LdmdownError if there are none."""
        values = field[self.inside(extent) & np.isfinite(field)]
        if not values.size:
            found, expected = (
                f"{west:.1f} to {east:.1f} E, {south:.1f} to {north:.1f} N"
                for west, south, east, north in (self.extent, extent)
            )
            raise LdmdownError(self.label, "has no values in the extent", found=f"it covers {found}", expected=expected)
        return values


def read_hour(file: Path, names: Sequence[str], time: str | None, member: int) -> MapHour:
    """Read an hour of a file, the first without `time`; wind speed is made of its components where it is not there.

    Raises LdmdownError if the file cannot be read or lacks the variable, the hour or the member.
    """
    with GriddedFiles([file]) as files:
        made = "ws10" in names and "ws10" not in files.variables()
        wanted = [name for name in names if not (made and name == "ws10")]
        fields = fields_of(files, list(dict.fromkeys([*wanted, *(("u10", "v10") if made else ())])))
        if member >= len(fields.members):
            found = f"{len(fields.members)} members, from 0"
            raise LdmdownError(file, "has no such member", found=found, expected=str(member))
        index = _index(fields, time)
        values = dict(zip(fields.names, fields.read(index, member), strict=True))
        if made:
            values["ws10"] = np.hypot(values["u10"], values["v10"])
        lon, lat = fields.grid.lonlat()
        if fields.grid.crs == LONLAT:
            lon = (lon + 180) % 360 - 180
            order = np.argsort(lon[0])
            lon, lat = lon[:, order], lat[:, order]
            values = {name: field[:, order] for name, field in values.items()}
        return MapHour(file.name, str(fields.times[index])[:16], lon, lat, values)


def _index(fields: Fields, time: str | None) -> int:
    if time is None:
        return 0
    try:
        (index,) = np.flatnonzero(fields.hours == np.datetime64(time, "h").astype(int))
    except ValueError:
        first, last = (str(fields.times[place])[:13] for place in (0, -1))
        raise LdmdownError(fields.label, "does not hold this hour", found=f"{first} to {last}", expected=time) from None
    return int(index)


def _check(output: Path, extent: Box | None) -> None:
    if output.suffix not in (*FORMATS, *ANIMATIONS):
        raise LdmdownError(output, "is not a name that a picture can have", expected=", ".join((*FORMATS, *ANIMATIONS)))
    if output.suffix in ANIMATIONS and not ANIMATIONS[output.suffix].isAvailable():
        raise LdmdownError(output, "needs the program ffmpeg", fix="install ffmpeg, or write a .gif")
    if not output.parent.is_dir():
        raise LdmdownError(output, "lies in a folder that is not there", fix=f"mkdir -p {output.parent}")
    if extent and not (extent[0] < extent[2] and extent[1] < extent[3]):
        found, expected = " ".join(f"{edge:g}" for edge in extent), "west south east north, such as 6 45 11 47"
        raise LdmdownError("--extent", "is empty", found=found, expected=expected)


def _limits(name: str, sampled: Sequence[Sequence[MapHour]], shown: Box) -> tuple[float, float]:
    """One scale for all files and hours, which holds all but the extremes of what is shown."""
    units = variable(name).units
    fields = [hour.within(style.displayed(hour.fields[name], units), shown) for hours in sampled for hour in hours]
    seen = np.concatenate(fields)
    if style.FIELDS.get(name, style.DIVERGING) == style.DIVERGING:
        return -float(np.abs(seen).max()), float(np.abs(seen).max())
    low, high = np.percentile(seen, [0.2, 99.8])
    return float(low), float(high)


def _draw_row(axes: Sequence[Axes], hours: Sequence[MapHour], name: str, limits: tuple[float, float]) -> QuadMesh:
    """Draw a variable of every file."""
    scale: dict[str, Any] = {"vmin": limits[0], "vmax": limits[1], "shading": "nearest", "rasterized": True}
    scale["cmap"] = style.FIELDS.get(name, style.DIVERGING)
    for axis, hour in zip(axes, hours, strict=True):
        field = style.displayed(hour.fields[name], variable(name).units)
        mesh = axis.pcolormesh(hour.lon, hour.lat, field, **scale)
    return mesh


def _draw_arrows(axis: Axes, hour: MapHour, shown: Box) -> None:
    """Draw the wind at about as many points along each side of the extent."""
    inside = hour.inside(shown)
    rows, cols = (np.flatnonzero(inside.any(axis=other)) for other in (1, 0))
    place = np.ix_(rows[:: max(1, len(rows) // ARROWS)], cols[:: max(1, len(cols) // ARROWS)])
    u, v = (hour.fields[name][place] for name in ("u10", "v10"))
    look: dict[str, Any] = {"width": 0.0025, "scale": 180, "color": "white", "edgecolor": "black", "linewidth": 0.3}
    drawn = axis.quiver(hour.lon[place], hour.lat[place], u, v, **look)
    text = f"{ARROW_KEY} m s⁻¹"
    axis.quiverkey(drawn, 0.93, 1.03, ARROW_KEY, text, labelpos="W", color="black", fontproperties={"size": 8})
