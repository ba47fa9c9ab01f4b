"""The training archive: paired hours on the project's grids, in one Zarr store that `prepare` writes.

Arrays: `time` (hour) int64, hours since 1970-01-01T00; `predictors` (hour, variable, rows, cols) on the
coarse grid; `target` (hour, variable, rows, cols) on the fine one, in multiples of 1/256 unit, an hour a
chunk. Fields are in physical units, float32; the attributes name what is in them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from ldmdown.data.grid import Grid, Window
from ldmdown.data.normalization import Normalization
from ldmdown.errors import LdmdownError

FORMAT = 1
PRECISION = 256  # targets are multiples of one unit over this, finer than any use and a third of the size
READERS = 4  # threads

Hours = NDArray[np.int64]
Field = NDArray[np.float32]


class Archive:
    """A finished archive, for reading.

    Attributes
    ----------
    hours
        since 1970-01-01T00, rising.
    grid, predictors, targets
        the fine grid and the names of the variables.
    normalization
        mean and deviation over the training days, of "predictors" and of "target".
    statics
        names of the fields of the ground, if it holds any.
    manifest
        the files it was made from, and the hours that were left out.

    Raises
    ------
    LdmdownError
        if there is no archive, or an unfinished or a newer one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            unfinished = _part(self.path).exists()
            raise LdmdownError(
                path,
                "the archive is unfinished" if unfinished else "no such archive",
                cure=f"run `ldmdown prepare`{' again; it goes on where it stopped' if unfinished else ''}",
            )
        group: Any = zarr.open_group(self.path, mode="r")
        attributes: Mapping[str, Any] = group.attrs.asdict()
        if attributes.get("format") != FORMAT:
            raise LdmdownError(
                path,
                "is not an archive of this version of ldmdown",
                found=f"format {attributes.get('format')}",
                expected=f"format {FORMAT}",
                cure="delete it and run `ldmdown prepare`",
            )
        self.hours: Hours = group["time"][:]
        self._predictors, self._target = group["predictors"], group["target"]
        self.grid = Grid(**attributes["grid"])
        self.predictors = tuple(attributes["predictors"])
        self.targets = tuple(attributes["targets"])
        self.normalization = {kind: Normalization(**values) for kind, values in attributes["normalization"].items()}
        self.statics: tuple[str, ...] = tuple(attributes["statics"])
        self.plan: dict[str, Any] = attributes["plan"]
        self.manifest: dict[str, Any] = attributes["manifest"]

    def __len__(self) -> int:
        return len(self.hours)

    def split(self, use: str) -> NDArray[np.int64]:
        """Indices of the hours for "train", "validation" or "test"."""
        return np.flatnonzero(within(self.hours, self.plan["split"][use]))

    def read(self, index: int, window: Window | None = None) -> dict[str, Field]:
        """One hour, or a window of it: "predictors" (P, h, w) and "target" (T, factor h, factor w)."""
        row, col, rows, cols = window or self.grid.whole
        factor = self.grid.factor
        fine = tuple(slice(factor * start, factor * (start + size)) for start, size in ((row, rows), (col, cols)))
        return {
            "predictors": self._predictors[index, :, row : row + rows, col : col + cols],
            "target": self._target[index, :, *fine],
        }

    def load_statics(self) -> Field:
        """(S, rows, cols), normalised."""
        group: Any = zarr.open_group(self.path, mode="r")
        return group["statics"][:]

    def load_predictors(self, indices: NDArray[np.int64]) -> Field:
        """These hours (hour, P, rows, cols)."""
        return self._collect(lambda index: self._predictors[index], indices, np.float32)

    def load_targets(self, indices: NDArray[np.int64], offset: Field) -> NDArray[np.int16]:
        """These hours as (value - offset) x 256, (hour, T, rows, cols), exactly and in half the memory.

        `offset` (T, 1, 1) are whole numbers within 127 units of every value.
        """
        everything = slice(None)
        return self._collect(lambda index: self.read_target(index, offset, everything, everything), indices, np.int16)

    def read_target(self, index: int, offset: Field, rows: slice, cols: slice) -> NDArray[np.int16]:
        """A part of one hour (T, rows, cols), as `load_targets` gives it."""
        return np.rint((self._target[index, :, rows, cols] - offset) * PRECISION).astype(np.int16)

    @property
    def target_bytes(self) -> int:
        """Memory that an hour takes in `load_targets`."""
        return 2 * int(np.prod(self._target.shape[1:]))

    def _collect(self, read: Callable[[int], Any], indices: NDArray[np.int64], dtype: Any) -> Any:
        first = read(int(indices[0]))
        values = np.empty((len(indices), *first.shape), dtype)

        def fill(place: int) -> None:
            values[place] = read(int(indices[place]))

        with ThreadPoolExecutor(READERS) as pool:
            list(pool.map(fill, range(len(indices))))
        return values


