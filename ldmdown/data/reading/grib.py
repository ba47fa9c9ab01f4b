"""GRIB files through ecCodes: messages are listed once, values are decoded when they are asked for.

Fields are told apart by name and level, so that those at 2 m and at 10 m do not hide each other.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyproj  # before eccodes, which may crash otherwise

from ldmdown.data.grid import LONLAT, SourceGrid, rotated_pole, transformer
from ldmdown.data.reading.blocks import Axes, FieldBlock, version_rank, whole_hours
from ldmdown.errors import LdmdownError
from ldmdown.typing import Float32Array, FloatArray, IntArray

PLAIN = ("surface", "heightAboveGround", "meanSea")  # levels on which a name says everything
PRESSURE = {"isobaricInhPa": 1, "isobaricInPa": 0.01}  # to hPa
MINUTES = {"s": 1 / 60, "m": 1, "h": 60, "D": 1440}  # in a unit of steps
WINDS = ("10u", "10v", "u10", "v10")
MONTHLY = ("moda", "mnth", "mdfa", "msda", "edmo", "edmm", "wamo")  # streams of means
MISSING = -1e30
SECTIONS = tuple(bytes([number]) for number in range(1, 8))  # of GRIB 2, after the first and before the last

_lock = threading.Lock()  # of what eccodes remembers of messages with several fields


@dataclass(frozen=True)
class _Message:
    """Where a field lies in its file, and when it is valid; times are minutes since 1970-01-01T00."""

    offset: int
    place: int  # among the fields of one message
    valid_time: int
    init_time: int
    accumulation_start: int
    rank: int
    member: int


@dataclass(frozen=True)
class _Field:
    """What messages of one field have in common."""

    name: str
    level: float | None  # [hPa]
    grid: str
    step_type: str  # instant, accum, avg, max ...
    units: str
    along_grid: bool
    monthly: str  # the name of the stream, if it is one of monthly means


class GribFile:
    """One file, as a `Source`. Raises ValueError if it is damaged."""

    def __init__(self, path: Path, label: str) -> None:
        import eccodes

        self.path, self.label = path, label
        self.attributes: Mapping[str, Any] = {}
        self._fields: dict[_Field, list[_Message]] = {}
        self._grids: dict[str, SourceGrid | str] = {}
        self._axes: dict[str, Axes] = {}
        self._wind_note = ""
        _check_sections(path)
        try:
            for message, field, handle in _scan(path):
                if field.grid not in self._grids:
                    self._grids[field.grid] = _grid(handle)
                self._fields.setdefault(field, []).append(message)
        except eccodes.CodesInternalError as error:
            raise ValueError(str(error)) from None

    @property
    def names(self) -> Collection[str]:
        """What its fields are called."""
        return {field.name for field in self._fields}

    @property
    def gridded(self) -> Collection[str]:
        """Those of them that lie on a regular grid."""
        return {field.name for field in self._fields if not isinstance(self._grids[field.grid], str)}

    def contents(self) -> list[str]:
        """Its variables, with the pressure levels of each."""
        return [f"{field.name} ({field.level:g} hPa)" if field.level else field.name for field in self._fields]

    def hours(self) -> IntArray:
        """The hours of anything in it."""
        found = {message.valid_time for messages in self._fields.values() for message in messages}
        return whole_hours(self.label, np.array(sorted(found), "datetime64[m]"))

    def notes(self) -> list[str]:
        """What was decided about its wind."""
        return [self._wind_note] if self._wind_note else []

    def blocks(self, name: str, level: int | None, *, static: bool = False) -> Iterator[FieldBlock]:
        """Where a field lies on this level, member by member.

        Raises LdmdownError if it is on no regular grid, or its times are no full hours.
        """
        for field, messages in self._fields.items():
            if (field.name, field.level) == (name, level):
                for member in sorted({message.member for message in messages}):
                    mine = [message for message in messages if message.member == member]
                    yield self._block(field, mine[:1] if static else mine, static)

    def _block(self, field: _Field, messages: list[_Message], static: bool) -> FieldBlock:
        axes = self._ordered(field.name, field.grid)
        if field.along_grid and axes.grid.crs == LONLAT and field.name in WINDS:
            self._wind_note = (
                "its wind runs along longitudes and latitudes: if it was regridded, it had to be turned before"
            )
        average = field.monthly or ("" if field.step_type in ("instant", "accum") else f"stepType {field.step_type}")
        valid, init, start = (
            whole_hours(
                self.label, np.array([getattr(message, time) for message in messages], "datetime64[m]"), average
            )
            for time in ("valid_time", "init_time", "accumulation_start")
        )
        return FieldBlock(
            self.label,
            _Values(self.path, messages, axes.grid.shape),
            axes,
            0 * valid if static else valid,
            0 * init if static else init,
            np.array([message.rank for message in messages], np.int64),
            forecast=True,
            accumulation_start=start if field.step_type == "accum" else None,
            member=messages[0].member,
            units=field.units,
            wind_axes=axes.grid.crs if field.along_grid and axes.grid.crs != LONLAT else None,
            average=average or None,
        )

    def _ordered(self, name: str, key: str) -> Axes:
        if key not in self._axes:
            grid = self._grids[key]
            if isinstance(grid, str):
                raise LdmdownError(
                    self.label,
                    f"{name} is on a grid that is not read",
                    found=grid,
                    expected="longitudes and latitudes, a rotated pole, or a projection",
                    fix="interpolate it, as with `cdo remapbil` or the option grid of the download",
                )
            self._axes[key] = Axes.of(grid, self.label)
        return self._axes[key]


def _check_sections(path: Path) -> None:
    """Raise ValueError unless every message of GRIB 2 ends where its sections do; ecCodes crashes on others."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.find(b"GRIB")
        while start >= 0:
            if content[start + 7 : start + 8] != b"\x02":
                end = start + max(4, int.from_bytes(content[start + 4 : start + 7]))
            else:
                end = start + int.from_bytes(content[start + 8 : start + 16])
                at = start + 16
                while at < end - 4 and content[at + 4 : at + 5] in SECTIONS:
                    at += max(5, int.from_bytes(content[at : at + 4]))
                if at != end - 4 or content[at:end] != b"7777":
                    raise ValueError("the sections of a message do not fit into it")
            start = content.find(b"GRIB", end)


