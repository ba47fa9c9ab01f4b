"""`ldmdown prepare`: raw ERA5 and reference files become one training archive and its statistics.

Days are independent: processes, or the workers of a Dask cluster, take one after another; each is noted when
all its hours are written, and a run that was stopped resumes with the days that are missing. Memory does not
grow with the number of days.
"""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import xarray as xr

from ldmdown.atomic import locked, replacing
from ldmdown.config import DEFAULT, Config, SourceConfig, load_config
from ldmdown.console import progress_bar, say
from ldmdown.data import parallel
from ldmdown.data.archive.day import ArchiveJob, write_day
from ldmdown.data.archive.dry_run import estimate
from ldmdown.data.archive.manifest import Records, fingerprint, hours_of, manifest, statistics
from ldmdown.data.archive.pair import described
from ldmdown.data.archive.sources import Day, catalogues, check_periods, days_of, used_files
from ldmdown.data.archive.statics import StaticFields, static_fields
from ldmdown.data.archive.store import MANIFEST, Archive, ArchiveSource
from ldmdown.data.archive.writer import RECORDS, ArchiveWriter
from ldmdown.data.grid import Grid
from ldmdown.errors import LdmdownError
from ldmdown.scoring.training_truth import learned_from
from ldmdown.twin.files import TwinFiles
from ldmdown.twin.recipe import RECIPE

EXAMPLE_HOURS = 6  # in the bundled twin's era5.nc


def prepare(config_path: Path | None = None, *, scheduler: str | None = None, dry_run: bool = False) -> None:
    """Write the archive of a configuration; resume where an earlier run stopped.

    Where the configuration has a `twin`, its files are written first. Without any configuration the
    bundled twin is prepared, and `era5.nc`, a few hours of its test day, is put beside it to downscale.

    Args:
        scheduler: address of a Dask cluster, whose workers see the same files; None: this machine's processes.
        dry_run: print what would be made, how large it is and how long it takes; nothing is kept.

    Raises LdmdownError if files are missing, do not fit the configuration or share no hours, if an archive of another
    configuration is in the way, or another process is preparing it.
    """
    config, root = load_config(config_path)
    root = root.absolute() if scheduler else root  # workers may be in another folder
    path = root / config.data.archive
    with nullcontext() if dry_run else locked(path):
        _prepare(config, root, config_path, scheduler, dry_run)


def _prepare(config: Config, root: Path, config_path: Path | None, scheduler: str | None, dry_run: bool) -> None:
    path = root / config.data.archive
    if path.exists():
        if Archive(path).fingerprint != fingerprint(config):
            raise LdmdownError(
                path,
                "was prepared with another configuration",
                fix="delete it to prepare it again, or name another data.archive",
            )
        _complete(path)
        say(f"{path} is there already, prepared with this configuration")
        return
    if config.twin is not None:
        _twin(config, root, dry_run)
        if config_path is None and not DEFAULT.exists() and not dry_run:
            _example(config, root)
    job = ArchiveJob(config, root, path, path.with_name(f"{path.name}.unpacked"))
    try:
        days, unmatched = _days(job, scheduler)
        if dry_run:
            static_fields(config, root)
            print(estimate(job, _sources(job, days), days, unmatched))
        else:
            _build(job, days, unmatched, scheduler)
    finally:
        shutil.rmtree(job.unpack_to, ignore_errors=True)


def _twin(config: Config, root: Path, dry_run: bool) -> None:
    """Write the synthetic files where the configuration looks for them; a dry run only looks whether they are there."""
    assert config.twin is not None
    directory = _twin_directory(config, root)
    if dry_run:
        if not directory.joinpath("era5").exists():
            raise LdmdownError(
                directory,
                "the twin's files are not written yet",
                fix="run `ldmdown prepare` without --dry-run: it writes them first",
            )
        return
    with progress_bar("days") as progress:
        task = progress.add_task("writing the twin", total=None)
        fine, coarse = (root / name if name else None for name in (config.twin.orography, config.twin.coarse_orography))
        TwinFiles(directory, Grid.of(config.grid), config.twin.seed, fine, coarse).write(
            config.twin.periods,
            config.twin.every,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )


def _twin_pair(config: Config) -> SourceConfig:
    """The pair of files that the twin stands for: the one of this name, or the first."""
    return next((pair for pair in config.data.pairs if pair.name == "twin"), config.data.pairs[0])


