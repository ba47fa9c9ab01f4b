"""Time and peak memory of `ldmdown evaluate` over a week and over a month of the whole domain.

    python tests/benchmarks/evaluate.py FOLDER [DAYS ...]

An ensemble of 4 members and a reference of made-up fields, a file a day, which differ in their hours only.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import netCDF4
import numpy as np
from scipy import ndimage

from ldmdown.data.grid import Grid
from ldmdown.data.netcdf import NetcdfWriter
from ldmdown.data.template import OutputTemplate

GRID = Grid()
FIRST = 403_224  # 2016-01-01T00
MEMBERS = 4
SCALES = {"t2m": (285, 8), "u10": (0, 4), "v10": (0, 4)}
CARD = {"title": "made up", "history": "", "source": "noise", "references": ""}


def write(path: Path, members: int | None, seed: int) -> None:
    """A day, whose fields are one pattern at places of their own."""
    random = np.random.default_rng(seed)
    rows, cols = GRID.shape
    pattern = ndimage.gaussian_filter(random.normal(size=(3, rows, cols)), (0, 3, 3), mode="wrap")
    pattern /= pattern.std()
    hours = np.arange(FIRST, FIRST + 24)
    writer = NetcdfWriter(path, OutputTemplate(GRID, tuple(SCALES), members, CARD), hours, overwrite=True)
    writer.begin()
    for index in range(24):
        fields = [
            [mean + scale * np.roll(part, random.integers(rows), axis=0) for part, (mean, scale) in
             zip(pattern, SCALES.values(), strict=True)]
            for _ in range(members or 1)
        ]  # fmt: skip
        writer.write(index, writer.template.reduced(np.array(fields, np.float32)))
    writer.close()


def main(folder: Path, lengths: list[int]) -> None:
    """Print a row for each length; the peak is that of the longest so far, so they rise."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, members, seed in (("prediction", MEMBERS, 0), ("reference", None, 1)):
        write(folder / f"{name}.nc", members, seed)
    for days in sorted(lengths):
        part = folder / str(days)
        part.mkdir(exist_ok=True)
        for name in ("prediction", "reference"):
            for day in range(days):
                shutil.copy(folder / f"{name}.nc", file := part / f"{name}-{day:02}.nc")
                with netCDF4.Dataset(file, "a") as dataset:
                    dataset["time"][:] = FIRST + 24 * day + np.arange(24)
        command = [sys.executable, "-m", "ldmdown", "evaluate", str(part / "prediction-*.nc"), "--reference"]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(
            [*command, str(part / "reference-*.nc"), "-o", str(part / "scores")], check=True, stdout=subprocess.DEVNULL
        )
        after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"{24 * days:4} hours, {MEMBERS} members: {wall:.0f} s, {cpu:.0f} s of the processor, "
              f"peak {after.ru_maxrss / 1000:.0f} MB", flush=True)  # fmt: skip
        shutil.rmtree(part)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(days) for days in sys.argv[2:]] or [7, 31])