class ArchiveWriter:
    """An archive in the making, in a folder beside its name; days are written in any order, by any process.

    A day is done when its record is there, which is the last thing written; `close` gives the folder its
    name. Opened again, with the same hours and plan, it keeps the days that are done.

    Raises
    ------
    LdmdownError
        if the unfinished archive beside was begun with another plan or other hours.
    """

    def __init__(self, path: Path, grid: Grid, names: Mapping[str, Sequence[str]], hours: Hours, plan: Any) -> None:
        self.path = path
        self.part = _part(path)
        self._records = self.part / "records"
        if not self.part.exists():
            self._create(grid, names, hours, plan)
        group: Any = zarr.open_group(self.part, mode="r+")
        if group.attrs["plan"] != plan or not np.array_equal(group["time"][:], hours):
            raise LdmdownError(
                self.part,
                "was begun with another configuration or other files",
                cure="delete it to begin again, or restore the configuration and the files",
            )
        self._predictors, self._target = group["predictors"], group["target"]

    def _create(self, grid: Grid, names: Mapping[str, Sequence[str]], hours: Hours, plan: Any) -> None:
        beside = self.part.with_suffix(".new")
        shutil.rmtree(beside, ignore_errors=True)
        attributes = {"format": FORMAT, "grid": asdict(grid), **{key: list(names[key]) for key in names}}
        group = zarr.create_group(beside, attributes=attributes | {"plan": plan})
        group.create_array("time", data=hours)
        compressor = BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")
        coarse = grid.coarse.shape
        for name, variables, shape in (
            ("predictors", names["predictors"], coarse),
            ("target", names["targets"], grid.shape),
        ):
            group.create_array(
                name,
                shape=(len(hours), len(variables), *shape),
                chunks=(1, len(variables), *shape),
                dtype="float32",
                fill_value=np.nan,
                compressors=compressor,
            )
        (beside / "records").mkdir()
        beside.rename(self.part)

    def done(self, day: str) -> bool:
        """Whether this day's record was written."""
        return (self._records / f"{day}.json").exists()

    def write(self, index: int, predictors: Field, target: Field) -> dict[str, Field]:
        """One hour, (P, rows, cols) and (T, rows, cols); returns it as it will be read."""
        rounded = (np.rint(target * PRECISION) / PRECISION).astype(np.float32)
        stored = {"predictors": predictors, "target": rounded}
        self._predictors[index] = stored["predictors"]
        self._target[index] = stored["target"]
        return stored

    def finish(self, day: str, record: Any) -> None:
        """Note that all hours of a day are written, with something to remember of them."""
        path = self._records / f"{day}.json"
        beside = path.with_suffix(".tmp")
        beside.write_text(json.dumps(record))
        beside.rename(path)

    def record(self, day: str) -> Any:
        """What `finish` was given."""
        return json.loads((self._records / f"{day}.json").read_text())

    def close(
        self,
        normalization: Mapping[str, Normalization],
        manifest: Mapping[str, Any],
        statics: tuple[Sequence[str], Field] | None = None,
    ) -> None:
        """Give the finished archive its name; `statics` are names and normalised fields of the ground."""
        group = zarr.open_group(self.part, mode="r+")
        names: Sequence[str] = ()
        if statics is not None:
            names, fields = statics
            group.create_array("statics", data=fields)
        group.attrs.update(
            {
                "statics": list(names),
                "normalization": {kind: asdict(values) for kind, values in normalization.items()},
                "manifest": dict(manifest),
            }
        )
        shutil.rmtree(self._records)
        self.part.rename(self.path)


def within(hours: Hours, periods: Sequence[Sequence[Any]]) -> NDArray[np.bool_]:
    """Which hours lie in one of the periods, given by their first and last day."""
    days = hours // 24
    inside = np.zeros(len(hours), bool)
    for first, last in periods:
        inside |= (days >= _day(first)) & (days <= _day(last))
    return inside


def _day(day: Any) -> int:
    return int(np.datetime64(day, "D").astype(np.int64))


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")
