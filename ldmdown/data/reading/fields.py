"""The one door for gridded files: fields of named variables hour by hour, in our units, on the grid of the files.

`open_fields` joins ERA5, a regional model's fields, terrain, or outputs of `downscale`, in whatever form they are
kept. Wind components that run along a grid are turned to east and north before anything else is done with them,
since neighbouring components along different directions must not be averaged.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import pyproj
import xarray as xr

from ldmdown.data.grid import SourceGrid, grid_rotation, rotate_to_earth
from ldmdown.data.reading.blocks import SKIP, FieldBlock, moment, no_instants, span
from ldmdown.data.reading.files import GriddedFiles, Source
from ldmdown.data.reading.series import TimeSeries
from ldmdown.data.units import likely, require_conversion
from ldmdown.data.variables import WINDS, Variable, variable
from ldmdown.errors import LdmdownError
from ldmdown.typing import Float32Array, FloatArray, IntArray

HOURS_AT_ONCE, BYTES_AT_ONCE = 24, 2**25  # that are read together, since files may keep many hours in a chunk


class Fields(AbstractContextManager["Fields"]):
    """Variables on one grid, hour by hour, until they are closed.

    Attributes:
        names: of the variables, in the order of the channels.
        grid: the grid of the files, its first row in the north and its first column in the west.
        hours: since 1970-01-01T00, rising.
        members: the numbers of the members that an hour has; (0,) where the files name none.
        notes: what was decided about the files that a user should know.
        files, label: what messages call each of the files, and all of them.
    """

    def __init__(
        self,
        files: GriddedFiles,
        series: Mapping[str, Sequence[TimeSeries]],
        hours: IntArray,
        wind_axes: pyproj.CRS | None,
        notes: Sequence[str],
    ) -> None:
        first = next(iter(series.values()))
        self.names = tuple(series)
        self.grid: SourceGrid = first[0].blocks[0].axes.grid
        self.hours = hours
        self.members = max((_numbers(one) for one in series.values()), key=len)
        self.rotated = wind_axes is not None
        self._wind_axes = wind_axes
        self.notes = list(notes)
        self.files, self.label = tuple(files.labels), files.label
        self._files, self._series = files, series
        self._rows, self._cols = (slice(0, size) for size in self.grid.shape)
        self._lock = threading.Lock()
        self._held: tuple[tuple[int, int], Float32Array]
        self._forget()

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files, which parts of these fields share."""
        self._files.close()

    def __len__(self) -> int:
        return len(self.hours)

    @property
    def times(self) -> np.ndarray:
        """The hours as numpy.datetime64[s]."""
        return self.hours.astype("datetime64[h]").astype("datetime64[s]")

    def at(self, indices: slice | Sequence[int] | IntArray) -> Self:
        """Some of the hours."""
        part = copy(self)
        part.hours = self.hours[indices]
        part._forget()
        return part

    def between(self, start: str | None, end: str | None) -> Self:
        """The hours from one time to another, both included; a day or month as the end includes all of it.

        Raises ValueError if one is not a time.
        """
        return self.at(pd.DatetimeIndex(self.times).slice_indexer(start, end))

    def crop(self, rows: slice, cols: slice) -> Self:
        """Some rows and columns of the grid."""
        part = copy(self)
        part.grid = self.grid.part(rows, cols)
        part._rows, part._cols = _inner(self._rows, rows), _inner(self._cols, cols)
        part._forget()
        return part

    def read(self, index: int, member: int = 0) -> Float32Array:
        """(variable, rows, cols) of one hour, wind towards east and north; NaN where a value is missing.

        Hours near it are read with it, and kept until others are asked for.

        Raises LdmdownError if a value is outside its physical bounds, cannot be decoded, or is given twice.
        """
        start = index - index % self._hours_at_once
        with self._lock:
            try:
                if self._held[0] != (start, member):
                    self._held = (start, member), self._load(slice(start, start + self._hours_at_once), member)
                fields = self._held[1][:, index - start]
            except LdmdownError:  # perhaps of an hour near it
                fields = self._load(slice(index, index + 1), member)[:, 0]
        for name, field in zip(self.names, fields, strict=True):
            self._check(variable(name), field, index)
        return fields

    def _forget(self) -> None:
        """Start to keep blocks of hours anew."""
        cells = len(self.names) * self.grid.shape[0] * self.grid.shape[1]
        self._hours_at_once = int(np.clip(BYTES_AT_ONCE // (4 * cells), 1, HOURS_AT_ONCE))
        self._held = (-1, -1), np.empty(0, np.float32)
        self._lock = threading.Lock()

    def _load(self, indices: slice, member: int) -> Float32Array:
        """(variable, hours, rows, cols) of a block."""
        hours = self.hours[indices]
        block = np.empty((len(self.names), len(hours), *self.grid.shape), np.float32)
        for field, (name, members) in zip(block, self._series.items(), strict=True):
            one = members[member if len(members) > 1 else 0]
            places = np.zeros(len(hours), np.int64) if variable(name).static else np.searchsorted(one.hours, hours)
            field[:] = one.read(places, self._rows, self._cols)
        if self.rotated:
            u, v = (self.names.index(name) for name in WINDS)
            block[u], block[v] = rotate_to_earth(block[u], block[v], grid_rotation(self.grid, self._wind_axes))
        return block

    def _check(self, known: Variable, field: FloatArray, index: int) -> None:
        low, high = known.bounds
        wrong = (field < low) | (field > high)
        if not wrong.any():
            return
        row, col = np.argwhere(wrong)[0]
        units = likely(float(np.nanmin(field)), float(np.nanmax(field)), known.units, known.bounds)
        raise LdmdownError(
            self.label,
            f"{known.name} is not physical",
            found=f"{field[row, col]:g} {known.units} at {self.grid.place(row, col)}, {moment(self.hours[index])}",
            expected=f"{low:g} to {high:g} {known.units}",
            fix=f"these look like {units}: correct the units attribute of the file"
            if units
            else f"check the attributes units and _FillValue of the file, or {SKIP}",
        )


def open_fields(
    paths: Sequence[str | Path], names: Sequence[str], *, request: str | None = None, unpack_to: Path | None = None
) -> Fields:
    """The variables `names` from all files together; derived ones that no file holds are left out.

    Args:
        paths, unpack_to: as in `GriddedFiles`.
        names: of data/variables.
        request: the command that gets files which lack a variable, less its dates, such as `ldmdown request`.

    Raises LdmdownError if a file is missing or unreadable, a variable is in none of them, or their grids or hours do
    not meet.
    """
    files = GriddedFiles(paths, unpack_to)
    try:
        return fields_of(files, names, request=request)
    except BaseException:
        files.close()
        raise


def fields_of(files: GriddedFiles | xr.Dataset, names: Sequence[str], *, request: str | None = None) -> Fields:
    """As `open_fields`, of files that are open, or of one dataset. Raises LdmdownError as `open_fields` does."""
    if isinstance(files, xr.Dataset):
        files = GriddedFiles.of({"the dataset": files})
    found = {name: _find(files.sources, variable(name)) for name in names}
    found = {name: blocks for name, blocks in found.items() if blocks or not variable(name).derived}
    missing = [variable(name) for name, blocks in found.items() if not blocks]
    if missing:
        raise _missing(files, missing, request)
    _check_grids(found)
    wind_axes = _wind_axes(files, found)
    series = {name: _series(variable(name), blocks) for name, blocks in found.items()}
    _check_members(files, series)
    timed = {name: one for name, one in series.items() if not variable(name).static}
    hours = _common_hours({name: [one.hours for one in members] for name, members in timed.items()}, files.label)
    _check_instants(found, timed)
    notes = list(_notes(files, timed, hours))
    if wind_axes is not None:
        notes.append("the wind of the files runs along their grid: it is turned to east and north")
    return Fields(files, series, hours, wind_axes, notes)


def _find(sources: Sequence[Source], known: Variable) -> list[FieldBlock]:
    """A variable under any of its names, from every source that has it."""
    found = []
    for source in sources:
        for name in known.names:
            if name not in source.names:
                continue
            level = None if name == known.name else known.level
            blocks = list(source.blocks(name, level, static=known.static))
            if blocks:
                found += blocks
                break
    return found


def _series(known: Variable, blocks: Sequence[FieldBlock]) -> list[TimeSeries]:
    """One series a member; blocks that name none serve all."""
    members = sorted({block.member for block in blocks if block.member is not None})
    series = []
    for member in members or [-1]:
        mine = [block for block in blocks if block.member in (member, None)]
        conversions = [
            require_conversion(
                block.label,
                known.name,
                known.units if block.units is None else str(block.units),
                known.units,
                rates=known.accumulated,
            )
            for block in mine
        ]
        series.append(TimeSeries(known, mine, conversions))
    return series


def _numbers(members: Sequence[TimeSeries]) -> tuple[int, ...]:
    """The numbers of members, 0 for one that no block names."""
    return tuple(next((block.member for block in one.blocks if block.member is not None), 0) for one in members)


def _check_grids(found: Mapping[str, Sequence[FieldBlock]]) -> None:
    (name, first), *others = [(name, block) for name, blocks in found.items() for block in blocks]
    for other, block in others:
        if block.axes is not first.axes and not block.axes.grid.is_close(first.axes.grid):
            raise LdmdownError(
                block.label,
                f"{other} and {name} are on different grids" if other != name else f"{name} is on two grids",
                found=block.axes.grid.box,
                expected=f"{first.axes.grid.box}, as in {first.label}",
                fix="give files of one grid and area",
            )


def _wind_axes(files: GriddedFiles, found: Mapping[str, Sequence[FieldBlock]]) -> pyproj.CRS | None:
    """The projection along whose axes wind runs; None: it points to east and north."""
    held = {block.wind_axes: block for name in WINDS for block in found.get(name, ())}
    if len(held) > 1:
        one, other, *_ = held.values()
        raise LdmdownError(
            one.label,
            f"its wind runs along other axes than that of {other.label}",
            found=" and ".join("east and north" if axes is None else axes.name for axes in held),
            fix="give files whose wind points the same way",
        )
    axes = next(iter(held), None)
    if axes is not None and not set(WINDS) <= set(found):
        raise LdmdownError(
            files.label,
            "one wind component alone cannot be turned to earth-relative",
            found=", ".join(found),
            fix="ask for both u10 and v10",
        )
    return axes


def _check_instants(found: Mapping[str, Sequence[FieldBlock]], series: Mapping[str, Sequence[TimeSeries]]) -> None:
    """Refuse means, sums and extremes of states, which hold at no hour."""
    for name, blocks in found.items():
        known = variable(name)
        if known.static or known.accumulated:
            continue
        average = next(((block.label, block.average) for block in blocks if block.average), None)
        days = series[name][0].hours.astype("datetime64[h]")
        if average is None and len(days) > 1 and (days == days.astype("datetime64[M]")).all():
            average = blocks[0].label, f"one value a month, at 00 UTC of its first day, {len(days)} times"
        if average is not None:
            raise no_instants(average[0], name, average[1])


def _check_members(files: GriddedFiles, series: Mapping[str, Sequence[TimeSeries]]) -> None:
    held = {name: _numbers(members) for name, members in series.items() if not variable(name).static}
    if len(set(held.values())) > 1:
        raise LdmdownError(
            files.label,
            "its variables have different members",
            found=", ".join(f"{len(numbers)} of {name}" for name, numbers in held.items()),
            fix="give files of the same members",
        )


def _common_hours(hours: Mapping[str, Sequence[IntArray]], label: str) -> IntArray:
    if not hours:
        return np.zeros(1, np.int64)  # static fields alone have no time
    common = None
    for found in (one for members in hours.values() for one in members):
        common = found if common is None else np.intersect1d(common, found, assume_unique=True)
    if common is None or not len(common):
        held = [f"{name} {span(np.unique(np.concatenate(found)))}" for name, found in hours.items()]
        raise LdmdownError(
            label,
            f"{', '.join(hours)} have no hour in common",
            found="; ".join(held),
            fix="give files of the same hours",
        )
    return common


def _notes(files: GriddedFiles, series: Mapping[str, Sequence[TimeSeries]], hours: IntArray) -> Iterator[str]:
    """What a user should know of the files and their hours."""
    every = np.unique(np.concatenate([hours, *(one.hours for members in series.values() for one in members)]))
    left = np.setdiff1d(every, hours)
    if len(left):
        yield f"{len(left)} hours are left out that not every variable has, the first {moment(left[0])}"
    if len(hours) > 2:
        step = int(np.diff(hours).min())
        gaps = np.setdiff1d(np.arange(hours[0], hours[-1], step), hours)
        if len(gaps):
            yield f"{len(gaps)} hours are missing between the first and the last, the first {moment(gaps[0])}"
    spread = {name: members[0].longest_sum for name, members in series.items() if members[0].longest_sum > 1}
    if spread:
        held = ", ".join(f"{name} over {length} hours" for name, length in spread.items())
        yield f"sums over more than an hour are spread evenly: {held}"
    if any(one.overlapping for members in series.values() for one in members):
        yield "several runs of a forecast hold the same hours: the one with the shortest lead is taken"
    if len(hours) > 1 and (np.diff(hours) % 24 == 0).all():
        yield f"every hour is {moment(hours[0])[-5:]} UTC: values are taken for this instant, not for means of days"
    yield from dict.fromkeys(note for source in files.sources for note in source.notes())


def _missing(files: GriddedFiles, missing: Sequence[Variable], request: str | None) -> LdmdownError:
    names = ", ".join(known.name for known in missing)
    held = dict.fromkeys(text for source in files.sources for text in source.contents())
    fix = "name the files that hold it too"
    if request is not None:
        fix = f"name all files together; this prints the script that gets them: {request} {_dates(files)}"
    return LdmdownError(
        files.label,
        f"{names} {'is' if len(missing) == 1 else 'are'} missing",
        found=", ".join(sorted(held)) or "no variables outside of groups",
        expected=f"under names such as {'; '.join(_looked_for(known) for known in missing)}",
        fix=fix,
    )


def _looked_for(known: Variable) -> str:
    """The name of a variable, and the two that the CDS gives it."""
    level = f" on {known.level} hPa" if known.level else ""
    return ", ".join((known.name, *(f"{name}{level}" for name in (*known.aliases[:1], known.cds) if name)))


def _dates(files: GriddedFiles) -> str:
    """Options for the days that the files hold."""
    try:
        hours = files.hours()
    except LdmdownError:
        hours = np.empty(0, np.int64)
    first, last = (moment(edge)[:10] for edge in hours[[0, -1]]) if len(hours) else ("DAY", "DAY")
    return f"--start {first} --end {last}"


def _inner(held: slice, part: slice) -> slice:
    """A part of what a slice from one place to another already took."""
    first, last, _ = part.indices(held.stop - held.start)
    return slice(held.start + first, held.start + last)
