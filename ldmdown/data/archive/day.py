"""One day of an archive: its hours read from both sources, checked, written, and counted for the statistics."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from ldmdown.config import Config
from ldmdown.data.archive.sources import Day, describe, open_day, sha256
from ldmdown.data.archive.store import KINDS, ArchiveWriter
from ldmdown.data.normalization import Moments
from ldmdown.errors import LdmdownError


@dataclass(frozen=True)
class Job:
    """What all days share: the configuration, the folder that its paths start from, and the archive."""

    config: Config
    root: Path
    archive: Path


def write_day(job: Job, day: Day) -> None:
    """Write all hours of a day that both sources have, and note what the statistics and the manifest need.

    An hour that cannot be used, because a value is missing or not physical, is left out and noted with the
    reason.

    Raises
    ------
    LdmdownError
        if a file cannot be read, or no hour of the day can be used, which is no slip of an hour but a wrong
        file or unit.
    """
    writer = ArchiveWriter(job.archive)
    names = {"predictors": job.config.predictors, "target": job.config.targets}
    moments = {kind: Moments() for kind in KINDS}
    fields = writer.new_day()
    written: list[int] = []
    unusable: dict[int, LdmdownError] = {}
    opened = ExitStack()
    try:
        readers = open_day(job.config, job.root, day.files)
        for reader in readers.values():
            opened.callback(reader.close)
        places = {kind: {int(hour): index for index, hour in enumerate(readers[kind].hours)} for kind in readers}
        held = {kind: set(places[kind]) & set(day.hours[kind]) for kind in readers}
        for hour in sorted(held["era5"] & held["reference"]):
            try:
                predictors, target = (readers[kind].read(places[kind][hour]) for kind in ("era5", "reference"))
            except LdmdownError as error:
                unusable[hour] = error.with_traceback(None)  # which would keep the files open
                continue
            stored = writer.put(fields, hour, predictors, target)
            written.append(hour)
            for kind in KINDS:
                for name, field in zip(names[kind], stored[kind], strict=True):
                    moments[kind].add(name, field)
    except (OSError, RuntimeError) as error:  # of netCDF4 and eccodes over a damaged file
        files = ", ".join(name for used in day.files.values() for name in used)
        raise LdmdownError(files, "cannot be read", found=str(error), fix="download them again") from None
    finally:
        opened.close()
    notes = [note for reader in readers.values() for note in reader.notes]
    if unusable and not written:
        raise next(iter(unusable.values()))
    dropped = {f"only in {kind}": sorted(held[kind] - {*written, *unusable}) for kind in held}
    dropped |= {" ".join(str(error).split()): [hour] for hour, error in unusable.items()}
    record = {
        "hours": written,
        "dropped": dropped,
        "notes": notes,
        "moments": {kind: asdict(seen) for kind, seen in moments.items()},
        "sha256": {str(describe(name, job.root)["name"]): sha256(name) for name in day.first},
    }
    writer.write(day.number, fields, record)
