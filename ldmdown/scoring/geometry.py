"""The grid of the scores, as far as derivatives and wavelengths depend on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ldmdown.data.grid import LONLAT, SourceGrid, grid_rotation, rotate_to_earth
from ldmdown.typing import BoolArray, FloatArray

Rectangle = tuple[slice, slice]
"""A part of a grid, by its rows and columns."""
WHOLE: Rectangle = (slice(None), slice(None))


@dataclass(frozen=True)
class Cells:
    """The cells of an hour that count; derivatives, spectra, patches and pairs of cells are those of `complete`."""

    valid: BoolArray | None = None  # (rows, cols); None: all
    complete: Rectangle | None = WHOLE  # a part of the grid without missing cells; None: nowhere

    def of(self, fields: FloatArray) -> FloatArray:
        """Values (..., cells) of fields (..., rows, cols)."""
        return fields.reshape(*fields.shape[:-2], -1) if self.valid is None else fields[..., self.valid]


class GridGeometry:
    """Positions (rows, cols) [degrees], cell sizes (rows, 1) [m] and the mean spacing of rows and columns [km]."""

    def __init__(self, grid: SourceGrid) -> None:
        self.grid = grid
        self.shape = grid.shape
        self.lon, self.lat = grid.lonlat()
        self.height, self.width = grid.cell_size()
        self.spacing_km = float(np.mean(self.height)) / 1e3, float(np.mean(self.width)) / 1e3
        self._rotation = None if grid.crs == LONLAT else grid_rotation(grid)
        self._signs = [1.0 if axis[-1] > axis[0] else -1.0 for axis in (grid.y, grid.x)]

    def gradient(self, field: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The slope of a field (rows, cols) towards true east and north [m-1]."""
        x = np.gradient(field, axis=1) * self._signs[1] / self.width
        y = np.gradient(field, axis=0) * self._signs[0] / self.height
        return (x, y) if self._rotation is None else rotate_to_earth(x, y, self._rotation)

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
            return np.gradient(field, axis=axis) * self._signs[axis]

        return {
            "divergence": (along(u * height, 1) + along(v * width, 0)) / area,
            "vorticity": (along(v * height, 1) - along(u * width, 0)) / area,
        }
