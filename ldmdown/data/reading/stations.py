"""Hourly measurements at stations, from a CSV file.

The first line names the columns, separated by commas, semicolons or tabs; any order, further ones are ignored:

- `date` or `time`: UTC, or with an offset; only full hours are taken
- `name`, `station` or `id`; `lat`, `lon` [degrees]; `alt`, `elevation` or `height` [m]
- `t2m`, `t` or `temperature` [degrees C or K]
- `ws10`, `wg`, `ws`, `ff` or `wind_speed` [m s-1], at 10 m; `wr`, `dd` or `wind_direction` [degrees], whence it blows

The second line may hold units, in brackets. Empty values are missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ldmdown.data.units import require_conversion
from ldmdown.errors import LdmdownError
from ldmdown.typing import BoolArray, FloatArray

COLUMNS = {
    "time": ("time", "date", "datetime", "valid_time"),
    "name": ("name", "station", "id"),
    "lat": ("lat", "latitude"),
    "lon": ("lon", "longitude"),
    "height": ("alt", "altitude", "elevation", "height"),
    "t2m": ("t2m", "t", "temperature"),
    "ws10": ("ws10", "wg", "ws", "ff", "wind_speed"),
    "direction": ("wr", "dd", "wind_direction"),
}
NEEDED = ("time", "name", "lat", "lon")
UNITS = {"t2m": ("degC", "K"), "ws10": ("m s-1", "m s-1"), "direction": ("degree", "degree"), "height": ("m", "m")}
"""What values without units are in, and what they become."""
COLDEST = 150.0  # temperatures above it, without units, are taken for kelvins


@dataclass(frozen=True)
class Stations:
    """Measurements by hour.

    Attributes
    ----------
    names, lat, lon, height
        of the stations; heights [m] may be missing.
    values
        by hour since 1970-01-01T00 and variable (t2m [K], ws10, u10, v10 [m s-1]): (stations,), NaN where missing.
    """

    file: Path
    names: tuple[str, ...]
    lat: FloatArray
    lon: FloatArray
    height: FloatArray
    values: Mapping[int, Mapping[str, FloatArray]]

    def only(self, chosen: BoolArray) -> Stations:
        """Those stations that are chosen."""
        values = {hour: {name: part[chosen] for name, part in held.items()} for hour, held in self.values.items()}
        names = tuple(name for name, taken in zip(self.names, chosen, strict=True) if taken)
        return Stations(self.file, names, self.lat[chosen], self.lon[chosen], self.height[chosen], values)


def read_stations(file: Path) -> Stations:
    """All stations and hours of a file.

    Raises
    ------
    LdmdownError
        if it cannot be read, a column is missing, or units are not understood.
    """
    try:
        with file.open(encoding="utf-8-sig") as lines:
            first = lines.readline()
        separator = max(";,\t", key=first.count)
        table = pd.read_csv(file, sep=separator, dtype=str, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise LdmdownError(file, "cannot be read as CSV", found=str(error)) from None
    held = {column.strip().lower(): column for column in table.columns}
    columns = {key: next((held[name] for name in names if name in held), None) for key, names in COLUMNS.items()}
    missing = [key for key in NEEDED if columns[key] is None]
    if not any(columns[key] for key in ("t2m", "ws10")):
        missing.append("t2m or ws10")
    if missing:
        raise LdmdownError(
            file,
            f"has no column {', '.join(missing)}",
            found=", ".join(table.columns),
            expected="; ".join(", ".join(COLUMNS[key]) for key in missing if key in COLUMNS) or None,
            fix="name the columns as `ldmdown evaluate --help` says",
        )
    table = table[[str(column) for column in columns.values() if column is not None]]
    table.columns = pd.Index([key for key, column in columns.items() if column is not None])
    units = _units(table)
    table = table.iloc[1:] if units else table
    return _by_hour(file, _converted(file, table.reset_index(drop=True), units))


def _units(table: pd.DataFrame) -> dict[str, str]:
    """The units in the second line, if it holds them."""
    first = {str(key): str(value).strip() for key, value in table.iloc[0].items()} if len(table) else {}
    if not first.get("time", "").startswith("["):
        return {}
    return {key: value.strip("[]").strip() for key, value in first.items()}


def _converted(file: Path, table: pd.DataFrame, units: Mapping[str, str]) -> pd.DataFrame:
    """Numbers in the units of ldmdown, and times in UTC."""
    zone = units.get("time", "")
    if zone.lower() not in ("utc", "gmt", "z", ""):
        raise LdmdownError(file, "its times are not UTC", found=zone, expected="UTC")
    try:
        table["time"] = pd.to_datetime(table["time"], utc=True)
        for key in (key for key in ("lat", "lon", "height", "t2m", "ws10", "direction") if key in table):
            table[key] = pd.to_numeric(table[key])
    except (ValueError, TypeError) as error:
        raise LdmdownError(file, "has a value that is not a time or not a number", found=str(error)) from None
    for key in (key for key in UNITS if key in table):
        usual, wanted = UNITS[key]
        unit = units.get(key) or ("K" if key == "t2m" and table[key].median() > COLDEST else usual)
        convert = require_conversion(file, key, unit, wanted, expected=f"{wanted} or {usual}")
        table[key] = convert(table[key].to_numpy(float))
    if {"ws10", "direction"} <= set(table.columns):
        angle = np.radians(table["direction"])
        table["u10"], table["v10"] = -table["ws10"] * np.sin(angle), -table["ws10"] * np.cos(angle)
    return table[table["time"] == table["time"].dt.floor("h")]


def _by_hour(file: Path, table: pd.DataFrame) -> Stations:
    table = table.drop_duplicates(["time", "name"])
    places = table.drop_duplicates("name").set_index("name").sort_index()
    if places.empty:
        raise LdmdownError(file, "holds no measurement at a full hour")
    values = {}
    kinds = [key for key in ("t2m", "u10", "v10", "ws10") if key in table]
    for time, hour in table.groupby("time"):
        here = hour.set_index("name").reindex(places.index)
        values[int(pd.Timestamp(str(time)).timestamp()) // 3600] = {key: here[key].to_numpy(float) for key in kinds}
    height = places["height"].to_numpy(float) if "height" in places else np.full(len(places), np.nan)
    names = tuple(str(name) for name in places.index)
    return Stations(file, names, places["lat"].to_numpy(float), places["lon"].to_numpy(float), height, values)
