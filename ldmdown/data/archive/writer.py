"""An archive in the making: days are written in any order, by any process; the archive is named when it is whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from ldmdown.atomic import move_into_place, replacing
from ldmdown.data.archive.box_means import era5_boxes
from ldmdown.data.archive.packing import FILL_VALUE, Packing
from ldmdown.data.archive.store import BOXES, FORMAT, KINDS, MANIFEST, ArchiveSource, unfinished_path
from ldmdown.data.grid import Grid
from ldmdown.data.normalization import Normalization
from ldmdown.errors import LdmdownError
from ldmdown.typing import Float32Array

TILE = 160  # cells, about; a crop of 128 x 128 then touches 3 tiles
RECORDS, FILES = "records", "files"  # in the folder of an unfinished archive


class DayKey(NamedTuple):
    """A day since 1970-01-01 of a realization of a source."""

    source: int
    realization: int
    day: int


class ArchiveWriter:
    """The folder beside an archive's name in which it is made.

    A day is done when its record is there, which is the last thing written; `close` gives the folder its
    name. Stopped at any moment and resumed, the same files become the same archive, byte by byte.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = unfinished_path(path)
        self._records = self.part / RECORDS
        group: Any = zarr.open_group(self.part, mode="r+")
        source, realization, time = (group[name][::24] for name in ("source", "realization", "time"))
        self.keys = [DayKey(*key) for key in np.stack([source, realization, time // 24], axis=1).tolist()]
        self.valid = group["valid"][:]
        self._arrays = {kind: group[kind] for kind in (*KINDS, BOXES) if kind in group}
        self._on_boxes = [name in group.attrs["predictors"] for name in group.attrs["targets"]]
        self._packing = Packing.read(group["target"])

    @classmethod
    def begin(
        cls,
        path: Path,
        grid: Grid,
        names: Mapping[str, Sequence[str]],
        sources: Sequence[ArchiveSource],
        days: Sequence[DayKey],
        fingerprint: Mapping[str, Any],
        files: Any,
    ) -> ArchiveWriter:
        """Make the empty arrays of these days, which are sorted.

        `names` are those of the "predictors" and the "targets"; `fingerprint` and `files` are what `resume` compares.
        """
        described = [{"name": one.name, "coarse": one.coarse, "split": dict(one.split)} for one in sources]
        attributes: dict[str, Any] = {
            "format": FORMAT,
            "grid": asdict(grid),
            **{key: list(names[key]) for key in names},
        }
        attributes |= {"sources": described, "fingerprint": dict(fingerprint)}
        source, realization, day = np.array(days, np.int64).reshape(-1, 3).T
        slots = {
            "time": (24 * day[:, None] + np.arange(24)).ravel(),
            "source": source.repeat(24),
            "realization": realization.repeat(24),
            "present": np.zeros(24 * len(days), bool),
            "valid": np.stack([one.valid for one in sources]),
        }
        with replacing(unfinished_path(path)) as folder:
            group = zarr.create_group(folder, attributes=attributes)
            for name, values in slots.items():
                group.create_array(name, data=values)
            group["time"].attrs["units"] = "hours since 1970-01-01"
            compressor = BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")
            for kind, settings in layout(grid, names).items():
                shape = (24 * len(days), *settings.pop("shape"))
                group.create_array(kind, shape=shape, compressors=compressor, **settings)
            Packing.of(names["targets"]).save(group["target"])
            (folder / RECORDS).mkdir()
            (folder / RECORDS / FILES).write_text(json.dumps(files))
        return cls(path)

    @classmethod
    def resume(cls, path: Path, fingerprint: Mapping[str, Any], files: Any) -> ArchiveWriter | None:
        """Open what an earlier run began; None if there is nothing.

        Raises LdmdownError if it was begun with another configuration or other files.
        """
        part = unfinished_path(path)
        if not part.exists():
            return None
        began = zarr.open_group(part, mode="r").attrs["fingerprint"], json.loads((part / RECORDS / FILES).read_text())
        if began != (fingerprint, files):
            raise LdmdownError(
                part,
                "was begun with another configuration or other files",
                fix="delete it to begin again, or restore the configuration and the files",
            )
        return cls(path)

    def done(self, key: DayKey) -> bool:
        """Whether this day's record was written."""
        return self._record(key).exists()

    def new_day(self) -> dict[str, Any]:
        """Make empty fields of a day, (24, variable, rows, cols) each, to be filled by `put`."""
        return {
            kind: np.full((24, *array.shape[1:]), array.fill_value, array.dtype) for kind, array in self._arrays.items()
        }

    def put(
        self,
        day: dict[str, Any],
        hour: int,
        predictors: Float32Array,
        target: Float32Array,
        boxes: Float32Array | None = None,
    ) -> dict[str, Float32Array]:
        """Put an hour's (P, rows, cols) and (T, rows, cols) in its place; returns them as they will be read.

        `boxes` are the targets that are predictors too, as they are on ERA5's boxes.
        """
        if boxes is not None and BOXES in day:
            day[BOXES][hour % 24][self._on_boxes] = boxes
        packed = self._packing.pack(target)
        day["predictors"][hour % 24], day["target"][hour % 24] = predictors, packed
        return {"predictors": predictors, "target": self._packing.unpack(packed)}

    def write(self, key: DayKey, day: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """Write the fields of a day, then the record that it is done: its `hours`, and more to remember."""
        slot = 24 * self.keys.index(key)
        for kind, array in self._arrays.items():
            array[slot : slot + 24] = day[kind]
        with replacing(self._record(key)) as beside:
            beside.write_text(json.dumps(record))

    def record(self, key: DayKey) -> dict[str, Any]:
        """What `write` was given."""
        return json.loads(self._record(key).read_text())

    def close(
        self,
        normalization: Mapping[str, Normalization],
        manifest: Mapping[str, Any],
        statics: tuple[Mapping[str, Any], Float32Array] | None = None,
    ) -> None:
        """Give the finished archive its name; `statics` are by name how fields were normalised, and these fields."""
        group: Any = zarr.open_group(self.part, mode="r+")
        normalized: Mapping[str, Any] = {}
        if statics is not None:
            normalized, fields = statics
            group.create_array("statics", data=fields, overwrite=True)
        present = np.zeros((len(self.keys), 24), bool)
        for place, key in enumerate(self.keys):
            present[place, np.array(self.record(key)["hours"], np.int64) % 24] = True
        group["present"][:] = present.ravel()
        group.attrs.update(
            {
                "statics": list(normalized),
                "statics_normalization": dict(normalized),
                "normalization": {kind: asdict(values) for kind, values in normalization.items()},
            }
        )
        (self.part / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        for torn in self.part.rglob("*.partial"):  # writes that were killed
            torn.unlink()
        move_into_place(self.part, self.path)
        shutil.rmtree(self.path / RECORDS)

    def _record(self, key: DayKey) -> Path:
        return self._records / f"{key.source}-{key.realization}-{np.datetime64(key.day, 'D')}.json"


def layout(grid: Grid, names: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
    """Type, fill value, chunk and shard of the arrays of fields, as Zarr takes them; `shape` is that of an hour."""
    tiles = [max(1, round(size / TILE)) for size in grid.shape]
    tile = [-(-size // count) for size, count in zip(grid.shape, tiles, strict=True)]
    whole = [size * count for size, count in zip(tile, tiles, strict=True)]
    coarse, boxes = grid.coarse.shape, era5_boxes(grid).grid.shape
    p, t = len(names["predictors"]), len(names["targets"])
    return {
        "predictors": {
            "dtype": "float32",
            "fill_value": np.nan,
            "shape": (p, *coarse),
            "chunks": (1, p, *coarse),
            "shards": (24, p, *coarse),
        },
        "target": {
            "dtype": "int16",
            "fill_value": FILL_VALUE,
            "shape": (t, *grid.shape),
            "chunks": (1, t, *tile),
            "shards": (24, t, *whole),
        },
        BOXES: {
            "dtype": "float32",
            "fill_value": np.nan,
            "shape": (t, *boxes),
            "chunks": (1, t, *boxes),
            "shards": (24, t, *boxes),
        },
    }
