"""One day of an archive: its hours read from coarse and fine data, checked, written, and counted for the statistics."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ldmdown.config import Config
from ldmdown.data.archive.pair import FieldReader, open_pair
from ldmdown.data.archive.sources import Day, describe, digest, only_in
from ldmdown.data.archive.store import KINDS, fine_cells, within
from ldmdown.data.archive.writer import ArchiveWriter
from ldmdown.data.grid import Grid
from ldmdown.data.normalization import Moments
from ldmdown.data.variables import variable
from ldmdown.errors import LdmdownError, UnreadableError
from ldmdown.typing import BoolArray, Float32Array


@dataclass(frozen=True)
class ArchiveJob:
    """What all days share: the configuration, the folder that its paths start from, and the archive.

    `unpack_to` is a folder for what zips hold.
    """

    config: Config
    root: Path
    archive: Path
    unpack_to: Path


def write_day(job: ArchiveJob, day: Day) -> None:
    """Write all hours of a day that both sources have, and note what the statistics and the manifest need.

    An hour that cannot be used, because a value is missing or not physical, is left out and noted with the
    reason.

    Raises LdmdownError if a file cannot be read, which can be downloaded again, or no hour of the day can be used,
    which is no slip of an hour but a wrong file or unit.
    """
    source = job.config.data.pairs[day.key.source]
    try:
        with open_pair(job.config, job.root, source, day.files, job.unpack_to) as (readers, on_boxes):
            record, failure = _write_hours(job, day, readers, on_boxes)
    except (OSError, RuntimeError) as error:  # of published files
        files = ", ".join(name for used in day.files.values() for name in used)
        raise LdmdownError(files, "cannot be read", found=str(error), fix="download them again") from None
    if failure is not None and not record["hours"]:
        raise failure


def _write_hours(
    job: ArchiveJob, day: Day, readers: dict[str, FieldReader], on_boxes: FieldReader | None
) -> tuple[dict[str, Any], LdmdownError | None]:
    """Write the hours; returns the record of the day, and the first failure."""
    writer = ArchiveWriter(job.archive)
    names = {"predictors": job.config.predictors, "target": job.config.targets}
    valid, split = writer.valid[day.key.source], job.config.data.pairs[day.key.source].split
    moments = {kind: Moments() for kind in KINDS}
    fields = writer.new_day()
    written: list[int] = []
    unusable: dict[int, LdmdownError] = {}
    places = {kind: {int(hour): index for index, hour in enumerate(reader.hours)} for kind, reader in readers.items()}
    held = {kind: set(places[kind]) & set(day.hours[kind]) for kind in readers}
    for hour in sorted(held["era5"] & held["reference"]):
        try:
            predictors, target = (readers[kind].read(places[kind][hour]) for kind in ("era5", "reference"))
            predictors, target = _inside(job.config, valid, predictors, target, day, hour)
            boxes = None if on_boxes is None else on_boxes.read(places["era5"][hour])
        except UnreadableError:
            raise
        except LdmdownError as error:
            unusable[hour] = error
            continue
        stored = writer.put(fields, hour, predictors, target, boxes)
        written.append(hour)
        if within(np.array([hour]), split.train).any():
            for kind in KINDS:
                for name, field in zip(names[kind], stored[kind], strict=True):
                    moments[kind].add(name, field)
    dropped = {only_in(job.config, day.key.source, kind): sorted(held[kind] - {*written, *unusable}) for kind in held}
    dropped |= {" ".join(str(error).split()): [hour] for hour, error in unusable.items()}
    record = {
        "hours": written,
        "dropped": dropped,
        "notes": list(dict.fromkeys(note for reader in readers.values() for note in reader.notes)),
        "moments": {kind: asdict(seen) for kind, seen in moments.items()},
        "sha256": {str(describe(name, job.root)["name"]): digest(name) for name in day.first},
    }
    if written or not unusable:
        writer.write(day.key, fields, record)
    return record, next(iter(unusable.values()), None)


def _inside(
    config: Config, valid: BoolArray, predictors: Float32Array, target: Float32Array, day: Day, hour: int
) -> tuple[Float32Array, Float32Array]:
    """Both, NaN outside the coarse cells that the source covers; inside nothing may be missing."""
    fine = fine_cells(valid, Grid.of(config.grid))
    for names, fields, cells in ((config.predictors, predictors, valid), (config.targets, target, fine)):
        for name, field in zip(names, fields, strict=True):
            missing = np.isnan(field) & cells
            if variable(name).fill is None and missing.any():
                raise LdmdownError(
                    ", ".join(day.files["reference"]),
                    f"{name} has missing values on the grid at {np.datetime64(hour, 'h')}",
                    found=f"{np.count_nonzero(missing)} of {missing.size} cells",
                    fix="leave the hour out, or choose a smaller grid",
                )
    return np.where(valid, predictors, np.nan).astype(np.float32), np.where(fine, target, np.nan).astype(np.float32)
