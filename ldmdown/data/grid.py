"""Where cells are: the projected fine and coarse grids, windows of them, and weights from any regular grid.

Fields are (..., rows, cols), first row in the north, first column in the west. A window is
(row, col, rows, cols) in coarse cells. Lengths are metres, angles radians, positions degrees.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyproj
import scipy.sparse

from ldmdown.config import GridConfig
from ldmdown.typing import BoolArray, FloatArray, IntArray

Window = tuple[int, int, int, int]

ITALY = GridConfig()
ERA5_SPACING = 0.25  # [degrees]
POLE_LATITUDE = 47.0  # of the rotated grids of COSMO over Italy [degrees]
LONLAT = pyproj.CRS.from_epsg(4326)
EARTH_RADIUS = 6_371_229.0  # [m], of the sphere of ERA5 and COSMO
SLIVER = 1e-9  # of a cell's area: rounding
WIDEST = 6e6  # a cell that seems wider [m] surrounds the point opposite the projection's centre


@dataclass(frozen=True)
class Grid:
    """A regular grid in a projection, with a coarse grid of `factor` times its spacing over it.

    `west` and `north` are the outer edges of the first cell [m]; the defaults are the paper's Italian domain.
    """

    crs: str = ITALY.crs
    west: float = ITALY.west
    north: float = ITALY.north
    rows: int = ITALY.rows
    cols: int = ITALY.cols
    spacing: float = ITALY.spacing
    factor: int = ITALY.factor

    @classmethod
    def of(cls, config: GridConfig) -> Grid:
        """The grid of a configuration."""
        return cls(**config.model_dump())

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self.rows, self.cols

    @property
    def x(self) -> FloatArray:
        """Cell centres, west to east [m]."""
        return self.west + (np.arange(self.cols) + 0.5) * self.spacing

    @property
    def y(self) -> FloatArray:
        """Cell centres, north to south [m]."""
        return self.north - (np.arange(self.rows) + 0.5) * self.spacing

    @cached_property
    def projection(self) -> pyproj.CRS:
        """The projection as pyproj knows it."""
        return pyproj.CRS.from_user_input(self.crs)

    @property
    def cells(self) -> SourceGrid:
        """Its cells, to regrid from."""
        return SourceGrid(self.y, self.x, self.projection)

    @cached_property
    def _lonlat(self) -> tuple[FloatArray, FloatArray]:
        return self.cells.lonlat()

    @property
    def lon(self) -> FloatArray:
        """Longitudes of the centres (rows, cols) [degrees]."""
        return self._lonlat[0]

    @property
    def lat(self) -> FloatArray:
        """Latitudes of the centres (rows, cols) [degrees]."""
        return self._lonlat[1]

    @property
    def box(self) -> str:
        """The extent of its centres, for messages."""
        return self.cells.box

    @property
    def coarse(self) -> Grid:
        """The grid of the predictors and of the latents."""
        return replace(
            self,
            rows=self.rows // self.factor,
            cols=self.cols // self.factor,
            spacing=self.spacing * self.factor,
            factor=1,
        )

    @property
    def whole(self) -> Window:
        """The window of all coarse cells."""
        return 0, 0, self.rows // self.factor, self.cols // self.factor

    def window(self, window: Window) -> Grid:
        """The grid of a part of the domain, given in coarse cells."""
        rows, cols = self.fine(window)
        return replace(
            self,
            west=self.west + cols.start * self.spacing,
            north=self.north - rows.start * self.spacing,
            rows=rows.stop - rows.start,
            cols=cols.stop - cols.start,
        )

    def fine(self, window: Window) -> tuple[slice, slice]:
        """Rows and columns of the fine cells of a window."""
        row, col, rows, cols = (size * self.factor for size in window)
        return slice(row, row + rows), slice(col, col + cols)

    def containing(self, west: float, south: float, east: float, north: float) -> Window | None:
        """The smallest window that holds every coarse cell with its centre in a longitude-latitude box.

        None if there is no such cell.
        """
        coarse = self.coarse
        inside = (coarse.lon >= west) & (coarse.lon <= east) & (coarse.lat >= south) & (coarse.lat <= north)
        if not inside.any():
            return None
        rows, cols = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
        return int(rows[0]), int(cols[0]), int(np.ptp(rows)) + 1, int(np.ptp(cols)) + 1

    def grow(self, window: Window, multiple: int) -> Window:
        """The smallest window that holds `window` and begins and ends at multiples of `multiple` coarse cells.

        Networks that halve their grid then halve it at the same places in every window. It stays inside the domain:
        where that ends elsewhere, sides are still divisible as far as it is large enough.
        """
        corner: list[int] = []
        sides: list[int] = []
        for start, size, limit in zip(window[:2], window[2:], self.whole[2:], strict=True):
            first = start // multiple * multiple
            side = min(-(-(start + size - first) // multiple) * multiple, limit)
            corner.append(min(first, limit - side))
            sides.append(side)
        return corner[0], corner[1], sides[0], sides[1]

    def grid_mapping(self) -> dict[str, Any]:
        """Attributes of the CF grid mapping variable, with the WKT and transform that GDAL reads."""
        wkt = self.projection.to_wkt()
        return {
            **self.projection.to_cf(),
            "crs_wkt": wkt,
            "spatial_ref": wkt,
            "GeoTransform": f"{self.west} {self.spacing} 0 {self.north} 0 {-self.spacing}",
        }


@dataclass(frozen=True, eq=False)
class SourceGrid:
    """A regular grid in any projection: centres along its two axes, both strictly monotonic.

    Longitudes of a geographic grid may follow any convention; a grid that goes round the globe wraps. Grids are
    equal if they have the same centres in the same projection.
    """

    y: FloatArray
    x: FloatArray
    crs: pyproj.CRS = LONLAT

    @cached_property
    def _key(self) -> tuple[bytes, bytes, str]:
        return self.y.tobytes(), self.x.tobytes(), self.crs.to_wkt()

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SourceGrid) and self._key == other._key

    def is_close(self, other: SourceGrid) -> bool:
        """Whether the centres are the same, up to rounding in single precision."""
        return (
            self.shape == other.shape
            and self.crs == other.crs
            and all(
                np.allclose(mine, theirs, rtol=0, atol=1e-3 * step)
                for mine, theirs, step in ((self.y, other.y, self.spacing[0]), (self.x, other.x, self.spacing[1]))
            )
        )

    def part(self, rows: slice, cols: slice) -> SourceGrid:
        """The grid of some of its rows and columns."""
        return SourceGrid(self.y[rows], self.x[cols], self.crs)

    @property
    def box(self) -> str:
        """The extent of its centres, for messages."""
        return box_of(*((self.x, self.y) if self.crs == LONLAT else self.lonlat()))

    def place(self, row: int | np.integer, col: int | np.integer) -> str:
        """A cell, for messages."""
        lon, lat = self.part(slice(row, row + 1), slice(col, col + 1)).lonlat()
        return f"{lat.item():g} N, {lon.item():g} E"

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return len(self.y), len(self.x)

    @property
    def spacing(self) -> tuple[float, float]:
        """Mean distance between centres along y and x, in the units of the axes."""
        return float(np.abs(np.diff(self.y)).mean()), float(np.abs(np.diff(self.x)).mean())

    @property
    def is_global(self) -> bool:
        """Whether the longitudes go round the globe."""
        return bool(self.crs.is_geographic and not self.crs.is_derived and np.ptp(self.x) + 1.5 * self.spacing[1] > 360)

    def lonlat(self) -> tuple[FloatArray, FloatArray]:
        """Longitudes and latitudes of the centres, each (rows, cols) [degrees]."""
        back = transformer(self.crs, LONLAT)
        lon, lat = back.transform(*np.meshgrid(self.x, self.y))
        return lon, lat

    def cell_size(self) -> tuple[FloatArray, FloatArray]:
        """Distances between centres along the columns and along the rows, each (rows, 1) [m]."""
        dy, dx = self.spacing
        metres = np.radians(1) * EARTH_RADIUS if self.crs.is_geographic else 1.0
        shrunk = np.cos(np.radians(self.y)) if self.crs.is_geographic else np.ones(len(self.y))
        return np.full((len(self.y), 1), dy * metres), (dx * metres * shrunk)[:, None]

    def positions(self, lat: FloatArray, lon: FloatArray, *, to_edge: bool = False) -> tuple[FloatArray, FloatArray]:
        """Fractional row and column of points [degrees]; NaN outside the box of the centres, or its nearest edge."""
        if self.crs == LONLAT and to_edge and not self.is_global:
            x, y = lon, lat
        elif self.crs == LONLAT:
            x, y = self.x[0] + (lon - self.x.min() + 1e-9) % 360 - 1e-9 + (self.x.min() - self.x[0]), lat
        else:
            x, y = transformer(LONLAT, self.crs).transform(lon, lat)
        axis = np.append(self.x, self.x[0] + 360) if self.is_global else self.x
        if to_edge:
            x, y = np.clip(x, axis.min(), axis.max()), np.clip(y, self.y.min(), self.y.max())
        return _position(self.y, y), _position(axis, x)

    def covers(self, lat: FloatArray, lon: FloatArray) -> BoolArray:
        """Which points [degrees] lie inside the box of the centres."""
        rows, cols = self.positions(lat, lon)
        return np.isfinite(rows) & np.isfinite(cols)

    def weights(
        self, lat: FloatArray, lon: FloatArray, *, nearest: bool = False, to_edge: bool = False
    ) -> scipy.sparse.csr_array:
        """Bilinear weights (points, cells) to points [degrees]; the rows of points outside are empty.

        With `nearest` the whole weight lies on the nearest cell along each axis, with `to_edge` points outside take
        the value at the nearest edge.
        """
        rows, cols = (part.ravel() for part in self.positions(lat, lon, to_edge=to_edge))
        if nearest:
            rows, cols = np.rint(rows), np.rint(cols)
        points = np.flatnonzero(np.isfinite(rows) & np.isfinite(cols))
        (row, down), (col, right) = (
            _split(part[points], size) for part, size in ((rows, len(self.y)), (cols, len(self.x) + self.is_global))
        )
        values, cells = [], []
        for i, weight_y in ((row, 1 - down), (row + 1, down)):
            for j, weight_x in ((col, 1 - right), (col + 1, right)):
                values.append(weight_y * weight_x)
                cells.append(i * len(self.x) + j % len(self.x))
        matrix = scipy.sparse.coo_array(
            (np.concatenate(values), (np.tile(points, 4), np.concatenate(cells))),
            shape=(rows.size, len(self.y) * len(self.x)),
        )
        return matrix.tocsr().astype(np.float32)

    def conservative(self, grid: Grid) -> scipy.sparse.csr_array:
        """Weights (points, cells) of first-order conservative regridding to the cells of a grid (Jones 1999).

        A weight is the share of the target's cell that a cell of the source covers, of all that is covered of
        it; rows of cells that lie outside are empty. The grid's projection must keep areas, as EPSG:3035 does.
        doi:10.1175/1520-0493(1999)127<2204:FASOCR>2.0.CO;2
        """
        shares = self.overlaps(grid)
        covered = shares.sum(axis=1)
        return (scipy.sparse.diags_array(1 / np.where(covered > 0, covered, 1)) @ shares).tocsr().astype(np.float32)

    def overlaps(self, grid: Grid) -> scipy.sparse.csr_array:
        """The share of each cell of a grid that each cell of the source covers (points, cells), in its projection."""
        cells, x, y = self._outlines(grid)
        (col, width), (row, height) = (
            (np.clip(np.floor(low), 0, size), np.clip(np.ceil(high), 0, size) - np.clip(np.floor(low), 0, size))
            for low, high, size in ((x.min(1), x.max(1), grid.cols), (y.min(1), y.max(1), grid.rows))
        )
        count = (width * height).astype(np.int64)
        pair = np.repeat(np.arange(len(cells)), count)
        place = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        row, col = row[pair] + place // width[pair], col[pair] + place % width[pair]
        x, y = x[pair] - col[:, None], y[pair] - row[:, None]
        area = np.abs(sum(_clipped_area(x[:, i - 1], y[:, i - 1], x[:, i], y[:, i]) for i in range(x.shape[1])))
        matrix = scipy.sparse.coo_array(
            (area, ((row * grid.cols + col).astype(np.int64), cells[pair])),
            shape=(grid.rows * grid.cols, len(self.y) * len(self.x)),
        ).tocsr()
        matrix.data[matrix.data < SLIVER] = 0
        matrix.eliminate_zeros()
        return matrix

    def _outlines(self, grid: Grid) -> tuple[IntArray, FloatArray, FloatArray]:
        """Cells near a grid: flat indices, and their outlines (cells, corners) in columns and rows of the grid.

        Edges, straight along the axes of the source, are bent there: a corner each width of a target's cell.
        """
        project = transformer(self.crs, grid.projection)

        def columns_and_rows(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
            x, y = project.transform(x, y)
            return (x - grid.west) / grid.spacing, (grid.north - y) / grid.spacing

        y, x = _edges(self.y), _edges(self.x)
        if self.crs.is_geographic:
            y = np.clip(y, -90, 90)
        corners = np.stack(columns_and_rows(*np.meshgrid(x, y)))
        around = np.stack([corners[:, i : i + len(self.y), j : j + len(self.x)] for i in (0, 1) for j in (0, 1)])
        low, high = around.min(axis=0), around.max(axis=0)
        limit = np.array([grid.cols, grid.rows])[:, None, None]
        with np.errstate(invalid="ignore"):  # the point opposite the projection's centre lies at infinity
            size = (high - low).max(axis=0)
        near = (high > -1).all(axis=0) & (low < limit + 1).all(axis=0) & (size < WIDEST / grid.spacing)
        row, col = np.nonzero(near)
        step = np.linspace(0, 1, int(np.ceil(size[near].max(initial=1))), endpoint=False)
        stay = np.zeros_like(step)
        right, down = np.concatenate([step, 1 - stay, 1 - step, stay]), np.concatenate([stay, step, 1 - stay, 1 - step])
        if len(step) == 1:
            return row * len(self.x) + col, *around[[0, 1, 3, 2]][:, :, row, col].transpose(1, 2, 0)
        outline = columns_and_rows(
            x[col, None] + right * (x[col + 1] - x[col])[:, None], y[row, None] + down * (y[row + 1] - y[row])[:, None]
        )
        return row * len(self.x) + col, *outline


def box_of(lon: FloatArray, lat: FloatArray) -> str:
    """The extent of positions [degrees], for messages."""
    return f"{lon.min():.2f} to {lon.max():.2f} E, {lat.min():.2f} to {lat.max():.2f} N"


def largest_rectangle(mask: BoolArray) -> Window | None:
    """The largest window whose cells are all true in a mask (rows, cols); None if there is none.

    The largest rectangle under the histogram of each row, by a stack.
    """
    best: Window = (0, 0, 0, 0)
    heights = np.zeros(mask.shape[1] + 1, int)  # of the column of true cells above; the last closes the row
    for row, line in enumerate(mask):
        heights[:-1] = np.where(line, heights[:-1] + 1, 0)
        open_: list[tuple[int, int]] = []  # rectangles that go on: first column and height, which rises
        for col, height in enumerate(heights.tolist()):
            start = col
            while open_ and open_[-1][1] >= height:
                start, tall = open_.pop()
                if tall * (col - start) > best[2] * best[3]:
                    best = (row - tall + 1, start, tall, col - start)
            open_.append((start, height))
    return best if best[2] else None


def regrid(weights: scipy.sparse.csr_array, field: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """Interpolate (..., rows, cols) of a source to (..., *shape); missing values give their weight to the others.

    A point with no valid neighbour is NaN.
    """
    flat = field.reshape(-1, weights.shape[1]).T
    valid = np.isfinite(flat)
    if valid.all():
        result = weights @ flat
        if (nowhere := np.diff(weights.indptr) == 0).any():
            result[nowhere] = np.nan
    else:
        total = weights @ valid.astype(np.float32)
        result = (weights @ np.where(valid, flat, 0)) / np.where(total > 1e-6, total, np.nan)
    return result.T.reshape(*field.shape[:-2], *shape)


def rotated_pole(latitude: float, longitude: float) -> pyproj.CRS:
    """The rotated grid whose north pole lies here [degrees]."""
    return pyproj.CRS.from_cf(
        {
            "grid_mapping_name": "rotated_latitude_longitude",
            "grid_north_pole_latitude": latitude,
            "grid_north_pole_longitude": longitude,
            "north_pole_grid_longitude": 0.0,
        }
    )


@lru_cache(maxsize=32)
def transformer(source: pyproj.CRS | str, target: pyproj.CRS | str) -> pyproj.Transformer:
    """From a projection to another, x before y; pyproj takes a while to choose each.

    Longitudes and latitudes are those of a projection on ETRS89 itself, which WGS84 is equal to within a metre, so that
    nothing is to be chosen.
    """
    if LONLAT in (source, target):
        own = pyproj.CRS(target if source == LONLAT else source).geodetic_crs
        if own is not None and own.name == "ETRS89":
            source, target = (own if one == LONLAT else one for one in (source, target))
    return pyproj.Transformer.from_crs(source, target, always_xy=True)


def grid_north(crs: pyproj.CRS, x: FloatArray, y: FloatArray) -> FloatArray:
    """Direction of a projection's second axis at points of it, clockwise from true north [radians].

    From the bearing of a short step along the axis, on the sphere.
    """
    back = transformer(crs, LONLAT)
    step = 1e-5 if crs.is_geographic else 1.0  # [degrees or metres]
    lon, lat = back.transform(x, y - step)
    lon_north, lat_north = back.transform(x, y + step)
    bearing, _, _ = pyproj.Geod(ellps="sphere").inv(lon, lat, lon_north, lat_north)
    return np.radians(bearing)


@lru_cache(maxsize=2)
def grid_rotation(grid: SourceGrid, crs: pyproj.CRS | None = None) -> FloatArray:
    """Direction of the second axis of a projection, or else the grid's own, clockwise from true north [radians].

    At the centres of the grid (rows, cols).
    """
    if crs is None or crs == grid.crs:
        return grid_north(grid.crs, *np.meshgrid(grid.x, grid.y))
    return grid_north(crs, *transformer(LONLAT, crs).transform(*grid.lonlat()))


def rotate_to_earth(u: FloatArray, v: FloatArray, angle: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Wind along a grid whose north lies `angle` clockwise of true north [radians], to east and north."""
    cos, sin = np.cos(angle), np.sin(angle)
    return u * cos + v * sin, v * cos - u * sin


