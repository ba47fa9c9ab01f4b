"""The raw files of an archive: which there are, what hours they hold, and how the hours of a day are read.

Files are looked at once, for their hours alone; a day then opens its own few files, so that neither time to
open nor memory grows with the years.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ldmdown.config import Config
from ldmdown.data import parallel
from ldmdown.data.archive.store import Hours, within
from ldmdown.data.grid import Grid
from ldmdown.data.reading import published
from ldmdown.data.reading.fields import open_fields
from ldmdown.data.reading.files import GriddedFiles
from ldmdown.data.reading.regridded import Regridded, check_coverage
from ldmdown.errors import LdmdownError

KINDS = ("era5", "reference")
STORE = ("zarr.json", ".zgroup", ".zmetadata")  # in a folder that is a Zarr store
BATCH = 100  # files that a task looks at

Catalogue = Mapping[str, Mapping[str, Hours]]
"""By kind and name of file, the hours that it holds."""


class Reader(Protocol):
    """Fields on the project's grid, hour by hour."""

    hours: Hours
    notes: Sequence[str]  # what was decided about the files that a user should know

    def read(self, index: int) -> NDArray[np.float32]:
        """(variable, rows, cols) in physical units; an LdmdownError if the hour cannot be used."""

    def close(self) -> None:
        """Close the files."""


@dataclass(frozen=True)
class Day:
    """A day since 1970-01-01 that both sources have: its files by kind, and the hours that these list.

    `first` are the files that no earlier day has.
    """

    number: int
    files: Mapping[str, tuple[str, ...]]
    hours: Mapping[str, tuple[int, ...]]
    first: tuple[str, ...]


def periods(config: Config) -> list[tuple[Any, Any]]:
    """Of all uses: first and last days."""
    split = config.data.split
    return [period for use in (split.train, split.validation, split.test) for period in use]


def catalogue(
    config: Config, root: Path, scheduler: str | None = None, progress: Callable[[int, int], None] = lambda *_: None
) -> Catalogue:
    """Look at all files; `progress` is called with how many of how many were looked at.

    Raises
    ------
    LdmdownError
        if there are none of a kind, or one cannot be read.
    """
    if config.data.published is not None:
        return published.catalogue(root / config.data.published, config.targets)
    names = {kind: list_files(root, getattr(config.data, kind), kind) for kind in KINDS}
    batches = [
        (kind, held[start : start + BATCH]) for kind, held in names.items() for start in range(0, len(held), BATCH)
    ]
    total, done = sum(map(len, names.values())), itertools.count(1)
    hours = parallel.run(
        _look, batches, scheduler=scheduler, advance=lambda: progress(min(next(done) * BATCH, total), total)
    )
    found: dict[str, dict[str, Hours]] = {kind: {} for kind in KINDS}
    for (kind, batch), held in zip(batches, hours, strict=True):
        found[kind].update(zip(batch, held, strict=True))
    return found


def hours_in(path: str) -> Hours:
    """The hours that a file, store or address has of anything.

    Raises
    ------
    LdmdownError
        if it cannot be read, or has no regular grid or no time.
    """
    with GriddedFiles([path]) as files:
        return files.hours()


def _look(batch: tuple[str, Sequence[str]]) -> list[Hours]:
    return [hours_in(name) for name in batch[1]]


def list_files(root: Path, patterns: Sequence[str], kind: str) -> list[str]:
    """The files, stores and addresses of a kind, sorted by name; a folder stands for what is in it.

    Raises
    ------
    LdmdownError
        if there are none.
    """
    found: set[str] = set()
    for pattern in patterns:
        if "://" in pattern:
            found.add(pattern)
            continue
        for name in glob.glob(str(root / pattern), recursive=True):  # noqa: PTH207  absolute patterns too
            path = Path(name)
            if path.is_dir() and not any((path / mark).exists() for mark in STORE):
                found.update(str(file) for file in path.iterdir() if file.is_file())
            else:
                found.add(str(path))
    if not found:
        raise LdmdownError(
            ", ".join(str(root / pattern) for pattern in patterns),
            "no such files",
            fix=f"put the files there, or mend data.{kind}; its paths start from the configuration's folder",
        )
    return sorted(found)


