"""Datasets of other mirrors and tools under the usual names: axes by their units, variables by their standard name."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterator

import numpy as np
import xarray as xr

from ldmdown.data.reading.times import ABSOLUTE, INIT_TIMES, LEADS, VALID_TIME, absolute_times
from ldmdown.data.variables import VARIABLES, Variable
from ldmdown.errors import LdmdownError

AXES = {  # name: standard name, and its units
    "latitude": re.compile(r"latitude|degrees?_?(north|N)"),
    "longitude": re.compile(r"longitude|degrees?_?(east|E)"),
}
USUAL_AXES = ("latitude", "longitude", "lat", "lon", "rlat", "rlon")
MIRRORS = re.compile(r"VAR_(?P<rda>\w+)|(?P<ncl>\w+?)_GDS\d+_\w+")  # of NCAR, and of its tool
WRF = {"XLAT", "XLONG"}


def with_usual_names(label: str, dataset: xr.Dataset) -> xr.Dataset:
    """Rename what is told by units or standard names, and decode times that xarray does not.

    Raises LdmdownError if it is output of WRF, whose winds and grid take more than other names.
    """
    if set(dataset.variables) >= WRF and "Times" in dataset.variables:
        raise LdmdownError(
            label,
            "is output of WRF, which is not read as it is",
            expected="fields on longitudes and latitudes, with the wind towards east and north",
            fix="turn U10 and V10 by COSALPHA and SINALPHA (wrf-python: getvar(file, 'uvmet10')), and regrid them and "
            "T2, as with `cdo remapbil`",
        )
    for renamed in (_axes, _times, _variables):
        dataset = dataset.rename(dict(renamed(dataset)))
    if "time" in dataset.coords and dataset["time"].attrs.get("units") == ABSOLUTE:
        dataset = dataset.assign_coords(time=(dataset["time"].dims, absolute_times(dataset["time"].values)))
    start, clock = (dataset.attrs.get(key) for key in ("date", "time"))  # of a forecast, as earthkit writes it
    if start is not None and clock is not None and not {VALID_TIME, *INIT_TIMES} & set(dataset.variables):
        dataset = dataset.assign_coords(
            time=absolute_times(int(start) + int(clock) // 100 / 24 + int(clock) % 100 / 1440)
        )
    return dataset


def _axes(dataset: xr.Dataset) -> Iterator[tuple[Hashable, str]]:
    for axis, pattern in AXES.items():
        found = [
            name
            for name, one in dataset.coords.items()
            if one.dims == (name,)
            and name not in USUAL_AXES
            and (
                str(name).lower() in (axis, axis[:3])
                or any(pattern.fullmatch(str(one.attrs.get(key))) for key in ("standard_name", "units"))
            )
        ]
        if len(found) == 1 and axis not in dataset.variables:
            yield found[0], axis


def _times(dataset: xr.Dataset) -> Iterator[tuple[Hashable, str]]:
    """The one axis whose values are times, if no usual one is there."""
    if {VALID_TIME, *INIT_TIMES, *LEADS} & set(dataset.variables):
        return
    found = [
        name
        for name, one in dataset.coords.items()
        if one.dims in ((), (name,))
        and (
            np.issubdtype(one.dtype, np.datetime64)
            or "since" in one.encoding.get("units", "")
            or one.attrs.get("units") == ABSOLUTE
        )
    ]
    if len(found) == 1:
        yield found[0], "time"


def _variables(dataset: xr.Dataset) -> Iterator[tuple[Hashable, str]]:
    known = {name for one in VARIABLES.values() for name in one.names}
    told = defaultdict(list)
    for name, field in dataset.data_vars.items():
        mirrored = MIRRORS.fullmatch(str(name))
        if mirrored and (short := (mirrored["rda"] or mirrored["ncl"]).lower()) in known:
            told[short].append(name)
        elif name not in known:
            for one in VARIABLES.values():
                if _is_told(field, one):
                    told[one.name].append(name)
    for new, (first, *others) in told.items():
        if not others and new not in dataset.variables:
            yield first, new


def _is_told(field: xr.DataArray, known: Variable) -> bool:
    """Whether a standard name, and a height if there are several, say that a field is a variable."""
    if known.standard_name is None or field.attrs.get("standard_name") != known.standard_name or known.level:
        return False
    heights = [one.item() for name, one in field.coords.items() if str(name).startswith("height") and one.size == 1]
    return not known.height or known.height in heights
