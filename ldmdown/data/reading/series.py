"""Blocks of one variable, from many files, as one series of hours that is read when it is asked for.

Where several blocks hold an hour, the first that has a value counts: of a forecast the shortest lead, then final
before preliminary ERA5. Blocks that are alike in this and contradict each other are refused. Sums since the start of a
forecast, or since midnight in ERA5-Land, become sums over the hour that ends at the valid time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ldmdown.data.reading.blocks import FieldBlock, moment
from ldmdown.data.units import Conversion
from ldmdown.data.variables import Variable
from ldmdown.errors import LdmdownError
from ldmdown.typing import BoolArray, Float32Array, FloatArray, IntArray

SAME = 1e-4  # of the physical range, by which packing may change a value
WRAPPED, WIDE = 0.8, 0.05  # of what a wrapped value loses, and of the physical range: jumps that no weather makes
SMOOTH = ("K", "Pa", "m s-1")  # units of variables whose neighbours are alike
LONGEST = 6  # hours over which a sum may be spread evenly
ERA5_LAND_SPACING = 0.1  # [degrees]
SAMPLE_FIELDS, SAMPLE_CELLS = 48, 300  # that are read, cells along each side, to see what sums run over
TIMES = ("valid_time", "init_time", "rank")
PLACES = ("block", "index", "earlier_block", "earlier_index", "length")
FIELD = np.dtype([(name, np.int32) for name in (*TIMES, *PLACES)])  # of decades of hours the table would be large
"""When a field is valid, what decides between those of an hour, and where it lies.

