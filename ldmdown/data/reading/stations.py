"""Hourly measurements at stations, from a CSV file.

The first line names the columns, separated by commas, semicolons or tabs; any order, further ones are ignored:

- `date` or `time`: UTC, or with an offset; only full hours are taken
- `name`, `station` or `id`; `lat`, `lon` [degrees]; `alt`, `elevation` or `height` [m]
- `t2m`, `t` or `temperature` [degrees C or K]
- `ws10`, `wg`, `ws`, `ff` or `wind_speed` [m s-1], at 10 m; `wr`, `dd` or `wind_direction` [degrees], whence it blows

Units may stand in brackets behind a name, or in the second line. Decimals may have a comma where columns have none
between them. Empty values, NA, M and -999, -9999 and their like are missing.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ldmdown.data.sites import Sites
from ldmdown.data.units import require_conversion
from ldmdown.data.variables import VARIABLES
from ldmdown.errors import LdmdownError
from ldmdown.typing import BoolArray, FloatArray

COLUMNS = {
    "time": ("time", "date", "datetime", "valid_time", "valid"),
    "name": ("name", "station", "id"),
    "lat": ("lat", "latitude"),
    "lon": ("lon", "longitude"),
    "height": ("alt", "altitude", "elevation", "height"),
    "t2m": ("t2m", "t", "temperature", "tmpc", "tmpf"),
    "ws10": ("ws10", "wg", "ws", "ff", "wind_speed", "sknt"),
    "direction": ("wr", "dd", "wind_direction", "drct"),
}
UNITS = {"t2m": ("degC", "K"), "ws10": ("m s-1", "m s-1"), "direction": ("degree", "degree"), "height": ("m", "m")}
"""What values without units are in, and what they become."""
NAMED_UNITS = {"tmpc": "degC", "tmpf": "degF", "sknt": "knot"}  # of the Iowa Environmental Mesonet
BOUNDS = {name: VARIABLES[name].bounds for name in ("t2m", "ws10")} | {"height": (-500, 9000), "direction": (0, 360)}
POSITIONS = {"lat": 90.0, "lon": 360.0}
NO_VALUE = re.compile(r"-9{2,}(\.[09]+)?|9{3,}(\.[09]+)?")
COMPACT = {8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}  # dates of digits alone
SAME_PLACE = 0.01  # within which positions of one station may be rounded [degrees]
ZIP = b"PK\3\4"  # as the files of spreadsheets begin
COLDEST = 150.0  # temperatures above it, without units, are taken for kelvins


@dataclass(frozen=True)
class Stations:
    """Measurements by hour.

    Attributes:
        names, lat, lon, height: of the stations; heights [m] may be missing.
        values: by hour since 1970-01-01T00 and variable (t2m [K], ws10, u10, v10 [m s-1]): (stations,), NaN where
            missing.
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

    Raises LdmdownError if it cannot be read, a column is missing, or units are not understood.
    """
    table = _read(file, ("time", "name", "lat", "lon"), ("t2m", "ws10"))
    return _by_hour(file, table)


def read_sites(file: Path) -> Sites:
    """The places of a table, whose columns are those of stations; heights may be missing.

    Raises LdmdownError if it cannot be read, a column is missing, a place has no position, or two have one name.
    """
    table = _read(file, ("name", "lat", "lon"))
    wrong = table[table["name"].duplicated() | table[["name", "lat", "lon"]].isna().any(axis=1)]
    if len(table) == 0 or len(wrong):
        found = f"{wrong.iloc[0]['name']}, in row {wrong.index[0] + 1}" if len(wrong) else "no row"
        raise LdmdownError(file, "needs a name of its own, lat and lon in each row", found=found)
    height = table["height"].to_numpy(float) if "height" in table else np.full(len(table), np.nan)
    return Sites(tuple(table["name"].str.strip()), table["lat"].to_numpy(float), table["lon"].to_numpy(float), height)


def _read(file: Path, needed: Sequence[str], either: Sequence[str] = ()) -> pd.DataFrame:
    """The known columns of a table in the units of ldmdown: those that are needed, and one or more of others."""
    try:
        content = file.read_bytes()
        if b"\0" in content or content.startswith(ZIP):
            raise LdmdownError(file, "is not plain text", fix="save it as CSV in UTF-8")
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("cp1252")
        separator = max(";,\t", key=text.partition("\n")[0].count)
        table = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, na_values=["M", "///"], skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise LdmdownError(file, "cannot be read as CSV", found=str(error)) from None
    if separator != ",":
        table = table.replace(r"^\s*(-?\d+),(\d+)\s*$", r"\1.\2", regex=True)
    named = {column: re.fullmatch(r"(.+?)\s*(?:[\[(](.*)[\])])?", column.strip().lower()) for column in table.columns}
    held = {match[1]: column for column, match in named.items() if match}
    columns = {key: next((held[name] for name in names if name in held), None) for key, names in COLUMNS.items()}
    missing = [key for key in needed if columns[key] is None]
    if either and not any(columns[key] for key in either):
        missing.append(" or ".join(either))
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
    table = (table.iloc[1:] if units else table).reset_index(drop=True)
    for key, column in columns.items():
        match = named.get(str(column))
        if match and (unit := match[2] or NAMED_UNITS.get(match[1])):
            units[key] = unit
    return _converted(file, table, units)


def _units(table: pd.DataFrame) -> dict[str, str]:
    """The units in the second line, if it holds them."""
    first = {str(key): str(value).strip() for key, value in table.iloc[0].items()} if len(table) else {}
    if not first.get("time", first.get("lat", "")).startswith("["):
        return {}
    return {key: value.strip("[]").strip() for key, value in first.items()}


def _converted(file: Path, table: pd.DataFrame, units: Mapping[str, str]) -> pd.DataFrame:
    """Numbers in the units of ldmdown, and times in UTC."""
    zone = units.get("time", "")
    if zone.lower() not in ("utc", "gmt", "z", ""):
        raise LdmdownError(file, "its times are not UTC", found=zone, expected="UTC")
    try:
        if "time" in table:
            table["time"] = _times(file, table["time"].str.strip())
            table = table[table["time"] == table["time"].dt.floor("h")].copy()
        for key in (key for key in ("lat", "lon", *UNITS) if key in table):
            text = table[key].str.strip()
            missing = text.str.fullmatch(NO_VALUE) & ((key != "height") | text.str.startswith("-"))
            table[key] = pd.to_numeric(text.mask(missing.fillna(False)))
    except (ValueError, TypeError) as error:
        raise LdmdownError(file, "has a value that is not a time or not a number", found=str(error)) from None
    for key in (key for key in UNITS if key in table):
        usual, wanted = UNITS[key]
        unit = units.get(key) or ("K" if key == "t2m" and table[key].median() > COLDEST else usual)
        convert = require_conversion(file, key, unit, wanted, expected=f"{wanted} or {usual}")
        table[key] = convert(table[key].to_numpy(float))
        _check_bounds(file, table, key, table[key].between(*BOUNDS[key]) | table[key].isna(), BOUNDS[key])
    for key, limit in POSITIONS.items():
        _check_bounds(file, table, key, table[key].abs() <= limit, (-limit, limit))
    if {"ws10", "direction"} <= set(table.columns):
        angle = np.radians(table["direction"])
        table["u10"], table["v10"] = -table["ws10"] * np.sin(angle), -table["ws10"] * np.cos(angle)
    return table


def _check_bounds(file: Path, table: pd.DataFrame, key: str, right: pd.Series, bounds: tuple[float, float]) -> None:
    if not right.all():
        row = table[~right].iloc[0]
        raise LdmdownError(
            file,
            f"{key} is not physical",
            found=f"{row[key]:g} at {row['name']}" + (f", {row['time']:%Y-%m-%dT%H:%M}" if "time" in table else ""),
            expected=f"{bounds[0]:g} to {bounds[1]:g}",
            fix="correct it, or its units; leave missing values empty",
        )


def _times(file: Path, text: pd.Series) -> pd.Series:
    """Times of text in UTC, whose day and month can be told apart.

    Raises ValueError if one is not a time, LdmdownError if the days could be months.
    """
    if text.str.fullmatch(r"\d+").all() and text.str.len().nunique() == 1:
        return pd.to_datetime(text, format=COMPACT.get(len(text.iloc[0])), utc=True)
    parts = text.str.extract(r"^(\d{1,2})([./-])(\d{1,2})\2(\d{4})(.*)$")
    if parts.isna().any(axis=None):
        return pd.to_datetime(text.str.replace("/", "-"), format="ISO8601", utc=True)
    one, other = parts[0].astype(int), parts[2].astype(int)
    day_first, month_first = bool((one > 12).any() or (parts[1] == ".").all()), bool((other > 12).any())
    if day_first == month_first:
        raise LdmdownError(
            file,
            "its dates can be read in two ways",
            found=text.iloc[0],
            expected="2022-02-01, or a day above the twelfth somewhere in the file",
            fix="write the year first",
        )
    day, month = (one, other) if day_first else (other, one)
    date = parts[3] + "-" + month.astype(str).str.zfill(2) + "-" + day.astype(str).str.zfill(2)
    clock = parts[4].str.replace(r"^[ T](\d):", r" 0\1:", regex=True)
    return pd.to_datetime(date + clock, format="ISO8601", utc=True)


def _by_hour(file: Path, table: pd.DataFrame) -> Stations:
    table = table.drop_duplicates()
    twice = table[table.duplicated(["time", "name"], keep=False)]
    first = table.groupby("name")[["lat", "lon"]].transform("first")
    moved = table[((table[["lat", "lon"]] - first).abs() > SAME_PLACE).any(axis=1)]
    for wrong, what, fix in (
        (twice, "has two different rows of one station and hour", "leave one of them out"),
        (moved, "has one name for two places", "give each place a name of its own"),
    ):
        if len(wrong):
            found = f"{wrong.iloc[0]['name']}, {wrong.iloc[0]['time']:%Y-%m-%dT%H:%M}"
            raise LdmdownError(file, what, found=found, fix=fix)
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
