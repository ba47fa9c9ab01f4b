"""Means over the cells of a grid, of rasters in any projection: GeoTIFF, NetCDF or GRIB, one file or tiles.

GDAL averages pixels that are much smaller than a cell, a part of the grid at a time. Larger pixels are weighted with
the exact area that they share with a cell, which GDAL's average only approximates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pyproj
import xarray as xr
from numpy.typing import NDArray

from ldmdown.data.grid import LONLAT, Grid, SourceGrid, regrid, transformer
from ldmdown.data.reading.orography import read_static
from ldmdown.data.units import conversion
from ldmdown.errors import LdmdownError
from ldmdown.typing import FloatArray

Means = dict[str, NDArray[np.float64]]
Measures = Mapping[str, Callable[[FloatArray], FloatArray]]
"""By name, what is averaged: a function of the values."""

FINE = 8  # pixels along a cell's side, from which GDAL averages them
PIXELS = 4_000_000  # read together


def cell_means(files: Sequence[Path], grid: Grid, measures: Measures) -> tuple[Means, float]:
    """Average each measure over the cells of a grid, (rows, cols); NaN where less than half a cell has values.

    Returns with it the size of the largest pixel [m]. Values that the files mark as missing do not count.

    Raises LdmdownError if a file cannot be read, or pixels too large for GDAL's average come in several files.
    """
    with _opened(files, grid) as rasters:
        size = {file: _pixel(source, grid) for file, source, _ in rasters}
        large = [file for file in size if size[file] * FINE > grid.spacing]
        largest = max(size.values(), default=0.0)
        if large and len(files) > 1:
            raise LdmdownError(
                large[0],
                "is a tile with pixels too large for tiles",
                found=f"{size[large[0]]:.0f} m",
                expected=f"up to {grid.spacing / FINE:g} m, or one file",
                fix="join the tiles with gdalwarp or gdal_merge.py",
            )
        if large:
            ((_, source, raster),) = rasters
            return _shared_areas(source, raster.values.astype(float), grid, measures), largest
        return _averages([raster for _, _, raster in rasters], grid, measures, largest), largest


def values_held(files: Sequence[Path], grid: Grid) -> NDArray[np.float64]:
    """The different values that the files have near the grid."""
    found = [np.empty(0)]
    with _opened(files, grid) as rasters:
        for _, _, raster in rasters:
            rows = max(1, PIXELS // raster.sizes["x"])
            for first in range(0, raster.sizes["y"], rows):
                values = raster.isel(y=slice(first, first + rows)).values.astype(float)
                found.append(np.unique(values[np.isfinite(values)]))
    return np.unique(np.concatenate(found))


def _averages(rasters: Sequence[xr.DataArray], grid: Grid, measures: Measures, pixel: float) -> Means:
    """GDAL's averages. What lies outside a raster or is missing in it has no weight, so that tiles add up."""
    totals = {name: np.zeros(grid.shape) for name in measures}
    held = np.zeros(grid.shape)
    parts = list(_parts(grid, max(1, int(PIXELS**0.5 * pixel / grid.spacing))))
    for raster in rasters:
        edges, project = raster.rio.bounds(), _projection(grid, raster)
        for cells, part in parts:
            bounds = _bounds(part, project)
            if not _overlap(edges, bounds):
                continue
            values = raster.rio.clip_box(*bounds).rio.pad_box(*bounds, constant_values=np.nan).astype(float)
            valid = np.isfinite(values).astype(float)
            held[cells] += _average(valid, part)
            for name, measure in measures.items():
                totals[name][cells] += _average(valid * measure(values.fillna(0)), part)
    divisor = np.where(held > 0.5 - 1e-9, held, np.nan)
    return {name: total / divisor for name, total in totals.items()}


def _parts(grid: Grid, side: int) -> Iterator[tuple[tuple[slice, slice], Grid]]:
    """Squares of cells that make up a grid."""
    cells = replace(grid, factor=1)
    for row in range(0, grid.rows, side):
        for col in range(0, grid.cols, side):
            rows, cols = min(side, grid.rows - row), min(side, grid.cols - col)
            yield (slice(row, row + rows), slice(col, col + cols)), cells.window((row, col, rows, cols))


