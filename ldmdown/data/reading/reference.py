"""Regional-model fields, such as VHR-REA_IT's, on the fine grid: the target of training.

Winds in such files run along the model's grid; they are turned to east and north before any interpolation,
since neighbouring components along different directions must not be averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from ldmdown.data.grid import LONLAT, Array, Grid, SourceGrid, grid_north, regrid, rotate_to_earth
from ldmdown.data.reading.era5 import hours_of
from ldmdown.data.reading.files import file_format
from ldmdown.data.reading.projection import horizontal, source_grid
from ldmdown.data.units import canonical, conversion
from ldmdown.data.variables import Variable, variable
from ldmdown.errors import LdmdownError

WINDS = ("u10", "v10")
EARTH = ("eastward_wind", "northward_wind")
ENSEMBLE = "realization"
BLOCK = 6  # hours read at once, since files may keep many in a chunk
ALONG_GRID = ("U_10M", "V_10M")  # COSMO's names, whatever standard name stands beside them


class Reference:
    """Files of one regional model, read hour by hour.

    Parameters
    ----------
    dataset
        the variables (time, rows, cols) in our units; the attribute `along_grid` of a wind component says
        whether it runs along the grid's axes.

    Attributes
    ----------
    names
        the variables that were asked for.
    times, hours
        numpy.datetime64, rising; and since 1970-01-01T00.
    source
        the model's own grid.
    turned
        whether the wind runs along the grid in the files, and is turned.
    """

    def __init__(self, dataset: xr.Dataset, names: Sequence[str], source: SourceGrid, file: Path) -> None:
        self.dataset = dataset
        self.names = tuple(names)
        self.source = source
        self.file = file
        self.times = dataset.time.values
        self.hours = hours_of(dataset)
        self._block = 1 if ENSEMBLE in dataset.dims else BLOCK
        self._start, self._held = -1, dataset
        held = [dataset[name] for name in WINDS if name in dataset]
        self.turned = source.crs != LONLAT and any(wind.attrs.get("along_grid", False) for wind in held)

    def read(self, index: int) -> NDArray[np.float32]:
        """(T, rows, cols) of one hour on the model's grid, members before rows; winds towards east and north.

        Raises
        ------
        LdmdownError
            if a value is not physical.
        """
        start = index - index % self._block
        if start != self._start:
            block = self.dataset[list(self.names)].isel(time=slice(start, start + self._block)).load()
            self._start, self._held = start, block
        hour = self._held.isel(time=index - start)
        fields = {name: hour[name].values.astype(np.float32) for name in self.names}
        if self.turned:
            angle = _angle(_Key(self.source))
            fields["u10"], fields["v10"] = rotate_to_earth(fields["u10"], fields["v10"], angle)
        for name, field in fields.items():
            low, high = variable(name).bounds
            if (field < low).any() or (field > high).any():
                raise LdmdownError(
                    self.file,
                    f"{name} is not physical at {np.datetime_as_string(self.times[index], unit='h')}",
                    found=f"{np.nanmin(field):g} to {np.nanmax(field):g}",
                    expected=f"{low:g} to {high:g} {variable(name).units}",
                    fix="check the file's units",
                )
        return np.stack([fields[name] for name in self.names])


class ReferenceOnGrid:
    """A reference on the fine grid: states interpolated bilinearly, amounts conservatively.

    Raises
    ------
    LdmdownError
        if the reference does not enclose the grid.
    """

    def __init__(self, reference: Reference, grid: Grid) -> None:
        self.reference = reference
        self.times, self.hours = reference.times, reference.hours
        turned = "the reference's wind runs along its grid: it is turned to east and north"
        self.notes: Sequence[str] = [turned] if reference.turned else []
        self.shape = grid.shape
        if ENSEMBLE in reference.dataset.dims:
            raise LdmdownError(reference.file, "is an ensemble", expected="one truth", fix="select a member")
        key = _Key(reference.source)
        inside = _covered(key, grid)
        if inside < 1:
            raise LdmdownError(
                reference.file,
                "does not cover the grid of the configuration",
                found=f"{inside:.0%} of its cells",
                fix="choose a smaller `grid` in the configuration, or files of a larger area",
            )
        self.weights = [_weights(key, grid, variable(name).regridding) for name in reference.names]

    def read(self, index: int) -> NDArray[np.float32]:
        """(T, rows, cols) of one hour on the fine grid.

        Raises
        ------
        LdmdownError
            if a value is not physical, or missing inside the grid.
        """
        fields = self.reference.read(index)
        result = np.stack(
            [regrid(weights, field, self.shape) for weights, field in zip(self.weights, fields, strict=True)]
        ).astype(np.float32)
        for name, field in zip(self.reference.names, result, strict=True):
            if missing := np.count_nonzero(np.isnan(field)):
                raise LdmdownError(
                    self.reference.file,
                    f"{name} has missing values on the grid at {np.datetime_as_string(self.times[index], unit='h')}",
                    found=f"{missing} of {field.size} cells",
                    fix="choose a smaller grid, or leave the day out",
                )
        return result


class _Key:
    """A source grid that can be looked up: equal if it has the same axes in the same projection."""

    def __init__(self, source: SourceGrid) -> None:
        self.source = source
        self.parts = source.y.tobytes(), source.x.tobytes(), source.crs.to_wkt()

    def __hash__(self) -> int:
        return hash(self.parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.parts == other.parts


@lru_cache(maxsize=2)
def _angle(key: _Key) -> Array:
    """Of the model's second axis, (rows, cols) clockwise from north [radians]; all files of a model share it."""
    return grid_north(key.source.crs, *np.meshgrid(key.source.x, key.source.y))


