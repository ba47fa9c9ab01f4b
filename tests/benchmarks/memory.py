"""Memory of `ldmdown downscale` against the number of hours: the largest resident set of fresh processes.

    OMP_NUM_THREADS=1 python tests/benchmarks/memory.py [OPTIONS OF ldmdown downscale]

The hours are those of examples/era5_italy.nc again and again, over a degree of central Italy.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import xarray as xr

ERA5 = Path(__file__).parents[2] / "examples" / "era5_italy.nc"
HOURS = 24, 720


def main(options: list[str]) -> None:
    """Print a line for each number of hours."""
    with tempfile.TemporaryDirectory() as folder:
        for hours in HOURS:
            era5, out = Path(folder) / f"era5_{hours}.nc", Path(folder) / f"out_{hours}.nc"
            with xr.open_dataset(ERA5) as held:
                longer = held.isel(valid_time=np.arange(hours) % held.sizes["valid_time"])
                first = np.datetime64("2022-01-01", "ns")
                longer.assign_coords(valid_time=first + np.arange(hours) * np.timedelta64(1, "h")).to_netcdf(era5)
            box = ["--bbox", "12", "41", "13", "42"]
            command = [sys.executable, "-m", "ldmdown", "downscale", str(era5), "-o", str(out), *box, *options]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"{command} ended with {status}")
            print(f"{hours:4} hours {usage.ru_maxrss / 1000:6.0f} MB {usage.ru_utime + usage.ru_stime:6.1f} s of CPU")


if __name__ == "__main__":
    main(sys.argv[1:])
