"""A dataset of xarray to blocks of one form: its grid, levels, members and versions, whatever they are called."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from ldmdown.data.reading.blocks import Axes, FieldBlock, version_rank
from ldmdown.data.reading.projection import horizontal, source_grid
from ldmdown.data.reading.times import TimeAxes, TimedField
from ldmdown.errors import LdmdownError
from ldmdown.typing import IntArray

LEVELS = ("level", "pressure_level", "isobaricInhPa", "isobaric", "plev", "lev", "pressure")
MEMBERS = ("realization", "number", "member", "ensemble")
EARTH_RELATIVE = ("eastward_wind", "northward_wind")
ALONG_GRID = ("U_10M", "V_10M")  # COSMO's names, whatever standard name stands beside them


class Layout:
    """One dataset of xarray, as a `Source`."""

    def __init__(self, label: str, dataset: xr.Dataset) -> None:
        self.label, self.dataset = label, dataset
        self.attributes: Mapping[str, Any] = dataset.attrs
        self.times = TimeAxes(label, dataset)
        self._axes: dict[tuple[str, str, str], Axes] = {}

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
        """What was done to dates of another calendar."""
        return self.times.notes()

    def blocks(self, name: str, level: int | None, *, static: bool = False) -> Iterator[FieldBlock]:
        """Where a variable lies: run by run, version by version, member by member.

        Raises
        ------
        LdmdownError
            if its grid, its time or its dimensions are not understood.
        """
        if name not in self.dataset.data_vars:
            return
        field = self.dataset[name]
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
            for member, one in _along(versioned, dim):
                for timed in [self.times.still(one)] if static else self.times.split(one):
                    yield self._block(timed, rank, None if member is None else int(member))

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
            along_grid=_along_grid(field),
        )

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


def _along_grid(field: xr.DataArray) -> bool:
    """Whether a wind component runs along the axes of its grid; on longitudes and latitudes it makes no difference."""
    if "GRIB_uvRelativeToGrid" in field.attrs:
        return bool(field.attrs["GRIB_uvRelativeToGrid"])
    return field.name in ALONG_GRID or field.attrs.get("standard_name") not in EARTH_RELATIVE