@lru_cache(maxsize=2)
def _covered(key: _Key, grid: Grid) -> float:
    return float(key.source.covers(grid.lat, grid.lon).mean())


@lru_cache(maxsize=4)
def _weights(key: _Key, grid: Grid, regridding: str) -> Any:
    if regridding == "conservative":
        return key.source.conservative(grid)
    return key.source.weights(grid.lat, grid.lon)


def open_reference(files: Sequence[str | Path], names: Sequence[str]) -> Reference:
    """The variables `names` from all files together, NetCDF or GRIB: one variable or many, a day or a month in each.

    Raises
    ------
    LdmdownError
        if a file cannot be read, its grid is not understood, a variable is missing, or only one wind
        component of a turned grid is asked for.
    """
    first = Path(files[0])
    contents = [(Path(file), part) for file in files for part in open_parts(Path(file))]
    series, source = {}, None
    for name in names:
        series[name], grid = _series(contents, name, first)
        if source is not None and _Key(grid) != _Key(source):
            raise LdmdownError(first, f"{name} and {names[0]} are on different grids", fix="give files of one grid")
        source = grid
    assert source is not None
    along_grid = [name for name in WINDS if name in series and series[name].attrs["along_grid"]]
    if source.crs != LONLAT and along_grid and not set(WINDS) <= set(names):
        raise LdmdownError(
            first,
            "one wind component alone cannot be turned to earth-relative",
            found=", ".join(names),
            fix="add the other of u10 and v10 to `targets`",
        )
    common = next(iter(series.values())).time.values
    for field in series.values():
        common = np.intersect1d(common, field.time.values)
    dataset = xr.Dataset({name: field.sel(time=common) for name, field in series.items()})
    return Reference(dataset, names, source, first)


def hours_held(file: Path) -> NDArray[np.int64]:
    """The hours since 1970-01-01T00 that a file has of anything.

    Raises
    ------
    LdmdownError
        if it cannot be read, or its times are no whole hours.
    """
    parts = open_parts(file)
    hours = [hours_of(part) for part in parts]
    for part in parts:
        part.close()
    return np.unique(np.concatenate(hours))


def open_parts(file: Path) -> list[xr.Dataset]:
    """A file as datasets that have a dimension `time`, of whole hours."""
    try:
        if file_format(file) == "grib":
            import cfgrib  # after pyproj, which crashes otherwise

            parts = cfgrib.open_datasets(str(file), indexpath="")
        else:
            parts = [xr.open_dataset(file, engine="netcdf4", cache=False)]
    except (OSError, ValueError) as error:
        raise LdmdownError(file, "cannot be read as NetCDF or GRIB", found=str(error)) from None
    return [_timed(part, file).chunk(time=1) for part in parts]


