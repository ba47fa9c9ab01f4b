"""The ideal ensemble of the twin, drawn from its own p(fine | coarse): the best that any system can be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldmdown.data.grid import POLE_LATITUDE, Grid, SourceGrid, Window, regrid, rotated_pole
from ldmdown.twin.recipe import POLE_LONGITUDE, TwinWorld
from ldmdown.typing import Float32Array


class Ideal:
    """The world that an archive was made from, brought to a window of its grid as the reference was.

    Raises FileNotFoundError if its terrain is not found from the archive's folder upwards.
    """

    def __init__(self, grid: Grid, window: Window, plan: dict[str, Any], archive: Path) -> None:
        terrain = {kind: above(archive, plan[kind]) for kind in ("orography", "coarse_orography")}
        self.grid = grid.window(window)
        self.world = TwinWorld(grid, seed=plan["seed"], **terrain)
        rotated = SourceGrid(self.world.rlat, self.world.rlon, rotated_pole(POLE_LATITUDE, POLE_LONGITUDE))
        self.weights = rotated.weights(self.grid.lat, self.grid.lon)

    def draw(self, hour: int, names: Sequence[str], member: int, coarse: Any = None) -> Float32Array:
        """Draw a field (variable, rows, cols); member 0 is the truth."""
        fine = self.world.fine(hour, member, coarse)
        return regrid(self.weights, np.stack([fine[name] for name in names]), self.grid.shape).astype(np.float32)

    def ensemble(self, hour: int, names: Sequence[str], members: int) -> Float32Array:
        """Draw members (member, variable, rows, cols) that are independent of the truth."""
        coarse = self.world.coarse(hour)
        return np.stack([self.draw(hour, names, 1 + member, coarse) for member in range(members)])

    def heights(self) -> tuple[Float32Array, Float32Array]:
        """Heights of the fine and of the coarse grid [m]."""
        coarse = self.grid.coarse
        weights = SourceGrid(self.world.latitude, self.world.longitude).weights(coarse.lat, coarse.lon)
        fine = regrid(self.weights, self.world.terrain.z, self.grid.shape).astype(np.float32)
        return fine, regrid(weights, self.world.place.z, coarse.shape).astype(np.float32)


def above(archive: Path, name: str | None) -> Path | None:
    """A file named from the folder of a configuration, which is the archive's or one above.

    Raises FileNotFoundError if it is in none of them.
    """
    if name is None:
        return None
    for folder in archive.resolve().parents:
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(name)
