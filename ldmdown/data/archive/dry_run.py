"""What `prepare` would make, how large and in what time: measured on a few days that are made and thrown away."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
from rich.filesize import decimal

from ldmdown.config import Config
from ldmdown.data.archive.day import ArchiveJob, write_day
from ldmdown.data.archive.manifest import USES
from ldmdown.data.archive.sources import Day, used_files
from ldmdown.data.archive.store import ArchiveSource, within
from ldmdown.data.archive.writer import ArchiveWriter, layout
from ldmdown.data.grid import Grid
from ldmdown.data.parallel import workers

SAMPLES = 3  # days, spread over all; the first is made twice, so that what a process does once is not counted
SECONDS = 30.0  # after which no further day is made


def estimate(
    job: ArchiveJob, sources: Sequence[ArchiveSource], days: Sequence[Day], unmatched: Mapping[str, Sequence[int]]
) -> str:
    """Report what would be made of these days, and the hours of other days that are left out.

    Raises LdmdownError as the run itself would on these days.
    """
    config = job.config
    grid = Grid.of(config.grid)
    names = {"predictors": config.predictors, "targets": config.targets}
    total = sum(len(day.common) for day in days)
    spread = np.linspace(0, len(days) - 1, SAMPLES).round().astype(int).tolist()
    size, seconds, sampled = _sample(job, sources, [days[index] for index in sorted(set(spread))], grid, names)
    raw = total * sum(np.dtype(part["dtype"]).itemsize * prod(part["shape"]) for part in layout(grid, names).values())
    cores = workers()
    lines = [f"{config.data.archive}: {total:,} hours of {len(days):,} days", *_uses(config, days)]
    lines += _variables(config, grid, names)
    for kind, files in used_files(days, job.root).items():
        if files:
            lines.append(f"  {kind:<11}{len(files):,} files, {decimal(sum(file['bytes'] or 0 for file in files))}")
    for one in sources:
        if one.is_partial:
            lines.append(f"  {'covers':<11}{one.valid.mean():.0%} of the grid has values of {one.name}")
    for reason, left in unmatched.items():
        if left:
            lines.append(f"  left out   {len(left):,} hours of days that are {reason}")
    lines.append(f"  {'size':<11}about {decimal(round(size / sampled * total))} (uncompressed {decimal(raw)})")
    lines.append(
        f"  {'time':<11}about {_time(seconds / sampled * total / cores)} on {cores} cores: {seconds / sampled:.2f} s "
        f"an hour and core, measured on {sampled} hours; --scheduler spreads days over a cluster"
    )
    return "\n".join(lines)


def _uses(config: Config, days: Sequence[Day]) -> Iterator[str]:
    for use in USES:
        hours = [
            hour
            for day in days
            for hour in day.common
            if within(np.array([hour]), getattr(config.data.pairs[day.key.source].split, use)).any()
        ]
        numbers = sorted({hour // 24 for hour in hours})
        if hours:
            span = f"{np.datetime64(numbers[0], 'D')} to {np.datetime64(numbers[-1], 'D')}"
            yield f"  {use:<11}{len(hours):,} hours of {len(numbers):,} days, {span}"


def _variables(config: Config, grid: Grid, names: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for label, kind, part, held in (
        ("predictors", "predictors", grid.coarse, config.predictors),
        ("target", "target", grid, config.targets),
    ):
        tile = " x ".join(map(str, layout(grid, names)[kind]["chunks"]))
        size = f"{part.rows} x {part.cols} cells of {part.spacing / 1000:g} km"
        yield f"  {label:<11}{', '.join(held)}; {size}, chunks {tile}, a day a shard"
    if config.statics.fields:
        yield f"  {'statics':<11}{', '.join(config.statics.fields)}"


def _sample(
    job: ArchiveJob,
    sources: Sequence[ArchiveSource],
    days: Sequence[Day],
    grid: Grid,
    names: Mapping[str, Sequence[str]],
) -> tuple[int, float, int]:
    """Bytes and seconds of how many hours."""
    with tempfile.TemporaryDirectory(prefix="ldmdown-") as folder:
        job = replace(job, archive=Path(folder) / "archive.zarr")
        writer = ArchiveWriter.begin(job.archive, grid, names, sources, [day.key for day in days], {}, {})
        empty = _size(writer.part)
        write_day(job, days[0])
        start, hours = time.monotonic(), 0
        for day in days:
            write_day(job, day)
            hours += len(writer.record(day.key)["hours"])
            if time.monotonic() - start > SECONDS:
                break
        seconds = time.monotonic() - start
        records = sum(file.stat().st_size for file in (writer.part / "records").iterdir())
        return _size(writer.part) - empty - records, seconds, hours


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _time(seconds: float) -> str:
    units = ((86400, "days"), (3600, "hours"), (60, "minutes"))
    unit = next((unit for unit in units if seconds >= 2 * unit[0]), (1, "s"))
    return f"{seconds / unit[0]:.2g} {unit[1]}"