def _average(values: xr.DataArray, grid: Grid) -> FloatArray:
    from rasterio.enums import Resampling  # GDAL, after pyproj, whose PROJ it would otherwise take
    from rasterio.transform import from_origin

    place = from_origin(grid.west, grid.north, grid.spacing, grid.spacing)
    return values.rio.reproject(grid.crs, shape=grid.shape, transform=place, resampling=Resampling.average).values


def _shared_areas(source: SourceGrid, values: FloatArray, grid: Grid, measures: Measures) -> Means:
    weights = source.conservative(grid)
    outside = ~source.covers(grid.lat, grid.lon)
    means = {}
    for name, measure in measures.items():
        kept = np.where(np.isfinite(values), measure(values), np.nan)
        means[name] = np.where(outside, np.nan, regrid(weights, kept, grid.shape))
    return means


def _pixel(source: SourceGrid, grid: Grid) -> float:
    """The longer side of a pixel in the middle [m]."""
    project = transformer(source.crs, grid.projection)
    y, x = source.y[len(source.y) // 2], source.x[len(source.x) // 2]
    dy, dx = source.spacing
    east, north = project.transform([x, x + dx, x], [y, y, y + dy])
    return float(np.hypot(np.subtract(east[1:], east[0]), np.subtract(north[1:], north[0])).max())


Box = tuple[float, float, float, float]
"""West, south, east, north."""


def _projection(grid: Grid, raster: xr.DataArray) -> pyproj.Transformer:
    return transformer(grid.projection, raster.rio.crs)


def _bounds(grid: Grid, project: pyproj.Transformer) -> Box:
    """The box of the grid and two cells around it, in another projection."""
    edge = 2 * grid.spacing
    south, east = grid.north - grid.rows * grid.spacing, grid.west + grid.cols * grid.spacing
    return project.transform_bounds(grid.west - edge, south - edge, east + edge, grid.north + edge, densify_pts=101)


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@contextmanager
def _opened(files: Sequence[Path], grid: Grid) -> Iterator[list[tuple[Path, SourceGrid, xr.DataArray]]]:
    """The parts of files near a grid: their axes and their values (y, x), NaN where missing, read when asked for."""
    import rioxarray

    with ExitStack() as stack:
        rasters = []
        for file in files:
            try:
                with file.open("rb") as content:
                    start = content.read(4)
                if start[:2] in (b"II", b"MM"):
                    bands = cast(xr.DataArray, rioxarray.open_rasterio(file, masked=True))
                    raster = stack.enter_context(closing(bands)).isel(band=0, drop=True)
                else:
                    raster = _gridded(file)
            except (OSError, ValueError) as error:
                raise LdmdownError(
                    file, "cannot be read", found=str(error), expected="a GeoTIFF, NetCDF or GRIB file"
                ) from None
            if raster.rio.crs is None or "x" not in raster.coords:
                raise LdmdownError(file, "has no projection, or is rotated", fix="write it again with gdalwarp -t_srs")
            bounds = _bounds(grid, _projection(grid, raster))
            if _overlap(raster.rio.bounds(), bounds):
                near = raster.rio.clip_box(*bounds)
                rasters.append((file, _axes(near), near))
        yield rasters


def _axes(raster: xr.DataArray) -> SourceGrid:
    crs = pyproj.CRS.from_wkt(raster.rio.crs.to_wkt())
    return SourceGrid(raster.y.values, raster.x.values, LONLAT if crs.is_geographic and not crs.is_derived else crs)


def _gridded(file: Path) -> xr.DataArray:
    """The one field of a NetCDF or GRIB file; heights in metres, whether as such or as geopotential."""
    source, values, units = read_static(file)
    convert = conversion(units, "m")
    if convert is not None and not convert.rate:
        values = convert(values)
    raster = xr.DataArray(values.astype(float), dims=("y", "x"), coords={"y": source.y, "x": source.x})
    return raster.rio.write_crs(source.crs)
