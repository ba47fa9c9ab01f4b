"""A dataset of xarray to blocks of one form: its grid, levels, members and versions, whatever they are called."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from math import isfinite
from numbers import Real
from typing import Any

import numpy as np
import pyproj
import xarray as xr

from ldmdown.data.grid import LONLAT
from ldmdown.data.reading.blocks import Axes, FieldBlock, version_rank
from ldmdown.data.reading.conventions import with_usual_names
from ldmdown.data.reading.projection import horizontal, mapped_crs, source_grid
from ldmdown.data.reading.times import TimeAxes, TimedField, average
from ldmdown.data.variables import WINDS, variable_called
from ldmdown.errors import LdmdownError
from ldmdown.typing import IntArray

LEVELS = ("level", "pressure_level", "isobaricInhPa", "isobaric", "plev", "lev", "pressure")
MEMBERS = ("realization", "realisation", "number", "member", "member_id", "ensemble", "ensemble_member", "ens", "eps")
EARTH_RELATIVE = ("eastward_wind", "northward_wind")
GRID_RELATIVE = ("grid_eastward_wind", "grid_northward_wind")
ALONG_AXES = ("x_wind", "y_wind")  # of whatever grid
GRIB_WINDS = ("10u", "10v")  # which CDO calls eastward and northward, wherever they point
ALONG_GRID = ("U_10M", "V_10M")  # COSMO's names, whatever standard name stands beside them
ROTUVB = "rotuvb"  # CDO's operator that turns wind to east and north


class Layout:
    """One dataset of xarray, as a `Source`."""

    def __init__(self, label: str, dataset: xr.Dataset) -> None:
        self.label, self.dataset = label, with_usual_names(label, dataset)
        self.attributes: Mapping[str, Any] = dataset.attrs
        self.times = TimeAxes(label, self.dataset)
        self._axes: dict[tuple[str, str, str], Axes] = {}
        self._wind_note = ""

    @property
    def names(self) -> Collection[str]:
        """What its variables are called."""
        return [str(name) for name in self.dataset.data_vars]

    @property
    def gridded(self) -> Collection[str]:
        """Those of them that lie on a regular grid."""
        return [str(name) for name, field in self.dataset.data_vars.items() if horizontal(field)]

    def contents(self) -> list[str]:
        """Its variables, with the pressure levels of each."""
        levels = {name: ", ".join(map(str, values)) for name, values in self._levels.items()}
        return [
            next((f"{name} ({held} hPa)" for level, held in levels.items() if level in field.coords), str(name))
            for name, field in self.dataset.data_vars.items()
        ]

    def hours(self) -> IntArray:
        """The hours of anything in it."""
        found = [timed.valid_time for name in self.gridded for timed in self.times.split(self.dataset[name])]
        return np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)

    def notes(self) -> list[str]:
        """What was done to dates of another calendar, and what wind is taken for."""
        return [*self.times.notes(), *filter(None, [self._wind_note])]

    def blocks(self, name: str, level: int | None, *, static: bool = False) -> Iterator[FieldBlock]:
        """Where a variable lies: run by run, version by version, member by member.

        Raises LdmdownError if its grid, its time or its dimensions are not understood.
        """
        if name not in self.dataset.data_vars:
            return
        field = self.dataset[name]
        if field.dtype.kind not in "fiu":
            units = field.encoding.get("units", "none, or of a time")
            raise LdmdownError(self.label, f"{name} holds no numbers", found=f"{field.dtype}, units {units}")
        held = next(((dim, values) for dim, values in self._levels.items() if dim in field.coords), None)
        if level is None:
            if held is not None and held[0] in field.dims:
                return
        elif held is None or level not in held[1]:
            return
        elif held[0] in field.dims:
            field = field.isel({held[0]: int(np.flatnonzero(held[1] == level)[0])})
        for version, versioned in _along(field, "expver"):
            rank = None if version is None else version_rank(version)
            dim = next((name for name in MEMBERS if name in (*field.dims, *field.coords)), "")
            members = list(_along(versioned, dim))
            for number, (_, one) in zip(_numbers([member for member, _ in members]), members, strict=True):
                for timed in [self.times.still(one)] if static else self.times.split(one):
                    yield self._block(timed, rank, number)

    def _block(self, timed: TimedField, rank: int | None, member: int | None) -> FieldBlock:
        field, size = timed.field, len(timed.valid_time)
        dims, axes = self._axes_of(str(field.name))
        left = [dim for dim in field.dims if dim not in (timed.dim, *dims) and field.sizes[dim] > 1]
        if left:
            raise LdmdownError(
                self.label,
                f"{field.name} has unexpected dimensions",
                found=", ".join(f"{dim} of {field.sizes[dim]}" for dim in left),
                expected=f"time, {', '.join(dims)}",
                fix=f"select one of each with `cdo sellevidx`, or with xarray: dataset.isel({left[0]}=0)",
            )
        field = field.squeeze([dim for dim in field.dims if dim not in (timed.dim, *dims)]).transpose(timed.dim, *dims)
        ranks = np.full(size, 1 if rank is None else rank)
        if rank is None and "expver" in field.coords and field.coords["expver"].dims == (timed.dim,):
            ranks = np.array([version_rank(one) for one in field.coords["expver"].values], np.int64)
        return FieldBlock(
            self.label,
            field.variable,
            axes,
            timed.valid_time,
            timed.init_time,
            ranks,
            timed.forecast,
            member=member,
            units=field.attrs.get("units"),
            wind_axes=self._wind_axes(field, axes.grid.crs) if variable_called(str(field.name)) in WINDS else None,
            average=average(self.dataset, field),
            packing=self._packing(field),
        )

    def _wind_axes(self, field: xr.DataArray, crs: pyproj.CRS) -> pyproj.CRS | None:
        """The projection along whose axes a wind component runs; None: it points to east and north.

        Raises LdmdownError if the file contradicts itself, or the projection is no longer in it.
        """
        standard, attributes = field.attrs.get("standard_name"), self.dataset.attrs
        along = bool(
            field.attrs.get("GRIB_uvRelativeToGrid", field.name in ALONG_GRID or standard not in EARTH_RELATIVE)
        )
        turned = ROTUVB in str(attributes.get("history"))
        if crs != LONLAT and not turned and field.name in GRIB_WINDS and "CDI" in attributes:
            raise LdmdownError(
                self.label,
                f"does not say which way {field.name} points",
                found=f"standard_name {standard}, which CDO gives to wind along a rotated grid too",
                fix=f"give the GRIB file itself, or turn its wind first, as with `cdo {ROTUVB},{','.join(GRIB_WINDS)}`",
            )
        if crs != LONLAT and not turned:
            if field.name in GRIB_WINDS and not along:
                self._wind_note = "its wind is taken to point to east and north, as its standard names say"
            return crs if along else None
        if turned or (standard not in (*GRID_RELATIVE, *ALONG_AXES) and field.name not in ALONG_GRID):
            return None
        gone = mapped_crs(self.dataset, self.label)
        if gone is not None and gone.is_derived:
            self._wind_note = "its wind runs along a rotated grid that it was regridded from: it is turned"
            return gone
        if standard in GRID_RELATIVE:
            raise LdmdownError(
                self.label,
                f"{field.name} runs along a grid that is no longer in the file",
                found=f"standard_name {standard} on longitudes and latitudes",
                expected="eastward_wind and northward_wind",
                fix=f"turn the wind before regridding, as with `cdo {ROTUVB},{','.join(ALONG_GRID)}`",
            )
        return None

    def _packing(self, field: xr.DataArray) -> float | None:
        """The difference that is lost where a packed value wraps, in the units of the file; None if it is not packed.

        Raises LdmdownError if it is packed in a way that leaves no values.
        """
        scale, offset = (field.encoding.get(key, usual) for key, usual in (("scale_factor", 1.0), ("add_offset", 0.0)))
        if (
            not isinstance(scale, Real)
            or not isinstance(offset, Real)
            or not isfinite(float(scale) + float(offset))
            or not scale
        ):
            found, expected = f"scale_factor {scale}, add_offset {offset}", "finite numbers, and a factor other than 0"
            raise LdmdownError(self.label, f"{field.name} cannot be unpacked", found=found, expected=expected)
        kind = np.dtype(field.encoding.get("dtype", float))
        packed = kind.kind in "iu" and "scale_factor" in field.encoding
        return abs(float(scale)) * 256.0**kind.itemsize if packed else None

    def _axes_of(self, name: str) -> tuple[tuple[str, str], Axes]:
        """The two dimensions of a field that run over the ground, and the grid that they span."""
        field = self.dataset[name]
        dims = horizontal(field)
        if dims is None:
            raise LdmdownError(
                self.label,
                f"{name} is on no regular grid",
                found=", ".join(f"{dim} of {size}" for dim, size in field.sizes.items()),
                expected="two dimensions such as latitude and longitude, rlat and rlon, or y and x",
                fix="interpolate it to a regular grid first, as with `cdo remapbil`",
            )
        mapping = str(field.attrs.get("grid_mapping", field.encoding.get("grid_mapping", "")))
        if (*dims, mapping) not in self._axes:
            self._axes[*dims, mapping] = Axes.of(source_grid(self.dataset, name, dims, self.label), self.label)
        return dims, self._axes[*dims, mapping]

    @cached_property
    def _levels(self) -> dict[str, IntArray]:
        """Pressure [hPa] along the dimensions and scalar coordinates that hold it."""
        found = {}
        for name in LEVELS:
            if name in self.dataset.coords:
                values = np.atleast_1d(self.dataset[name].values).astype(float)
                pascal = values.max() > 2000 or self.dataset[name].attrs.get("units") == "Pa"
                found[name] = np.rint(values / 100 if pascal else values).astype(np.int64)
        return found


def _along(field: xr.DataArray, dim: str) -> Iterator[tuple[Any, xr.DataArray]]:
    """A field value by value of a dimension, which may be a scalar coordinate or absent (None)."""
    if dim in field.dims:
        values = field[dim].values if dim in field.coords else range(field.sizes[dim])
        for place, value in enumerate(values):
            yield value, field.isel({dim: place}, drop=True)
    elif dim in field.coords and field[dim].ndim == 0:
        yield field[dim].values.item(), field
    else:
        yield None, field


def _numbers(members: Sequence[Any]) -> Sequence[int | None]:
    """The numbers of members: as the file says, or their places if it says no whole numbers; None of a single one."""
    try:
        found = [int(member) for member in members]
    except (TypeError, ValueError):
        return range(len(members)) if len(members) > 1 else [None]
    return found
