"""How closely means of fine fields over ERA5's boxes keep to ERA5 itself.

A field is corrected after it is made. What its box means lack is interpolated bilinearly between the centres of the
boxes, from coefficients for which the box means come out as wanted, so that no box shows an edge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse
from scipy.sparse.linalg import splu

from ldmdown.data.archive.box_means import COMPLETE, Boxes
from ldmdown.data.grid import ERA5_SPACING, Grid, SourceGrid, regrid
from ldmdown.data.reading.fields import Fields
from ldmdown.data.reading.regridded import Regridded
from ldmdown.errors import LdmdownError
from ldmdown.typing import Float32Array, FloatArray

ROUNDING = 1e-3  # of the differences in headers
MEANING = {
    "free": "",
    "exact": "exact: means over ERA5's boxes are ERA5's; of t2m ERA5's with their mean difference in training, since "
    "ERA5's terrain has other heights",
    "learned": "learned: means over ERA5's boxes differ from ERA5 by no more than those of the training fields",
}


class BoxConsistency:
    """A correction of fields on a window; boxes that the window or ERA5 does not cover wholly are left as they are.

    Args:
        grid: the fine grid of the window.
        targets: the variables of the fields, in the order of their channels; those that ERA5 lacks stay as they are.
        era5: the fields whose boxes are kept to.
        known: how box means of the training fields differed from ERA5 (`box_differences` in the headers of the
            checkpoints).
        exact: reach ERA5. Otherwise each field's differences are shrunk by the factor, if any, that makes their root
            mean square that of training, each box counted in its own standard deviations.

    Raises LdmdownError if the checkpoints do not tell these differences, or no box is covered.
    """

    def __init__(
        self, grid: Grid, targets: Sequence[str], era5: Fields, known: Sequence[Mapping[str, Any]], *, exact: bool
    ) -> None:
        self.boxes = Boxes(grid.cells, ERA5_SPACING)
        self._names = [name for name in targets if name in era5.names]
        self._channels = [targets.index(name) for name in self._names]
        lat, lon = self.boxes.latlon()
        needed = [name for name in self._names if not exact or name == "t2m"]
        offset, std = (
            np.stack([self._known(known, part, name) if name in needed else empty for name in self._names])
            for part, empty in (("mean", np.zeros_like(lat)), ("std", np.ones_like(lat)))
        )
        share = self.boxes.of_source.sum(axis=1)
        covered = (share > COMPLETE) & era5.grid.covers(lat, lon).ravel()
        self._kept = np.flatnonzero(covered & np.isfinite(offset + std).all(axis=0).ravel())
        if not self._kept.size:
            raise LdmdownError(
                "--consistency", "no box of ERA5 lies wholly in the area", fix="choose a larger area, or leave it out"
            )
        self._offset, self._std = (
            one.reshape(len(one), -1)[:, self._kept] for one in (offset, np.maximum(std, ROUNDING))
        )
        self._exact = exact
        self._means = scipy.sparse.diags_array(1 / share[self._kept]) @ self.boxes.of_source[self._kept]
        to_cells = self.boxes.centres.weights(grid.lat, grid.lon, to_edge=True).astype(np.float64)
        self._to_cells = to_cells[:, self._kept]
        self._solve = splu((self._means @ self._to_cells).tocsc()).solve

    def _known(self, known: Sequence[Mapping[str, Any]], part: str, name: str) -> FloatArray:
        """The mean or std of a variable's differences on the boxes, NaN where they are not known."""
        held = next((one for one in known if name in one.get(part, {})), None)
        if held is None:
            raise LdmdownError(
                "--consistency",
                f"the checkpoint does not tell how box means of {name} differ from ERA5 in its training fields",
                fix="leave it out, or train again: `ldmdown train` now measures it",
            )
        source, (lat, lon) = SourceGrid(np.array(held["lat"]), np.array(held["lon"])), self.boxes.latlon()
        values = regrid(source.weights(lat, lon, nearest=True), np.array(held[part][name], np.float64), lat.shape)
        return np.where(source.covers(lat, lon), values, np.nan)

    def era5(self, fields: Fields) -> Sequence[Regridded]:
        """ERA5 on the boxes, for each of its members."""
        return [
            Regridded(fields, self.boxes.grid, self._names, beyond="missing", member=member)
            for member in range(len(fields.members))
        ]

    def agree(self, fields: Float32Array, era5: FloatArray) -> None:
        """Correct fields (member, T, rows, cols) in place by ERA5 on the boxes (member of the input, T, rows, cols).

        Members that were drawn from the same member of the input follow each other.
        """
        wanted = era5.reshape(*era5.shape[:2], -1)[..., self._kept] + self._offset
        for member, field in enumerate(fields):
            cells = field[self._channels].reshape(len(self._channels), -1).astype(np.float64)
            lacking = wanted[member * len(era5) // len(fields)] - (self._means @ cells.T).T
            if not self._exact:
                distance = np.sqrt(np.mean((lacking / self._std) ** 2, axis=1, keepdims=True))
                lacking *= 1 - 1 / np.maximum(distance, 1)
            cells += (self._to_cells @ self._solve(lacking.T)).T
            field[self._channels] = cells.reshape(-1, *field.shape[1:])
