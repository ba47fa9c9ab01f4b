"""Pieces of one variable, from many files, as one series of hours that is read lazily.

Where several pieces hold an hour, the first that has a value counts: of a forecast the shortest lead, then final
before preliminary ERA5, then the order of the files. Sums over longer than an hour become sums over the hour that
ends at the valid time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from ldmdown.data.reading.layout import Array, Hours, Piece, Places
from ldmdown.data.units import Conversion

LONGEST = 6  # hours over which a sum may be spread evenly
LAND = 0.1  # spacing of ERA5-Land [degrees]
SAMPLE, WIDEST = 48, 300  # fields, and cells along each side, that are read to see what sums run over


class Series(BackendArray):
    """One variable (hours, latitude, longitude) in its units, from pieces on the same axes.

    Attributes
    ----------
    hours
        since 1970-01-01T00, rising.
    overlapping
        whether several runs of a forecast hold the same hour.
    longest
        hours over which a sum is spread.
    """

    def __init__(self, pieces: Sequence[Piece], conversions: Sequence[Conversion], *, accumulated: bool) -> None:
        self.pieces, self.conversions = pieces, conversions
        table = _Table.of(pieces)
        if accumulated:
            table = _hourly(table, pieces, conversions)
        table = table.take(np.lexsort((table.rank, table.valid - table.run, table.valid)))
        hours, first, count = np.unique(table.valid, return_index=True, return_counts=True)
        self.hours, self._first, self._count = hours.astype(np.int64), first.astype(np.int32), count.astype(np.int32)
        self.overlapping = bool(((np.diff(table.valid) == 0) & (np.diff(table.run) != 0)).any())
        self._sources = table.sources
        self.longest = int(table.length.max(initial=1))
        self.shape = (len(self.hours), len(pieces[0].axes.lat), len(pieces[0].axes.lon))
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> Any:
        chosen = [np.arange(size)[one] for size, one in zip(self.shape, key, strict=True)]
        hours, rows, cols = (np.atleast_1d(one) for one in chosen)
        block = np.full((len(hours), len(rows), len(cols)), np.nan, np.float32)
        for candidate in range(int(self._count[hours].max(initial=0))):
            missing = (self._count[hours] > candidate) & np.isnan(block).any(axis=(1, 2))
            if missing.any():
                found = self._values(self._sources.take(self._first[hours[missing]] + candidate), rows, cols)
                block[missing] = np.where(np.isnan(block[missing]), found, block[missing])
        return block[tuple(slice(None) if one.ndim else 0 for one in chosen)]

    def _values(self, at: _Sources, rows: Places, cols: Places) -> Array:
        """Fields with sums reduced to an hour's."""
        block = self._stored(at.piece, at.index, rows, cols)
        later = at.earlier_piece >= 0
        if later.any():
            block[later] -= self._stored(at.earlier_piece[later], at.earlier_index[later], rows, cols)
        return block if (at.length == 1).all() else block / at.length[:, None, None]

    def _stored(self, piece: NDArray[np.int32], index: NDArray[np.int32], rows: Places, cols: Places) -> Array:
        """Fields as the pieces hold them, neighbours read together, in the wanted units."""
        blocks = []
        ends = np.flatnonzero((np.diff(piece) != 0) | (np.diff(index) != 1)) + 1
        for group in np.split(np.arange(len(piece)), ends):
            number, start = int(piece[group[0]]), int(index[group[0]])
            values = self.pieces[number].read(slice(start, start + len(group)), rows, cols)
            blocks.append(self.conversions[number](values))
        return np.concatenate(blocks)


@dataclass(frozen=True)
class _Sources:
    """Where each of many fields lies.

    An hour's value is the difference from an earlier field, if there is one, over the length between them [h].
    """

    piece: NDArray[np.int32]
    index: NDArray[np.int32]
    earlier_piece: NDArray[np.int32]
    earlier_index: NDArray[np.int32]
    length: NDArray[np.int32]

    def take(self, entries: NDArray[Any]) -> Self:
        """Some of them, in the order given."""
        return type(self)(*(getattr(self, one.name)[entries] for one in fields(self)))


