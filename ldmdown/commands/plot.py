"""`ldmdown plot`: an hour of files on maps, one column a file, one row a variable, one scale for all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from ldmdown.data.variables import VARIABLES, variable
from ldmdown.drawing import style
from ldmdown.errors import LdmdownError

WIDTH, TALLEST = 4.4, 7.0  # of a map [inches]
DOTS_PER_INCH = 120
ARROWS = 22  # along each axis
KEY = 10  # what the arrow above a map means [m s-1]

Field = NDArray[np.floating]
Extent = tuple[float, float, float, float]  # west, south, east, north [degrees]


def plot(
    files: Sequence[Path],
    output: Path,
    *,
    variables: Sequence[str] = ("t2m", "ws10"),
    time: str | None = None,
    member: int = 0,
    arrows: bool = False,
    extent: Extent | None = None,
) -> None:
    """Draw an hour of outputs of `downscale`, or of ERA5, side by side.

    Parameters
    ----------
    time
        the hour; None: the first of the first file.
    member
        of an ensemble.
    arrows
        whether to draw the wind.
    extent
        west, south, east, north [degrees]; None: what the last file covers.

    Raises
    ------
    LdmdownError
        if a file cannot be read or lacks the variable, the hour or the member, if the extent holds none of a file, or
        if pictures of this name cannot be written.
    """
    _check(output, extent)
    hours = [_Hour(files[0], time, member)]
    hours += [_Hour(file, time or hours[0].time, member) for file in files[1:]]
    shown = extent or hours[-1].extent
    west, south, east, north = shown
    aspect = 1 / float(np.cos(np.radians((south + north) / 2)))
    height = min(TALLEST, WIDTH * (north - south) * aspect / (east - west))
    with matplotlib.rc_context(style.LOOK | {"axes.grid": False}):
        size = WIDTH * len(hours) + 1, (height + 0.3) * len(variables)
        figure = Figure(figsize=size, layout="constrained")
        rows = figure.subplots(len(variables), len(hours), squeeze=False)
        for axes, name in zip(rows, variables, strict=True):
            units = variable(name).units
            fields = [style.displayed(hour.field(name), units) for hour in hours]
            seen = np.concatenate([hour.within(field, shown) for hour, field in zip(hours, fields, strict=True)])
            low, high = np.percentile(seen, [0.2, 99.8])
            colours = style.FIELDS.get(name, style.DIVERGING)
            if colours == style.DIVERGING:
                low, high = -np.abs(seen).max(), np.abs(seen).max()
            for axis, hour, field in zip(axes, hours, fields, strict=True):
                scale: dict[str, Any] = {"vmin": low, "vmax": high, "cmap": colours}
                mesh = axis.pcolormesh(hour.lon, hour.lat, field, shading="nearest", rasterized=True, **scale)
                if arrows:
                    hour.draw_arrows(axis, shown)
                axis.set(xlim=(west, east), ylim=(south, north), aspect=aspect, title=f"{hour.file.name}, {hour.time}")
                _label(axis)
            label = f"{variable(name).long_name} [{style.units_of_fields(units)}]"
            figure.colorbar(mesh, ax=list(axes), label=label, aspect=28, pad=0.015, extend="both", extendfrac=0.025)
    beside = output.with_name(f"{output.name}.tmp")
    figure.savefig(beside, dpi=DOTS_PER_INCH, format=output.suffix.lstrip("."))
    beside.rename(output)


def _check(output: Path, extent: Extent | None) -> None:
    kinds = ("png", "pdf", "svg", "webp", "jpg")
    if output.suffix.lstrip(".") not in kinds:
        raise LdmdownError(output, "is no name of a picture", expected=", ".join(f".{kind}" for kind in kinds))
    if not output.parent.is_dir():
        raise LdmdownError(output, "lies in a folder that is not there", fix=f"mkdir -p {output.parent}")
    if extent and not (extent[0] < extent[2] and extent[1] < extent[3]):
        raise LdmdownError("--extent", "is empty", found=" ".join(f"{edge:g}" for edge in extent),
                           expected="west south east north, such as 6 45 11 47")  # fmt: skip


def _label(axis: Axes) -> None:
    """Degrees along a map."""
    for side, sides in ((axis.xaxis, "EW"), (axis.yaxis, "NS")):
        side.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        side.set_major_formatter(FuncFormatter(lambda value, _, sides=sides: style.degrees(round(value, 4), sides)))
    axis.tick_params(labelsize=7.5, length=2.5)
    axis.spines[["top", "right"]].set_visible(True)


class _Hour:
    """An hour of a file, whatever its grid."""

    def __init__(self, file: Path, time: str | None, member: int) -> None:
        try:
            dataset = xr.open_dataset(file, engine="netcdf4")
        except (OSError, ValueError) as error:
            raise LdmdownError(file, "cannot be read as NetCDF", found=str(error)) from None
        names = {"valid_time": "time", "latitude": "lat", "longitude": "lon"}
        dataset = dataset.rename({old: new for old, new in names.items() if old in dataset.variables})
        self.file = file
        for name in ("time", "lat", "lon"):
            if name not in dataset:
                raise LdmdownError(file, f"has no coordinate {name}", found=", ".join(map(str, dataset.coords)))
        dataset = dataset if dataset.time.ndim else dataset.expand_dims("time")
        try:
            hour = dataset.isel(time=0) if time is None else dataset.sel(time=time)
            hour = hour.isel(time=0) if "time" in hour.dims else hour
        except (KeyError, ValueError, IndexError):
            first, final = (str(dataset.time.values[place])[:13] for place in (0, -1))
            raise LdmdownError(
                file, "does not hold this hour", found=f"{first} to {final}", expected=str(time)
            ) from None
        if "realization" in hour.dims:
            if member >= hour.sizes["realization"]:
                raise LdmdownError(file, "has no such member", found=f"{hour.sizes['realization']} members",
                                   expected=str(member))  # fmt: skip
            hour = hour.isel(realization=member)
        if hour.lon.ndim == 1:
            hour = hour.assign_coords(lon=(hour.lon + 180) % 360 - 180).sortby("lon")
        self.hour = hour
        self.time = str(hour.time.values)[:16]
        lon, lat = hour.lon.values, hour.lat.values
        self.lon, self.lat = np.meshgrid(lon, lat) if lon.ndim == 1 else (lon, lat)

    @property
    def extent(self) -> Extent:
        """Of the centres of its cells."""
        return float(self.lon.min()), float(self.lat.min()), float(self.lon.max()), float(self.lat.max())

    def field(self, name: str) -> Field:
        """(rows, cols); wind speed from its components where the file has none."""
        known = variable(name)
        for alias in (name, *known.aliases):
            if alias in self.hour:
                return self.hour[alias].values
        if name == "ws10":
            return np.hypot(self.field("u10"), self.field("v10"))
        held = ", ".join(str(one) for one in self.hour.data_vars if self.hour[one].shape == self.lat.shape)
        raise LdmdownError(self.file, f"{name} is missing", found=held, expected=f"one of {', '.join(VARIABLES)}")

    def inside(self, extent: Extent) -> NDArray[np.bool_]:
        """Which cells have their centre in the extent."""
        west, south, east, north = extent
        return (self.lon >= west) & (self.lon <= east) & (self.lat >= south) & (self.lat <= north)

    def within(self, field: Field, extent: Extent) -> Field:
        """The known values of a field in the extent."""
        values = field[self.inside(extent) & np.isfinite(field)]
        if not values.size:
            raise LdmdownError(
                self.file,
                "has no values in the extent",
                found="it covers {:.1f} to {:.1f} E, {:.1f} to {:.1f} N".format(*np.array(self.extent)[[0, 2, 1, 3]]),
                expected="{:.1f} to {:.1f} E, {:.1f} to {:.1f} N".format(*np.array(extent)[[0, 2, 1, 3]]),
            )
        return values

    def draw_arrows(self, axis: Axes, extent: Extent) -> None:
        """The wind at about as many points along each side of the extent."""
        inside = self.inside(extent)
        rows, cols = (np.flatnonzero(inside.any(axis=other)) for other in (1, 0))
        place = np.ix_(rows[:: max(1, len(rows) // ARROWS)], cols[:: max(1, len(cols) // ARROWS)])
        u, v = (self.field(name)[place] for name in ("u10", "v10"))
        look: dict[str, Any] = {"width": 0.0025, "scale": 180, "color": "white", "edgecolor": "black", "linewidth": 0.3}
        drawn = axis.quiver(self.lon[place], self.lat[place], u, v, **look)
        axis.quiverkey(drawn, 0.93, 1.03, KEY, f"{KEY} m s⁻¹", labelpos="W", color="black", fontproperties={"size": 8})
