"""`ldmdown request`: scripts that download ERA5 from the Climate Data Store and VHR-REA_IT from CMCC's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

import numpy as np

from ldmdown.config import GridConfig
from ldmdown.data.grid import ERA5_SPACING, Grid
from ldmdown.data.variables import variable
from ldmdown.header import find, read_header

MARGIN = 0.25  # around the grid [degrees]
REFERENCE = {"t2m": "air_temperature", "u10": "grid_eastward_wind", "v10": "grid_northward_wind"}  # CMCC's names


def request(checkpoint: str, first: date, last: date, *, reference: bool = False) -> str:
    """A Python program that downloads what a checkpoint (several joined by a comma) needs of these days.

    `reference`: the targets in VHR-REA_IT, not the predictors in ERA5.

    Raises LdmdownError if there is no such checkpoint.
    """
    configs = [read_header(find(name))["config"] for name in checkpoint.split(",")]
    kind = "targets" if reference else "predictors"
    names = tuple(dict.fromkeys(name for config in configs for name in config[kind]))
    script = dds_script if reference else cds_script
    return script(names, Grid.of(GridConfig.model_validate(configs[0]["grid"])), first, last)


def cds_script(names: Sequence[str], grid: Grid, first: date, last: date) -> str:
    """A Python program that downloads these variables over a grid and a margin, a month a file, with cdsapi."""
    known = [variable(name) for name in names if not variable(name).derived]
    kinds = {
        "single": ("reanalysis-era5-single-levels", [one for one in known if one.level is None], {}),
        "pressure": (
            "reanalysis-era5-pressure-levels",
            [one for one in known if one.level is not None],
            {"pressure_level": sorted({str(one.level) for one in known if one.level is not None})},
        ),
    }
    calls = []
    for month, when in _months(first, last):
        for kind, (dataset, variables, levels) in kinds.items():
            if not variables:
                continue
            request = {
                "product_type": ["reanalysis"],
                "variable": [str(one.cds) for one in variables],
                **levels,
                **when,
                "time": [f"{hour:02}:00" for hour in range(24)],
                "area": _area(grid),
                "data_format": "netcdf",
            }
            calls.append(_call((dataset,), request, f"era5_{kind}_{month}.nc"))
    needs = "`pip install cdsapi` and an account: https://cds.climate.copernicus.eu/how-to-api"
    return _script("cdsapi", needs, calls)


def dds_script(names: Sequence[str], grid: Grid, first: date, last: date) -> str:
    """A Python program that downloads these variables of VHR-REA_IT over a grid, a month a file, with ddsapi."""
    variables = [REFERENCE[name] for name in names if name in REFERENCE]
    area = dict(zip(("north", "west", "south", "east"), _area(grid), strict=True))
    calls = []
    for month, when in _months(first, last):
        time = when | {"hour": [f"{hour:02}" for hour in range(24)]}
        request = {"area": area, "time": time, "variable": variables, "format": "netcdf"}
        calls.append(_call(("era5-downscaled-over-italy", "hourly"), request, f"VHR-REA_IT_{month}.nc"))
    needs = "`pip install ddsapi` and an account; if it is refused, compare the form at https://dds.cmcc.it"
    return _script("ddsapi", needs, calls)


def _area(grid: Grid) -> list[float]:
    """North, west, south and east of a grid with a margin, on ERA5's grid [degrees]."""
    lat, lon = grid.coarse.lat, grid.coarse.lon
    north, east = (float(np.ceil(edge / ERA5_SPACING) * ERA5_SPACING + MARGIN) for edge in (lat.max(), lon.max()))
    south, west = (float(np.floor(edge / ERA5_SPACING) * ERA5_SPACING - MARGIN) for edge in (lat.min(), lon.min()))
    return [north, west, south, east]


def _months(first: date, last: date) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """The months as 202001, each with its year, month and days as requests name them."""
    days = np.arange(np.datetime64(first, "D"), np.datetime64(last, "D") + 1)
    months = days.astype("datetime64[M]")
    for month in np.unique(months):
        year, number = str(month).split("-")
        held = [str(day)[8:] for day in days[months == month]]
        yield f"{year}{number}", {"year": [year], "month": [number], "day": held}


def _call(dataset: Sequence[str], request: dict[str, Any], file: str) -> str:
    body = "".join(f"        {key!r}: {value!r},\n" for key, value in request.items())
    names = ", ".join(map(repr, dataset))
    return f"client.retrieve(\n    {names},\n    {{\n{body}    }},\n    {file!r},\n)\n"


def _script(package: str, needs: str, calls: Sequence[str]) -> str:
    return f"# needs {needs}\nimport {package}\n\nclient = {package}.Client()\n{''.join(calls)}"
