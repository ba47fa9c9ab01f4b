"""Regional-model fields, such as VHR-REA_IT's, on the fine grid: the target of training.

Winds in such files run along the model's rotated grid; they are turned to east and north before any
interpolation, since neighbouring components along different directions must not be averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyproj
import xarray as xr
from numpy.typing import NDArray

from ldmdown.data.grid import LONLAT, Grid, SourceGrid, grid_north, regrid, rotate_to_earth
from ldmdown.data.variables import variable
from ldmdown.errors import LdmdownError

WINDS = ("u10", "v10")
EARTH = ("eastward_wind", "northward_wind")
ALONG_GRID = ("U_10M", "V_10M")  # COSMO's names, whatever standard name stands beside them
AXES = (("rlat", "rlon"), ("y", "x"), ("latitude", "longitude"), ("lat", "lon"))


class Reference:
    """Files of one regional model, read hour by hour.

    Attributes
    ----------
    names
        the variables that were asked for.
    times
        numpy.datetime64, rising.
    source
        the model's own grid.
    """

    def __init__(self, dataset: xr.Dataset, names: Sequence[str], source: SourceGrid, file: Path) -> None:
        self.dataset = dataset
        self.names = tuple(names)
        self.source = source
        self.file = file
        self.times = dataset.time.values
        along_grid = source.crs != LONLAT and not _earth_relative(dataset)
        self._angle = grid_north(source.crs, *np.meshgrid(source.x, source.y)) if along_grid else None

    def read(self, index: int) -> NDArray[np.float32]:
        """(T, rows, cols) of one hour on the model's grid, winds towards east and north.

        Raises
        ------
        LdmdownError
            if a value is not physical.
        """
        hour = self.dataset.isel(time=index)
        fields = {name: hour[name].values.astype(np.float32) for name in self.names}
        if self._angle is not None and set(WINDS) <= set(self.names):
            fields["u10"], fields["v10"] = rotate_to_earth(fields["u10"], fields["v10"], self._angle)
        for name, field in fields.items():
            low, high = variable(name).bounds
            if (field < low).any() or (field > high).any():
                raise LdmdownError(
                    self.file,
                    f"{name} is not physical at {np.datetime_as_string(self.times[index], unit='h')}",
                    found=f"{np.nanmin(field):g} to {np.nanmax(field):g}",
                    expected=f"{low:g} to {high:g} {variable(name).units}",
                    cure="check the file's units",
                )
        return np.stack([fields[name] for name in self.names])


class ReferenceOnGrid:
    """A reference interpolated bilinearly to the fine grid.

    Raises
    ------
    LdmdownError
        if the reference does not enclose the grid.
    """

    def __init__(self, reference: Reference, grid: Grid) -> None:
        self.reference = reference
        self.times = reference.times
        self.shape = grid.shape
        inside = reference.source.covers(grid.lat, grid.lon)
        if not inside.all():
            raise LdmdownError(
                reference.file,
                "does not cover the grid of the configuration",
                found=f"{inside.mean():.0%} of its cells",
                cure="choose a smaller `grid` in the configuration, or files of a larger area",
            )
        self.weights = reference.source.weights(grid.lat, grid.lon)

    def read(self, index: int) -> NDArray[np.float32]:
        """(T, rows, cols) of one hour on the fine grid."""
        return regrid(self.weights, self.reference.read(index), self.shape)


def open_reference(files: Sequence[str | Path], names: Sequence[str]) -> Reference:
    """The variables `names` from all files together: one variable or many, a day or a month in each.

    Raises
    ------
    LdmdownError
        if a file cannot be read, its grid is not understood, a variable is missing, or only one wind
        component of a rotated grid is asked for.
    """
    first = Path(files[0])
    contents = []
    for file in files:
        try:
            contents.append(xr.open_dataset(file, engine="netcdf4", chunks={"time": 1}))
        except (OSError, ValueError) as error:
            raise LdmdownError(file, "cannot be read as NetCDF", found=str(error)) from None
    source = _source_grid(contents[0], first)
    if source.crs != LONLAT and len(set(WINDS) & set(names)) == 1:
        raise LdmdownError(
            first,
            "one wind component alone cannot be turned to earth-relative",
            found=", ".join(names),
            cure="add the other of u10 and v10 to `targets`",
        )
    series = {name: _series(contents, name, first) for name in names}
    common = next(iter(series.values())).time.values
    for field in series.values():
        common = np.intersect1d(common, field.time.values)
    dataset = xr.Dataset({name: field.sel(time=common) for name, field in series.items()})
    return Reference(dataset, names, source, first)


def _earth_relative(dataset: xr.Dataset) -> bool:
    """Whether the wind points to true east and north though the grid is turned, as `downscale` writes it."""
    return all(dataset[name].attrs.get("standard_name") in EARTH for name in WINDS if name in dataset)


def _series(contents: list[xr.Dataset], name: str, first: Path) -> xr.DataArray:
    known = variable(name)
    pieces = [
        _plain(dataset[alias]).squeeze([dim for dim in dataset[alias].dims if str(dim).startswith("height")], drop=True)
        for dataset in contents
        for alias in (name, *known.aliases)
        if alias in dataset
    ]
    if not pieces:
        raise LdmdownError(
            first,
            f"{name} is missing",
            found=", ".join(sorted({str(held) for dataset in contents for held in dataset.data_vars})),
            expected=f"one of {', '.join((name, *known.aliases))}",
            cure="add the files that hold it",
        )
    joined = xr.concat(
        [piece.reset_coords(drop=True) for piece in pieces], dim="time", join="override", combine_attrs="override"
    )
    return joined.sortby("time").drop_duplicates("time")


def _plain(field: xr.DataArray) -> xr.DataArray:
    """Without a standard name that its own name contradicts."""
    if field.name in ALONG_GRID:
        field = field.assign_attrs(standard_name="along the grid")
    return field


def _source_grid(dataset: xr.Dataset, file: Path) -> SourceGrid:
    """The grid of a CF file: from its grid mapping variable, or geographic."""
    axes = next((pair for pair in AXES if set(pair) <= set(dataset.dims)), None)
    if axes is None:
        raise LdmdownError(
            file,
            "has no regular grid",
            found=f"dimensions {', '.join(map(str, dataset.dims))}",
            expected=" or ".join("(" + ", ".join(pair) + ")" for pair in AXES),
        )
    mapping = next((v for v in dataset.variables.values() if "grid_mapping_name" in v.attrs), None)
    if mapping is None and axes[0] in ("rlat", "y"):
        raise LdmdownError(
            file,
            "does not say what projection its grid is in",
            expected="a CF grid mapping variable, with grid_mapping_name",
            cure="restore it; it is lost when a tool copies only the fields",
        )
    crs = LONLAT if mapping is None else pyproj.CRS.from_cf(dict(mapping.attrs))
    y, x = (dataset[axis].values.astype(float) for axis in axes)
    return SourceGrid(y, x, LONLAT if crs.is_geographic and not crs.is_derived else crs)
