"""What is compared with checkpoints and needs none: interpolations, and the ideal ensemble of the twin.

Interpolations of the coarse fields are what a careful person has without this tool. On an archive of the twin the
ideal ensemble, drawn from the twin's own p(fine | coarse), is the best that any system can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldmdown.data.grid import Grid, SourceGrid, regrid, rotated_pole
from ldmdown.twin.files import TwinWorld
from ldmdown.twin.recipe import POLE_LATITUDE, POLE_LONGITUDE

Fields = NDArray[np.float32]  # ([member,] variable, rows, cols)
Order = Literal[1, 2]
"""Of splines: bilinear, or quadratic as in the paper."""


def interpolate(coarse: NDArray, factor: int, order: Order) -> NDArray[np.float32]:
    """(..., h, w) to (..., factor h, factor w) by splines of this order; at the borders the edge's value goes on."""
    rows, cols = (_splines(size, factor, order) for size in coarse.shape[-2:])
    return rows @ coarse.astype(np.float32) @ cols.T


@lru_cache(maxsize=8)
def _splines(size: int, factor: int, order: Order) -> NDArray[np.float32]:
    """(factor size, size): what each fine place takes from each coarse one."""
    places = (np.arange(factor * size) + 0.5) / factor - 0.5
    unit = np.eye(size)
    taken = [ndimage.map_coordinates(one, [places], order=order, mode="nearest") for one in unit]
    return np.stack(taken, axis=1).astype(np.float32)


class Ideal:
    """The world that an archive was made from, brought to its grid as the reference was.

    Raises
    ------
    FileNotFoundError
        if its terrain is not found from the archive's folder upwards.
    """

    def __init__(self, grid: Grid, plan: dict[str, Any], archive: Path) -> None:
        terrain = [_above(archive, plan[kind]) for kind in ("orography", "coarse_orography")]
        self.grid = grid
        self.world = TwinWorld(grid, seed=plan["seed"], orography=terrain[0], coarse_orography=terrain[1])
        rotated = SourceGrid(self.world.rlat, self.world.rlon, rotated_pole(POLE_LATITUDE, POLE_LONGITUDE))
        self.weights = rotated.weights(grid.lat, grid.lon)

    def draw(self, hour: int, names: Sequence[str], member: int, coarse: Any = None) -> Fields:
        """(variable, rows, cols); member 0 is the truth."""
        fine = self.world.fine(hour, member, coarse)
        return regrid(self.weights, np.stack([fine[name] for name in names]), self.grid.shape).astype(np.float32)

    def ensemble(self, hour: int, names: Sequence[str], members: int) -> Fields:
        """Draws that are independent of the truth."""
        coarse = self.world.coarse(hour)
        return np.stack([self.draw(hour, names, 1 + member, coarse) for member in range(members)])

    def heights(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Of the fine and of the coarse grid [m]."""
        coarse = self.grid.coarse
        weights = SourceGrid(self.world.latitude, self.world.longitude).weights(coarse.lat, coarse.lon)
        fine = regrid(self.weights, self.world.ground.z, self.grid.shape).astype(np.float32)
        return fine, regrid(weights, self.world.z, coarse.shape).astype(np.float32)


def _above(archive: Path, name: str | None) -> Path | None:
    """A file named from the folder of a configuration, which is the archive's or one above."""
    if name is None:
        return None
    found = next((folder / name for folder in archive.resolve().parents if (folder / name).exists()), None)
    if found is None:
        raise FileNotFoundError(name)
    return found
