"""What grid a field lies on: read from the CF grid mapping, or from GRIB's keys, of any file that xarray opens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import xarray as xr

from ldmdown.data.grid import LONLAT, SourceGrid, rotated_pole, transformer
from ldmdown.errors import LdmdownError
from ldmdown.typing import FloatArray

AXES = (("rlat", "rlon"), ("y", "x"), ("latitude", "longitude"), ("lat", "lon"))
"""Dimensions of a field, by the names in use."""

STANDARD = (("projection_y_coordinate", "projection_x_coordinate"), ("grid_latitude", "grid_longitude"))
"""Projections by the standard names of their coordinates, where these are not longitudes and latitudes."""

SOUTH_POLES = (
    ("GRIB_latitudeOfSouthernPoleInDegrees", "GRIB_longitudeOfSouthernPoleInDegrees"),
    ("grid_south_pole_latitude", "grid_south_pole_longitude"),
)
LENGTHS = {"m": 1.0, "metre": 1.0, "meter": 1.0, "meters": 1.0, "km": 1000.0}
REGULAR = 0.02  # of the spacing: how far axes that are computed may waver


def horizontal(field: xr.DataArray) -> tuple[str, str] | None:
    """The dimensions of a field that run over the ground, northwards and eastwards; None if it has none."""
    named = {str(field[dim].attrs.get("standard_name")): str(dim) for dim in field.dims if dim in field.coords}
    pairs = [(named[y], named[x]) for y, x in STANDARD if {y, x} <= set(named)] + list(AXES)
    return next((pair for pair in pairs if set(pair) <= set(field.dims)), None)


def source_grid(dataset: xr.Dataset, name: str, axes: tuple[str, str], file: str | Path) -> SourceGrid:
    """The grid of one variable of a file along its `horizontal` axes: projected, with a rotated pole, or geographic.

    The pole of a rotated grid is CF's north pole, or the south pole of GRIB, as the file has it.

    Raises LdmdownError if it does not say which projection it is in, or its points lie on no regular grid.
    """
    field = dataset[name]
    if not _mapping(dataset, field) and not set(axes) <= set(field.coords):
        regular = _from_points(dataset, LONLAT, axes)
        if regular is not None:
            return SourceGrid(*regular)
    named = {field[axis].attrs.get("standard_name") for axis in axes}
    projected = axes[0] in ("rlat", "y") or any(named & set(pair) for pair in STANDARD)
    given = set(axes) <= set(field.coords)
    crs = _crs(dataset, field, file) if projected or (_mapping(dataset, field) and not given) else LONLAT
    if given:
        y, x = (np.asarray(field[axis], float) * _scale(field[axis], crs) for axis in axes)
        return SourceGrid(y, x, crs)
    computed = _from_points(dataset, crs, axes)
    if computed is None:
        raise LdmdownError(
            file,
            "its axes are not given, and its longitudes and latitudes do not lie on the grid that it names",
            found=", ".join(map(str, dataset.coords)),
            expected=f"coordinates {' and '.join(axes)}",
        )
    return SourceGrid(*computed, crs)


def mapped_crs(dataset: xr.Dataset, file: str | Path) -> pyproj.CRS | None:
    """The projection of the only grid mapping in a file, whether fields name it or not; None if there is none."""
    held = _mapping(dataset, xr.DataArray())
    return _crs(dataset, xr.DataArray(), file) if held else None


def _mapping(dataset: xr.Dataset, field: xr.DataArray) -> Mapping[str, Any] | None:
    """The attributes of the grid mapping that a field names, or else of the only one in the file."""
    named = str(field.attrs.get("grid_mapping", field.encoding.get("grid_mapping", ""))).split(":")[0]
    if named in dataset.variables:
        return dataset[named].attrs
    held = [v.attrs for v in dataset.variables.values() if {"grid_mapping_name", "crs_wkt"} & set(v.attrs)]
    return held[0] if held else None


def _crs(dataset: xr.Dataset, field: xr.DataArray, file: str | Path) -> pyproj.CRS:
    attributes = {**field.attrs, **(_mapping(dataset, field) or {})}
    rotated = attributes.get("GRIB_gridType", "rotated_ll") == "rotated_ll"  # other grids have such keys too
    for latitude, longitude in SOUTH_POLES if rotated else ():
        if latitude in attributes and "grid_north_pole_latitude" not in attributes:
            north = (float(attributes[longitude]) + 360) % 360 - 180
            return rotated_pole(-float(attributes[latitude]), north)
    if not {"grid_mapping_name", "crs_wkt"} & set(attributes):
        kind = attributes.get("GRIB_gridType")
        raise LdmdownError(
            file,
            "does not say what projection its grid is in",
            found=f"GRIB grid type {kind}" if kind else None,
            expected="a CF grid mapping variable, with grid_mapping_name",
            fix="convert it with `cdo -f nc4 copy`"
            if kind
            else "restore it; it is lost when a tool copies only the fields",
        )
    try:
        crs = pyproj.CRS.from_cf(dict(attributes))
    except (KeyError, pyproj.exceptions.CRSError) as error:
        raise LdmdownError(file, "its grid mapping is not understood", found=str(error)) from None
    return LONLAT if crs.is_geographic and not crs.is_derived else crs


def _scale(axis: xr.DataArray, crs: pyproj.CRS) -> float:
    """To metres, where lengths are meant, or else to degrees."""
    units = str(axis.attrs.get("units", "m"))
    if crs.is_geographic:
        return float(np.degrees(1)) if units.startswith("rad") else 1.0
    return LENGTHS.get(units, 1.0)


def _from_points(dataset: xr.Dataset, crs: pyproj.CRS, axes: tuple[str, str]) -> tuple[FloatArray, FloatArray] | None:
    """Axes of a grid that gives only the longitudes and latitudes of its points; None if these do not lie on them."""
    known = (("longitude", "latitude"), ("lon", "lat"), ("XLONG", "XLAT"))
    names = next((pair for pair in known if set(pair) <= set(dataset.variables)), None)
    if names is None or any(set(dataset[name].dims) != set(axes) for name in names):
        return None
    lon, lat = (dataset[name].transpose(*axes).values.astype(float) for name in names)
    x, y = (lon, lat)
    if crs != LONLAT:
        x, y = transformer(LONLAT, crs).transform(lon, lat)
    columns, rows = x.mean(axis=0), y.mean(axis=1)
    wavers = (
        np.ptp(values, axis=axis).max() / np.abs(np.diff(means)).mean()
        for values, axis, means in ((x, 0, columns), (y, 1, rows))
    )
    return (rows, columns) if max(wavers) < REGULAR else None
