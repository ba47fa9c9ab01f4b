"""What processes cost: one run divided among several, and several runs side by side.

    python tests/benchmarks/processes.py ERA5.nc [downscale options]

Prints seconds of wall and of CPU for each hour of a run of `ldmdown downscale` with `--processes` 1 to 8 (beyond the
cores they wait for each other), and for each hour of 1 to 4 runs that start together, each in one process.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ldmdown.data.reading.fields import open_fields


def main(era5: Path, options: list[str]) -> None:
    """Print both tables."""
    with open_fields([era5], ("t2m", "u10", "v10")) as fields:
        hours = len(fields)
    print(f"{'':20}{'wall [s]':>10}{'CPU [s]':>10}   for each of {hours} hours")
    for processes in (1, 2, 4, 8):
        show(f"{processes} processes", hours, *seconds(era5, [*options, "--processes", str(processes)], 1))
    for runs in (1, 2, 4):
        show(f"{runs} runs together", runs * hours, *seconds(era5, options, runs))


def show(what: str, hours: int, wall: float, cpu: float) -> None:
    """Print a row."""
    print(f"{what:20}{wall / hours:10.2f}{cpu / hours:10.2f}", flush=True)


def seconds(era5: Path, options: list[str], runs: int) -> tuple[float, float]:
    """Wall and CPU seconds until all runs have ended."""
    with tempfile.TemporaryDirectory() as folder:
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "ldmdown", "--quiet", "downscale", era5, "-o", f"{folder}/{run}.nc", *options]
            )
            for run in range(runs)
        ]
        if any(run.wait() for run in started):
            sys.exit("a run has failed")
        wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
