"""A dataset as it was downloaded to pieces of one form: its axes of time and of the grid, whatever they are called.

A piece knows when each of its fields is valid, which run of a forecast made it, and where its values lie in the
file. Nothing is read before it is asked for. Times are hours since 1970-01-01T00.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from ldmdown.errors import LdmdownError

Array = NDArray[np.floating]
Hours = NDArray[np.int64]
Places = NDArray[np.int64]

LATITUDES, LONGITUDES = ("latitude", "lat"), ("longitude", "lon")
RUNS = ("time", "forecast_reference_time", "init_time", "initial_time")
STEPS = ("step", "forecast_period", "prediction_timedelta", "lead_time")
VALID = "valid_time"
LEVELS = ("level", "pressure_level", "isobaricInhPa", "isobaric", "plev", "lev", "pressure")
NEVER = np.iinfo(np.int64).min
"""A time that the standard calendar does not have."""


@dataclass(frozen=True)
class Axes:
    """Latitudes falling and longitudes rising, and the file's rows and columns in that order."""

    lat: Array
    lon: Array
    rows: Places
    cols: Places

    @property
    def box(self) -> str:
        """Its edges, for people."""
        west, east, south, north = self.lon.min(), self.lon.max(), self.lat.min(), self.lat.max()
        return f"{west:.2f} to {east:.2f} E, {south:.2f} to {north:.2f} N"

    def same(self, other: Axes) -> bool:
        """Whether the centres are the same, to a rounding in single precision."""
        return all(
            len(mine) == len(theirs) and np.allclose(mine, theirs, atol=1e-4)
            for mine, theirs in ((self.lat, other.lat), (self.lon, other.lon))
        )


@dataclass(frozen=True)
class Piece:
    """Fields of one variable along one axis of time.

    `rank` orders fields of the same hour and lead: final ERA5 (expver 1) before preliminary (5). `since` is where
    sums begin, if the file says so; `forecast` whether runs and leads are known.
    """

    label: str
    values: xr.Variable  # (time, latitude, longitude) in the order of the file
    axes: Axes
    valid: Hours
    run: Hours
    rank: Hours
    forecast: bool
    since: Hours | None

    def read(self, hours: slice, rows: Places, cols: Places) -> Array:
        """(hours, rows, cols) at places along its time and along its ordered axes."""
        downs, rights = (_slices(order[some]) for order, some in ((self.axes.rows, rows), (self.axes.cols, cols)))
        return np.concatenate(
            [np.concatenate([self.values[hours, down, right].values for right in rights], axis=2) for down in downs],
            axis=1,
        )


