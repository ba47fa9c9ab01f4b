"""Places at which fields are wanted, and the windows of the domain that are computed for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ldmdown.data.grid import Grid, Window, box_of
from ldmdown.errors import LdmdownError
from ldmdown.typing import BoolArray, FloatArray

Box = tuple[int, int, int, int]  # the first row and column of coarse cells, and those behind the last


@dataclass(frozen=True, eq=False)
class Sites:
    """Names, positions [degrees] and heights [m] of places; heights that are not known are NaN."""

    names: tuple[str, ...]
    lat: FloatArray
    lon: FloatArray
    height: FloatArray

    def __len__(self) -> int:
        return len(self.names)

    @property
    def shape(self) -> tuple[int]:
        """(sites,)."""
        return (len(self),)


def windows_of(sites: Sites, grid: Grid, margin: int) -> list[tuple[Window, BoolArray]]:
    """Windows that hold the four fine cells around each site, and which sites (sites,) each one serves.

    Each is computed with `margin` coarse cells around it: windows are joined as long as this saves cells.

    Raises LdmdownError if a site lies outside the domain.
    """
    rows, cols = grid.cells.positions(sites.lat, sites.lon)
    outside = ~(np.isfinite(rows) & np.isfinite(cols))
    if outside.any():
        place = int(np.flatnonzero(outside)[0])
        raise LdmdownError(
            "--points",
            f"{np.count_nonzero(outside)} of {len(sites)} sites lie outside the domain",
            found=f"{sites.names[place]} at {sites.lat[place]:.3f} N, {sites.lon[place]:.3f} E",
            expected=box_of(grid.lon, grid.lat),
        )
    first = [
        np.minimum(np.floor(part), size - 2).astype(int) for part, size in zip((rows, cols), grid.shape, strict=True)
    ]
    boxes = np.stack(
        [*(part // grid.factor for part in first), *((part + 1) // grid.factor + 1 for part in first)], axis=1
    )
    found, left = [], np.ones(len(sites), bool)
    for top, west, bottom, east in _joined([tuple(box) for box in boxes.tolist()], margin):
        inside = (boxes[:, :2] >= (top, west)).all(axis=1) & (boxes[:, 2:] <= (bottom, east)).all(axis=1) & left
        left &= ~inside
        found.append(((top, west, bottom - top, east - west), inside))
    return found


def _joined(boxes: Sequence[Box], margin: int) -> list[Box]:
    """Boxes of which no two take more cells apart than together, each with its margin."""

    def cells(box: Box) -> int:
        return (box[2] - box[0] + 2 * margin) * (box[3] - box[1] + 2 * margin)

    def both(one: Box, other: Box) -> Box:
        return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])

    done: list[Box] = []
    for box in boxes:
        while near := next((one for one in done if cells(both(one, box)) <= cells(one) + cells(box)), None):
            done.remove(near)
            box = both(near, box)
        done.append(box)
    return done
