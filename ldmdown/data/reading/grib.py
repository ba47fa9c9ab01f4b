"""GRIB to datasets: one for each variable and level, so that fields at 2 m and at 10 m do not hide each other.

Messages are listed once; values are decoded when they are asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyproj  # noqa: F401  before eccodes, which crashes otherwise
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from ldmdown.errors import LdmdownError

PLAIN = ("surface", "heightAboveGround", "meanSea")  # levels on which a name says everything
PRESSURE = {"isobaricInhPa": 1, "isobaricInPa": 0.01}  # to hPa
GRIDS = ("regular_ll", "regular_gg")
MISSING = -1e30

_lock = threading.Lock()  # of what eccodes remembers of messages with several fields


@dataclass(frozen=True)
class _Message:
    """Where a field lies in its file, and when it is valid; times are hours since 1970-01-01T00."""

    offset: int
    place: int  # among the fields of one message
    valid: int
    run: int
    since: int  # where a sum begins
    version: str


@dataclass(frozen=True)
class _Key:
    """What messages of one field have in common."""

    name: str
    kind: str  # of level
    level: int
    grid: str
    summed: bool


def open_grib(path: Path, label: str) -> list[xr.Dataset]:
    """A dataset (time, latitude, longitude) for each variable and level of a file.

    Coordinates along time, in hours since 1970-01-01T00: `run`, the start of the forecast, and of sums `since`,
    their beginning.

    Raises
    ------
    LdmdownError
        if a field is on no regular longitude-latitude grid, or the file holds several members.
    """
    import eccodes

    groups: dict[_Key, list[_Message]] = {}
    grids: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    units: dict[str, str] = {}
    members = set()
    try:
        for message, key, member, handle in _scan(path):
            if key.grid not in grids:
                grids[key.grid] = _axes(handle, label)
            if key.name not in units:
                units[key.name] = _get(handle, "units", "")
            groups.setdefault(key, []).append(message)
            members.add(member)
    except eccodes.CodesInternalError as error:
        raise ValueError(str(error)) from None
    if len(members) > 1:
        raise LdmdownError(label, "holds members of an ensemble", found=f"{len(members)} members",
                           fix="select one of them, as with `grib_copy -w number=1`")  # fmt: skip
    return [_dataset(path, messages, key, units[key.name], grids[key.grid]) for key, messages in groups.items()]


def _scan(path: Path) -> Iterator[tuple[_Message, _Key, int, Any]]:
    """Each field, its member, and its header for as long as it is the last."""
    import eccodes

    eccodes.codes_grib_multi_support_on()  # GFS puts both wind components in one message
    offset, place = -1, 0
    with _lock, path.open("rb") as file:
        while (handle := eccodes.codes_grib_new_from_file(file, headers_only=True)) is not None:
            try:
                before, offset = offset, int(_get(handle, "offset"))
                place = place + 1 if offset == before else 0
                run = _hour(_get(handle, "dataDate"), _get(handle, "dataTime"))
                valid = _hour(_get(handle, "validityDate"), _get(handle, "validityTime"))
                kind, name = _get(handle, "typeOfLevel"), _get(handle, "cfVarName")
                if name == "unknown":
                    name = _get(handle, "shortName")
                if kind not in PLAIN and kind not in PRESSURE:
                    name = f"{name} ({kind})"
                message = _Message(
                    offset, place, valid, run, _beginning(handle, run, valid), str(_get(handle, "expver", "1"))
                )
                summed = _get(handle, "stepType", "instant") == "accum"
                key = _Key(name, kind, int(_get(handle, "level")), _get(handle, "md5GridSection"), summed)
                yield message, key, int(_get(handle, "number", 0)), handle
            finally:
                eccodes.codes_release(handle)


def _beginning(handle: Any, run: int, valid: int) -> int:
    """When a sum that ends at `valid` begins."""
    start, end = (int(_get(handle, key)) for key in ("startStep", "endStep"))
    if _get(handle, "class", "") == "ea":  # ERA5 sums over an hour, whatever its headers say
        return valid - 1
    return valid - (end - start) if start < end else run


def _get(handle: Any, key: str, default: Any = None) -> Any:
    import eccodes

    try:
        return eccodes.codes_get(handle, key)
    except eccodes.KeyValueNotFoundError:
        if default is None:
            raise
        return default


def _hour(date: int, time: int) -> int:
    text = f"{date:08}"
    day = np.datetime64(f"{text[:4]}-{text[4:6]}-{text[6:]}")
    return int(day.astype("datetime64[h]").astype(np.int64)) + time // 100


def _axes(handle: Any, label: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Latitudes and longitudes in the order of the values."""
    import eccodes

    kind = _get(handle, "gridType")
    if kind not in GRIDS or _get(handle, "jPointsAreConsecutive"):
        raise LdmdownError(
            label, "is on a grid that is not read", found=kind, expected=" or ".join(GRIDS),
            fix="interpolate it, as with `cdo remapbil` or the option grid of the download",
        )  # fmt: skip
    lat = np.sort(eccodes.codes_get_array(handle, "distinctLatitudes"))
    if not _get(handle, "jScansPositively"):
        lat = lat[::-1]
    first, last = (_get(handle, f"longitudeOf{end}GridPointInDegrees") for end in ("First", "Last"))
    size = int(_get(handle, "Ni"))
    westwards = bool(_get(handle, "iScansNegatively"))
    span = ((first - last) if westwards else (last - first)) % 360
    lon = first + np.linspace(0, -span if westwards else span, size)
    return np.round(lat, 6), np.round(lon, 6)


