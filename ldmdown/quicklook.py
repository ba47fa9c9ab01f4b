"""Maps for a quick look: one column a file, one row a variable, one scale for all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from ldmdown.data.variables import VARIABLES, variable
from ldmdown.errors import LdmdownError

COLOURS = {"t2m": "RdYlBu_r", "ws10": "viridis"}
DIVERGING = "RdBu_r"  # of what has a sign
ARROWS = 22  # along each axis
FREEZING = 273.15  # [K]

Field = NDArray[np.floating]


def plot(
    files: Sequence[Path],
    output: Path,
    *,
    variables: Sequence[str] = ("t2m", "ws10"),
    time: str | None = None,
    member: int = 0,
    arrows: bool = False,
    extent: tuple[float, float, float, float] | None = None,
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
        if a file cannot be read or lacks the variable, the hour or the member.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    hours = [_Hour(file, time, member) for file in files]
    hours = [hours[0], *(_Hour(file, time or hours[0].time, member) for file in files[1:])]
    last = hours[-1]
    west, south, east, north = extent or (last.lon.min(), last.lat.min(), last.lon.max(), last.lat.max())
    aspect = 1 / np.cos(np.radians((south + north) / 2))
    height = 4.2 * (north - south) * aspect / (east - west)
    figure, axes = pyplot.subplots(
        len(variables),
        len(hours),
        figsize=(4.2 * len(hours) + 1, height * len(variables) + 0.4),
        squeeze=False,
        layout="constrained",
    )
    for row, name in zip(axes, variables, strict=True):
        label, fields = _labelled(name, [hour.field(name) for hour in hours])
        low, high = np.percentile(np.concatenate([field[np.isfinite(field)] for field in fields]), [0.2, 99.8])
        for axis, hour, field in zip(row, hours, fields, strict=True):
            mesh = axis.pcolormesh(
                hour.lon,
                hour.lat,
                field,
                vmin=low,
                vmax=high,
                cmap=COLOURS.get(name, DIVERGING),
                shading="nearest",
                rasterized=True,
            )
            if arrows:
                hour.draw_arrows(axis, (west, south, east, north))
            axis.set(xlim=(west, east), ylim=(south, north), aspect=aspect, title=f"{hour.file.name}, {hour.time}")
            axis.tick_params(labelsize="small")
        figure.colorbar(mesh, ax=row, label=label, shrink=0.85)
    beside = output.with_name(f"{output.name}.tmp")
    figure.savefig(beside, dpi=80, format=output.suffix.lstrip(".") or "png")
    pyplot.close(figure)
    beside.rename(output)


class _Hour:
    """An hour of a file, whatever its grid."""

    def __init__(self, file: Path, time: str | None, member: int) -> None:
        try:
            self.dataset = xr.open_dataset(file, engine="netcdf4")
        except (OSError, ValueError) as error:
            raise LdmdownError(file, "cannot be read as NetCDF", found=str(error)) from None
        names = {"valid_time": "time", "latitude": "lat", "longitude": "lon"}
        self.dataset = self.dataset.rename({old: new for old, new in names.items() if old in self.dataset.dims})
        self.file, dataset = file, self.dataset
        for name in ("time", "lat", "lon"):
            if name not in dataset:
                raise LdmdownError(file, f"has no coordinate {name}", found=", ".join(map(str, dataset.coords)))
        try:
            hour = dataset.isel(time=0) if time is None else dataset.sel(time=time)
            hour = hour.isel(time=0) if "time" in hour.dims else hour
        except (KeyError, ValueError):
            first, final = (str(dataset.time.values[place])[:13] for place in (0, -1))
            raise LdmdownError(
                file, "does not hold this hour", found=f"{first} to {final}", expected=str(time)
            ) from None
        if "realization" in hour.dims:
            if member >= hour.sizes["realization"]:
                raise LdmdownError(file, "has no such member", found=f"{hour.sizes['realization']} members",
                                   expected=str(member))  # fmt: skip
            hour = hour.isel(realization=member)
        self.hour = hour
        self.time = str(hour.time.values)[:16]
        lon, lat = hour.lon.values, hour.lat.values
        self.lon, self.lat = np.meshgrid(lon, lat) if lon.ndim == 1 else (lon, lat)

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

    def draw_arrows(self, axis: Any, extent: tuple[float, float, float, float]) -> None:
        """The wind at about as many points along each side of the extent."""
        west, south, east, north = extent
        inside = (self.lon >= west) & (self.lon <= east) & (self.lat >= south) & (self.lat <= north)
        rows, cols = (np.flatnonzero(inside.any(axis=other)) for other in (1, 0))
        place = np.ix_(rows[:: max(1, len(rows) // ARROWS)], cols[:: max(1, len(cols) // ARROWS)])
        u, v = (self.field(name)[place] for name in ("u10", "v10"))
        axis.quiver(self.lon[place], self.lat[place], u, v, width=0.002, scale=220, alpha=0.8)


def _labelled(name: str, fields: list[Field]) -> tuple[str, list[Field]]:
    """In units for people."""
    known = variable(name)
    if known.units == "K":
        return f"{known.long_name} [°C]", [field - FREEZING for field in fields]
    return f"{known.long_name} [{known.units}]", fields
