"""The coarse and the fine fields of a day of a source, on the project's grids, hour by hour."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from ldmdown.config import Config, SourceConfig
from ldmdown.data.archive.box_means import BoxMeans, era5_boxes
from ldmdown.data.archive.sources import Day
from ldmdown.data.archive.store import ArchiveSource
from ldmdown.data.grid import Grid
from ldmdown.data.reading.fields import Fields, open_fields
from ldmdown.data.reading.published import PublishedDay
from ldmdown.data.reading.regridded import Regridded, check_coverage
from ldmdown.data.variables import variable
from ldmdown.errors import LdmdownError
from ldmdown.typing import BoolArray, Float32Array

FieldReader = Regridded | BoxMeans | PublishedDay
"""Fields on one of the project's grids: `hours`, `notes` for the user, and `read(index)`, (variable, rows, cols)."""


@contextmanager
def open_pair(
    config: Config, root: Path, source: SourceConfig, files: Mapping[str, Sequence[str]], unpack_to: Path
) -> Iterator[tuple[dict[str, FieldReader], FieldReader | None]]:
    """Open the files of a day: readers of the predictors ("era5") and of the target ("reference").

    The last reads the targets that are predictors too, as they are on ERA5's boxes, at the hours of "era5"; None if
    they are not known there.

    Raises LdmdownError if a file cannot be read, lacks a variable, or ERA5 does not cover the grid.
    """
    grid = Grid.of(config.grid)
    predictors, targets = config.predictors, config.targets
    shared = [name for name in targets if name in predictors]
    readers: dict[str, FieldReader]
    on_boxes: FieldReader | None = None
    with ExitStack() as opened:
        if source.published is not None:
            folder = root / source.published
            readers = {
                "era5": PublishedDay(folder, files["era5"], predictors, "ERA5", grid.coarse.shape),
                "reference": PublishedDay(folder, files["reference"], targets, "CMCC", grid.shape),
            }
        elif source.is_perfect_model:
            names = [name for name in dict.fromkeys([*targets, *predictors]) if not variable(name).derived]
            fields = opened.enter_context(open_fields(files["reference"], names, unpack_to=unpack_to))
            _check_overlap(fields, grid)
            means = BoxMeans(fields, predictors, grid.coarse, source.box_means, root)
            on_boxes = means.onto(era5_boxes(grid).grid, shared)
            readers = {"era5": means, "reference": Regridded(fields, grid, targets, beyond="missing")}
        else:
            era5 = opened.enter_context(
                open_fields(files["era5"], predictors, request="ldmdown request", unpack_to=unpack_to)
            )
            check_coverage(era5, grid, grid.whole)
            reference = opened.enter_context(open_fields(files["reference"], targets, unpack_to=unpack_to))
            _check_overlap(reference, grid)
            if shared:
                on_boxes = Regridded(era5, era5_boxes(grid).grid, shared, beyond="missing")
            readers = {
                "era5": Regridded(era5, grid.coarse, predictors, beyond="edge"),
                "reference": Regridded(reference, grid, targets, beyond="missing"),
            }
        yield readers, on_boxes


def _check_overlap(fields: Fields, grid: Grid) -> None:
    if not fields.grid.covers(grid.lat, grid.lon).any():
        raise _outside(fields.label, grid, fields.grid.box)


def _outside(label: str, grid: Grid, found: str | None = None) -> LdmdownError:
    return LdmdownError(
        label,
        "covers no cell of the coarse grid",
        found=found,
        expected=f"all values in at least one within {grid.box}",
        fix="choose another `grid` in the configuration, or files of another area",
    )


def described(config: Config, root: Path, source: SourceConfig, day: Day, unpack_to: Path) -> ArchiveSource:
    """What an archive tells of a source; `day` is one of its days, where whose values lie those of all others lie.

    Raises LdmdownError if no coarse cell has all values, or no hour of the day can be used.
    """
    grid = Grid.of(config.grid)
    valid = np.zeros(grid.coarse.shape, bool)
    failure: LdmdownError | None = None
    with open_pair(config, root, source, day.files, unpack_to) as (readers, _):
        places = {
            kind: {int(hour): place for place, hour in enumerate(reader.hours)} for kind, reader in readers.items()
        }
        for hour in sorted(set(places["era5"]) & set(places["reference"])):
            try:
                fields = {kind: readers[kind].read(places[kind][hour]) for kind in readers}
            except LdmdownError as error:
                failure = failure or error
                continue
            valid |= covered_cells(config.predictors, fields["era5"], fields["reference"], grid)
            if valid.all():
                break
    if not valid.any():
        raise failure or _outside(", ".join(day.files["reference"]), grid)
    split = source.split.model_dump(mode="json", include={"train", "validation", "test"})
    return ArchiveSource(source.name, _in_words(source), split, valid)


def covered_cells(names: Sequence[str], predictors: Float32Array, target: Float32Array, grid: Grid) -> BoolArray:
    """The coarse cells (rows, cols) in which an hour has all values that must not be missing."""
    needed = [channel for channel, name in enumerate(names) if variable(name).fill is None]
    rows, cols = grid.coarse.shape
    whole = np.isfinite(target).all(axis=0).reshape(rows, grid.factor, cols, grid.factor).all(axis=(1, 3))
    return np.logical_and(whole, np.isfinite(predictors[needed]).all(axis=0))


def _in_words(source: SourceConfig) -> str:
    if source.published is not None:
        return "as published"
    if not source.is_perfect_model:
        return "ERA5"
    settings = source.box_means
    smoothed = f", smoothed with a std of {settings.smoothing:g} boxes" if settings.smoothing else ""
    moved = (
        f"; t2m moved from the reference's to ERA5's heights by {1000 * settings.lapse_rate:g} K/km"
        if settings.era5_heights
        else "; t2m at the reference's heights"
    )
    return f"means of the reference over boxes of {settings.spacing:g} degrees{smoothed}{moved}"
