"""Hourly fields in a Zarr store: blocks of hours are written as soon as all of their hours are there."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zarr

from ldmdown.atomic import move_into_place, replacing, sync
from ldmdown.data.template import RUN, output_dataset
from ldmdown.data.writer import FieldWriter
from ldmdown.typing import Float32Array

FIELDS_PER_SHARD = 24  # of a variable in a file of the store, each a chunk of its own


class ZarrWriter(FieldWriter):
    """The hourly fields of a Zarr store, whose files are blocks of hours of a variable.

    Whoever writes the last hour of a block, thread or process, brings the block into the store.
    """

    folder = True
    compressed = 0.85

    def write(self, index: int, fields: Mapping[str, Float32Array]) -> None:
        """Keep one hour, and write its block if it was the last."""
        super().write(index, fields)
        self._write_block(index // self._block_hours)

    def has(self, index: int) -> bool:
        """Whether an hour is written."""
        return super().has(index) or self._marker(index // self._block_hours).exists()

    @property
    def _store(self) -> Path:
        return self.part / "store"

    @property
    def _block_hours(self) -> int:
        return max(1, FIELDS_PER_SHARD // (self.template.kept_members or 1))

    def _hours_of(self, block: int) -> range:
        start = block * self._block_hours
        return range(start, min(start + self._block_hours, len(self.hours)))

    def _marker(self, block: int) -> Path:
        """What shows that a block of hours lies in the store."""
        return self.part / f"block-{block:06}"

    def begin(self) -> None:
        """Make the folder of finished hours, and in it the store without its fields, which will lie in shards."""
        super().begin()
        if self._named or self._store.exists():
            return
        of_hours = self.template.of_hours(self.hours)
        encoding: dict[str, Any] = {name: {"chunks": (FIELDS_PER_SHARD,)} for name in of_hours}
        for name in self.template.names:
            *members, rows, cols = self.template.shape(name)
            encoding[name] = {
                "chunks": (1, *[1] * len(members), rows, cols),
                "shards": (self._block_hours, *members, rows, cols),
            }
        template = output_dataset(self.template, self.hours)
        with replacing(self._store) as beside:
            template.to_zarr(beside, encoding=encoding, zarr_format=3, consolidated=False)
            group: Any = zarr.open_group(beside, mode="r+")
            for name in (*of_hours, *self.template.names):
                group[name].resize((len(self.hours), *group[name].shape[1:]))
            for name, (_, values, _) in of_hours.items():
                group[name][:] = values

    def _complete(self) -> bool:
        if not super()._complete():
            return False
        blocks = range(-(-len(self.hours) // self._block_hours))
        for block in blocks:
            self._write_block(block)
        return all(self._marker(block).exists() for block in blocks)

    def _write_block(self, block: int) -> None:
        """Bring a block into the store, if its hours are there and no other thread or process does it."""
        indices, marker = self._hours_of(block), self._marker(block)
        if not all(self.hour_file(index).exists() for index in indices) or not self.take(marker.name):
            return
        group: Any = zarr.open_group(self._store, mode="r+")
        for name in self.template.names:
            group[name][indices.start : indices.stop] = self.stacked(name, indices)
            sync(self._store / name / "c" / str(block))
        with replacing(marker) as beside:
            beside.touch()
        for index in indices:
            self.hour_file(index).unlink()

    def _finish(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that other programs may not know metadata in one place yet
            zarr.consolidate_metadata(self._store)
        move_into_place(self._store, self.path)

    def _run_attribute(self) -> object:
        try:
            return zarr.open_group(self.path, mode="r").attrs.get(RUN)
        except (OSError, zarr.errors.GroupNotFoundError):
            return None
