"""The one form that the fields of any file are brought to: blocks of a variable along one axis of time.

A block knows when each of its fields is valid, which forecast run made it, and where its values lie in the file.
Nothing is read before it is asked for. Times are hours since 1970-01-01T00.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyproj

from ldmdown.data.grid import LONLAT, SourceGrid
from ldmdown.errors import LdmdownError, UnreadableError
from ldmdown.typing import BoolArray, FloatArray, IntArray

UNEVEN = 0.2  # of the spacing, by which neighbouring distances may differ: rounded positions, Gaussian latitudes
DAY = 24  # hours
HUGE = 1e30  # of whatever unit: what no bounds allow, and can be subtracted and converted before it is refused
SKIP = "download these hours again, or leave them out with `downscale --skip-bad-hours`"
DAMAGED = "download the file again; positions that a tool has changed must be restored"


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

        Raises LdmdownError if it is a single row or column, or its axes are not finite, monotonic, evenly spaced and on
        the earth.
        """
        for name, axis, limit in (("rows", grid.y, 90.0), ("columns", grid.x, 540.0)):
            _check_positions(label, name, axis, limit if grid.crs.is_geographic else np.inf)
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
        _check_order(label, "rows", y, rows)
        closed = len(x) < len(grid.x) and (grid.x[-1] - grid.x[0]) % 360 == 0  # the first column comes again at the end
        _check_order(label, "columns", x, cols, len(grid.x) - closed if grid.crs == LONLAT else None)
        return cls(SourceGrid(y, x, grid.crs), rows, cols)


@dataclass(frozen=True)
class FieldBlock:
    """Fields of one variable, of one member, along one axis of time.

    `rank` orders fields of the same hour and lead: final ERA5 (expver 1) before preliminary (5). `forecast` says
    whether `init_time` is known; `accumulation_start` is where sums begin, if the file says so; `wind_axes` is the
    projection along whose axes a wind component runs, None if it points to east and north; `average` says in the
    file's words that values are no instants; `packing` is what a packed value loses where it wraps.
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
    wind_axes: pyproj.CRS | None = None
    average: str | None = None
    packing: float | None = None

    def read(self, hours: slice, rows: IntArray, cols: IntArray) -> FloatArray:
        """(hours, rows, cols) at places along its time and along its ordered axes; infinite ones become HUGE.

        Raises UnreadableError if what is stored cannot be decoded.
        """
        downs, rights = (_slices(order[some]) for order, some in ((self.axes.rows, rows), (self.axes.cols, cols)))
        try:
            values = np.concatenate(
                [
                    np.concatenate([np.asarray(self.values[hours, down, right]) for right in rights], axis=2)
                    for down in downs
                ],
                axis=1,
            )
        # of netCDF4, eccodes and the codecs of Zarr
        except (OSError, RuntimeError, ValueError, TypeError, ArithmeticError) as error:
            unknown = _unknown_filters(self.label) if "filter" in str(error) and Path(self.label).is_file() else ""
            raise UnreadableError(self.label, f"{error}{unknown}, at {span(self.valid_time[hours])}") from None
        return np.where(np.isnan(values), np.nan, np.clip(values, -HUGE, HUGE))


def version_rank(version: Any) -> int:
    """The order of ERA5's versions by their expver; what is no number counts as final."""
    text = version.decode() if isinstance(version, bytes) else str(version)
    return int(text) if text.isdigit() else 1


def whole_hours(label: str, minutes: Any, average: str | None = None) -> IntArray:
    """Hours since 1970-01-01T00 of times in minutes; `average` says in the file's words that values are no instants.

    Raises LdmdownError if a time lies between full hours, as that of a mean over a day may.
    """
    hours = minutes.astype("datetime64[h]")
    odd: BoolArray = ~np.isnat(minutes) & (hours != minutes)
    if not odd.any():
        return hours.astype(np.int64)
    step = np.diff(minutes).min(initial=np.timedelta64(1, "W")) / np.timedelta64(1, "h") if len(minutes) > 1 else 0
    if average or step >= DAY:
        raise no_instants(label, "it", average or f"a value every {step:g} hours, the first of {minutes[0]}")
    raise LdmdownError(
        label,
        "has times between full hours",
        found=str(minutes[odd][0]),
        fix="select full hours, or interpolate to them; if they stand for the hour, use `cdo shifttime`",
    )


def no_instants(label: str, what: str, found: str) -> LdmdownError:
    """The error of means, sums or extremes in the place of states, with what the file says of them."""
    return LdmdownError(
        label,
        f"{what} holds no instantaneous values",
        found=found,
        expected="the state at an hour, such as 2020-01-31T12:00",
        fix="give hourly data, of ERA5 reanalysis-era5-single-levels, not daily or monthly means",
    )


def span(hours: IntArray) -> str:
    """The first and the last hour, for messages."""
    first, last = (moment(hours[place]) if len(hours) else "never" for place in (0, -1))
    return first if first == last else f"{first} to {last}"


def moment(hour: int | np.integer) -> str:
    """An hour since 1970-01-01T00, for messages."""
    return f"{np.datetime64(int(hour), 'h')}:00"


def _unknown_filters(file: str) -> str:
    """The compression filters of an HDF5 file that are not installed, with their names and numbers, for messages."""
    import h5py  # which takes a quarter of a second

    unknown: dict[str, None] = {}

    def look(_: str, one: Any) -> None:
        plan: Any = one.id.get_create_plist() if isinstance(one, h5py.Dataset) else None
        for place in range(plan.get_nfilters() if plan else 0):
            number, _, _, name = plan.get_filter(place)
            if not h5py.h5z.filter_avail(number):
                unknown[f"{name.decode(errors='replace')} {number}".strip()] = None

    with h5py.File(file) as opened:
        opened.visititems(look)
    return f" ({', '.join(unknown)}; unpack it with `nccopy -F none` where it is installed)" if unknown else ""


def _check_positions(label: str, name: str, axis: FloatArray, limit: float) -> None:
    wrong = ~(np.abs(axis) <= limit + 1e-3) | ~np.isfinite(axis)
    if wrong.any():
        raise LdmdownError(
            label,
            f"the positions of its {name} are not on the earth",
            found=f"{axis[wrong][0]:g} at place {int(wrong.argmax()) + 1} of {len(axis)}",
            expected="finite numbers" if np.isinf(limit) else f"degrees from {-limit:g} to {limit:g}",
            fix=DAMAGED,
        )


def _check_order(label: str, name: str, axis: FloatArray, order: IntArray, period: int | None = None) -> None:
    """Refuse ordered positions that are equal or unevenly spaced, or that the file has not in order.

    Of longitudes, whose `period` is their number, a file may begin with any.
    """
    steps, places = np.abs(np.diff(axis)), np.diff(order)
    if period is not None:
        places = places % period
    wrong = np.abs(np.diff(steps, prepend=steps[0])) > UNEVEN * np.median(steps)
    wrong |= (steps == 0) | (places != places[0]) | (period not in (None, len(order)))
    if wrong.any():
        at = int(wrong.argmax())
        raise LdmdownError(
            label,
            f"the positions of its {name} are not in order or not evenly spaced",
            found=", ".join(f"{one:.10g}" for one in axis[max(0, at - 1) : at + 3]),
            expected="rising or falling, neighbouring distances the same within 20 %",
            fix=DAMAGED,
        )


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
