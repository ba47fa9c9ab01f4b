"""The raw files of an archive: which there are, what hours they hold, and which of them make a day.

Files are looked at once, for their hours alone; a day then opens its own few files, so that neither time to
open nor memory grows with the years.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ldmdown.atomic import sha256
from ldmdown.config import Config, SourceConfig
from ldmdown.data import parallel
from ldmdown.data.archive.store import Periods, within
from ldmdown.data.archive.writer import DayKey
from ldmdown.data.reading import files as reading
from ldmdown.data.reading import published
from ldmdown.data.reading.files import GriddedFiles
from ldmdown.errors import LdmdownError
from ldmdown.typing import IntArray

KINDS = ("era5", "reference")
BATCH = 100  # files that a task looks at

Catalogue = Mapping[str, Mapping[str, IntArray]]
"""By kind and name of file, the hours that it holds."""


@dataclass(frozen=True)
class Day:
    """A day that both coarse and fine data have: its files by kind, and the hours that these list.

    `first` are the files that no earlier day has.
    """

    key: DayKey
    files: Mapping[str, tuple[str, ...]]
    hours: Mapping[str, tuple[int, ...]]
    first: tuple[str, ...]

    @property
    def common(self) -> list[int]:
        """The hours that both list."""
        return sorted(set(self.hours["era5"]) & set(self.hours["reference"]))


def periods(source: SourceConfig) -> list[tuple[Any, Any]]:
    """First and last days of all uses."""
    split = source.split
    return [period for use in (split.train, split.validation, split.test) for period in use]


def catalogues(
    config: Config,
    root: Path,
    unpack_to: Path,
    scheduler: str | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> list[Catalogue]:
    """Look at all files of each source; `progress` is called with how many of how many were looked at.

    Raises LdmdownError if there are none of a kind, or one cannot be read.
    """
    listed = [_listed(source, root) for source in config.data.pairs]
    names = sorted({name for kinds in listed for files in kinds.values() for name in files})
    batches = [(unpack_to, names[start : start + BATCH]) for start in range(0, len(names), BATCH)]
    done = itertools.count(1)
    looked = parallel.run(
        _hours_of,
        batches,
        scheduler=scheduler,
        advance=lambda: progress(min(next(done) * BATCH, len(names)), len(names)),
    )
    hours = dict(zip(names, itertools.chain.from_iterable(looked), strict=True))
    return [
        {kind: {name: hours[name] for name in files} for kind, files in kinds.items()}
        if source.published is None
        else published.catalogue(root / source.published, config.targets)
        for source, kinds in zip(config.data.pairs, listed, strict=True)
    ]


def _listed(source: SourceConfig, root: Path) -> dict[str, list[str]]:
    """The files of each kind that are to be looked at."""
    if source.published is not None:
        return {}
    if source.is_perfect_model:
        reference = list_files(root, source.reference, "reference")
        return {"era5": reference, "reference": reference}
    return {kind: list_files(root, getattr(source, kind), kind) for kind in KINDS}


def _hours_of(batch: tuple[Path, Sequence[str]]) -> list[IntArray]:
    unpack_to, names = batch
    found = []
    for name in names:
        with GriddedFiles([name], unpack_to) as files:
            found.append(files.hours())
    return found


def list_files(root: Path, patterns: Sequence[str], kind: str) -> list[str]:
    """The files, stores and addresses of a kind, sorted by name; a folder stands for the data in it and below.

    Raises LdmdownError if there are none.
    """
    try:
        wanted = (pattern if "://" in pattern else root / pattern for pattern in patterns)
        return sorted({str(one) for one in reading.list_files(wanted)})
    except LdmdownError as error:
        fix = f"put the files there, or correct data.{kind}; its paths start from the configuration's folder"
        where, _, wrong = str(error).splitlines()[0].rpartition(": ")
        raise LdmdownError(where, wrong, fix=fix) from None


def days_of(config: Config, held: Sequence[Catalogue]) -> tuple[list[Day], dict[str, list[int]]]:
    """The days of the splits that coarse and fine data have, and the hours of other days that one has, by reason.

    Raises LdmdownError if a period of a split has no day in both.
    """
    days: list[Day] = []
    unmatched: dict[str, list[int]] = {}
    for index, (source, catalogue) in enumerate(zip(config.data.pairs, held, strict=True)):
        split = periods(source)
        found = [
            day
            for realization, one in enumerate(_realizations(source, catalogue))
            for day in _days(one, split, index, realization)
        ]
        check_periods(config, source, np.array([hour for day in found for hour in day.common], np.int64), catalogue)
        days += found
        hours = {kind: _all_hours(catalogue[kind].values(), split) for kind in KINDS}
        for kind, other in (KINDS, KINDS[::-1]):
            absent = ~np.isin(hours[kind] // 24, hours[other] // 24)
            unmatched[only_in(config, index, kind)] = hours[kind][absent].tolist()
    return _first_files(days), unmatched


def only_in(config: Config, index: int, kind: str) -> str:
    """Why an hour is left out of which one kind of a source alone has values."""
    pairs = config.data.pairs
    return f"only in {kind} of {pairs[index].name}" if len(pairs) > 1 else f"only in {kind}"


def _realizations(source: SourceConfig, held: Catalogue) -> Iterator[Catalogue]:
    """The files of each realization: those of each run of a forecast, or all."""
    if not source.forecast_runs:
        yield held
        return
    for name, hours in held["reference"].items():
        run = {name: hours}
        yield {"era5": run if source.is_perfect_model else held["era5"], "reference": run}


def _days(held: Catalogue, split: Periods, source: int, realization: int) -> Iterator[Day]:
    by_day = {kind: _by_day(files.items(), split) for kind, files in held.items()}
    for number in sorted(set(by_day["era5"]) & set(by_day["reference"])):
        files = {kind: tuple(_reaching(held[kind], by_day[kind], number)) for kind in KINDS}
        hours = {kind: tuple(sorted({hour for _, held in by_day[kind][number] for hour in held})) for kind in KINDS}
        yield Day(DayKey(source, realization, number), files, hours, ())


def _first_files(days: Sequence[Day]) -> list[Day]:
    seen = set[str]()
    counted = []
    for day in days:
        names = dict.fromkeys(name for kind in KINDS for name in day.files[kind] if name not in seen)
        seen.update(names)
        counted.append(replace(day, first=tuple(names)))
    return counted


def _all_hours(held: Iterable[IntArray], split: Periods) -> IntArray:
    hours = np.unique(np.concatenate([np.empty(0, np.int64), *held]))
    return hours[within(hours, split)]


def _by_day(files: Iterable[tuple[str, IntArray]], split: Periods) -> dict[int, list[tuple[str, list[int]]]]:
    """For each day of the split its files, and the hours of the day in each."""
    found: dict[int, list[tuple[str, list[int]]]] = {}
    for name, hours in files:
        inside = hours[within(hours, split)]
        for number in np.unique(inside // 24).tolist():
            found.setdefault(number, []).append((name, inside[inside // 24 == number].tolist()))
    return found


def _reaching(held: Mapping[str, IntArray], by_day: Mapping[int, Any], number: int) -> list[str]:
    """The files of a day, and those with the hour before it, from which sums since an earlier start are taken."""
    names = {name for name, _ in by_day[number]}
    before = {name for name, hours in held.items() if 24 * number - 1 in hours} if number - 1 not in by_day else set()
    before |= {name for name, hours in by_day.get(number - 1, ()) if 24 * number - 1 in hours}
    return sorted(names | before)


def check_periods(config: Config, source: SourceConfig, hours: IntArray, held: Catalogue | None = None) -> None:
    """Refuse a split of which a period has none of these hours; `held` says what the files list instead.

    Raises LdmdownError naming the period.
    """
    for period in periods(source):
        if within(hours, [period]).any():
            continue
        counts = {kind: len(_all_hours(files.values(), [period])) for kind, files in (held or {}).items()}
        raise LdmdownError(
            config.data.archive,
            f"no hour from {period[0]} to {period[1]} is both in ERA5 and in the reference",
            found=", ".join(f"{count} hours in {kind}" for kind, count in counts.items()),
            fix="add the missing files, or change data.split in the configuration",
        )


def used_files(days: Sequence[Day], root: Path) -> dict[str, list[dict[str, Any]]]:
    """Names and sizes of the files of these days, by kind; a reference that makes its own coarse fields counts once."""
    reference = {name for day in days for name in day.files["reference"]}
    era5 = {name for day in days for name in day.files["era5"]} - reference
    return {
        "era5": [describe(name, root) for name in sorted(era5)],
        "reference": [describe(name, root) for name in sorted(reference)],
    }


def describe(name: str, root: Path) -> dict[str, Any]:
    """A file's name, as seen from the configuration's folder, and its size."""
    path = Path(name)
    label = str(path.relative_to(root)) if path.is_relative_to(root) else name
    return {"name": label, "bytes": path.stat().st_size if path.is_file() else None}


def digest(name: str) -> str | None:
    """The hash of a file's content; None for a store or an address."""
    path = Path(name)
    return sha256(path) if path.is_file() else None
