"""Coarse fields made of the reference itself, where no analysis covers its hours: a perfect-model pair.

They are means over boxes of longitude and latitude whose centres are those of ERA5's cells, exact in the area that each
box shares with the cells of the reference, and then interpolated to the coarse grid as ERA5 is. ERA5's temperature
belongs to the heights of its own, smoother terrain; given both terrains, that of the boxes is moved there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Self

import numpy as np
import scipy.sparse
from scipy.ndimage import gaussian_filter

from ldmdown.config import BoxMeansConfig
from ldmdown.data.grid import ERA5_SPACING, LONLAT, Grid, SourceGrid, regrid, transformer
from ldmdown.data.reading.fields import Fields
from ldmdown.data.reading.orography import read_heights
from ldmdown.data.solar import LAGS, cos_zenith
from ldmdown.typing import Float32Array, FloatArray

PLATE_CARREE = "+proj=eqc +datum=WGS84"  # longitudes and latitudes as metres
COMPLETE = 1 - 1e-4  # share of a box, or of a cell's weights, from which nothing of it is missing


class BoxMeans:
    """Means of a reference over boxes, on a coarse grid, hour by hour.

    Args:
        fields: of the reference.
        names: the variables in the order of the channels; those of the sun are computed.
        grid: the coarse grid.
        root: the folder that the paths of the settings start from.

    Raises LdmdownError if a terrain cannot be read.
    """

    def __init__(self, fields: Fields, names: Sequence[str], grid: Grid, settings: BoxMeansConfig, root: Path) -> None:
        self.fields, self.names, self.grid = fields, tuple(names), grid
        self.hours, self.notes = fields.hours, fields.notes
        self._smoothing = settings.smoothing
        self.boxes = Boxes(fields.grid, settings.spacing)
        self._to_grid = self.boxes.centres.weights(grid.lat, grid.lon)
        self._warmer: FloatArray | float = 0.0
        if settings.reference_heights is not None and settings.era5_heights is not None:
            source, heights = read_heights(root / settings.reference_heights)
            ours = self.boxes.means(Boxes.weights(source, self.boxes.grid), heights)
            source, heights = read_heights(root / settings.era5_heights)
            era5 = regrid(source.weights(*self.boxes.latlon()), heights, self.boxes.grid.shape)
            self._warmer = settings.lapse_rate * (ours - era5)
        self._held: dict[int, Mapping[str, FloatArray]] = {}  # of the last hour, for other grids too

    def onto(self, grid: Grid, names: Sequence[str]) -> Self:
        """Some of the same variables on another grid."""
        other = copy(self)
        other.grid, other.names = grid, tuple(names)
        other._to_grid = self.boxes.centres.weights(grid.lat, grid.lon)
        return other

    def read(self, index: int) -> Float32Array:
        """(variable, rows, cols) of one hour on the coarse grid; NaN where a box that is needed is not complete.

        Raises LdmdownError if a value is outside its physical bounds.
        """
        means = self._means(index)
        result = np.empty((len(self.names), *self.grid.shape), np.float32)
        for out, name in zip(result, self.names, strict=True):
            if name in LAGS:
                out[:] = cos_zenith(int(self.hours[index]) - LAGS[name], self.grid.lat, self.grid.lon)
                continue
            out[:] = where_complete(self._to_grid, means[name], self.grid.shape)
        return result

    def _means(self, index: int) -> Mapping[str, FloatArray]:
        """Smoothed and moved means over the boxes, by variable."""
        if index not in self._held:
            self._held.clear()
            self._held[index] = {
                name: self.smoothed(self.boxes.means(self.boxes.of_source, field))
                + (self._warmer if name == "t2m" else 0)
                for name, field in zip(self.fields.names, self.fields.read(index), strict=True)
            }
        return self._held[index]

    def smoothed(self, boxes: FloatArray) -> FloatArray:
        """Means under a Gaussian of the boxes there are."""
        if not self._smoothing:
            return boxes
        held = np.isfinite(boxes)
        total, weight = (
            gaussian_filter(one, self._smoothing, mode="constant")
            for one in (np.where(held, boxes, 0), held.astype(np.float64))
        )
        return np.where(held, total / np.where(held, weight, 1), np.nan)


class Boxes:
    """Boxes over a source's grid, their centres at multiples of the spacing [degrees]."""

    def __init__(self, source: SourceGrid, spacing: float) -> None:
        lon, lat = source.lonlat()
        south, north, west, east = (
            int(np.rint(edge / spacing)) for edge in (lat.min(), lat.max(), lon.min(), lon.max())
        )
        rows, cols = north - south + 1, east - west + 1
        metres = transformer(LONLAT, PLATE_CARREE).transform(1, 0)[0] * spacing
        self.grid = Grid(PLATE_CARREE, (west - 0.5) * metres, (north + 0.5) * metres, rows, cols, metres, 1)
        self.centres = SourceGrid(spacing * np.arange(north, south - 1, -1.0), spacing * np.arange(west, east + 1.0))
        self.source = source

    @cached_property
    def of_source(self) -> scipy.sparse.csr_array:
        """The share of each box that is in each cell of the source."""
        return self.weights(self.source, self.grid)

    def latlon(self) -> tuple[FloatArray, FloatArray]:
        """Latitudes and longitudes of the centres [degrees]."""
        lon, lat = self.centres.lonlat()
        return lat, lon

    @staticmethod
    def weights(source: SourceGrid, grid: Grid) -> scipy.sparse.csr_array:
        """The share of each box (boxes, cells) that is in each cell of a source, by area on the sphere."""
        on_plane = source.overlaps(grid)
        shrunk = np.cos(np.radians(source.lonlat()[1])).ravel()
        centre = np.cos(np.radians(grid.lat)).ravel()
        return (scipy.sparse.diags_array(1 / centre) @ on_plane @ scipy.sparse.diags_array(shrunk)).tocsr()

    def means(self, weights: scipy.sparse.csr_array, field: FloatArray) -> FloatArray:
        """Means over the boxes; NaN where a box is not completely covered."""
        return where_complete(weights, field, self.grid.shape)


@lru_cache(maxsize=2)
def era5_boxes(grid: Grid) -> Boxes:
    """The boxes of ERA5 over a grid; those over a window of it are some of their rows and columns."""
    return Boxes(grid.cells, ERA5_SPACING)


def where_complete(weights: scipy.sparse.csr_array, field: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """Weighted means of the values there are; NaN where some of the weight is missing."""
    held = np.isfinite(field).ravel()
    share = weights @ held.astype(np.float64)
    total = weights @ np.where(held, field.ravel(), 0).astype(np.float64)
    complete = share > COMPLETE
    return np.where(complete, total / np.where(complete, share, 1), np.nan).reshape(shape)
