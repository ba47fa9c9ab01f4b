"""`ldmdown prepare`: raw ERA5 and reference files become one training archive and its statistics.

Days are independent: Dask hands them to processes, each day is noted when all its hours are written, and a
run that was stopped goes on with the days that are missing. Memory does not grow with the number of days.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from dask.base import compute
from dask.callbacks import Callback
from dask.delayed import delayed
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ldmdown.config import DEFAULT, Config, load_config
from ldmdown.data.archive import Archive, ArchiveWriter, Hours, within
from ldmdown.data.era5 import CoarsePredictors, check_coverage, open_era5
from ldmdown.data.grid import Grid
from ldmdown.data.normalization import Moments, Normalization
from ldmdown.data.published import STATICS, PublishedFields
from ldmdown.data.reference import ReferenceOnGrid, open_reference
from ldmdown.data.statics import read_published
from ldmdown.data.twin import write_twin
from ldmdown.errors import LdmdownError

EXAMPLE_HOURS = 6  # in the bundled twin's era5.nc


def prepare(config_path: Path | None = None) -> None:
    """Write the archive of a configuration; go on where an earlier run stopped.

    Where the configuration has a `twin`, its files are written first. Without any configuration the
    bundled twin is prepared, and `era5.nc`, a few hours of its test day, is put beside it to downscale.

    Raises
    ------
    LdmdownError
        if files are missing, do not fit the configuration or share no hours, or if an archive of another
        configuration is in the way.
    """
    config, root = load_config(config_path)
    path, plan = root / config.data.archive, _plan(config)
    if path.exists():
        if Archive(path).plan != plan:
            raise LdmdownError(
                path,
                "was prepared with another configuration",
                cure="delete it to prepare it anew, or name another data.archive",
            )
        _say(f"{path} is there already, prepared with this configuration")
        return
    if config.twin is not None:
        _twin(config, root)
        if config_path is None and not DEFAULT.exists():
            _example(config, root)
    _build(config, root, path, plan)


def _plan(config: Config) -> dict[str, Any]:
    """What decides an archive's content, apart from the files."""
    content = config.model_dump(mode="json")
    given = {"statics": content["statics"]["given"]}
    return {key: content[key] for key in ("grid", "predictors", "targets", "twin")} | content["data"] | given


