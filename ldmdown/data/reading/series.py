"""Blocks of one variable, from many files, as one series of hours that is read when it is asked for.

Where several blocks hold an hour, the first that has a value counts: of a forecast the shortest lead, then final
before preliminary ERA5, then the order of the files. Sums over longer than an hour become sums over the hour that
ends at the valid time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ldmdown.data.reading.accumulation import FieldTable, Numbers, Places, hourly_sums
from ldmdown.data.reading.blocks import FieldBlock
from ldmdown.data.units import Conversion
from ldmdown.typing import Float32Array, FloatArray, IntArray


class TimeSeries:
    """One variable (hours, rows, cols) in its units, from blocks on the same axes.

    Attributes
    ----------
    hours
        since 1970-01-01T00, rising.
    overlapping
        whether several runs of a forecast hold the same hour.
    longest_sum
        hours over which a sum is spread.
    """

    def __init__(self, blocks: Sequence[FieldBlock], conversions: Sequence[Conversion], *, accumulated: bool) -> None:
        self.blocks, self.conversions = blocks, conversions
        table = FieldTable.of(blocks)
        if accumulated:
            table = hourly_sums(table, blocks, [conversion.rate for conversion in conversions])
        table = table.take(np.lexsort((table.rank, table.valid_time - table.init_time, table.valid_time)))
        hours, first, count = np.unique(table.valid_time, return_index=True, return_counts=True)
        self.hours, self._first, self._count = hours.astype(np.int64), first.astype(np.int32), count.astype(np.int32)
        same_hour, other_run = np.diff(table.valid_time) == 0, np.diff(table.init_time) != 0
        self.overlapping = bool((same_hour & other_run).any())
        self.longest_sum = int(table.places.length.max(initial=1))
        self._places = table.places

    def read(self, hours: IntArray, rows: slice, cols: slice) -> Float32Array:
        """(hours, rows, cols) at places along the hours and along the ordered axes; NaN where nothing has a value."""
        grid = self.blocks[0].axes.grid
        down, right = np.arange(len(grid.y))[rows], np.arange(len(grid.x))[cols]
        block = np.full((len(hours), len(down), len(right)), np.nan, np.float32)
        for candidate in range(int(self._count[hours].max(initial=0))):
            missing = (self._count[hours] > candidate) & np.isnan(block).any(axis=(1, 2))
            if missing.any():
                found = self._values(self._places.take(self._first[hours[missing]] + candidate), down, right)
                block[missing] = np.where(np.isnan(block[missing]), found, block[missing])
        return block

    def _values(self, at: Places, rows: IntArray, cols: IntArray) -> FloatArray:
        """Fields with sums reduced to an hour's."""
        block = self._stored(at.block, at.index, rows, cols)
        later = at.earlier_block >= 0
        if later.any():
            block[later] -= self._stored(at.earlier_block[later], at.earlier_index[later], rows, cols)
        return block if (at.length == 1).all() else block / at.length[:, None, None]

    def _stored(self, block: Numbers, index: Numbers, rows: IntArray, cols: IntArray) -> FloatArray:
        """Fields as the blocks hold them, neighbours read together, in the wanted units."""
        fields = []
        ends = np.flatnonzero((np.diff(block) != 0) | (np.diff(index) != 1)) + 1
        for group in np.split(np.arange(len(block)), ends):
            number, start = int(block[group[0]]), int(index[group[0]])
            values = self.blocks[number].read(slice(start, start + len(group)), rows, cols)
            fields.append(self.conversions[number](values))
        return np.concatenate(fields)