def _scan(path: Path) -> Iterator[tuple[_Message, _Field, Any]]:
    """Each field, and its header for as long as it is the last."""
    import eccodes

    eccodes.codes_grib_multi_support_on()  # GFS puts both wind components in one message
    offset, place = -1, 0
    fields: dict[tuple[str, float | None, str, str], _Field] = {}
    with _lock, path.open("rb") as file:
        while (handle := eccodes.codes_grib_new_from_file(file, headers_only=True)) is not None:
            try:
                before, offset = offset, int(_get(handle, "offset"))
                place = place + 1 if offset == before else 0
                init = _minutes(_get(handle, "dataDate"), _get(handle, "dataTime"))
                valid = _minutes(_get(handle, "validityDate"), _get(handle, "validityTime"))
                kind, name = _get(handle, "typeOfLevel"), _get(handle, "cfVarName")
                if name == "unknown":
                    name = _get(handle, "shortName")
                if kind not in PLAIN and kind not in PRESSURE:
                    name = f"{name} ({kind})"
                level = float(_get(handle, "level")) * PRESSURE[kind] if kind in PRESSURE else None
                message = _Message(
                    offset,
                    place,
                    valid,
                    init,
                    _accumulation_start(handle, init, valid),
                    version_rank(_get(handle, "expver", "1")),
                    int(_get(handle, "number", 0)),
                )
                key = name, level, _get(handle, "md5GridSection"), _get(handle, "stepType", "instant")
                if key not in fields:  # looking units up takes longer than all the rest
                    units, along_grid = _get(handle, "units", ""), _get(handle, "uvRelativeToGrid", 0)
                    stream = _get(handle, "stream", "")
                    monthly = f"monthly means (stream {stream})" if stream in MONTHLY else ""
                    fields[key] = _Field(*key, str(units), bool(along_grid), monthly)
                yield message, fields[key], handle
            finally:
                eccodes.codes_release(handle)


def _accumulation_start(handle: Any, init: int, valid: int) -> int:
    """When a sum that ends at `valid` begins."""
    if _get(handle, "class", "") == "ea":  # ERA5 sums over an hour, whatever its headers say
        return valid - 60
    start, end = (_step(_get(handle, key, 0)) for key in ("startStep", "endStep"))
    return valid - (end - start) if start < end else init


def _step(text: Any) -> int:
    """Minutes of a step, which ecCodes gives as a number of hours or, in another unit, as text such as 90m."""
    text = str(text)
    return round(float(text[:-1]) * MINUTES[text[-1]]) if text[-1] in MINUTES else 60 * int(text)


