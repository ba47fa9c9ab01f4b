"""The training archive: paired hours on the project's grids, in one Zarr store that `prepare` writes.

A sample is an hour of a realization (such as a run of a forecast) of a source (a pair of coarse and fine data).
Samples lie in slots, 24 for a day of a realization, which are a shard, so that processes write apart. Arrays: `time`
(slot) int64, hours since 1970-01-01T00; `source`, `realization` (slot) int64; `present` (slot) bool; `predictors`
(slot, variable, rows, cols) float32 on the coarse grid, in physical units; `target` (slot, variable, rows, cols) int16
on the fine one, packed as CF defines it with a `scale_factor` and an `add_offset` for each variable (for t2m and the
wind, multiples of 1/256 unit); `boxes` (slot, variable, rows, cols) float32, the coarse fields of the targets on ERA5's
boxes of 0.25 degrees, NaN where they are not known (older archives lack it); `valid` (source, rows, cols) bool, the
coarse cells in which a source has all values.
An hour of the target is cut into tiles of about the size of a training crop, so that a random crop of a random hour
reads little more than itself. The attributes name the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from ldmdown.data.archive.box_means import era5_boxes
from ldmdown.data.archive.packing import FILL_VALUE, Int16Array, Packing
from ldmdown.data.grid import Grid, SourceGrid, Window, largest_rectangle
from ldmdown.data.normalization import Normalization
from ldmdown.data.reading.zarr_stores import check_codecs
from ldmdown.errors import LdmdownError
from ldmdown.typing import BoolArray, Float32Array, IntArray

FORMAT = 3
READERS = 4  # threads
KINDS = ("predictors", "target")
BOXES = "boxes"
MANIFEST = "manifest.json"  # in the archive's folder
READ_ERRORS = (OSError, ValueError, RuntimeError, ArithmeticError)  # of a chunk that is cut, garbled or gone

Periods = Sequence[Sequence[Any]]
"""First and last days or hours, both included."""


@dataclass(frozen=True)
class ArchiveSource:
    """A pair of coarse and fine data: how its coarse fields were made, its split, and where it has values."""

    name: str
    coarse: str  # in words, for people
    split: Mapping[str, Periods]
    valid: BoolArray  # (coarse rows, coarse cols)

    @property
    def is_partial(self) -> bool:
        """Whether it covers only a part of the grid."""
        return not self.valid.all()

    def corners(self, size: tuple[int, int]) -> IntArray:
        """First (row, col) of every window of rows x cols coarse cells that are all valid, (N, 2)."""
        rows, cols = size
        sums = np.pad(self.valid.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        count = sums[rows:, cols:] - sums[:-rows, cols:] - sums[rows:, :-cols] + sums[:-rows, :-cols]
        return np.argwhere(count == rows * cols)


class Archive:
    """A finished archive, for reading.

    Attributes:
        hours, source, realization: of each sample: its hour since 1970-01-01T00, the index of its source, and of the
            realization there. Samples are sorted by source, realization and hour.
        sources: the pairs of coarse and fine data.
        grid, predictors, targets: the fine grid and the names of the variables.
        normalization: mean and std over the training samples, of "predictors" and of "target".
        scale_factor, add_offset: (T, 1, 1) of the numbers that `read_packed` returns.
        statics: names of the static fields, if it holds any.
        statics_normalization: by these names the mean and std that were taken out, and the units.
        fingerprint: what of the configuration decided the content.

    Raises LdmdownError if there is no archive, or an unfinished or another version's.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            unfinished = unfinished_path(self.path).exists()
            raise LdmdownError(
                path,
                "the archive is unfinished" if unfinished else "no such archive",
                fix=f"run `ldmdown prepare`{' again; it resumes where it stopped' if unfinished else ''}",
            )
        try:
            group: Any = zarr.open_group(self.path, mode="r")
            check_codecs(path, group)
            self._read(path, group, group.attrs.asdict())
        except (OSError, LookupError, TypeError, ValueError, RuntimeError, zarr.errors.BaseZarrError) as error:
            found = f"{type(error).__name__}: {error}"
            raise LdmdownError(
                path, "is not a whole archive", found=found, fix="delete it and run `ldmdown prepare`"
            ) from None

    def _read(self, path: str | Path, group: Any, attributes: Mapping[str, Any]) -> None:
        if attributes.get("format") != FORMAT:
            raise LdmdownError(
                path,
                "is not an archive of this version of ldmdown",
                found=f"format {attributes.get('format')}",
                expected=f"format {FORMAT}",
                fix="delete it and run `ldmdown prepare`",
            )
        self._slots = np.flatnonzero(group["present"][:])
        self.hours, self.source, self.realization = (
            group[name][:][self._slots] for name in ("time", "source", "realization")
        )
        self._predictors, self._target = group["predictors"], group["target"]
        self._boxes = group.get(BOXES)
        self.grid = Grid(**attributes["grid"])
        self.predictors = tuple(attributes["predictors"])
        self.targets = tuple(attributes["targets"])
        self._packing = Packing.read(self._target)
        self.scale_factor, self.add_offset = self._packing.scale_factor, self._packing.add_offset
        self.normalization = {kind: Normalization(**values) for kind, values in attributes["normalization"].items()}
        self.statics: tuple[str, ...] = tuple(attributes["statics"])
        self.statics_normalization: dict[str, dict[str, Any]] = attributes["statics_normalization"]
        self.fingerprint: dict[str, Any] = attributes["fingerprint"]
        self.sources = tuple(
            ArchiveSource(**described, valid=valid)
            for described, valid in zip(attributes["sources"], group["valid"][:], strict=True)
        )
        self._valid = [fine_cells(one.valid, self.grid) for one in self.sources]

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The files it was made from with their hashes, its hours, and those that were left out with the reasons."""
        return json.loads((self.path / MANIFEST).read_text())

    def __len__(self) -> int:
        return len(self.hours)

    def split(self, use: str) -> IntArray:
        """Indices of the samples for "train", "validation" or "test"."""
        inside = np.zeros(len(self), bool)
        for index, one in enumerate(self.sources):
            inside |= (self.source == index) & within(self.hours, one.split[use])
        return np.flatnonzero(inside)

    def window(self, source: int, multiple: int = 1) -> Window:
        """The largest window of coarse cells in which a source has all values, its sides cut to multiples.

        Raises LdmdownError if there is none.
        """
        row, col, rows, cols = largest_rectangle(self.sources[source].valid) or (0, 0, 0, 0)
        rows, cols = (side // multiple * multiple for side in (rows, cols))
        if not rows or not cols:
            raise LdmdownError(
                self.path,
                f"its source {self.sources[source].name} covers too little for the networks",
                expected=f"at least {multiple} x {multiple} coarse cells",
                fix="choose another grid, or references of a larger area",
            )
        return row, col, rows, cols

    def read(self, index: int, window: Window | None = None) -> dict[str, Float32Array]:
        """One sample, or a window of it: "predictors" (P, h, w) and "target" (T, factor h, factor w).

        Both are NaN in cells that its source does not cover.
        """
        row, col, rows, cols = window = window or self.grid.whole
        return {
            "predictors": self._predictors[self._slots[index], :, row : row + rows, col : col + cols],
            "target": self._packing.unpack(self.read_packed(index, *self.grid.fine(window))),
        }

    def read_packed(self, index: int, rows: slice, cols: slice) -> Int16Array:
        """A part of the target of a sample as its exact numbers (T, rows, cols), FILL_VALUE where there is none.

        Raises ValueError if a chunk is missing on the disk.
        """
        numbers = self._target[self._slots[index], :, rows, cols]
        if ((numbers == FILL_VALUE) & self._valid[self.source[index]][rows, cols]).any():
            raise ValueError("chunk is missing")
        return numbers

    def read_boxes(self, index: int, centres: SourceGrid) -> dict[str, Float32Array]:
        """The coarse fields of the targets (rows, cols) on some of ERA5's boxes, NaN where they are not known.

        Raises LdmdownError if the archive does not hold them.
        """
        if self._boxes is None:
            raise LdmdownError(self.path, "holds no coarse fields on ERA5's boxes: prepare it again")
        whole = era5_boxes(self.grid).centres
        rows, cols = (np.isin(ours, theirs) for ours, theirs in ((whole.y, centres.y), (whole.x, centres.x)))
        fields = self._boxes[self._slots[index]][:, rows][:, :, cols]
        return dict(zip(self.targets, fields, strict=True))

    def load_statics(self) -> Float32Array:
        """The static fields (S, rows, cols), normalised."""
        group: Any = zarr.open_group(self.path, mode="r")
        return group["statics"][:]

    def load_predictors(self, indices: IntArray) -> Float32Array:
        """The predictors of these samples (sample, P, rows, cols)."""
        values = np.empty((len(indices), *self._predictors.shape[1:]), np.float32)

        def fill(place: int) -> None:
            values[place] = self._predictors[self._slots[indices[place]]]

        with ThreadPoolExecutor(READERS) as pool:
            list(pool.map(fill, range(len(indices))))
        return values


def fine_cells(coarse: BoolArray, grid: Grid) -> BoolArray:
    """A mask of coarse cells as one of fine cells."""
    return coarse.repeat(grid.factor, axis=0).repeat(grid.factor, axis=1)


def within(hours: IntArray, periods: Periods) -> BoolArray:
    """Which hours lie in one of the periods."""
    inside = np.zeros(len(hours), bool)
    for first, last in periods:
        inside |= (hours >= _first_hour(first)) & (hours <= _last_hour(last))
    return inside


def _first_hour(moment: Any) -> int:
    return int(np.datetime64(moment).astype("datetime64[h]").astype(np.int64))


def _last_hour(moment: Any) -> int:
    whole_day = np.datetime_data(np.datetime64(moment).dtype)[0] == "D"
    return _first_hour(moment) + (23 if whole_day else 0)


def unfinished_path(path: Path) -> Path:
    """The folder in which an archive is made."""
    return path.with_name(path.name + ".part")