@dataclass(frozen=True)
class _Table(_Sources):
    """All fields of all pieces, and what decides between them."""

    valid: NDArray[np.int32]
    run: NDArray[np.int32]
    rank: NDArray[np.int32]

    @classmethod
    def of(cls, pieces: Sequence[Piece]) -> _Table:
        sizes = [len(piece.valid) for piece in pieces]
        valid, run, rank = (
            np.concatenate([getattr(one, name) for one in pieces]).astype(np.int32) for name in ("valid", "run", "rank")
        )
        piece = np.repeat(np.arange(len(pieces), dtype=np.int32), sizes)
        index = np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])
        nothing = np.full_like(valid, -1)
        return cls(piece, index, nothing, nothing, np.ones_like(valid), valid, run, rank)

    @property
    def sources(self) -> _Sources:
        """Without what is decided: of decades of hours that would be large."""
        return _Sources(*(getattr(self, one.name) for one in fields(_Sources)))


def _hourly(table: _Table, pieces: Sequence[Piece], conversions: Sequence[Conversion]) -> _Table:
    """With what must be subtracted and divided to get sums over an hour; without those that no hour's sum gives."""
    since = np.concatenate([_since(piece) for piece in pieces])
    rate = np.array([conversion.rate for conversion in conversions])[table.piece]
    since = np.where(rate, table.valid - 1, since)
    if (table.valid - since == 1).all():
        return table
    known = np.array([piece.forecast for piece in pieces])[table.piece]
    run = np.where(known, table.run, since)
    order = np.lexsort((table.valid, run, since))
    earlier, length = np.full(len(order), -1), table.valid - since
    before = -1
    for this, last in zip(order[1:], order[:-1], strict=True):
        if since[this] != since[last] or run[this] != run[last]:
            before = -1
        elif table.valid[this] > table.valid[last]:
            before = last
        if before >= 0 and table.valid[before] > since[this]:
            earlier[this], length[this] = before, table.valid[this] - table.valid[before]
    pairs = earlier >= 0
    table = replace(
        table,
        earlier_piece=np.where(pairs, table.piece[earlier], -1).astype(np.int32),
        earlier_index=np.where(pairs, table.index[earlier], -1).astype(np.int32),
        length=length.astype(np.int32),
    )
    return table.take((length > 0) & (length <= LONGEST))


def _since(piece: Piece) -> Hours:
    """Where the sums of a piece begin: as the file says, or at the start of the run, or of ERA5-Land at 00 UTC.

    A sum never falls before the next begins; where values do, they are sums over an hour.
    """
    if piece.since is not None:
        return piece.since
    hour = piece.valid - 1
    land = bool(np.isclose(np.diff(piece.axes.lon).mean(), LAND, atol=0.01))
    if not piece.forecast and not land:
        return hour
    since = np.where(piece.run < piece.valid, piece.run, hour) if piece.forecast else hour // 24 * 24
    return hour if _falls(piece, since) else since


def _falls(piece: Piece, since: Hours) -> bool:
    """Whether anywhere in the middle of the area a value is less than the one before it."""
    rows, cols = (_middle(len(axis)) for axis in (piece.axes.lat, piece.axes.lon))
    values = piece.read(slice(0, SAMPLE), rows, cols)
    change = np.diff(values, axis=0)[(np.diff(since[:SAMPLE]) == 0) & (np.diff(piece.valid[:SAMPLE]) > 0)]
    return bool((change < -1e-4 * np.nanmax(values, initial=0)).any())


def _middle(size: int) -> Places:
    start = max(0, (size - WIDEST) // 2)
    return np.arange(start, min(size, start + WIDEST))