def _get(handle: Any, key: str, default: Any = None) -> Any:
    import eccodes

    try:
        return eccodes.codes_get(handle, key)
    except eccodes.KeyValueNotFoundError:
        if default is None:
            raise
        return default


def _minutes(date: int, time: int) -> int:
    text = f"{date:08}"
    day = np.datetime64(f"{text[:4]}-{text[4:6]}-{text[6:]}")
    return int(day.astype("datetime64[m]").astype(np.int64)) + 60 * (time // 100) + time % 100


def _grid(handle: Any) -> SourceGrid | str:
    """The grid in the order of the values, or the name of a kind that is not read."""
    kind = str(_get(handle, "gridType"))
    if _get(handle, "jPointsAreConsecutive", 0) or _get(handle, "alternativeRowScanning", 0):
        return f"{kind}, scanned in another order"
    if kind in ("regular_ll", "regular_gg"):
        return SourceGrid(*_degrees(handle, kind), LONLAT)
    if kind == "rotated_ll" and not _get(handle, "angleOfRotationInDegrees", 0):
        south, longitude = (_get(handle, f"{axis}OfSouthernPoleInDegrees") for axis in ("latitude", "longitude"))
        return SourceGrid(*_degrees(handle, kind), rotated_pole(-south, (longitude + 360) % 360 - 180))
    target = str(_get(handle, "projTargetString", ""))
    steps = [_get(handle, f"{axis}InMetres", 0) for axis in ("Dy", "Dx")]
    if not target or not all(steps):
        return kind
    crs = pyproj.CRS(target)
    first = [_get(handle, f"{axis}OfFirstGridPointInDegrees") for axis in ("longitude", "latitude")]
    x, y = transformer(LONLAT, crs).transform(*first)
    down = 1 if _get(handle, "jScansPositively") else -1
    right = -1 if _get(handle, "iScansNegatively") else 1
    return SourceGrid(
        y + down * steps[0] * np.arange(int(_get(handle, "Ny"))),
        x + right * steps[1] * np.arange(int(_get(handle, "Nx"))),
        crs,
    )


def _degrees(handle: Any, kind: str) -> tuple[FloatArray, FloatArray]:
    """Latitudes and longitudes, or those of a rotated grid, in the order of the values."""
    import eccodes

    if kind == "regular_gg":
        lat = np.sort(eccodes.codes_get_array(handle, "distinctLatitudes"))
        lat = lat if _get(handle, "jScansPositively") else lat[::-1]
    else:
        north, south = (_get(handle, f"latitudeOf{end}GridPointInDegrees") for end in ("First", "Last"))
        lat = np.linspace(north, south, int(_get(handle, "Nj")))
    first, last = (_get(handle, f"longitudeOf{end}GridPointInDegrees") for end in ("First", "Last"))
    westwards = bool(_get(handle, "iScansNegatively"))
    span = ((first - last) if westwards else (last - first)) % 360
    lon = first + np.linspace(0, -span if westwards else span, int(_get(handle, "Ni")))
    if kind == "rotated_ll":
        lon = lon - 360 * np.round(lon[len(lon) // 2] / 360)
    return np.round(lat, 6), np.round(lon, 6)


class _Values:
    """Fields (time, rows, cols) of a file, decoded one by one."""

    def __init__(self, path: Path, messages: list[_Message], shape: tuple[int, int]) -> None:
        self.path, self.shape = path, shape
        self.places = [(message.offset, message.place) for message in messages]

    def __getitem__(self, key: tuple[slice, slice, slice]) -> Float32Array:
        with _lock, self.path.open("rb") as file:
            return np.stack([self._decode(file, *place)[key[1:]] for place in self.places[key[0]]])

    def _decode(self, file: Any, offset: int, place: int) -> Float32Array:
        import eccodes

        eccodes.codes_grib_multi_support_reset_file(file)
        file.seek(offset)
        for _ in range(place + 1):
            handle = eccodes.codes_grib_new_from_file(file)
            try:
                eccodes.codes_set(handle, "missingValue", MISSING)
                values = eccodes.codes_get_values(handle)
                complete = not _get(handle, "bitmapPresent")
            except eccodes.CodesInternalError as error:
                raise ValueError(str(error)) from None
            finally:
                eccodes.codes_release(handle)
        field = values.reshape(self.shape).astype(np.float32)
        return field if complete else np.where(field == MISSING, np.nan, field).astype(np.float32)
