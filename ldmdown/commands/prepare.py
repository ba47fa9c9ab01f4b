"""`ldmdown prepare`: raw ERA5 and reference files become one training archive and its statistics.

Days are independent: processes, or the workers of a Dask cluster, take one after another; each is noted when
all its hours are written, and a run that was stopped goes on with the days that are missing. Memory does not
grow with the number of days.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ldmdown.config import DEFAULT, Config, load_config
from ldmdown.data import parallel
from ldmdown.data.archive.day import Job, write_day
from ldmdown.data.archive.dry_run import rehearse
from ldmdown.data.archive.manifest import manifest, statistics
from ldmdown.data.archive.sources import Day, catalogue, check_periods, days_of, used_files
from ldmdown.data.archive.statics import Ground, ground
from ldmdown.data.archive.store import MANIFEST, Archive, ArchiveWriter
from ldmdown.data.grid import Grid
from ldmdown.errors import LdmdownError
from ldmdown.twin.files import write_twin

EXAMPLE_HOURS = 6  # in the bundled twin's era5.nc


def prepare(config_path: Path | None = None, *, scheduler: str | None = None, dry_run: bool = False) -> None:
    """Write the archive of a configuration; go on where an earlier run stopped.

    Where the configuration has a `twin`, its files are written first. Without any configuration the
    bundled twin is prepared, and `era5.nc`, a few hours of its test day, is put beside it to downscale.

    Parameters
    ----------
    scheduler
        address of a Dask cluster, whose workers see the same files; None: this machine's processes.
    dry_run
        print what would be made, how large it is and how long it takes; nothing is kept.

    Raises
    ------
    LdmdownError
        if files are missing, do not fit the configuration or share no hours, or if an archive of another
        configuration is in the way.
    """
    config, root = load_config(config_path)
    root = root.absolute() if scheduler else root  # workers may be in another folder
    path, plan = root / config.data.archive, archive_plan(config)
    if path.exists():
        if Archive(path).plan != plan:
            raise LdmdownError(
                path,
                "was prepared with another configuration",
                fix="delete it to prepare it anew, or name another data.archive",
            )
        _say(f"{path} is there already, prepared with this configuration")
        return
    if config.twin is not None:
        _twin(config, root, dry_run)
        if config_path is None and not DEFAULT.exists() and not dry_run:
            _example(config, root)
    days, alone = _days(config, root, scheduler)
    statics = ground(config, root)
    if dry_run:
        print(rehearse(config, root, days, alone))
    else:
        _build(Job(config, root, path), plan, days, alone, statics, scheduler)


def archive_plan(config: Config) -> dict[str, Any]:
    """What decides an archive's content, apart from the files."""
    content = config.model_dump(mode="json")
    data = {key: content["data"][key] for key in ("era5", "reference", "published", "split")}
    statics = {"statics": content["statics"]["fields"], "static_files": content["data"]["statics"]}
    return {key: content[key] for key in ("grid", "predictors", "targets", "twin")} | data | statics


def _twin(config: Config, root: Path, dry_run: bool) -> None:
    """Write the synthetic files where the configuration looks for them; a dry run only looks whether they are there."""
    assert config.twin is not None
    directory = (root / config.data.era5[0]).parent.parent
    if dry_run:
        if not directory.joinpath("era5").exists():
            raise LdmdownError(directory, "the twin's files are not written yet",
                               fix="run `ldmdown prepare` without --dry-run: it writes them first")  # fmt: skip
        return
    with _bar("days") as progress:
        task = progress.add_task("writing the twin", total=None)
        write_twin(
            directory,
            Grid.of(config.grid),
            config.twin.periods,
            every=config.twin.every,
            seed=config.twin.seed,
            orography=_below(root, config.twin.orography),
            coarse_orography=_below(root, config.twin.coarse_orography),
            processes=os.cpu_count() or 1,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )


def _below(root: Path, name: str | None) -> Path | None:
    return None if name is None else root / name


def _example(config: Config, root: Path) -> None:
    """A few hours of the first test day, as a download from the CDS."""
    day = f"{config.data.split.test[0][0]:%Y%m%d}"
    single = next((root / config.data.era5[0]).parent.glob(f"era5_single_{day}.nc"))
    with xr.open_dataset(single, engine="netcdf4") as dataset:
        dataset.isel(valid_time=slice(EXAMPLE_HOURS)).to_netcdf(root / "era5.nc", engine="netcdf4")


def _days(config: Config, root: Path, scheduler: str | None) -> tuple[list[Day], dict[str, list[int]]]:
    with _bar("files") as progress:
        task = progress.add_task("looking at", total=None)
        held = catalogue(config, root, scheduler, lambda done, all_: progress.update(task, completed=done, total=all_))
    return days_of(config, held)


def _build(
    job: Job,
    plan: dict[str, Any],
    days: list[Day],
    alone: dict[str, list[int]],
    statics: Ground | None,
    scheduler: str | None,
) -> None:
    """Write the days that are missing, and what they come to."""
    config, files = job.config, used_files(days, job.root)
    names = {"predictors": config.predictors, "targets": config.targets}
    numbers = [day.number for day in days]
    writer = ArchiveWriter.begin(job.archive, Grid.of(config.grid), names, numbers, plan, files)
    left = [day for day in days if not writer.done(day.number)]
    with _bar("days") as progress:
        task = progress.add_task("preparing", total=len(days), completed=len(days) - len(left))
        parallel.run(partial(write_day, job), left, scheduler=scheduler, advance=lambda: progress.advance(task))
    records = [writer.record(number) for number in numbers]
    check_periods(config, np.array([hour for record in records for hour in record["hours"]], np.int64))
    origin = manifest(config, job.root, files, records, alone, statics.files if statics else ())
    writer.close(
        statistics(config, records), origin, (statics.normalization, statics.fields) if statics is not None else None
    )
    for note, (first, *more) in origin["notes"].items():
        _say(f"note: {note} ({first}{f' and {len(more)} more days' if more else ''})")
    hours, dropped = sum(origin["hours"].values()), sum(map(len, origin["dropped"].values()))
    why = f"; {dropped} left out, {MANIFEST} in it says why" if dropped else ""
    _say(f"wrote {job.archive}: {hours} hours of {len(days)} days{why}")


def _bar(unit: str) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))


def _say(text: str) -> None:
    print(text, file=sys.stderr)
