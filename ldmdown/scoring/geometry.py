"""The grid of the scores, as far as derivatives and wavelengths depend on it."""

from __future__ import annotations

import numpy as np

from ldmdown import metrics
from ldmdown.data.grid import LONLAT, SourceGrid, grid_north, rotate_to_earth
from ldmdown.typing import FloatArray

Rectangle = tuple[slice, slice]
"""A part of a grid, by its rows and columns."""
WHOLE: Rectangle = (slice(None), slice(None))


class GridGeometry:
    """Positions (rows, cols) [degrees], cell sizes (rows, 1) [m] and the mean spacing of rows and columns [km]."""

    def __init__(self, grid: SourceGrid) -> None:
        self.grid = grid
        self.shape = grid.shape
        self.lon, self.lat = grid.lonlat()
        self.height, self.width = grid.cell_size()
        self.spacing_km = float(np.mean(self.height)) / 1e3, float(np.mean(self.width)) / 1e3
        self._rotation = None if grid.crs == LONLAT else grid_north(grid.crs, *np.meshgrid(grid.x, grid.y))
        self._down = 1.0 if grid.y[-1] > grid.y[0] else -1.0
        self._right = 1.0 if grid.x[-1] > grid.x[0] else -1.0

    def divergence_and_vorticity(
        self, east: FloatArray, north: FloatArray, part: Rectangle = WHOLE
    ) -> dict[str, FloatArray]:
        """Divergence and vorticity [s-1] of the wind (rows, cols) [m s-1] on a part of the grid.

        Central differences in orthogonal coordinates whose cells are `width` by `height` large (Batchelor 1967,
        appendix 2).
        """
        u, v = east[part], north[part]
        if self._rotation is not None:
            u, v = rotate_to_earth(u, v, -self._rotation[part])
        height, width = (size[part[0]].astype(np.float32) for size in (self.height, self.width))
        area = height * width

        def along(field: FloatArray, axis: int) -> FloatArray:
            return np.gradient(field, axis=axis) * (self._down if axis == 0 else self._right)

        return {
            "divergence": (along(u * height, 1) + along(v * width, 0)) / area,
            "vorticity": (along(v * height, 1) - along(u * width, 0)) / area,
        }

    def spectrum(self, fields: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Wavelengths [km] and power of (..., rows, cols), of the grid or of a part of it."""
        return metrics.power_spectrum(fields, self.spacing_km)
