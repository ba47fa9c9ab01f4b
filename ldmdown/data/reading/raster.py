"""Area means over the cells of the grid, of rasters in any projection: GeoTIFF, NetCDF or GRIB, one file or tiles.

Pixels much smaller than a cell are counted into the cell that holds their centre, a block of rows at a time;
larger ones give each cell by its share of the area.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyproj
import xarray as xr
from numpy.typing import NDArray

from ldmdown.data.grid import LONLAT, Array, Grid, SourceGrid, regrid
from ldmdown.data.reading.projection import horizontal, source_grid
from ldmdown.errors import LdmdownError

Field = NDArray[np.float64]

FINE = 8  # pixels to a cell's side, from which they are counted
BLOCK = 2_000_000  # pixels read together
GRAVITY = 9.80665  # [m s-2]
GEOPOTENTIAL = ("m**2 s**-2", "m2 s-2", "m^2 s^-2")


def cell_means(
    files: Sequence[Path], grid: Grid, measures: Mapping[str, Callable[[Array], Array]]
) -> tuple[dict[str, Field], float]:
    """The mean over each cell of what each measure makes of the values, (rows, cols); NaN where there are none.

    Returns with it the size of the largest pixel [m]. Values that the files mark as missing do not count; a
    cell counts as covered when half of it is.

    Raises
    ------
    LdmdownError
        if a file cannot be read, or coarse pixels come in several files.
    """
    totals = {name: np.zeros(grid.rows * grid.cols) for name in measures}
    count = np.zeros(grid.rows * grid.cols)
    largest = 0.0
    for file in files:
        for source, values in _blocks(file, grid):
            largest = max(largest, _pixel(source, grid))
            if largest * FINE > grid.spacing:
                if len(files) > 1:
                    raise LdmdownError(file, "is a tile with pixels too large to be counted", found=f"{largest:.0f} m",
                                       expected=f"up to {grid.spacing / FINE:g} m, or one file",
                                       fix="join the tiles with gdalwarp or gdal_merge.py")  # fmt: skip
                return _shares(source, values, grid, measures), largest
            cell, valid = _cells(source, grid), np.isfinite(values)
            inside = (cell >= 0) & valid
            cell, values = cell[inside], values[inside]
            count += np.bincount(cell, minlength=count.size)
            for name, measure in measures.items():
                totals[name] += np.bincount(cell, measure(values), minlength=count.size)
    covered = count > np.median(count[count > 0]) / 2 if count.any() else count > 0
    divisor = np.where(covered, count, np.nan)
    return {name: (total / divisor).reshape(grid.shape) for name, total in totals.items()}, largest


def values_held(files: Sequence[Path], grid: Grid) -> NDArray[np.float64]:
    """The different values that the files have near the grid."""
    found = [np.unique(values[np.isfinite(values)]) for file in files for _, values in _blocks(file, grid)]
    return np.unique(np.concatenate(found)) if found else np.empty(0)


def _shares(source: SourceGrid, values: Array, grid: Grid, measures: Mapping[str, Callable[[Array], Array]]) -> dict:
    weights = source.conservative(grid)
    outside = ~source.covers(grid.lat, grid.lon)
    means = {}
    for name, measure in measures.items():
        kept = np.where(np.isfinite(values), measure(values), np.nan)
        means[name] = np.where(outside, np.nan, regrid(weights, kept, grid.shape))
    return means


def _pixel(source: SourceGrid, grid: Grid) -> float:
    """The longer side of a pixel in the middle [m]."""
    project = pyproj.Transformer.from_crs(source.crs, grid.projection, always_xy=True)
    y, x = source.y[len(source.y) // 2], source.x[len(source.x) // 2]
    dy, dx = source.spacing
    east, north = project.transform([x, x + dx, x], [y, y, y + dy])
    return float(np.hypot(np.subtract(east[1:], east[0]), np.subtract(north[1:], north[0])).max())


def _cells(source: SourceGrid, grid: Grid) -> NDArray[np.int64]:
    """The flat index of the cell in which each pixel's centre lies; -1 outside the grid."""
    project = pyproj.Transformer.from_crs(source.crs, grid.projection, always_xy=True)
    x, y = project.transform(*np.meshgrid(source.x, source.y))
    col, row = np.floor((x - grid.west) / grid.spacing), np.floor((grid.north - y) / grid.spacing)
    inside = (col >= 0) & (col < grid.cols) & (row >= 0) & (row < grid.rows)
    return np.where(inside, row * grid.cols + col, -1).astype(np.int64)