def days_of(config: Config, held: Catalogue) -> tuple[list[Day], dict[str, list[int]]]:
    """The days of the split that both sources have, and the hours of the other days that one has, by reason.

    Raises
    ------
    LdmdownError
        if a period of the split has no day in both.
    """
    split = periods(config)
    by_day = {kind: _by_day(files.items(), split) for kind, files in held.items()}
    both = set(by_day["era5"]) & set(by_day["reference"])
    check_periods(config, np.array(sorted(both), np.int64) * 24, held)
    days, seen = [], set[str]()
    for number in sorted(both):
        files = {kind: tuple(_reaching(held[kind], by_day[kind], number)) for kind in KINDS}
        hours = {kind: tuple(sorted({hour for _, held in by_day[kind][number] for hour in held})) for kind in KINDS}
        new = [name for kind in KINDS for name in files[kind] if name not in seen]
        seen.update(new)
        days.append(Day(number, files, hours, tuple(new)))
    alone = {
        f"only in {kind}": sorted(
            {hour for number in set(by_day[kind]) - both for _, hours in by_day[kind][number] for hour in hours}
        )
        for kind in KINDS
    }
    return days, alone


def _by_day(files: Iterable[tuple[str, Hours]], split: Sequence[Any]) -> dict[int, list[tuple[str, list[int]]]]:
    """For each day of the split its files, and the hours of the day in each."""
    found: dict[int, list[tuple[str, list[int]]]] = {}
    for name, hours in files:
        inside = hours[within(hours, split)]
        for number in np.unique(inside // 24).tolist():
            found.setdefault(number, []).append((name, inside[inside // 24 == number].tolist()))
    return found


def _reaching(held: Mapping[str, Hours], by_day: Mapping[int, Any], number: int) -> list[str]:
    """The files of a day, and those with the hour before it, from which sums since an earlier start are taken."""
    names = {name for name, _ in by_day[number]}
    before = {name for name, hours in held.items() if 24 * number - 1 in hours} if number - 1 not in by_day else set()
    before |= {name for name, hours in by_day.get(number - 1, ()) if 24 * number - 1 in hours}
    return sorted(names | before)


def check_periods(config: Config, hours: Hours, held: Catalogue | None = None) -> None:
    """Refuse a split of which a period has none of these hours; `held` says what the files list instead.

    Raises
    ------
    LdmdownError
        naming the period.
    """
    for first, last in periods(config):
        if not within(hours, [(first, last)]).any():
            counts = {
                kind: len({hour for listed in files.values() for hour in listed[within(listed, [(first, last)])]})
                for kind, files in (held or {}).items()
            }
            raise LdmdownError(
                config.data.archive,
                f"no hour from {first} to {last} is both in ERA5 and in the reference",
                found=", ".join(f"{count} hours in {kind}" for kind, count in counts.items()),
                fix="add the missing files, or change data.split in the configuration",
            )


def open_day(config: Config, root: Path, files: Mapping[str, Sequence[str]]) -> dict[str, Reader]:
    """The readers of both kinds, for the files of a day."""
    grid = Grid.of(config.grid)
    if config.data.published is not None:
        folder = root / config.data.published
        return {
            "era5": published.PublishedDay(folder, files["era5"], config.predictors, "ERA5", grid.coarse.shape),
            "reference": published.PublishedDay(folder, files["reference"], config.targets, "CMCC", grid.shape),
        }
    era5 = open_fields(files["era5"], config.predictors, request="ldmdown request")
    check_coverage(era5, grid, grid.whole)
    reference = open_fields(files["reference"], config.targets)
    return {
        "era5": Regridded(era5, grid.coarse, config.predictors, beyond="edge"),
        "reference": Regridded(reference, grid),
    }


def used_files(days: Sequence[Day], root: Path) -> dict[str, list[dict[str, Any]]]:
    """Names and sizes of the files of these days, by kind."""
    names = {kind: sorted({name for day in days for name in day.files[kind]}) for kind in KINDS}
    return {kind: [describe(name, root) for name in held] for kind, held in names.items()}


def describe(name: str, root: Path) -> dict[str, Any]:
    """A file's name, as seen from the configuration's folder, and its size."""
    path = Path(name)
    label = str(path.relative_to(root)) if path.is_relative_to(root) else name
    return {"name": label, "bytes": path.stat().st_size if path.is_file() else None}


def sha256(name: str) -> str | None:
    """Of a file's content; None for a store or an address."""
    path = Path(name)
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
