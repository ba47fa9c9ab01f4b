"""`ldmdown request`: a script that downloads ERA5 from the Climate Data Store."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np

from ldmdown.config import GridConfig
from ldmdown.data.grid import ERA5_SPACING, Grid
from ldmdown.data.variables import variable
from ldmdown.header import find, read_header

MARGIN = 0.25  # around the grid [degrees]


def request(checkpoint: str, first: date, last: date) -> str:
    """A Python program that downloads what a checkpoint (several joined by a comma) needs of these days.

    Raises LdmdownError if there is no such checkpoint.
    """
    configs = [read_header(find(name))["config"] for name in checkpoint.split(",")]
    names = tuple(dict.fromkeys(name for config in configs for name in config["predictors"]))
    return cds_script(names, Grid.of(GridConfig.model_validate(configs[0]["grid"])), first, last)


def cds_script(names: Sequence[str], grid: Grid, first: date, last: date) -> str:
    """A Python program that downloads these variables over a grid and a margin, a month a file, with cdsapi."""
    known = [variable(name) for name in names if not variable(name).derived]
    lat, lon = grid.coarse.lat, grid.coarse.lon
    north, west, south, east = lat.max(), lon.min(), lat.min(), lon.max()
    north, east = (float(np.ceil(edge / ERA5_SPACING) * ERA5_SPACING + MARGIN) for edge in (north, east))
    south, west = (float(np.floor(edge / ERA5_SPACING) * ERA5_SPACING - MARGIN) for edge in (south, west))
    kinds = {
        "single": ("reanalysis-era5-single-levels", [one for one in known if one.level is None], {}),
        "pressure": (
            "reanalysis-era5-pressure-levels",
            [one for one in known if one.level is not None],
            {"pressure_level": sorted({str(one.level) for one in known if one.level is not None})},
        ),
    }
    months = [
        np.datetime64(first, "M") + n
        for n in range(int((np.datetime64(last, "M") - np.datetime64(first, "M")).astype(int)) + 1)
    ]
    lines = [
        "# needs `pip install cdsapi` and an account: https://cds.climate.copernicus.eu/how-to-api",
        "import cdsapi",
        "",
        "client = cdsapi.Client()",
    ]
    for month in months:
        days = np.arange(month.astype("datetime64[D]"), (month + 1).astype("datetime64[D]"))
        days = days[(days >= np.datetime64(first, "D")) & (days <= np.datetime64(last, "D"))]
        for kind, (dataset, variables, levels) in kinds.items():
            if not variables:
                continue
            request = {
                "product_type": ["reanalysis"],
                "variable": [str(one.cds) for one in variables],
                **levels,
                "year": [str(month)[:4]],
                "month": [str(month)[5:7]],
                "day": [str(day)[8:10] for day in days],
                "time": [f"{hour:02}:00" for hour in range(24)],
                "area": [north, west, south, east],
                "data_format": "netcdf",
            }
            body = "".join(f"        {key!r}: {value!r},\n" for key, value in request.items())
            name = f"era5_{kind}_{str(month).replace('-', '')}.nc"
            lines.append(f"client.retrieve(\n    {dataset!r},\n    {{\n{body}    }},\n    {name!r},\n)")
    return "\n".join(lines) + "\n"
