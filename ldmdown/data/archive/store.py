"""The training archive: paired hours on the project's grids, in one Zarr store that `prepare` writes.

Arrays: `time` (slot) int64, hours since 1970-01-01T00, 24 a day; `present` (slot) bool; `predictors` (slot,
variable, rows, cols) float32 on the coarse grid, in physical units; `target` (slot, variable, rows, cols) int16 on the
fine one: times 1/`steps` plus `offset` it is in physical units, by variable (for t2m and the wind, multiples of
1/256 unit). A day is a shard, so that processes write apart; in it an hour is cut into tiles of about the size of a
training crop, so that a random crop of a random hour reads little more than itself. The attributes name the rest.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from ldmdown.data.grid import Grid, Window
from ldmdown.data.normalization import Normalization
from ldmdown.data.variables import variable
from ldmdown.errors import LdmdownError

FORMAT = 2
PRECISION = 256  # steps of a unit in which temperature and wind are kept, finer than any use
READERS = 4  # threads
TILE = 160  # cells, about; a crop of 128 x 128 then touches 3 tiles
ABSENT = -(2**15)  # of the target in a slot without its hour
KINDS = ("predictors", "target")
MANIFEST, RECORDS, FILES = "manifest.json", "records", "files"  # in the archive's folder; the last two until it closes

Hours = NDArray[np.int64]
Field = NDArray[np.float32]


@dataclass(frozen=True)
class Packing:
    """Fields as 16-bit numbers: the finest powers of two of steps with which each variable's bounds fit."""

    steps: Field  # (T, 1, 1)
    offset: Field  # (T, 1, 1), in units

    @classmethod
    def of(cls, names: Sequence[str]) -> Packing:
        """For these variables; (2^15 - 1) steps reach from the middle of the bounds to either."""
        low, high = np.array([variable(name).bounds for name in names]).T[..., None, None]
        steps = 2 ** np.floor(np.log2((2**15 - 1) / ((high - low) / 2)))
        return cls(steps.astype(np.float32), (np.rint((low + high) / 2 * steps) / steps).astype(np.float32))

    @classmethod
    def read(cls, array: Any) -> Packing:
        """Of an archive's array."""
        steps, offset = (np.array(array.attrs[key], np.float32)[:, None, None] for key in ("steps", "offset"))
        return cls(steps, offset)

    def save(self, array: Any) -> None:
        """Into an archive's array."""
        array.attrs.update({"steps": self.steps.ravel().tolist(), "offset": self.offset.ravel().tolist()})

    def pack(self, fields: Field) -> NDArray[np.int16]:
        """(..., T, rows, cols) in units to steps."""
        return np.rint((fields - self.offset) * self.steps).astype(np.int16)

    def unpack(self, numbers: NDArray[np.int16]) -> Field:
        """(..., T, rows, cols) in steps to units."""
        return (numbers / self.steps + self.offset).astype(np.float32)