def _position(axis: FloatArray, points: FloatArray) -> FloatArray:
    """Fractional index of points on a monotonic axis; NaN beyond its ends."""
    index = np.arange(len(axis), dtype=float)
    if axis[0] > axis[-1]:
        axis, index = axis[::-1], index[::-1]
    slack = 1e-6 * np.abs(np.diff(axis)).mean()  # rounding of the axes is not a gap
    inside = (points >= axis[0] - slack) & (points <= axis[-1] + slack)
    return np.where(inside, np.interp(points, axis, index), np.nan)


def _edges(centres: FloatArray) -> FloatArray:
    """Edges of cells, halfway between centres."""
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def _clipped_area(x0: FloatArray, y0: FloatArray, x1: FloatArray, y1: FloatArray) -> FloatArray:
    """Area of the unit square below a line from one point to another, negative for a line to the left.

    Summed round a polygon this is the area that it shares with the square.
    """
    left, right = np.clip(x0, 0, 1), np.clip(x1, 0, 1)
    run = x1 - x0
    slope = np.divide(y1 - y0, run, out=np.zeros_like(run), where=np.abs(run) > 1e-12)
    start, end = y0 + slope * (left - x0), y0 + slope * (right - x0)
    rise = end - start
    mean = np.clip((start + end) / 2, 0, 1)  # of the height, cut off at 0 and 1
    integral = [np.clip(height, 0, 1) ** 2 / 2 + np.maximum(height - 1, 0) for height in (start, end)]
    np.divide(integral[1] - integral[0], rise, out=mean, where=np.abs(rise) > 1e-6)
    return (right - left) * mean


def _split(position: FloatArray, size: int) -> tuple[IntArray, FloatArray]:
    whole = np.clip(np.floor(position).astype(np.int64), 0, size - 2)
    return whole, position - whole
