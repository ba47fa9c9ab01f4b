"""The height of the ground on the grid of the fields, and what kinds of ground follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldmdown.data.grid import Array, SourceGrid
from ldmdown.errors import LdmdownError
from ldmdown.twin.terrain import SHORE, read_orography

MOUNTAIN = 1000.0  # [m] above which land is mountains
COAST = 10.0  # [km] from the shore, on either side
LAPSE_RATE = 0.0065  # of the standard atmosphere [K m-1]

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Terrain:
    """Heights [m] (rows, cols): of the fine grid, and as the coarse fields have them, interpolated to it.

    `coarse` is None where there are no coarse fields.
    """

    fine: Field
    coarse: Field | None = None

    def surfaces(self, spacing_km: tuple[float, float]) -> dict[str, Mask]:
        """Masks of land, sea, mountains and coast (both sides of the shore), which overlap."""
        land = self.fine > SHORE
        sea = ~land
        far = np.full(land.shape, np.inf)
        inland = ndimage.distance_transform_edt(land, spacing_km) if sea.any() else far
        offshore = ndimage.distance_transform_edt(sea, spacing_km) if land.any() else far
        return {
            "land": land,
            "sea": sea,
            "mountains": self.fine > MOUNTAIN,
            "coast": np.where(land, inland, offshore) <= COAST,
        }

    def corrected(self, t2m: Array) -> Array:
        """Interpolated coarse temperature (..., rows, cols) [K], brought to the height of the fine ground."""
        assert self.coarse is not None
        return t2m + LAPSE_RATE * (self.coarse - self.fine)


def read_heights(file: Path, grid: SourceGrid) -> Field:
    """Heights [m] at the centres of a grid, from one field on regular latitudes and longitudes.

    Raises
    ------
    LdmdownError
        if the file is not such a field, or does not cover the grid.
    """
    raster = read_orography(file)
    lon, lat = grid.lonlat()
    if not SourceGrid(raster.latitude, raster.longitude).covers(lat, lon).all():
        axes = raster.longitude, raster.latitude
        west, east, south, north = (float(edge(axis)) for axis in axes for edge in (np.min, np.max))
        raise LdmdownError(
            file,
            "does not cover the grid of the scores",
            found=f"{west:.2f} to {east:.2f} E, {south:.2f} to {north:.2f} N",
            expected=f"{lon.min():.2f} to {lon.max():.2f} E, {lat.min():.2f} to {lat.max():.2f} N",
        )
    return raster.at(lat, lon)