class Archive:
    """A finished archive, for reading.

    Attributes
    ----------
    hours
        since 1970-01-01T00, rising.
    grid, predictors, targets
        the fine grid and the names of the variables.
    normalization
        mean and std over the training days, of "predictors" and of "target".
    statics
        names of the fields of the ground, if it holds any.
    statics_normalization
        by these names the mean and std that were taken out, and the units.

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
                fix=f"run `ldmdown prepare`{' again; it goes on where it stopped' if unfinished else ''}",
            )
        group: Any = zarr.open_group(self.path, mode="r")
        attributes: Mapping[str, Any] = group.attrs.asdict()
        if attributes.get("format") != FORMAT:
            raise LdmdownError(
                path,
                "is not an archive of this version of ldmdown",
                found=f"format {attributes.get('format')}",
                expected=f"format {FORMAT}",
                fix="delete it and run `ldmdown prepare`",
            )
        self._slots = np.flatnonzero(group["present"][:])
        self.hours: Hours = group["time"][:][self._slots]
        self._predictors, self._target = group["predictors"], group["target"]
        self.grid = Grid(**attributes["grid"])
        self.predictors = tuple(attributes["predictors"])
        self.targets = tuple(attributes["targets"])
        self._packing = Packing.read(self._target)
        self.normalization = {kind: Normalization(**values) for kind, values in attributes["normalization"].items()}
        self.statics: tuple[str, ...] = tuple(attributes["statics"])
        self.statics_normalization: dict[str, dict[str, Any]] = attributes["statics_normalization"]
        self.plan: dict[str, Any] = attributes["plan"]

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The files it was made from with their hashes, its hours, and those that were left out with the reasons."""
        return json.loads((self.path / MANIFEST).read_text())

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
        slot = self._slots[index]
        return {
            "predictors": self._predictors[slot, :, row : row + rows, col : col + cols],
            "target": self._packing.unpack(self._numbers(index, *fine)),
        }

    def load_statics(self) -> Field:
        """(S, rows, cols), normalised."""
        group: Any = zarr.open_group(self.path, mode="r")
        return group["statics"][:]

    def load_predictors(self, indices: NDArray[np.int64]) -> Field:
        """These hours (hour, P, rows, cols)."""
        return self._collect(lambda index: self._predictors[self._slots[index]], indices, np.float32)

    def read_target(self, index: int, offset: Field, rows: slice, cols: slice) -> NDArray[np.int16]:
        """A part of one hour as (value - offset) x steps, (T, rows, cols), exactly and in half the memory.

        `offset` (T, 1, 1) are whole numbers from which no value is further than 2^15 - 1 steps.

        Raises
        ------
        ValueError
            if the part has gone from the disk.
        """
        shift = np.rint((self._packing.offset - offset) * self._packing.steps).astype(np.int16)
        return self._numbers(index, rows, cols) + shift

    def _numbers(self, index: int, rows: slice, cols: slice) -> NDArray[np.int16]:
        numbers = self._target[self._slots[index], :, rows, cols]
        if (numbers == ABSENT).any():
            raise ValueError("its part of the archive is gone")
        return numbers

    @property
    def steps(self) -> Field:
        """(T, 1, 1): the steps of a unit in `read_target`, a power of two each."""
        return self._packing.steps

    @property
    def target_bytes(self) -> int:
        """Memory that an hour of `read_target` takes."""
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
    name. Stopped at any moment and gone on with, the same files become the same archive, byte by byte.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = _part(path)
        self._records = self.part / RECORDS
        group: Any = zarr.open_group(self.part, mode="r+")
        self._time, self._arrays = group["time"][:], {kind: group[kind] for kind in KINDS}
        self._packing = Packing.read(group["target"])

    @classmethod
    def begin(
        cls, path: Path, grid: Grid, names: Mapping[str, Sequence[str]], days: Sequence[int], plan: Any, files: Any
    ) -> ArchiveWriter:
        """Make the empty arrays for these days since 1970-01-01, or keep those of an earlier run.

        Raises
        ------
        LdmdownError
            if the unfinished archive beside was begun with another plan or other files.
        """
        part = _part(path)
        if not part.exists():
            beside = part.with_suffix(".new")
            shutil.rmtree(beside, ignore_errors=True)
            _create(beside, grid, names, days, plan)
            (beside / RECORDS / FILES).write_text(json.dumps(files))
            beside.rename(part)
        began = zarr.open_group(part, mode="r").attrs["plan"], json.loads((part / RECORDS / FILES).read_text())
        if began != (plan, files):
            raise LdmdownError(
                part,
                "was begun with another configuration or other files",
                fix="delete it to begin again, or restore the configuration and the files",
            )
        return cls(path)

    def done(self, day: int) -> bool:
        """Whether this day's record was written."""
        return self._record(day).exists()

    def new_day(self) -> dict[str, Any]:
        """Empty fields of a day, (24, variable, rows, cols) each, to be filled by `put`."""
        return {
            kind: np.full((24, *array.shape[1:]), array.fill_value, array.dtype) for kind, array in self._arrays.items()
        }

    def put(self, day: dict[str, Any], hour: int, predictors: Field, target: Field) -> dict[str, Field]:
        """Put an hour's (P, rows, cols) and (T, rows, cols) in its place; returns them as they will be read."""
        packed = self._packing.pack(target)
        day["predictors"][hour % 24], day["target"][hour % 24] = predictors, packed
        return {"predictors": predictors, "target": self._packing.unpack(packed)}

    def write(self, number: int, day: dict[str, Any], record: Mapping[str, Any]) -> None:
        """Write the fields of a day since 1970-01-01, then note that it is done: its `hours`, and more to remember."""
        slot = int(np.searchsorted(self._time, 24 * number))
        for kind, array in self._arrays.items():
            array[slot : slot + 24] = day[kind]
        path = self._record(number)
        beside = path.with_suffix(".tmp")
        beside.write_text(json.dumps(record))
        beside.rename(path)

    def record(self, day: int) -> dict[str, Any]:
        """What `write` was given."""
        return json.loads(self._record(day).read_text())

    def close(
        self,
        normalization: Mapping[str, Normalization],
        manifest: Mapping[str, Any],
        statics: tuple[Mapping[str, Any], Field] | None = None,
    ) -> None:
        """Give the finished archive its name; `statics` are normalised fields, and by name how they were."""
        group: Any = zarr.open_group(self.part, mode="r+")
        normalized: Mapping[str, Any] = {}
        if statics is not None:
            normalized, fields = statics
            group.create_array("statics", data=fields, overwrite=True)
        days = np.unique(self._time // 24).tolist()
        group["present"][:] = np.isin(self._time, [hour for day in days for hour in self.record(day)["hours"]])
        group.attrs.update(
            {
                "statics": list(normalized),
                "statics_normalization": dict(normalized),
                "normalization": {kind: asdict(values) for kind, values in normalization.items()},
            }
        )
        (self.part / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        for torn in self.part.rglob("*.partial"):  # of a write that was killed
            torn.unlink()
        self.part.rename(self.path)
        shutil.rmtree(self.path / RECORDS)

    def _record(self, day: int) -> Path:
        return self._records / f"{np.datetime64(day, 'D')}.json"


def layout(grid: Grid, names: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
    """Type, fill value, chunk and shard of the arrays of fields, as Zarr takes them; `shape` is that of an hour."""
    tiles = [max(1, round(size / TILE)) for size in grid.shape]
    tile = [-(-size // count) for size, count in zip(grid.shape, tiles, strict=True)]
    whole = [size * count for size, count in zip(tile, tiles, strict=True)]
    coarse, p, t = grid.coarse.shape, len(names["predictors"]), len(names["targets"])
    return {
        "predictors": {"dtype": "float32", "fill_value": np.nan, "shape": (p, *coarse),
                       "chunks": (1, p, *coarse), "shards": (24, p, *coarse)},
        "target": {"dtype": "int16", "fill_value": ABSENT, "shape": (t, *grid.shape),
                   "chunks": (1, t, *tile), "shards": (24, t, *whole)},
    }  # fmt: skip


def _create(folder: Path, grid: Grid, names: Mapping[str, Sequence[str]], days: Sequence[int], plan: Any) -> None:
    attributes = {"format": FORMAT, "grid": asdict(grid), **{key: list(names[key]) for key in names}, "plan": plan}
    group = zarr.create_group(folder, attributes=attributes)
    slots = (24 * np.asarray(days, np.int64)[:, None] + np.arange(24)).ravel()
    group.create_array("time", data=slots).attrs["units"] = "hours since 1970-01-01"
    group.create_array("present", data=np.zeros(len(slots), bool))
    compressor = BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")
    for kind, settings in layout(grid, names).items():
        shape = (len(slots), *settings.pop("shape"))
        group.create_array(kind, shape=shape, compressors=compressor, **settings)
    Packing.of(names["targets"]).save(group["target"])
    (folder / RECORDS).mkdir()


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
