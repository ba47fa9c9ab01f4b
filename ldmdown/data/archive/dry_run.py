"""What `prepare` would make, how large and in what time: measured on a few days that are made and thrown away."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np

from ldmdown.config import Config
from ldmdown.data.archive.day import Job, write_day
from ldmdown.data.archive.sources import Day, used_files
from ldmdown.data.archive.store import ArchiveWriter, layout, within
from ldmdown.data.grid import Grid
from ldmdown.data.parallel import workers

SAMPLES = 3  # days, spread over all; the first is made twice, so that what a process does once is not counted
SECONDS = 30.0  # after which no further day is made


def rehearse(config: Config, root: Path, days: Sequence[Day], alone: Mapping[str, Sequence[int]]) -> str:
    """The report, of days that both sources have and the hours of other days that one has.

    Raises
    ------
    LdmdownError
        as the run itself would on these days.
    """
    grid = Grid.of(config.grid)
    names = {"predictors": config.predictors, "targets": config.targets}
    hours = {day.number: len(set(day.hours["era5"]) & set(day.hours["reference"])) for day in days}
    total = sum(hours.values())
    size, seconds, sampled = _sample(config, root, [days[i] for i in _spread(len(days))], grid, names)
    per_hour = size / sampled, seconds / sampled
    lines = [f"{config.data.archive}: {total:,} hours of {len(days):,} days"]
    split = config.data.split
    for use, periods in (("train", split.train), ("validation", split.validation), ("test", split.test)):
        numbers = np.array(list(hours), np.int64)
        inside = numbers[within(24 * numbers, periods)].tolist()
        if inside:
            lines.append(f"  {use:<11}{sum(hours[n] for n in inside):,} hours of {len(inside):,} days, "
                         f"{np.datetime64(inside[0], 'D')} to {np.datetime64(inside[-1], 'D')}")  # fmt: skip
    for label, kind, part, held in (("predictors", "predictors", grid.coarse, config.predictors),
                                    ("target", "target", grid, config.targets)):  # fmt: skip
        tile = " x ".join(map(str, layout(grid, names)[kind]["chunks"]))
        lines.append(f"  {label:<11}{', '.join(held)}; {part.rows} x {part.cols} cells of {part.spacing / 1000:g} km, "
                     f"chunks {tile}, a day a shard")  # fmt: skip
    if config.statics.fields:
        lines.append(f"  {'statics':<11}{', '.join(config.statics.fields)}")
    for kind, files in used_files(days, root).items():
        lines.append(f"  {kind:<11}{len(files):,} files, {_bytes(sum(file['bytes'] or 0 for file in files))}")
    for reason, left in alone.items():
        if left:
            lines.append(f"  left out   {len(left):,} hours of days that are {reason}")
    raw = total * sum(np.dtype(part["dtype"]).itemsize * prod(part["shape"]) for part in layout(grid, names).values())
    lines.append(f"  {'size':<11}about {_bytes(per_hour[0] * total)} (uncompressed {_bytes(raw)})")
    cores = workers()
    lines.append(f"  {'time':<11}about {_time(per_hour[1] * total / cores)} on {cores} cores: {per_hour[1]:.2f} s "
                 f"an hour and core, measured on {sampled} hours; --scheduler spreads days over a cluster")  # fmt: skip
    return "\n".join(lines)


def _spread(days: int) -> list[int]:
    return sorted(set(np.linspace(0, days - 1, SAMPLES).round().astype(int).tolist()))


def _sample(
    config: Config, root: Path, days: Sequence[Day], grid: Grid, names: Mapping[str, Sequence[str]]
) -> tuple[int, float, int]:
    """Bytes and seconds of how many hours."""
    with tempfile.TemporaryDirectory(prefix="ldmdown-") as folder:
        job = Job(config, root, Path(folder) / "archive.zarr")
        writer = ArchiveWriter.begin(job.archive, grid, names, [day.number for day in days], {}, {})
        empty = _size(writer.part)
        write_day(job, days[0])
        start, hours = time.monotonic(), 0
        for day in days:
            write_day(job, day)
            hours += len(writer.record(day.number)["hours"])
            if time.monotonic() - start > SECONDS:
                break
        seconds = time.monotonic() - start
        records = sum(file.stat().st_size for file in (writer.part / "records").iterdir())
        return _size(writer.part) - empty - records, seconds, hours


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _bytes(size: float) -> str:
    unit = next((unit for unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")) if size >= unit[0]), (1e3, "kB"))
    return f"{size / unit[0]:.3g} {unit[1]}"


def _time(seconds: float) -> str:
    unit = next(
        (unit for unit in ((86400, "days"), (3600, "hours"), (60, "minutes")) if seconds >= 2 * unit[0]), (1, "s")
    )
    return f"{seconds / unit[0]:.2g} {unit[1]}"
