"""When fields are valid: axes of time by any of their names, forecast runs with steps, calendars of climate models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from ldmdown.data.reading.blocks import whole_hours
from ldmdown.errors import LdmdownError
from ldmdown.typing import IntArray

VALID_TIME = "valid_time"
INIT_TIMES = ("time", "forecast_reference_time", "init_time", "initial_time")
LEADS = ("step", "forecast_period", "prediction_timedelta", "lead_time")
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

        Raises
        ------
        LdmdownError
            if there is no coordinate of time, or its values are no full hours.
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
        if np.issubdtype(values.dtype, np.timedelta64):
            return np.rint(values / np.timedelta64(1, "h")).astype(np.int64)
        return np.rint(values).astype(np.int64)

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
            minutes = (values + np.timedelta64(30, "s")).astype("datetime64[m]")
        else:
            raise LdmdownError(
                self.label,
                f"{name} is not understood as a time",
                found=str(values[0]),
                expected="units such as hours since 1900-01-01",
            )
        return whole_hours(self.label, minutes)


def _as_it_reads(moment: Any) -> np.datetime64:
    """A date of another calendar in the standard one; not a time where that lacks it, as 30 February."""
    date = f"{moment.year:04}-{moment.month:02}-{moment.day:02}"
    try:
        return np.datetime64(f"{date}T{moment.hour:02}:{moment.minute:02}")
    except ValueError:
        return np.datetime64("NaT", "m")