class Layout:
    """The axes of one dataset.

    Raises
    ------
    LdmdownError
        if it has no regular grid of longitude and latitude.
    """

    def __init__(self, label: str, dataset: xr.Dataset) -> None:
        self.label, self.dataset = label, dataset
        self.latitude, self.longitude = (self._axis(names) for names in (LATITUDES, LONGITUDES))
        self.calendar = ""  # if it is not the standard one
        self.unreal = 0  # hours left out because the standard calendar lacks them

    @cached_property
    def axes(self) -> Axes:
        """The grid; longitudes begin after the widest gap, at -180 where there is none."""
        lat = np.round(self.dataset[self.latitude].values.astype(float), 5)
        lon = np.round(self.dataset[self.longitude].values.astype(float), 5)
        rows = np.argsort(-lat, kind="stable")
        around, cols = np.unique((lon + 180) % 360 - 180, return_index=True)
        gaps = np.diff(around, append=around[0] + 360)
        if len(around) > 1 and gaps.max() > 1.5 * gaps.min():
            start = int(gaps.argmax()) + 1
            around = np.concatenate([around[start:], around[:start] + 360])
            cols = np.roll(cols, -start)
            around = around - 360 * (around.min() >= 180)
        if min(len(lat), len(around)) < 2:
            raise LdmdownError(
                self.label,
                "is a single row or column of cells",
                found=f"{len(lat)} latitudes, {len(around)} longitudes",
                fix="give an area, a few cells larger than what is to be downscaled",
            )
        return Axes(lat[rows], np.round(around, 5), rows, cols)

    @property
    def levels(self) -> dict[str, Hours]:
        """Pressure [hPa] along the dimensions and scalar coordinates that hold it."""
        found = {}
        for name in LEVELS:
            if name in self.dataset.coords:
                values = np.atleast_1d(self.dataset[name].values).astype(float)
                pascal = values.max() > 2000 or self.dataset[name].attrs.get("units") == "Pa"
                found[name] = np.rint(values / 100 if pascal else values).astype(np.int64)
        return found

    def contents(self) -> list[str]:
        """Its variables, with the pressure levels of each."""
        levels = {name: ", ".join(map(str, values)) for name, values in self.levels.items()}
        return [
            next((f"{name} ({held} hPa)" for level, held in levels.items() if level in field.coords), str(name))
            for name, field in self.dataset.data_vars.items()
        ]

    def span(self) -> list[int]:
        """The first and the last hour of anything in it; nothing if it has no time."""
        names = [name for name in (VALID, *RUNS) if name in self.dataset.variables][:1]
        hours = np.concatenate([self._hours(name) for name in names]) if names else np.empty(0, np.int64)
        return [int(hours.min()), int(hours.max())] if len(hours) else []

    def pieces(self, name: str, level: int | None, *, static: bool = False) -> Iterator[Piece]:
        """Where a variable lies, run by run and version by version; nothing if it is not on this level."""
        field = self.dataset[name]
        held = next(((dim, values) for dim, values in self.levels.items() if dim in field.coords), None)
        if level is None:
            if held is not None and held[0] in field.dims:
                return
        elif held is None or level not in held[1]:
            return
        elif held[0] in field.dims:
            field = field.isel({held[0]: int(np.flatnonzero(held[1] == level)[0])})
        if "expver" in field.dims:
            for place, version in enumerate(self.dataset["expver"].values):
                yield from self._timed(field.isel(expver=place), int(version), static)
        else:
            yield from self._timed(field, None, static)

    def _timed(self, field: xr.DataArray, version: int | None, static: bool) -> Iterator[Piece]:
        if static:
            times = [dim for dim in field.dims if dim in (*RUNS, *STEPS, VALID)]
            still = field.isel(dict.fromkeys(times, 0)).expand_dims("time")
            yield self._piece(still, "time", np.zeros(1, np.int64), np.zeros(1, np.int64), version, forecast=False)
            return
        step = next((dim for dim in STEPS if dim in self.dataset.variables), None)
        run = next((dim for dim in RUNS if dim in self.dataset.variables), None)
        if VALID in field.dims:
            valid = self._hours(VALID)
            yield self._piece(field, VALID, valid, valid, version, forecast=False)
        elif run in field.dims and step in field.dims:
            starts = self._hours(str(run))
            for place, start in enumerate(starts):
                valid = start + self._leads(str(step))
                one = field.isel({run: place})
                yield self._piece(one, str(step), valid, np.full_like(valid, start), version, forecast=True)
        elif step is not None and step in field.dims:
            lead = self._leads(step)
            start = self._hours(str(run)) if run else self._hours(VALID) - lead
            yield self._piece(field, step, start + lead, start + 0 * lead, version, forecast=True)
        elif run in field.dims:
            start = self._hours(str(run))
            forecast = step is not None and bool(self._leads(step).any())
            valid = start + (self._leads(str(step)) if forecast else 0)
            yield self._piece(field, str(run), valid, self._given("run", start), version, forecast=forecast)
        elif run is not None or VALID in self.dataset.variables:
            lead = self._leads(step) if step is not None else np.zeros(1, np.int64)
            valid = self._hours(VALID) if VALID in self.dataset.variables else self._hours(str(run)) + lead
            yield self._piece(
                field.expand_dims("time"), "time", valid, valid - lead, version, forecast=bool(lead.any())
            )
        else:
            raise LdmdownError(
                self.label,
                "has no coordinate of time",
                found=", ".join(map(str, self.dataset.coords)) or "no coordinates",
                expected=f"{VALID} or {', '.join(RUNS)}",
            )

    def _piece(
        self, field: xr.DataArray, time: str, valid: Hours, run: Hours, version: int | None, *, forecast: bool
    ) -> Piece:
        dims = (time, self.latitude, self.longitude)
        members = [dim for dim in field.dims if dim not in dims and field.sizes[dim] > 1]
        if members:
            raise LdmdownError(
                self.label,
                f"{field.name} has one dimension too many",
                found=", ".join(f"{dim} of {field.sizes[dim]}" for dim in members),
                expected="time, latitude, longitude",
                fix=f"select one with xarray: dataset.isel({members[0]}=0)",
            )
        field = field.squeeze([dim for dim in field.dims if dim not in dims]).transpose(*dims)
        rank = np.full(len(valid), version or 1)
        if version is None and "expver" in field.coords and field.coords["expver"].dims == (time,):
            rank = field.coords["expver"].values.astype(np.int64)
        since = self._given("since", valid) if "since" in self.dataset.coords else None
        real = valid != NEVER
        self.unreal += int((~real).sum())
        if not real.all():
            field = field.isel({time: np.flatnonzero(real)})
            valid, run, rank = valid[real], run[real], rank[real]
        return Piece(
            self.label, field.variable, self.axes, valid, run, rank, forecast or "run" in self.dataset.coords, since
        )

    def _given(self, name: str, default: Hours) -> Hours:
        return self.dataset[name].values if name in self.dataset.coords else default

    def _axis(self, names: tuple[str, ...]) -> str:
        found = next((name for name in names if name in self.dataset.dims and name in self.dataset.variables), None)
        if found is not None:
            return found
        raise LdmdownError(
            self.label,
            f"has no axis {names[0]}",
            found=", ".join(f"{dim} of {size}" for dim, size in self.dataset.sizes.items()) or "no dimensions",
            expected=" or ".join(names),
            fix="give fields on a regular grid of longitude and latitude",
        )

    def _leads(self, name: str) -> Hours:
        """Steps [h]."""
        values = np.atleast_1d(self.dataset[name].values)
        if np.issubdtype(values.dtype, np.timedelta64):
            return np.rint(values / np.timedelta64(1, "h")).astype(np.int64)
        return np.rint(values).astype(np.int64)

    def _hours(self, name: str) -> Hours:
        values = self.dataset[name].values.ravel()
        if values.dtype == object:  # of another calendar: the date is kept as it reads
            minutes = np.array([_as_it_reads(moment) for moment in values])
            self.calendar = str(values[0].calendar)
        elif np.issubdtype(values.dtype, np.datetime64):
            minutes = (values + np.timedelta64(30, "s")).astype("datetime64[m]")
        else:
            raise LdmdownError(
                self.label,
                f"{name} is not understood as a time",
                found=str(values[0]),
                expected="units such as hours since 1900-01-01",
            )
        hours = minutes.astype("datetime64[h]")
        odd = ~np.isnat(minutes) & (hours != minutes)
        if odd.any():
            raise LdmdownError(
                self.label,
                "has times between full hours",
                found=str(minutes[odd][0]),
                fix="select full hours, or interpolate to them",
            )
        return hours.astype(np.int64)


def _as_it_reads(moment: Any) -> np.datetime64:
    """A date of another calendar in the standard one; not a time where that lacks it, as 30 February."""
    date = f"{moment.year:04}-{moment.month:02}-{moment.day:02}"
    try:
        return np.datetime64(f"{date}T{moment.hour:02}:{moment.minute:02}")
    except ValueError:
        return np.datetime64("NaT", "m")


def _slices(places: Places) -> list[slice]:
    """Runs of neighbours as slices, in their order."""
    parts = np.split(places, np.flatnonzero(np.abs(np.diff(places)) != 1) + 1)
    slices = []
    for part in parts:
        step = -1 if len(part) > 1 and part[1] < part[0] else 1
        stop = int(part[-1]) + step
        slices.append(slice(int(part[0]), None if stop < 0 else stop, step))
    return slices
