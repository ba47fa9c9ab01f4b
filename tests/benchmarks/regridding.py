"""How long a month of 14 hourly predictors takes from files to the coarse grid, beside cdo.

    python tests/benchmarks/regridding.py

Both read one NetCDF of 59 x 71 cells and end on 84 x 72 cells; cdo also writes them, ldmdown keeps them for
the networks. They take turns in one run, so that ratios hold on a noisy machine. Needs cdo.
"""

from __future__ import annotations

import resource
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import xarray as xr

from ldmdown.data.grid import Grid
from ldmdown.data.reading.fields import open_fields
from ldmdown.data.reading.regridded import Regridded
from ldmdown.data.variables import VARIABLES

ROUNDS = 3
HOURS = 744
NAMES = ("t2m", "msl", "u10", "v10", "d2m", "sst", "sd", "tp", "ssrd", "q850", "t850", "u850", "v850", "w850")


def main() -> None:
    """Print both times, their ratio, and how far the results are apart."""
    coarse = Grid().coarse
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        month(folder / "era5.nc")
        (folder / "grid").write_text(target(coarse))
        spent: dict[str, list[tuple[float, float]]] = {"cdo": [], "ldmdown": []}
        for _ in range(ROUNDS):
            began = clocks(resource.RUSAGE_CHILDREN)
            subprocess.run(["cdo", "-s", "remapbil,grid", "era5.nc", "out.nc"], cwd=folder, check=True)
            spent["cdo"].append(since(began, resource.RUSAGE_CHILDREN))
            began = clocks(resource.RUSAGE_SELF)
            predictors = Regridded(open_fields([folder / "era5.nc"], NAMES), coarse, NAMES)
            for hour in range(len(predictors.hours)):
                field = predictors.read(hour)
            spent["ldmdown"].append(since(began, resource.RUSAGE_SELF))
        with xr.open_dataset(folder / "out.nc", engine="netcdf4") as theirs:
            apart = {
                one: float(np.nanmax(np.abs(field[i] - theirs[one][-1].values)) / theirs[one][-1].values.std())
                for i, one in enumerate(NAMES)
                if VARIABLES[one].regridding == "bilinear"
            }
    middle = {who: np.median(values, axis=0) for who, values in spent.items()}
    for who, (wall, processor) in middle.items():
        print(f"{who:8} {wall:6.2f} s, of which the processor works {processor:.2f} s")
    wall, processor = middle["cdo"] / middle["ldmdown"]
    print(f"ldmdown is {wall:.1f} times as fast as cdo, and takes {1 / processor:.2f} of its processor time")
    print(f"bilinear fields differ by at most {max(apart.values()):.1e} of their std")


def clocks(who: int) -> tuple[float, float]:
    """Seconds on the wall, and of the processor."""
    used = resource.getrusage(who)
    return time.perf_counter(), used.ru_utime + used.ru_stime


def since(began: tuple[float, float], who: int) -> tuple[float, float]:
    """What went by."""
    wall, processor = clocks(who)
    return wall - began[0], processor - began[1]


def month(path: Path) -> None:
    """A made-up month, an hour a chunk."""
    lat, lon = np.arange(48.5, 33.9, -0.25)[:59], np.arange(3.5, 21.1, 0.25)[:71]
    random = np.random.default_rng(0)
    fields = {}
    for name in NAMES:
        low, high = (max(min(edge, 1e5), -50) for edge in VARIABLES[name].bounds)
        middle, width = (low + high) / 2, (high - low) / 4
        values = (middle + width * random.uniform(-1, 1, (HOURS, 59, 71))).astype(np.float32)
        fields[name] = (("time", "lat", "lon"), values, {"units": VARIABLES[name].units}, {"chunksizes": (1, 59, 71)})
    times = np.datetime64("2021-01-01", "ns") + np.arange(HOURS) * np.timedelta64(1, "h")
    axes = {"lat": ("lat", lat, {"units": "degrees_north"}), "lon": ("lon", lon, {"units": "degrees_east"})}
    xr.Dataset(fields, {"time": times, **axes}).to_netcdf(path, engine="netcdf4")


def target(grid: Grid) -> str:
    """A grid as cdo reads it."""
    rows, cols = grid.shape
    lines = ["gridtype = curvilinear", f"gridsize = {rows * cols}", f"xsize = {cols}", f"ysize = {rows}"]
    for name, values in (("xvals", grid.lon), ("yvals", grid.lat)):
        lines += [f"{name} =", *(" ".join(f"{value:.8f}" for value in row) for row in values)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