def _dataset(
    path: Path,
    messages: list[_Message],
    key: _Key,
    units: str,
    axes: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> xr.Dataset:
    lat, lon = axes
    values = indexing.LazilyIndexedArray(_Values(path, messages, (len(lat), len(lon))))
    coords: dict[str, Any] = {
        "time": np.array([message.valid for message in messages], "datetime64[h]").astype("datetime64[s]"),
        "run": ("time", [message.run for message in messages]),
        "expver": ("time", [message.version for message in messages]),
        "latitude": lat,
        "longitude": lon,
    }
    if key.summed:
        coords["since"] = ("time", [message.since for message in messages])
    if key.kind in PRESSURE:
        coords["level"] = key.level * PRESSURE[key.kind]
    return xr.Dataset({key.name: xr.Variable(("time", "latitude", "longitude"), values, {"units": units})}, coords)


class _Values(BackendArray):
    """Fields of a file, decoded an hour at a time."""

    def __init__(self, path: Path, messages: list[_Message], shape: tuple[int, int]) -> None:
        self.path = path
        self.places = [(message.offset, message.place) for message in messages]
        self.shape = (len(messages), *shape)
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[Any, ...]) -> NDArray[np.float32]:
        hours = np.arange(self.shape[0])[key[0]]
        with _lock, self.path.open("rb") as file:
            fields = [self._decode(file, *self.places[hour])[key[1:]] for hour in np.atleast_1d(hours)]
        return np.stack(fields) if np.ndim(hours) else fields[0]

    def _decode(self, file: Any, offset: int, place: int) -> NDArray[np.float32]:
        import eccodes

        eccodes.codes_grib_multi_support_reset_file(file)
        file.seek(offset)
        for _ in range(place + 1):
            handle = eccodes.codes_grib_new_from_file(file)
            try:
                eccodes.codes_set(handle, "missingValue", MISSING)
                values = eccodes.codes_get_values(handle)
                complete = not _get(handle, "bitmapPresent")
            finally:
                eccodes.codes_release(handle)
        field = values.reshape(self.shape[1:]).astype(np.float32)
        return field if complete else np.where(field == MISSING, np.nan, field).astype(np.float32)
