"""How closely means of fine fields over ERA5's boxes keep to ERA5 itself.

A field is corrected after it is made. What its box means lack is interpolated bilinearly between the centres of the
boxes, from coefficients for which the box means come out as wanted, so that no box shows an edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse
from scipy.sparse.linalg import splu

from ldmdown.choices import Consistency
from ldmdown.data.archive.box_means import COMPLETE, Boxes
from ldmdown.data.grid import SourceGrid, regrid
from ldmdown.data.reading.fields import Fields
from ldmdown.data.reading.regridded import Regridded
from ldmdown.errors import LdmdownError
from ldmdown.typing import BoolArray, Float32Array, FloatArray, IntArray

ROUNDING = 1e-3  # of the differences in headers
MEANING = {
    "free": "",
    "exact": "exact: means over ERA5's boxes are ERA5's; of t2m ERA5's with their mean difference in training, since "
    "ERA5's terrain has other heights",
    "learned": "learned: means over ERA5's boxes differ from ERA5 by no more than those of the training fields",
}


def usual(ways: Iterable[Consistency]) -> Consistency:
    """The way that all checkpoints name; `free` if they name different ones."""
    found = set(ways)
    return found.pop() if len(found) == 1 else "free"


class BoxConsistency:
    """A correction of fields on a window; boxes that the window or ERA5 does not cover wholly are left as they are.

    Args:
        boxes: ERA5's boxes over the fine grid of the window.
        targets: the variables of the fields, in the order of their channels.
        covered: on which boxes (rows, cols) ERA5 is known, by variable; variables that it lacks stay as they are.
        known: how box means of the training fields differed from ERA5 (`box_differences` in the headers of the
            checkpoints).
        exact: reach ERA5. Otherwise each field's differences are shrunk by the factor, if any, that makes their root
            mean square that of training, each box counted in its own standard deviations.

    Raises LdmdownError if the checkpoints do not tell these differences, or no box is covered.
    """

    def __init__(
        self,
        boxes: Boxes,
        targets: Sequence[str],
        covered: Mapping[str, BoolArray],
        known: Sequence[Mapping[str, Any]],
        *,
        exact: bool,
    ) -> None:
        self.boxes, self.exact = boxes, exact
        self.names = [name for name in targets if name in covered and covered[name].any()]
        share = boxes.of_source.sum(axis=1)
        whole = share > COMPLETE
        means = scipy.sparse.diags_array(1 / np.where(whole, share, 1)) @ boxes.of_source
        lon, lat = boxes.source.lonlat()
        to_cells = boxes.centres.weights(lat, lon, to_edge=True).astype(np.float64)
        alike: dict[bytes, _Correction] = {}
        self._corrected = []  # (place among the names, channel, correction, offset, std)
        for place, name in enumerate(self.names):
            parts: Sequence[FloatArray] = (np.zeros(share.size), np.ones(share.size))
            if not exact or name == "t2m":
                parts = [self._known(known, part, name).ravel() for part in ("mean", "std")]
            offset, std = parts
            kept = np.flatnonzero(whole & covered[name].ravel() & np.isfinite(offset + std))
            if kept.size:
                same = kept.tobytes()
                if same not in alike:
                    alike[same] = _Correction(kept, means[kept], to_cells[:, kept])
                std = np.maximum(std[kept], ROUNDING)
                self._corrected.append((place, targets.index(name), alike[same], offset[kept], std))
        if not self._corrected:
            wrong = "no box on which ERA5 is known lies wholly in the area"
            raise LdmdownError("--consistency", wrong, fix="choose a larger area, or leave it out")

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
            Regridded(fields, self.boxes.grid, self.names, beyond="missing", member=member)
            for member in range(len(fields.members))
        ]

    def agree(self, fields: Float32Array, era5: FloatArray) -> None:
        """Correct fields (member, T, rows, cols) in place by ERA5 on the boxes (member of the input, name, rows, cols).

        Members that were drawn from the same member of the input follow each other.
        """
        wanted = era5.reshape(*era5.shape[:2], -1)
        for member, field in enumerate(fields):
            for place, channel, correction, offset, std in self._corrected:
                cells = field[channel].ravel().astype(np.float64)
                lacking = wanted[member * len(era5) // len(fields), place, correction.kept] + offset
                lacking -= correction.means @ cells
                if not self.exact:
                    lacking *= 1 - 1 / max(np.sqrt(np.mean((lacking / std) ** 2)), 1)
                cells += correction.to_cells @ correction.solve(lacking)
                field[channel] = cells.reshape(field[channel].shape)


@dataclass(frozen=True, eq=False)
class _Correction:
    """From what the means of `kept` boxes lack to a smooth field: `means` (kept, cells), `to_cells` (cells, kept)."""

    kept: IntArray
    means: scipy.sparse.csr_array
    to_cells: scipy.sparse.csr_array

    @cached_property
    def solve(self) -> Callable[[FloatArray], FloatArray]:
        """Coefficients at the centres of boxes, from the means that they shall have."""
        return splu((self.means @ self.to_cells).tocsc()).solve