def _twin_directory(config: Config, root: Path) -> Path:
    """The folder of its folders `era5` and `reference`; a pair may make its coarse fields of the reference alone."""
    return (root / _twin_pair(config).reference[0]).parent.parent


def _example(config: Config, root: Path) -> None:
    """Write a few hours of the first test day, as a download from the CDS."""
    day = f"{_twin_pair(config).split.test[0][0]:%Y%m%d}"
    single = next(_twin_directory(config, root).glob(f"era5/era5_single_{day}.nc"))
    with xr.open_dataset(single, engine="netcdf4") as dataset, replacing(root / "era5.nc") as beside:
        dataset.isel(valid_time=slice(EXAMPLE_HOURS)).to_netcdf(beside, engine="netcdf4")


def _days(job: ArchiveJob, scheduler: str | None) -> tuple[list[Day], dict[str, list[int]]]:
    with progress_bar("files") as progress:
        task = progress.add_task("looking at", total=None)
        held = catalogues(
            job.config,
            job.root,
            job.unpack_to,
            scheduler,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    return days_of(job.config, held)


def _sources(job: ArchiveJob, days: list[Day]) -> list[ArchiveSource]:
    firsts = [next(day for day in days if day.key.source == index) for index in range(len(job.config.data.pairs))]
    return [
        described(job.config, job.root, pair, first, job.unpack_to)
        for pair, first in zip(job.config.data.pairs, firsts, strict=True)
    ]


def _writer(job: ArchiveJob, days: list[Day], files: dict[str, list[dict[str, Any]]]) -> ArchiveWriter:
    """The archive that an earlier run began, or an empty one."""
    config = job.config
    if begun := ArchiveWriter.resume(job.archive, fingerprint(config), files):
        return begun
    names = {"predictors": config.predictors, "targets": config.targets}
    grid, keys = Grid.of(config.grid), [day.key for day in days]
    return ArchiveWriter.begin(job.archive, grid, names, _sources(job, days), keys, fingerprint(config), files)


def _build(job: ArchiveJob, days: list[Day], unmatched: dict[str, list[int]], scheduler: str | None) -> None:
    """Write the days that are missing, and what they come to."""
    config, files = job.config, used_files(days, job.root)
    statics = static_fields(config, job.root)
    writer = _writer(job, days, files)
    left = [day for day in days if not writer.done(day.key)]
    with progress_bar("days") as progress:
        task = progress.add_task("preparing", total=len(days), completed=len(days) - len(left))
        parallel.run(partial(write_day, job), left, scheduler=scheduler, advance=lambda: progress.advance(task))
    records = {day.key: writer.record(day.key) for day in days}
    for index, pair in enumerate(config.data.pairs):
        check_periods(config, pair, hours_of(records, index))
    origin = manifest(config, job.root, files, records, unmatched, statics.files if statics else ())
    if config.twin is not None:
        origin["twin"] = f"synthetic, recipe {RECIPE}, seed {config.twin.seed}"
    _close(job, writer, records, origin, statics)


def _close(
    job: ArchiveJob, writer: ArchiveWriter, records: Records, origin: dict[str, Any], statics: StaticFields | None
) -> None:
    """Finish the archive, and say what is in it."""
    writer.close(statistics(records), origin, (statics.normalization, statics.fields) if statics is not None else None)
    archive = _complete(job.archive)
    for note, (first, *more) in origin["notes"].items():
        say(f"note: {note} ({first}{f' and {len(more)} more days' if more else ''})")
    for one in archive.sources:
        if one.is_partial:
            say(f"note: {one.name} has values in {one.valid.mean():.0%} of the grid; training draws its crops there")
    hours, dropped = sum(origin["hours"].values()), sum(map(len, origin["dropped"].values()))
    why = f"; {dropped} left out, {MANIFEST} in it says why" if dropped else ""
    say(f"wrote {job.archive}: {hours} hours of {len(records)} days{why}")


def _complete(path: Path) -> Archive:
    """Add to an archive that has its name what a run that was killed had not."""
    archive = Archive(path)
    if "learned_from" not in archive.manifest:
        with replacing(path / MANIFEST) as beside:
            measured = {"learned_from": learned_from(archive)}
            beside.write_text(json.dumps(archive.manifest | measured, indent=1) + "\n")
    shutil.rmtree(path / RECORDS, ignore_errors=True)
    return archive
