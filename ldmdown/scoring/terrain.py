"""The height of the ground on the grid of the scores, and the kinds of ground that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from ldmdown.config import LAPSE_RATE
from ldmdown.data.grid import SourceGrid, regrid
from ldmdown.data.reading.orography import SHORE, check_complete, read_heights
from ldmdown.errors import LdmdownError
from ldmdown.typing import BoolArray, Float32Array, FloatArray

MOUNTAIN = 1000.0  # [m] above which land is mountains
COAST = 10.0  # [km] from the shore, on either side


@dataclass(frozen=True)
class Terrain:
    """Heights [m] (rows, cols) of the fine grid, and of the coarse fields, interpolated to it.

    `coarse` is None where there are no coarse fields.
    """

    fine: Float32Array
    coarse: Float32Array | None = None

    def surfaces(self, spacing_km: tuple[float, float]) -> dict[str, BoolArray]:
        """Masks of land, sea, mountains and coast (both sides of the shore), which overlap."""
        land = self.fine > SHORE
        return {
            "land": land,
            "sea": ~land,
            "mountains": self.fine > MOUNTAIN,
            "coast": shore_distance(land, spacing_km) <= COAST,
        }

    def corrected(self, t2m: FloatArray) -> FloatArray:
        """Bring interpolated coarse temperature (..., rows, cols) [K] to the height of the fine ground."""
        assert self.coarse is not None
        return t2m + LAPSE_RATE * (self.coarse - self.fine)


def shore_distance(land: BoolArray, spacing_km: tuple[float, float]) -> FloatArray:
    """How far [km] each cell is from the nearest one on the other side of the shore; infinite where there is none."""
    if land.all() or not land.any():
        return np.full(land.shape, np.inf)
    return np.where(land, *(ndimage.distance_transform_edt(side, spacing_km) for side in (land, ~land)))


def heights_on(grid: SourceGrid, file: Path) -> Float32Array:
    """Heights [m] at the centres of a grid, from a file of heights or of geopotential.

    Raises LdmdownError if the file is not one such field, or has no value for a cell of the grid.
    """
    source, heights = read_heights(file)
    lon, lat = grid.lonlat()
    if not source.covers(lat, lon).all():
        raise LdmdownError(file, "does not cover the grid of the scores", found=source.box, expected=grid.box)
    found = regrid(source.weights(lat, lon), heights, grid.shape).astype(np.float32)
    check_complete(file, found)
    return found