def _blocks(file: Path, grid: Grid) -> Iterator[tuple[SourceGrid, Array]]:
    """The part of a file near the grid, with NaN where it has no value, as blocks of its rows."""
    try:
        with file.open("rb") as content:
            start = content.read(4)
        if start[:2] in (b"II", b"MM"):
            yield from _geotiff(file, grid)
        else:
            yield _gridded(file, "cfgrib" if start == b"GRIB" else "netcdf4")
    except (OSError, ValueError) as error:
        raise LdmdownError(
            file, "cannot be read", found=str(error), expected="a GeoTIFF, NetCDF or GRIB file"
        ) from None


def _geotiff(file: Path, grid: Grid) -> Iterator[tuple[SourceGrid, Array]]:
    import rasterio  # GDAL, after pyproj, whose PROJ it would otherwise take
    from rasterio.windows import Window

    with rasterio.open(file) as raster:
        place = raster.transform
        if raster.crs is None or place.b or place.d:
            raise LdmdownError(file, "has no projection, or is turned", fix="write it anew with gdalwarp -t_srs")
        crs = pyproj.CRS.from_wkt(raster.crs.to_wkt())
        crs = LONLAT if crs.is_geographic and not crs.is_derived else crs
        west, south, east, north = _bounds(grid, crs)
        rows, cols = (
            sorted(np.clip([int((a - first) / step), int((b - first) / step) + 1], 0, size).tolist())
            for a, b, first, step, size in (
                (north, south, place.f, place.e, raster.height), (west, east, place.c, place.a, raster.width))
        )  # fmt: skip
        if cols[0] == cols[1]:
            return
        height = max(1, BLOCK // (cols[1] - cols[0])) if FINE * _size(place, crs) <= grid.spacing else raster.height
        for row in range(rows[0], rows[1], height):
            window = Window(cols[0], row, cols[1] - cols[0], min(height, rows[1] - row))
            values = raster.read(1, window=window, masked=True).astype(float).filled(np.nan)
            y = place.f + (row + np.arange(window.height) + 0.5) * place.e
            x = place.c + (cols[0] + np.arange(window.width) + 0.5) * place.a
            yield SourceGrid(y, x, crs), values


def _bounds(grid: Grid, crs: pyproj.CRS) -> tuple[float, float, float, float]:
    """West, south, east, north of the grid and two cells around, in another projection."""
    edge = 2 * grid.spacing
    south, east = grid.north - grid.rows * grid.spacing, grid.west + grid.cols * grid.spacing
    project = pyproj.Transformer.from_crs(grid.projection, crs, always_xy=True)
    return project.transform_bounds(grid.west - edge, south - edge, east + edge, grid.north + edge, densify_pts=101)


def _size(place: tuple[float, ...], crs: pyproj.CRS) -> float:
    """Of a pixel, roughly [m]."""
    return max(abs(place[0]), abs(place[4])) * (111_200 if crs.is_geographic else 1)


def _gridded(file: Path, engine: str) -> tuple[SourceGrid, Array]:
    """The one variable of a NetCDF or GRIB file that lies over the ground, at its first time."""
    options = {"indexpath": ""} if engine == "cfgrib" else {}
    with xr.open_dataset(file, engine=engine, backend_kwargs=options) as dataset:
        names = [str(name) for name, field in dataset.data_vars.items() if horizontal(field)]
        if len(names) != 1:
            raise LdmdownError(file, "does not hold one field of the ground", found=", ".join(names) or "none",
                               fix="take the one that is meant out of it with `cdo selname`")  # fmt: skip
        field = dataset[names[0]]
        axes = horizontal(field)
        assert axes is not None
        source = source_grid(dataset, names[0], file)
        flat = field.isel({dim: 0 for dim in field.dims if dim not in axes}).transpose(*axes)
        geopotential = str(field.attrs.get("units", "")) in GEOPOTENTIAL
        return source, flat.values.astype(float) / (GRAVITY if geopotential else 1)
