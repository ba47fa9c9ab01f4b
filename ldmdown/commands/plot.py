"""`ldmdown plot`: an hour of files on maps, one column a file, one row a variable, one scale for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from ldmdown.atomic import replacing
from ldmdown.data.grid import LONLAT
from ldmdown.data.reading.fields import Fields, fields_of
from ldmdown.data.reading.files import GriddedFiles
from ldmdown.data.variables import variable
from ldmdown.drawing import style
from ldmdown.errors import LdmdownError
from ldmdown.typing import BoolArray, FloatArray

FORMATS = (".png", ".pdf", ".svg", ".webp", ".jpg")
WIDTH, MAX_HEIGHT = 4.4, 7.0  # of a map [inches]
FIGURE_DPI = 120
ARROWS = 22  # along each axis
ARROW_KEY = 10  # what the arrow above a map means [m s-1]

Extent = tuple[float, float, float, float]
"""West, south, east, north [degrees]."""


@dataclass(frozen=True)
class PlotOptions:
    """What is drawn."""

    variables: Sequence[str] = ("t2m", "ws10")  # names of the rows
    time: str | None = None  # such as 2020-01-31T12; None: the first of the first file
    member: int = 0  # of ensembles, from 0
    arrows: bool = False  # draw the wind
    extent: Extent | None = None  # None: what the last file covers


def plot(files: Sequence[Path], output: Path, options: PlotOptions = PlotOptions()) -> None:
    """Draw an hour of outputs of `downscale`, of ERA5, or of any other gridded files, side by side.

    Parameters
    ----------
    files
        each a file, a folder or a glob: a column.
    output
        the picture to write.

    Raises LdmdownError if a file cannot be read or lacks the variable, the hour or the member, if the extent holds none
    of a file, or if pictures of this name cannot be written.
    """
    _check(output, options.extent)
    names = list(dict.fromkeys([*options.variables, *(("u10", "v10") if options.arrows else ())]))
    hours: list[MapHour] = []
    for file in files:
        hours.append(read_hour(file, names, options.time or (hours[0].time if hours else None), options.member))
    shown = options.extent or hours[-1].extent
    west, south, east, north = shown
    aspect = 1 / float(np.cos(np.radians((south + north) / 2)))
    height = min(MAX_HEIGHT, WIDTH * (north - south) * aspect / (east - west))
    with matplotlib.rc_context(style.LOOK | {"axes.grid": False}):
        size = WIDTH * len(hours) + 1, (height + 0.3) * len(options.variables)
        figure = Figure(figsize=size, layout="constrained")
        rows = figure.subplots(len(options.variables), len(hours), squeeze=False)
        for axes, name in zip(rows, options.variables, strict=True):
            mesh = _draw_row(axes, hours, name, shown)
            for axis, hour in zip(axes, hours, strict=True):
                axis.set(xlim=(west, east), ylim=(south, north), aspect=aspect, title=f"{hour.label}, {hour.time}")
                style.label_degrees(axis, 6)
                axis.tick_params(labelsize=7.5, length=2.5)
                axis.spines[["top", "right"]].set_visible(True)
                if options.arrows:
                    _draw_arrows(axis, hour, shown)
            units = style.units_of_fields(variable(name).units)
            label = f"{variable(name).long_name} [{units}]"
            figure.colorbar(mesh, ax=list(axes), label=label, aspect=28, pad=0.015, extend="both", extendfrac=0.025)
        with replacing(output) as beside:
            figure.savefig(beside, dpi=FIGURE_DPI, format=output.suffix.lstrip("."))


@dataclass(frozen=True)
class MapHour:
    """Fields (rows, cols) of an hour of a file by name, and where their cells are [degrees]."""

    label: str
    time: str
    lon: FloatArray
    lat: FloatArray
    fields: Mapping[str, FloatArray]

    @property
    def extent(self) -> Extent:
        """The box of the centres of the cells."""
        return float(self.lon.min()), float(self.lat.min()), float(self.lon.max()), float(self.lat.max())

    def inside(self, extent: Extent) -> BoolArray:
        """Which cells have their centre in the extent."""
        west, south, east, north = extent
        return (self.lon >= west) & (self.lon <= east) & (self.lat >= south) & (self.lat <= north)

    def within(self, field: FloatArray, extent: Extent) -> FloatArray:
        """The known values of a field in the extent."""
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
        if member >= fields.members:
            found = f"{fields.members} members, from 0"
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


def _check(output: Path, extent: Extent | None) -> None:
    if output.suffix not in FORMATS:
        raise LdmdownError(output, "is not a name that a picture can have", expected=", ".join(FORMATS))
    if not output.parent.is_dir():
        raise LdmdownError(output, "lies in a folder that is not there", fix=f"mkdir -p {output.parent}")
    if extent and not (extent[0] < extent[2] and extent[1] < extent[3]):
        found, expected = " ".join(f"{edge:g}" for edge in extent), "west south east north, such as 6 45 11 47"
        raise LdmdownError("--extent", "is empty", found=found, expected=expected)


def _draw_row(axes: Sequence[Axes], hours: Sequence[MapHour], name: str, shown: Extent) -> QuadMesh:
    """Draw a variable of every file on one scale, which holds all but the extremes of what is shown."""
    fields = [style.displayed(hour.fields[name], variable(name).units) for hour in hours]
    seen = np.concatenate([hour.within(field, shown) for hour, field in zip(hours, fields, strict=True)])
    low, high = np.percentile(seen, [0.2, 99.8])
    colours = style.FIELDS.get(name, style.DIVERGING)
    if colours == style.DIVERGING:
        low, high = -np.abs(seen).max(), np.abs(seen).max()
    scale: dict[str, Any] = {"vmin": low, "vmax": high, "cmap": colours, "shading": "nearest", "rasterized": True}
    for axis, hour, field in zip(axes, hours, fields, strict=True):
        mesh = axis.pcolormesh(hour.lon, hour.lat, field, **scale)
    return mesh


def _draw_arrows(axis: Axes, hour: MapHour, shown: Extent) -> None:
    """Draw the wind at about as many points along each side of the extent."""
    inside = hour.inside(shown)
    rows, cols = (np.flatnonzero(inside.any(axis=other)) for other in (1, 0))
    place = np.ix_(rows[:: max(1, len(rows) // ARROWS)], cols[:: max(1, len(cols) // ARROWS)])
    u, v = (hour.fields[name][place] for name in ("u10", "v10"))
    look: dict[str, Any] = {"width": 0.0025, "scale": 180, "color": "white", "edgecolor": "black", "linewidth": 0.3}
    drawn = axis.quiver(hour.lon[place], hour.lat[place], u, v, **look)
    text = f"{ARROW_KEY} m s⁻¹"
    axis.quiverkey(drawn, 0.93, 1.03, ARROW_KEY, text, labelpos="W", color="black", fontproperties={"size": 8})
