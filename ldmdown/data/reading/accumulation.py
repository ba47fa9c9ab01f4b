"""Sums since the start of a forecast, or since midnight in ERA5-Land, as sums over the hour that ends at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ldmdown.data.reading.blocks import FieldBlock
from ldmdown.typing import IntArray

Numbers = NDArray[np.int32]  # of decades of hours these tables would be large

LONGEST = 6  # hours over which a sum may be spread evenly
ERA5_LAND_SPACING = 0.1  # [degrees]
SAMPLE_FIELDS, SAMPLE_CELLS = 48, 300  # that are read, cells along each side, to see what sums run over


@dataclass(frozen=True)
class Places:
    """Where each of many fields lies.

    An hour's value is the difference from an earlier field, if there is one (-1), over the `length` between them [h].
    """

    block: Numbers
    index: Numbers
    earlier_block: Numbers
    earlier_index: Numbers
    length: Numbers

    def take(self, entries: NDArray[Any]) -> Self:
        """Some of them, in the order given."""
        return replace(self, **{name: values[entries] for name, values in vars(self).items()})


@dataclass(frozen=True)
class FieldTable:
    """All fields of all blocks, and what decides between those of an hour."""

    places: Places
    valid_time: Numbers
    init_time: Numbers
    rank: Numbers

    @classmethod
    def of(cls, blocks: Sequence[FieldBlock]) -> FieldTable:
        """The table of blocks, in their order."""
        sizes = [len(block.valid_time) for block in blocks]
        valid, init, rank = (
            np.concatenate([getattr(one, name) for one in blocks]).astype(np.int32)
            for name in ("valid_time", "init_time", "rank")
        )
        number = np.repeat(np.arange(len(blocks), dtype=np.int32), sizes)
        index = np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])
        nothing = np.full_like(valid, -1)
        return cls(Places(number, index, nothing, nothing, np.ones_like(valid)), valid, init, rank)

    def take(self, entries: NDArray[Any]) -> FieldTable:
        """Some of its rows, in the order given."""
        return FieldTable(
            self.places.take(entries), self.valid_time[entries], self.init_time[entries], self.rank[entries]
        )


def hourly_sums(table: FieldTable, blocks: Sequence[FieldBlock], rates: Sequence[bool]) -> FieldTable:
    """With what must be subtracted and divided to get sums over an hour, without those that no hour's sum gives.

    Values of blocks that are `rates` are sums over an hour already.
    """
    start = np.concatenate([_accumulation_start(block) for block in blocks])
    number, valid = table.places.block, table.valid_time
    start = np.where(np.array(rates)[number], valid - 1, start)
    if (valid - start == 1).all():
        return table
    known = np.array([block.forecast for block in blocks])[number]
    init = np.where(known, table.init_time, start)
    order = np.lexsort((valid, init, start))
    earlier, length = np.full(len(order), -1), valid - start
    before = -1
    for this, last in zip(order[1:], order[:-1], strict=True):
        if start[this] != start[last] or init[this] != init[last]:
            before = -1
        elif valid[this] > valid[last]:
            before = last
        if before >= 0 and valid[before] > start[this]:
            earlier[this], length[this] = before, valid[this] - valid[before]
    pairs = earlier >= 0
    places = replace(
        table.places,
        earlier_block=np.where(pairs, number[earlier], -1).astype(np.int32),
        earlier_index=np.where(pairs, table.places.index[earlier], -1).astype(np.int32),
        length=length.astype(np.int32),
    )
    return replace(table, places=places).take((length > 0) & (length <= LONGEST))


def _accumulation_start(block: FieldBlock) -> IntArray:
    """Where the sums of a block begin: as the file says, or at the start of the run, or of ERA5-Land at 00 UTC.

    A sum never falls before the next begins; where values do, they are sums over an hour.
    """
    if block.accumulation_start is not None:
        return block.accumulation_start
    hour = block.valid_time - 1
    land = bool(np.isclose(block.axes.grid.spacing[1], ERA5_LAND_SPACING, atol=0.01))
    if not block.forecast and not land:
        return hour
    start = np.where(block.init_time < block.valid_time, block.init_time, hour) if block.forecast else hour // 24 * 24
    return hour if _falls(block, start) else start


def _falls(block: FieldBlock, start: IntArray) -> bool:
    """Whether anywhere in the middle of the area a value is less than the one before it."""
    rows, cols = (_middle(size) for size in block.axes.grid.shape)
    values = block.read(slice(0, SAMPLE_FIELDS), rows, cols)
    same_sum = np.diff(start[:SAMPLE_FIELDS]) == 0
    change = np.diff(values, axis=0)[same_sum & (np.diff(block.valid_time[:SAMPLE_FIELDS]) > 0)]
    return bool((change < -1e-4 * np.nanmax(values, initial=0)).any())


def _middle(size: int) -> IntArray:
    start = max(0, (size - SAMPLE_CELLS) // 2)
    return np.arange(start, min(size, start + SAMPLE_CELLS))
