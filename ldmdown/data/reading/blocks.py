"""The one form that the fields of any file are brought to: blocks of a variable along one axis of time.

A block knows when each of its fields is valid, which forecast run made it, and where its values lie in the file.
Nothing is read before it is asked for. Times are hours since 1970-01-01T00.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ldmdown.data.grid import LONLAT, SourceGrid
from ldmdown.errors import LdmdownError
from ldmdown.typing import BoolArray, FloatArray, IntArray


class LazyValues(Protocol):
    """Values (time, rows, cols) that are read when they are indexed."""

    def __getitem__(self, key: tuple[slice, slice, slice], /) -> Any:
        """A part of them, as an array."""


@dataclass(frozen=True)
class Axes:
    """A grid with its first row in the north and its first column in the west, and the file's places in that order."""

    grid: SourceGrid
    rows: IntArray
    cols: IntArray

    @classmethod
    def of(cls, grid: SourceGrid, label: str) -> Axes:
        """The axes of a grid in the order of the file; longitudes begin after the widest gap, at -180 without one.

        Raises
        ------
        LdmdownError
            if it is a single row or column.
        """
        rows = np.argsort(-grid.y, kind="stable")
        if grid.crs == LONLAT:
            x, cols = _longitudes(np.round(grid.x, 5))
            y = np.round(grid.y[rows], 5)
        else:
            cols = np.argsort(grid.x, kind="stable")
            x, y = grid.x[cols], grid.y[rows]
        if min(len(y), len(x)) < 2:
            raise LdmdownError(
                label,
                "is a single row or column of cells",
                found=f"{len(y)} rows, {len(x)} columns",
                fix="give an area, a few cells larger than what is to be downscaled",
            )
        return cls(SourceGrid(y, x, grid.crs), rows, cols)


@dataclass(frozen=True)
class FieldBlock:
    """Fields of one variable, of one member, along one axis of time.

    `rank` orders fields of the same hour and lead: final ERA5 (expver 1) before preliminary (5). `forecast` says
    whether `init_time` is known; `accumulation_start` is where sums begin, if the file says so; `along_grid` whether
    a wind component follows the axes of the grid.
    """

    label: str
    values: LazyValues  # in the order of the file
    axes: Axes
    valid_time: IntArray
    init_time: IntArray
    rank: IntArray
    forecast: bool = False
    accumulation_start: IntArray | None = None
    member: int | None = None
    units: str | None = None
    along_grid: bool = False

    def read(self, hours: slice, rows: IntArray, cols: IntArray) -> FloatArray:
        """(hours, rows, cols) at places along its time and along its ordered axes."""
        downs, rights = (_slices(order[some]) for order, some in ((self.axes.rows, rows), (self.axes.cols, cols)))
        return np.concatenate(
            [
                np.concatenate([np.asarray(self.values[hours, down, right]) for right in rights], axis=2)
                for down in downs
            ],
            axis=1,
        )


def version_rank(version: Any) -> int:
    """The order of ERA5's versions by their expver; what is no number counts as final."""
    text = version.decode() if isinstance(version, bytes) else str(version)
    return int(text) if text.isdigit() else 1


def whole_hours(label: str, minutes: Any) -> IntArray:
    """Hours since 1970-01-01T00 of times in minutes.

    Raises
    ------
    LdmdownError
        if a time lies between full hours.
    """
    hours = minutes.astype("datetime64[h]")
    odd: BoolArray = ~np.isnat(minutes) & (hours != minutes)
    if odd.any():
        raise LdmdownError(
            label,
            "has times between full hours",
            found=str(minutes[odd][0]),
            fix="select full hours, or interpolate to them; if they stand for the hour, use `cdo shifttime`",
        )
    return hours.astype(np.int64)


def _longitudes(lon: FloatArray) -> tuple[FloatArray, IntArray]:
    """Rising longitudes, and the places of the file in that order."""
    around, cols = np.unique((lon + 180) % 360 - 180, return_index=True)
    gaps = np.diff(around, append=around[0] + 360)
    if len(around) > 1 and gaps.max() > 1.5 * gaps.min():
        start = int(gaps.argmax()) + 1
        around = np.concatenate([around[start:], around[:start] + 360])
        cols = np.roll(cols, -start)
        around = around - 360 * (around.min() >= 180)
    return np.round(around, 5), cols


def _slices(places: IntArray) -> list[slice]:
    """Runs of neighbours as slices, in their order."""
    parts = np.split(places, np.flatnonzero(np.abs(np.diff(places)) != 1) + 1)
    slices = []
    for part in parts:
        step = -1 if len(part) > 1 and part[1] < part[0] else 1
        stop = int(part[-1]) + step
        slices.append(slice(int(part[0]), None if stop < 0 else stop, step))
    return slices