def _twin(config: Config, root: Path) -> None:
    """Write the synthetic files where the configuration looks for them."""
    assert config.twin is not None
    directory = (root / config.data.era5[0]).parent.parent
    with _bar("days") as progress:
        task = progress.add_task("writing the twin", total=None)
        write_twin(
            directory,
            Grid(**config.grid.model_dump()),
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


@dataclass(frozen=True)
class Sources:
    """Opened raw files, and where an hour is in them."""

    predictors: CoarsePredictors | PublishedFields
    reference: ReferenceOnGrid | PublishedFields
    coarse_index: dict[int, int]
    fine_index: dict[int, int]


@lru_cache(maxsize=1)
def _open(config: Config, root: Path) -> Sources:
    """Once in each process."""
    grid = Grid(**config.grid.model_dump())
    predictors: CoarsePredictors | PublishedFields
    on_grid: ReferenceOnGrid | PublishedFields
    if config.data.published is not None:
        folder = root / config.data.published
        predictors = PublishedFields(folder, config.predictors, "ERA5", grid.coarse.shape)
        on_grid = PublishedFields(folder, config.targets, "CMCC", grid.shape)
        return Sources(predictors, on_grid, _index(predictors.times), _index(on_grid.times))
    era5 = open_era5(_files(root, config.data.era5, "era5"), config.predictors)
    check_coverage(era5, grid, grid.whole)
    predictors = CoarsePredictors(era5, grid, grid.whole, config.predictors)
    reference = open_reference(_files(root, config.data.reference, "reference"), config.targets)
    on_grid = ReferenceOnGrid(reference, grid)
    return Sources(predictors, on_grid, _index(predictors.times), _index(reference.times))


def _statics(config: Config, root: Path) -> tuple[Sequence[str], NDArray[np.float32]] | None:
    """Names and fields of the ground, where the configuration gives them."""
    if not config.statics.given:
        return None
    if config.data.published is None:
        raise LdmdownError(
            config.name,
            "fields of the ground are read from the published archive only",
            found=", ".join(config.statics.given),
            cure="leave out statics.given: the training hours tell of it instead",
        )
    folder = root / config.data.published / STATICS
    names, fields, grid = read_published(folder)
    if names != config.statics.given or grid.shape != (config.grid.rows, config.grid.cols):
        raise LdmdownError(
            folder,
            "does not hold what the configuration gives",
            found=f"{', '.join(names)} on {grid.rows} x {grid.cols}",
            expected=f"{', '.join(config.statics.given)} on {config.grid.rows} x {config.grid.cols}",
        )
    return names, fields


def _index(times: Any) -> dict[int, int]:
    hours = np.asarray(times, "datetime64[h]").astype(np.int64)
    return {hour: index for index, hour in enumerate(hours.tolist())}


def _files(root: Path, patterns: Sequence[str], kind: str) -> list[Path]:
    """The files of a kind, sorted by name."""
    files = sorted({file for pattern in patterns for file in root.glob(pattern)})
    if not files:
        raise LdmdownError(
            ", ".join(str(root / pattern) for pattern in patterns),
            "no such files",
            cure=f"put the files there, or mend data.{kind}; its paths start from the configuration's folder",
        )
    return files


def _build(config: Config, root: Path, path: Path, plan: dict[str, Any]) -> None:
    sources, statics = _open(config, root), _statics(config, root)
    hours, dropped = _common_hours(config, root, sources)
    names = {"predictors": config.predictors, "targets": config.targets}
    writer = ArchiveWriter(path, Grid(**config.grid.model_dump()), names, hours, plan)
    days = np.unique(hours // 24).tolist()
    left = [day for day in days if not writer.done(_name(day))]
    workers = min(os.cpu_count() or 1, len(left))
    tasks = [delayed(_write_day)(config, root, path, plan, hours, day) for day in left]
    keys = {task.key for task in tasks}  # reading the files runs tasks of its own
    scheduler = "processes" if workers > 1 else "synchronous"
    with _bar("days") as progress:
        task = progress.add_task("preparing", total=len(days), completed=len(days) - len(left))

        def advance(key: Any, result: Any, graph: Any, state: Any, worker: Any) -> None:
            progress.advance(task, key in keys)

        with Callback(posttask=advance):
            try:
                compute(*tasks, scheduler=scheduler, num_workers=workers, chunksize=1, optimize_graph=False)
            except LdmdownError as error:
                raise getattr(error, "exception", error) from None  # without the worker's traceback
    training = np.unique(hours[within(hours, plan["split"]["train"])] // 24).tolist()
    records = [writer.record(_name(day)) for day in training]
    writer.close(_statistics(records), _manifest(config, root, hours, dropped), statics)
    _say(f"wrote {path}: {len(hours)} hours of {len(days)} days")


def _common_hours(config: Config, root: Path, sources: Sources) -> tuple[Hours, dict[str, list[str]]]:
    """Hours of the split's days that both sources have, and those that only one has."""
    split = config.data.split
    periods = [period for use in (split.train, split.validation, split.test) for period in use]
    coarse, fine = (np.array(sorted(index), np.int64) for index in (sources.coarse_index, sources.fine_index))
    coarse, fine = (hours[within(hours, periods)] for hours in (coarse, fine))
    common = np.intersect1d(coarse, fine)
    for first, last in periods:
        in_era5, in_reference, in_both = (int(within(hours, [(first, last)]).sum()) for hours in (coarse, fine, common))
        if not in_both:
            raise LdmdownError(
                root / config.data.archive,
                f"no hour from {first} to {last} is both in ERA5 and in the reference",
                found=f"{in_era5} hours in ERA5, {in_reference} in the reference",
                cure="add the missing files, or change data.split in the configuration",
            )
    only = {"only in era5": np.setdiff1d(coarse, fine), "only in reference": np.setdiff1d(fine, coarse)}
    return common, {reason: hours.astype("datetime64[h]").astype(str).tolist() for reason, hours in only.items()}


def _write_day(config: Config, root: Path, path: Path, plan: dict[str, Any], hours: Hours, day: int) -> None:
    """All hours of a day, and what the statistics need of them."""
    sources = _open(config, root)
    names = {"predictors": config.predictors, "targets": config.targets}
    writer = ArchiveWriter(path, Grid(**config.grid.model_dump()), names, hours, plan)
    moments = {"predictors": Moments(), "target": Moments()}
    for index in np.flatnonzero(hours // 24 == day).tolist():
        hour = int(hours[index])
        target = sources.reference.read(sources.fine_index[hour])
        _check(root, config, target, hour)
        stored = writer.write(index, sources.predictors.read(sources.coarse_index[hour]), target)
        for (kind, fields), names_of in zip(stored.items(), (config.predictors, config.targets), strict=True):
            for name, field in zip(names_of, fields, strict=True):
                moments[kind].add(name, field)
    writer.finish(_name(day), {kind: asdict(seen) for kind, seen in moments.items()})


def _check(root: Path, config: Config, target: NDArray[np.float32], hour: int) -> None:
    for name, field in zip(config.targets, target, strict=True):
        missing = np.count_nonzero(~np.isfinite(field))
        if missing:
            raise LdmdownError(
                root / config.data.reference[0],
                f"{name} has missing values on the grid at {np.datetime64(hour, 'h')}",
                found=f"{missing} of {field.size} cells",
                cure="leave the day out of data.split, or choose a smaller grid",
            )


def _statistics(records: Sequence[dict[str, Any]]) -> dict[str, Normalization]:
    """Of the training days, merged in their order whoever wrote them."""
    total = {"predictors": Moments(), "target": Moments()}
    for record in records:
        for kind, seen in record.items():
            total[kind].merge(Moments(**seen))
    return {kind: seen.normalization() for kind, seen in total.items()}


def _manifest(config: Config, root: Path, hours: Hours, dropped: dict[str, list[str]]) -> dict[str, Any]:
    """Where the archive came from."""
    sources = _open(config, root)
    files = {
        kind: used.files if isinstance(used, PublishedFields) else _files(root, getattr(config.data, kind), kind)
        for kind, used in (("era5", sources.predictors), ("reference", sources.reference))
    }
    return {
        "files": {
            kind: [{"name": file.name, "bytes": file.stat().st_size} for file in found] for kind, found in files.items()
        },
        "hours": {
            use: int(within(hours, getattr(config.data.split, use)).sum()) for use in ("train", "validation", "test")
        },
        "dropped": dropped,
    }


def _name(day: int) -> str:
    return str(np.datetime64(day, "D"))


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