An hour's value is the difference from an earlier field, if there is one (block -1), over the `length` between them [h].
"""

Table = NDArray[np.void]


class TimeSeries:
    """One variable (hours, rows, cols) in its units, from blocks on the same axes.

    Attributes:
        hours: since 1970-01-01T00, rising.
        overlapping: whether several runs of a forecast hold the same hour.
        longest_sum: hours over which a sum is spread.
    """

    def __init__(self, known: Variable, blocks: Sequence[FieldBlock], conversions: Sequence[Conversion]) -> None:
        self.known, self.blocks, self.conversions = known, blocks, conversions
        table = np.concatenate([_fields(number, block) for number, block in enumerate(blocks)])
        if known.accumulated:
            table = _hourly_sums(table, blocks, [conversion.rate for conversion in conversions])
        valid, init = table["valid_time"], table["init_time"]
        self._table = table = table[np.lexsort((table["rank"], valid - init, valid))]
        hours, first, count = np.unique(table["valid_time"], return_index=True, return_counts=True)
        self.hours, self._first, self._count = hours.astype(np.int64), first, count
        same_hour, same_run, same_rank = (np.diff(table[name], prepend=-1) == 0 for name in TIMES)
        self.overlapping = bool((same_hour & ~same_run).any())
        self._again = same_hour & same_run & same_rank  # what must agree with the field before it
        self.longest_sum = int(table["length"].max(initial=1))

    def read(self, hours: IntArray, rows: slice, cols: slice) -> Float32Array:
        """(hours, rows, cols) at places along the hours and along the ordered axes; NaN where nothing has a value.

        Raises LdmdownError if two blocks hold different values, or packed ones have wrapped.
        """
        grid = self.blocks[0].axes.grid
        down, right = np.arange(len(grid.y))[rows], np.arange(len(grid.x))[cols]
        block = np.full((len(hours), len(down), len(right)), np.nan, np.float32)
        for candidate in range(int(self._count[hours].max(initial=0))):
            held = self._count[hours] > candidate
            place = self._first[hours] + np.where(held, candidate, 0)
            wanted = held & (np.isnan(block).any(axis=(1, 2)) | self._again[place])
            if wanted.any():
                at = self._table[place[wanted]]
                found = self._values(at, down, right)
                self._refuse_contradictions(block[wanted], found, at, self._again[place[wanted]])
                block[wanted] = np.where(np.isnan(block[wanted]), found, block[wanted])
        return block

    def _values(self, at: Table, rows: IntArray, cols: IntArray) -> FloatArray:
        """Fields with sums reduced to an hour's."""
        block = self._stored(at["block"], at["index"], rows, cols)
        later = at["earlier_block"] >= 0
        if later.any():
            block[later] -= self._stored(at["earlier_block"][later], at["earlier_index"][later], rows, cols)
        if self.known.units in SMOOTH:
            self._refuse_wrapped(block, at)
        return block if (at["length"] == 1).all() else block / at["length"][:, None, None]

    def _stored(self, block: IntArray, index: IntArray, rows: IntArray, cols: IntArray) -> FloatArray:
        """Fields as the blocks hold them, neighbours read together, in the wanted units."""
        fields = []
        ends = np.flatnonzero((np.diff(block) != 0) | (np.diff(index) != 1)) + 1
        for group in np.split(np.arange(len(block)), ends):
            number, start = int(block[group[0]]), int(index[group[0]])
            values = self.blocks[number].read(slice(start, start + len(group)), rows, cols)
            fields.append(self.conversions[number](values))
        return np.concatenate(fields)

    def _refuse_contradictions(self, held: FloatArray, found: FloatArray, at: Table, again: BoolArray) -> None:
        low, high = self.known.bounds
        wrong = (np.abs(found - held) > SAME * (high - low)) & again[:, None, None]
        if wrong.any():
            place = tuple(np.argwhere(wrong)[0])
            raise LdmdownError(
                self.blocks[at["block"][place[0]]].label,
                f"{self.known.name} of {moment(at['valid_time'][place[0]])} is given twice, with different values",
                found=f"{held[place]:g} and {found[place]:g} {self.known.units} in the same cell, one of "
                f"{np.count_nonzero(wrong[place[0]])}",
                expected="the same values wherever files overlap",
                fix="leave one of them out; members of an ensemble need their coordinate `number`",
            )

    def _refuse_wrapped(self, fields: FloatArray, at: Table) -> None:
        """Refuse jumps between neighbours as large as all that a packed value can hold."""
        low, high = self.known.bounds
        lost = np.array(
            [(block.packing or 0) * one.factor for block, one in zip(self.blocks, self.conversions, strict=True)]
        )
        lost = np.where(lost > WIDE * (high - low), lost, np.inf)[at["block"]][:, None, None]
        for axis in (1, 2):
            jumps = np.abs(np.diff(fields, axis=axis))
            wrong = jumps > WRAPPED * lost
            if wrong.any():
                hour = np.argwhere(wrong)[0][0]
                raise LdmdownError(
                    self.blocks[at["block"][hour]].label,
                    f"{self.known.name} of {moment(at['valid_time'][hour])} does not fit into its packing",
                    found=f"{jumps[wrong][0]:g} {self.known.units} between neighbouring cells, where whole numbers "
                    f"of {self.known.name} begin again after {lost[hour].item():g}",
                    expected="scale_factor and add_offset that hold every value",
                    fix="write the file again without packing, as with `cdo -b F32 copy`, from the original files",
                )


def _fields(number: int, block: FieldBlock) -> Table:
    table = np.zeros(len(block.valid_time), FIELD)
    for name in TIMES:
        table[name] = getattr(block, name)
    table["block"], table["index"] = number, np.arange(len(table))
    table["earlier_block"], table["length"] = -1, 1
    return table


def _hourly_sums(table: Table, blocks: Sequence[FieldBlock], rates: Sequence[bool]) -> Table:
    """With what must be subtracted and divided to get sums over an hour, without those that no hour's sum gives.

    Values of blocks that are `rates` are sums over an hour already.
    """
    number, valid = table["block"], table["valid_time"]
    start = np.concatenate([_accumulation_start(block) for block in blocks])
    start = np.where(np.array(rates)[number], valid - 1, start)
    if (valid - start == 1).all():
        return table
    known = np.array([block.forecast for block in blocks])[number]
    init = np.where(known, table["init_time"], start)
    order = np.lexsort((valid, init, start))
    table["length"] = valid - start
    before = -1
    for this, last in zip(order[1:], order[:-1], strict=True):
        if start[this] != start[last] or init[this] != init[last]:
            before = -1
        elif valid[this] > valid[last]:
            before = last
        if before >= 0 and valid[before] > start[this]:
            table["earlier_block"][this], table["earlier_index"][this] = number[before], table["index"][before]
            table["length"][this] = valid[this] - valid[before]
    return table[(table["length"] > 0) & (table["length"] <= LONGEST)]


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
