"""When fields are valid: axes of time by any of their names, forecast runs with steps, calendars of climate models."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from ldmdown.data.reading.blocks import whole_hours
from ldmdown.errors import LdmdownError
from ldmdown.typing import BoolArray, IntArray

VALID_TIME = "valid_time"
INIT_TIMES = ("time", "forecast_reference_time", "init_time", "initial_time")
LEADS = ("step", "forecast_period", "prediction_timedelta", "lead_time")
ABSOLUTE = "day as %Y%m%d.%f"  # CDO's units of dates that are written as numbers
SINCE = re.compile(
    r"(\w+?)s? since ((?:0*1|\d{4})-\d+-\d+([T ]\d+:\d+(:[\d.]+)?)?)( ?(Z|UTC|GMT|[+-]?0+(:?0+)?))?", re.I
)
CALENDARS = (
    "standard",
    "gregorian",
    "proleptic_gregorian",
    "julian",
    "noleap",
    "365_day",
    "all_leap",
    "366_day",
    "360_day",
)
HOUR = 3600  # [s]
SECONDS = {
    "second": 1,
    "sec": 1,
    "minute": 60,
    "min": 60,
    "hour": HOUR,
    "hr": HOUR,
    "h": HOUR,
    "day": 86400,
    "d": 86400,
}
RAW_TIMES: dict[str, Any] = {"cache": False, "decode_times": False, "decode_timedelta": False}  # until they are checked
DECODING: dict[str, Any] = {"decode_times": xr.coders.CFDatetimeCoder(time_unit="s"), "decode_timedelta": True}
ROUNDED = 30  # by which a time may miss its minute [s]
COARSEST = 900  # single precision of times that are rounded to the hour [s]
YEARS = np.array(["1800", "2300"], "datetime64[Y]")  # that are believed
AVERAGES = re.compile(r"\b\w*time\w*: (?:\w+: )*(?!point)([a-z_]+)")
NEVER = np.iinfo(np.int64).min
"""A time that the standard calendar does not have."""


@dataclass(frozen=True)
class TimedField:
    """A field with at most one axis of time, `dim`, and the times along it."""

    field: xr.DataArray
    dim: str
    valid_time: IntArray
    init_time: IntArray
    forecast: bool = False


class TimeAxes:
    """The axes of time of one dataset."""

    def __init__(self, label: str, dataset: xr.Dataset) -> None:
        self.label, self.dataset = label, dataset
        self.calendar = ""  # if it is not the standard one
        self.left_out = False  # whether hours that the standard calendar lacks are
        self._lead = next((name for name in LEADS if name in dataset.variables), None)
        self._init = next((name for name in INIT_TIMES if name in dataset.variables), None)

    def split(self, field: xr.DataArray) -> Iterator[TimedField]:
        """A field run by run.

        Raises LdmdownError if there is no coordinate of time, or its values are no full hours.
        """
        for timed in self._runs(field):
            real = timed.valid_time != NEVER
            if not real.all():
                self.left_out = True
                kept = timed.field.isel({timed.dim: np.flatnonzero(real)})
                timed = TimedField(kept, timed.dim, timed.valid_time[real], timed.init_time[real], timed.forecast)
            yield timed

    def _runs(self, field: xr.DataArray) -> Iterator[TimedField]:
        lead, init = self._lead, self._init
        if VALID_TIME in field.dims:
            valid = self._hours(VALID_TIME)
            yield TimedField(field, VALID_TIME, valid, valid)
        elif init in field.dims and lead in field.dims:
            for place, start in enumerate(self._hours(str(init))):
                valid = start + self._leads(str(lead))
                yield TimedField(field.isel({init: place}), str(lead), valid, np.full_like(valid, start), True)
        elif lead is not None and lead in field.dims:
            leads = self._leads(lead)
            start = self._hours(init) if init else self._hours(VALID_TIME) - leads
            yield TimedField(field, lead, start + leads, start + 0 * leads, True)
        elif init in field.dims:
            start = self._hours(str(init))
            forecast = lead is not None and bool(self._leads(lead).any())
            valid = start + (self._leads(str(lead)) if forecast else 0)
            yield TimedField(field, str(init), valid, start, forecast)
        elif init is not None or VALID_TIME in self.dataset.variables:
            leads = self._leads(lead) if lead is not None else np.zeros(1, np.int64)
            held = VALID_TIME in self.dataset.variables
            valid = self._hours(VALID_TIME) if held else self._hours(str(init)) + leads
            yield TimedField(field.expand_dims("time"), "time", valid, valid - leads, bool(leads.any()))
        else:
            raise LdmdownError(
                self.label,
                "has no coordinate of time",
                found=", ".join(map(str, self.dataset.coords)) or "no coordinates",
                expected=f"{VALID_TIME} or {', '.join(INIT_TIMES)}",
            )

    def still(self, field: xr.DataArray) -> TimedField:
        """A static field: its values at the first time."""
        times = [dim for dim in field.dims if dim in (*INIT_TIMES, *LEADS, VALID_TIME)]
        epoch = np.zeros(1, np.int64)
        return TimedField(field.isel(dict.fromkeys(times, 0)).expand_dims("time"), "time", epoch, epoch)

    def notes(self) -> list[str]:
        """What was done to dates of another calendar."""
        if not self.calendar:
            return []
        lacking = "; those that the standard calendar lacks, such as 30 February, are left out" if self.left_out else ""
        return [f"dates of the calendar {self.calendar} are kept as they read{lacking}"]

    def _leads(self, name: str) -> IntArray:
        """Steps of a forecast [h]."""
        values = np.atleast_1d(self.dataset[name].values)
        hours = values / np.timedelta64(1, "h") if np.issubdtype(values.dtype, np.timedelta64) else values.astype(float)
        odd = ~(np.abs(hours - np.rint(hours)) * HOUR <= ROUNDED)
        if odd.any():
            found, fix = f"{name} {hours[odd][0]:g}", "select the steps of full hours"
            raise LdmdownError(self.label, "has steps of a forecast that are no full hours", found=found, fix=fix)
        return np.rint(hours).astype(np.int64)

    def _hours(self, name: str) -> IntArray:
        if name not in self.dataset.variables:
            raise LdmdownError(
                self.label,
                "has steps of a forecast without their start",
                found=", ".join(map(str, self.dataset.coords)),
                expected=f"{VALID_TIME} or one of {', '.join(INIT_TIMES)}",
                fix="add the coordinate `time`, the start of the run, to the file",
            )
        values = self.dataset[name].values.ravel()
        if values.dtype == object:  # of another calendar: the date is kept as it reads
            minutes = np.array([_as_it_reads(moment) for moment in values])
            self.calendar = str(values[0].calendar)
        elif np.issubdtype(values.dtype, np.datetime64):
            years = values.astype("datetime64[Y]")
            wrong = np.isnat(values) | (years < YEARS[0]) | (years > YEARS[1])
            if wrong.any():
                raise _no_time(self.label, name, values, wrong)
            minutes = (values + np.timedelta64(ROUNDED, "s")).astype("datetime64[m]")
        else:
            raise LdmdownError(
                self.label,
                f"{name} is not understood as a time",
                found=f"{values[0]}, units {self.dataset[name].attrs.get('units')}",
                expected="units such as hours since 1900-01-01",
                fix="write relative times, as with `cdo -r copy`",
            )
        return whole_hours(self.label, minutes, average(self.dataset, self.dataset[name]))


def decode_times(label: str, dataset: xr.Dataset) -> xr.Dataset:
    """Decode numbers to times after a check of units and numbers, which xarray does not make.

    Times in single precision, which holds no minutes, are rounded to the hour that they stand for.

    Raises LdmdownError if units can be read in several ways, or a number is not finite.
    """
    for name, one in dataset.variables.items():
        units = str(one.attrs.get("units", ""))
        if "since" not in units or one.ndim > 1:
            continue
        read = SINCE.fullmatch(units.strip())
        unit = SECONDS.get(read[1].lower()) if read else None
        if read is None or unit is None:
            raise LdmdownError(
                label,
                f"{name} has units that can be read in several ways",
                found=units,
                expected="such as hours since 2022-01-15 09:00:00, in UTC",
                fix="correct the units of its time",
            )
        if (calendar := str(one.attrs.get("calendar", "standard"))).lower() not in CALENDARS:
            raise LdmdownError(
                label,
                f"{name} is in a calendar that is not known",
                found=calendar or "an empty name",
                expected=", ".join(CALENDARS),
                fix="correct the attribute calendar of its time",
            )
        if one.dtype.kind != "f":
            continue
        if not np.isfinite(one.values).all():
            raise _no_time(label, str(name), one.values, ~np.isfinite(one.values))
        hours = one.values.astype(float) * unit / HOUR
        step = np.spacing(np.abs(one.values).max(initial=0)).astype(float) * unit  # [s]
        if np.abs(hours - np.rint(hours)).max(initial=0) * HOUR <= min(step, COARSEST):
            meaning = one.attrs | {"units": f"hours since {read[2]}"}
            dataset = dataset.assign_coords({name: (one.dims, np.rint(hours).astype(np.int64), meaning)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", xr.SerializationWarning)  # what it warns of has been checked
        return xr.decode_cf(dataset, **DECODING)


def _no_time(label: str, name: str, values: NDArray[Any], wrong: BoolArray) -> LdmdownError:
    return LdmdownError(
        label,
        f"{name} holds what is no time",
        found=f"{values[wrong][0]} at place {int(wrong.argmax()) + 1} of {len(values)}",
        expected=f"times from {YEARS[0]} to {YEARS[1]}",
        fix="correct its times, or download the file again",
    )


def _as_it_reads(moment: Any) -> np.datetime64:
    """A date of another calendar in the standard one; not a time where that lacks it, as 30 February."""
    date = f"{moment.year:04}-{moment.month:02}-{moment.day:02}"
    try:
        return np.datetime64(f"{date}T{moment.hour:02}:{moment.minute:02}")
    except ValueError:
        return np.datetime64("NaT", "m")


def absolute_times(values: Any) -> NDArray[np.datetime64]:
    """Dates that are written as numbers, such as 20160131.75 for six in the evening."""
    day, fraction = np.divmod(np.asarray(values, float), 1)
    if not ((day >= YEARS[0].astype(int)) & np.isfinite(day)).all():
        return np.full(day.shape, "NaT", "datetime64[s]")
    dates = pd.to_datetime(day.astype(np.int64).astype(str).ravel(), format="%Y%m%d", errors="coerce")
    return dates.to_numpy("datetime64[s]").reshape(day.shape) + np.rint(86400 * fraction).astype("timedelta64[s]")


def average(dataset: xr.Dataset, field: xr.DataArray) -> str | None:
    """What a file says that values stand for if they are not instants, in its words; None if it says no such thing."""
    methods = str(field.attrs.get("cell_methods", ""))
    if AVERAGES.search(methods):
        return f"cell_methods {methods}"
    kind = str(field.attrs.get("GRIB_stepType", "instant"))
    if kind not in ("instant", "accum"):
        return f"GRIB_stepType {kind}"
    for dim in ("point" not in methods and field.coords) or ():
        bounds = field[dim].attrs.get("bounds", field[dim].encoding.get("bounds"))
        if np.issubdtype(field[dim].dtype, np.datetime64) and bounds in dataset.variables:
            hours = np.diff(dataset[bounds].values).astype("timedelta64[m]") / np.timedelta64(1, "h")
            if hours.max(initial=0) > 1:
                return f"{bounds} of {hours.max():g} hours"
    return None
