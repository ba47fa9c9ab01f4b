"""The template of every output: CF variables on the projected grid, and what the output was made with.

`output_dataset` is the only definition of the output, whether it is returned, or written to NetCDF or Zarr.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from ldmdown.data.grid import Grid
from ldmdown.data.quantization import CONTAINER, CONVENTIONS, SIGNIFICANT_DIGITS, of_container, of_variable, quantized
from ldmdown.data.sites import Sites
from ldmdown.data.statistics import described, statistics
from ldmdown.data.variables import attributes, variable
from ldmdown.typing import Float32Array, IntArray

RUN = "ldmdown_run"  # the global attribute that holds what an output was made with
TIME = {
    "standard_name": "time",
    "units": "hours since 1970-01-01 00:00:00",
    "calendar": "standard",
    "axis": "T",
    "units_metadata": "leap_seconds: none",
}

FAR = "outside_training"  # the variable that flags hours
FAR_MEANING = {
    "standard_name": "status_flag",
    "long_name": "whether the input is far outside the training data",
    "flag_values": np.array([0, 1], np.int8),
    "flag_meanings": "no yes",
}


@dataclass(frozen=True)
class OutputTemplate:
    """Everything that outputs of one run have in common.

    Args:
        grid: the fine grid, already cut to its window.
        variables: their names, in the order of the fields' axis.
        members: None: one field an hour, without the dimension `realization`.
        attributes: global attributes.
        run: what decides the numbers (checkpoint, seed, steps, input ...): a run that is resumed must agree with it.
        earth_relative: whether wind components are known to point to true east and north.
        statistics: those of the members that the output holds.
        keep_members: whether it holds the members themselves.
        lossy: whether values are quantized.
        sites: the places that the output is for; None: all cells of the grid.
        input_members: the numbers of the members of the input, if it has several, each with an equal share of the
            members.
        far_hours: hours since 1970 whose input is far outside the training data; where there are any, a variable flags
            them.
    """

    grid: Grid
    variables: tuple[str, ...]
    members: int | None
    attributes: Mapping[str, str]
    run: Mapping[str, Any] = field(default_factory=dict)
    earth_relative: bool = True
    statistics: tuple[str, ...] = ()
    keep_members: bool = True
    lossy: bool = False
    sites: Sites | None = None
    input_members: tuple[int, ...] = ()
    far_hours: tuple[int, ...] = ()

    def of_hours(self, hours: IntArray) -> dict[str, Any]:
        """(dimensions, values, attributes) of what has one value an hour: the time, and the flag of far hours."""
        found: dict[str, Any] = {"time": ("time", hours.astype(np.int32), TIME)}
        if self.far_hours:
            found[FAR] = "time", np.isin(hours, self.far_hours).astype(np.int8), FAR_MEANING
        return found

    @property
    def kept_members(self) -> int | None:
        """The size of the dimension `realization`, if there is one."""
        return self.members if self.keep_members else None

    @property
    def names(self) -> tuple[str, ...]:
        """What the fields of the output are called, such as t2m, t2m_mean and t2m_p90."""
        kept = [""] if self.keep_members else []
        return tuple(
            f"{name}{ending}" for name in self.variables for ending in (*kept, *(f"_{one}" for one in self.statistics))
        )

    @property
    def place(self) -> Grid | Sites:
        """Where the values are: (rows, cols) or (sites,)."""
        return self.grid if self.sites is None else self.sites

    @property
    def place_dims(self) -> tuple[str, ...]:
        """The dimensions of that."""
        return ("y", "x") if self.sites is None else ("station",)

    def dims(self, name: str) -> tuple[str, ...]:
        """The dimensions of a field."""
        return ("time", *(["realization"] if self.members and name in self.variables else []), *self.place_dims)

    def shape(self, name: str) -> tuple[int, ...]:
        """([member,] rows, cols) or ([member,] sites) of an hour of a field."""
        return (*([self.members] if self.members and name in self.variables else []), *self.place.shape)

    def reduced(self, members: Float32Array) -> dict[str, Float32Array]:
        """The fields of an hour by name, from (member, variable, rows, cols) or (member, variable, sites)."""
        found: dict[str, Float32Array] = {}
        for channel, name in enumerate(self.variables):
            values, digits = members[:, channel], self._digits(name)
            made = {name: values.reshape(self.shape(name))} if self.keep_members else {}
            made |= {f"{name}_{key}": one for key, one in statistics(values, self.statistics).items()}
            found |= {key: quantized(one, digits) if digits else one for key, one in made.items()}
        return found

    def _digits(self, name: str) -> int | None:
        """The significant digits that are kept of a variable; None: all."""
        return SIGNIFICANT_DIGITS.get(variable(name).units) if self.lossy else None

    def meaning(self, name: str) -> dict[str, Any]:
        """The attributes of a field."""
        base, statistic = (name, "") if name in self.variables else name.rsplit("_", 1)
        of, digits, height = (
            attributes(base, earth_relative=self.earth_relative),
            self._digits(base),
            variable(base).height,
        )
        return {
            **(described(statistic, of) if statistic else of),
            **(of_variable(digits) if digits else {}),
            **({"grid_mapping": "crs"} if self.sites is None else {}),
            "coordinates": " ".join(
                ["lat lon", *self._other_coordinates(name), *([f"height_{height:g}m"] if height else [])]
            ),
        }

    def _other_coordinates(self, name: str) -> list[str]:
        """The coordinates that only some outputs have."""
        found = ["input_member"] if self.input_members and "realization" in self.dims(name) else []
        if self.sites is None:
            return found
        return [*found, "station_name", *(["altitude"] if np.isfinite(self.sites.height).any() else [])]

    def record(self, hours: IntArray) -> dict[str, Any]:
        """What an output of these hours was made with, as JSON holds it."""
        first, last = (str(np.datetime64(int(hour), "h")) for hour in (hours[0], hours[-1]))
        return json.loads(json.dumps({**self.run, "hours": f"{first} to {last} ({len(hours)})"}))


def output_dataset(
    template: OutputTemplate, hours: IntArray, fields: Mapping[str, Float32Array] | None = None
) -> xr.Dataset:
    """The output as it lies in a file (CF-1.11, or 1.12 if quantized); `xarray.decode_cf` gives it as xarray opens it.

    Args:
        template: what is common to all outputs of a run.
        hours: since 1970-01-01T00, rising.
        fields: by name (time, [member,] rows, cols), or sites instead of rows and columns; None: no hour yet.
    """
    if fields is None:
        fields = {name: np.empty((0, *template.shape(name)), np.float32) for name in template.names}
    conventions, container = (CONVENTIONS, f" {CONTAINER}") if template.lossy else ("CF-1.11", "")
    head = {"Conventions": conventions, **template.attributes}
    if template.sites is not None:
        head["featureType"] = "timeSeries"
    head["coordinates"] = f"{'crs x_bnds y_bnds' if template.sites is None else 'lat lon'}{container}"
    dataset = xr.Dataset(attrs=head)
    dataset.attrs[RUN] = json.dumps(template.record(hours))
    for name in template.names:
        dataset[name] = template.dims(name), fields[name], template.meaning(name)
    count = len(fields[template.names[0]])
    dataset = dataset.assign(_coordinates(template) | template.of_hours(hours[:count]))
    for one in dataset.variables.values():
        one.encoding["_FillValue"] = None
    return dataset


def _coordinates(template: OutputTemplate) -> dict[str, Any]:
    """(dimensions, values, attributes) of every variable that is neither a field nor time."""
    found: dict[str, Any] = {}
    if members := template.kept_members:
        meaning = {"standard_name": "realization", "long_name": "ensemble member", "units": "1"}
        found["realization"] = "realization", np.arange(members, dtype=np.int32), meaning
        if template.input_members:
            numbers = np.repeat(template.input_members, members // len(template.input_members)).astype(np.int32)
            found["input_member"] = "realization", numbers, {"long_name": "number of the input's member", "units": "1"}
    place = template.place
    for name, long_name, values in (("lat", "latitude", place.lat), ("lon", "longitude", place.lon)):
        units = "degrees_north" if name == "lat" else "degrees_east"
        meaning = {"standard_name": long_name, "long_name": long_name, "units": units}
        found[name] = template.place_dims, values, meaning
    found |= _of_grid(template.grid) if template.sites is None else _of_sites(template.sites)
    if template.lossy:
        found[CONTAINER] = (), np.int32(0), of_container()
    for height in sorted({height for name in template.variables if (height := variable(name).height)}):
        meaning = {"standard_name": "height", "long_name": "height above ground", "units": "m", "positive": "up"}
        found[f"height_{height:g}m"] = (), float(height), meaning
    return found


def _of_grid(grid: Grid) -> dict[str, Any]:
    """The coordinates of a grid beside latitude and longitude, and its projection."""
    found: dict[str, Any] = {}
    for axis, centres, step in (("y", grid.y, -grid.spacing), ("x", grid.x, grid.spacing)):
        meaning = {
            "standard_name": f"projection_{axis}_coordinate",
            "long_name": f"{axis} coordinate of projection",
            "units": "m",
            "axis": axis.upper(),
            "bounds": f"{axis}_bnds",
        }
        found[axis] = axis, centres, meaning
        found[f"{axis}_bnds"] = (axis, "bnds"), np.stack([centres - step / 2, centres + step / 2], axis=-1), {}
    return found | {"crs": ((), np.int32(0), grid.grid_mapping())}


def _of_sites(sites: Sites) -> dict[str, Any]:
    """The coordinates of sites beside latitude and longitude (CF-1.11, section 9 and appendix H.2)."""
    names = np.array(sites.names, object)
    found: dict[str, Any] = {"station_name": ("station", names, {"long_name": "name", "cf_role": "timeseries_id"})}
    if np.isfinite(sites.height).any():
        meaning = {"standard_name": "surface_altitude", "long_name": "height of the site", "units": "m"}
        found["altitude"] = "station", sites.height, meaning
    return found