def _timed(dataset: xr.Dataset, file: Path) -> xr.Dataset:
    if "valid_time" in dataset.variables:  # of GRIB: the start and the step together
        held = dataset.valid_time.dims
        if len(held) > 1:
            dataset, held = dataset.stack(flat=held).reset_index("flat"), ("flat",)
        dataset = dataset.drop_vars("time", errors="ignore") if "time" not in held else dataset
        if held and held[0] != "time":
            dataset = dataset.swap_dims({held[0]: "valid_time"}).rename(valid_time="time")
        elif held:
            dataset = dataset.assign_coords(time=dataset.valid_time.variable).drop_vars("valid_time")
        else:
            dataset = dataset.rename(valid_time="time")
    if "time" not in dataset.coords:
        raise LdmdownError(file, "has no coordinate time", found=", ".join(map(str, dataset.coords)) or "none")
    if "time" not in dataset.dims:
        dataset = dataset.expand_dims("time")
    times = dataset.time.values
    if times.dtype.kind != "M":
        raise LdmdownError(
            file,
            "is in a calendar of its own",
            found=str(dataset.time.encoding.get("calendar", times.dtype)),
            expected="standard, gregorian or proleptic_gregorian, as ERA5's hours are",
        )
    if (times.astype("datetime64[h]") != times).any():
        raise LdmdownError(
            file,
            "its times are no whole hours",
            found=str(times[0])[:19],
            expected="an instant on the hour",
            fix="shift them with `cdo shifttime` if they stand for the hour, as ERA5's do for instants",
        )
    return dataset


def _series(contents: list[tuple[Path, xr.Dataset]], name: str, first: Path) -> tuple[xr.DataArray, SourceGrid]:
    """One variable of all files along time, in our units, and its grid."""
    known = variable(name)
    found = [
        (file, dataset, alias)
        for file, dataset in contents
        for alias in (name, *known.aliases)
        if alias in dataset.data_vars
    ]
    if not found:
        raise LdmdownError(
            first,
            f"{name} is missing",
            found=", ".join(sorted({str(held) for _, dataset in contents for held in dataset.data_vars})),
            expected=f"one of {', '.join((name, *known.aliases))}",
            fix="add the files that hold it",
        )
    grid = source_grid(found[0][1], found[0][2], found[0][0])
    pieces = [_plain(dataset, alias, known, file) for file, dataset, alias in found]
    for (file, _, _), piece in zip(found, pieces, strict=True):
        if piece.shape[-2:] != grid.shape:
            raise LdmdownError(file, f"{name} is on another grid than in {found[0][0]}",
                               found=" x ".join(map(str, piece.shape[-2:])),
                               expected=" x ".join(map(str, grid.shape)), fix="give files of one grid")  # fmt: skip
    joined = pieces[0] if len(pieces) == 1 else xr.concat(pieces, dim="time", combine_attrs="override")
    return joined.sortby("time").drop_duplicates("time"), grid


def _plain(dataset: xr.Dataset, alias: str, known: Variable, file: Path) -> xr.DataArray:
    """(time, rows, cols), or members between them, without other coordinates and in our units."""
    field = dataset[alias]
    axes = horizontal(field)
    assert axes is not None  # source_grid saw to it
    others = [dim for dim in field.dims if dim not in ("time", ENSEMBLE, *axes)]
    if any(field.sizes[dim] > 1 for dim in others):
        raise LdmdownError(
            file,
            f"{alias} has dimensions that say nothing to us",
            found=", ".join(f"{dim} of {field.sizes[dim]}" for dim in others),
            expected="time and the two of the grid",
            fix="select one of each with `cdo sellevidx` or `cdo select`",
        )
    along_grid = _along_grid(field)
    field = field.isel(dict.fromkeys(others, 0), drop=True).transpose("time", ..., *axes)
    field = _in_our_units(field, known, file)
    field = field.drop_vars([str(name) for name in field.coords if name != "time"])
    return field.rename(known.name).rename(dict(zip(axes, ("y", "x"), strict=True))).assign_attrs(along_grid=along_grid)


def _in_our_units(field: xr.DataArray, known: Variable, file: Path) -> xr.DataArray:
    units = str(field.attrs.get("units", known.units))
    convert = conversion(canonical(units), known.units)
    if convert is None or (convert.rate and not known.accumulated):
        raise LdmdownError(file, f"{field.name} has units that are not understood", found=units,
                           expected=known.units, fix="correct its units attribute")  # fmt: skip
    return field if (convert.factor, convert.offset) == (1, 0) else field * convert.factor + convert.offset


def _along_grid(field: xr.DataArray) -> bool:
    """Whether a wind component runs along the axes of its grid; on longitudes and latitudes it makes no difference."""
    if "GRIB_uvRelativeToGrid" in field.attrs:
        return bool(field.attrs["GRIB_uvRelativeToGrid"])
    return field.name in ALONG_GRID or field.attrs.get("standard_name") not in EARTH
