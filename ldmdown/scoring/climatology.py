"""What a series of fields is like by itself: its distribution, its spectrum, and how it changes in time.

Hours are added one by one and only sums are kept. Winds are towards east and north.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ldmdown import metrics
from ldmdown.scoring.geometry import Cells, GridGeometry
from ldmdown.typing import FloatArray, IntArray

FieldsByName = Mapping[str, FloatArray]
"""Each (rows, cols)."""

EVERY_NTH_CELL = 4  # whose correlation in time is followed


@dataclass(frozen=True)
class Bins:
    """Equal bins of a histogram; what lies beyond its ends counts in the outermost ones."""

    low: float
    high: float
    number: int

    @property
    def width(self) -> float:
        """Width of one bin."""
        return (self.high - self.low) / self.number

    @cached_property
    def edges(self) -> FloatArray:
        """Edges of the bins, (number + 1,)."""
        return np.linspace(self.low, self.high, self.number + 1)

    def count(self, values: FloatArray) -> IntArray:
        """Histogram of finite values."""
        place = ((values - self.low) * (1 / self.width)).astype(np.int64).ravel()
        return np.bincount(np.clip(place, 0, self.number - 1, out=place), minlength=self.number)


BINS = {
    "t2m": Bins(180, 340, 3200),
    "u10": Bins(-60, 60, 2400),
    "v10": Bins(-60, 60, 2400),
    "ws10": Bins(0, 80, 1600),
    "divergence": Bins(-0.02, 0.02, 2000),
    "vorticity": Bins(-0.02, 0.02, 2000),
}
CHANGES = {"t2m": Bins(-15, 15, 600), **dict.fromkeys(("u10", "v10", "ws10"), Bins(-25, 25, 500))}


class Climatology:
    """Sums over the hours of one series on one grid, some of them apart for each block of days."""

    def __init__(self, geometry: GridGeometry, blocks: int) -> None:
        self.geometry = geometry
        self.histogram = {name: np.zeros((blocks, bins.number)) for name, bins in BINS.items()}
        self.change = {name: np.zeros(bins.number) for name, bins in CHANGES.items()}
        self.change_square: dict[str, FloatArray] = defaultdict(lambda: np.zeros((blocks, 2)))  # sum, hours
        self.diurnal: dict[str, FloatArray] = defaultdict(lambda: np.zeros((24, 2)))  # sum, hours
        self.power: dict[str, FloatArray] = {}
        self.spectra = 0  # hours whose power was added
        self.wavelength_km: FloatArray = np.zeros(0)
        self._memory: dict[str, _Memory] = {}
        self._last: tuple[int, FieldsByName] | None = None

    def add(self, hour: int, block: int, fields: FieldsByName, cells: Cells) -> None:
        """Take an hour's fields."""
        found = {name: cells.of(field) for name, field in fields.items()}
        if cells.complete is not None:
            if "u10" in fields:
                found |= self.geometry.divergence_and_vorticity(fields["u10"], fields["v10"], cells.complete)
            self._add_spectra({name: field[cells.complete] for name, field in fields.items()})
        for name, values in found.items():
            self.histogram[name][block] += BINS[name].count(values)
            self.diurnal[name][hour % 24] += float(np.mean(values, dtype=np.float64)), 1
        if self._last is not None and self._last[0] == hour - 1:
            self._add_changes(block, self._last[1], fields)
        self._last = hour, fields

    def _add_spectra(self, fields: FieldsByName) -> None:
        for kind, names in (("t2m", ["t2m"]), ("ke", ["u10", "v10"])):
            if fields.keys() >= set(names):
                parts = np.stack([fields[name] for name in names])
                self.wavelength_km, power = metrics.power_spectrum(parts, self.geometry.spacing_km)
                self.power[kind] = self.power.get(kind, 0.0) + power
        self.spectra += 1

    def _add_changes(self, block: int, before: FieldsByName, fields: FieldsByName) -> None:
        for name, field in fields.items():
            change = field - before[name]
            change = change[np.isfinite(change)]
            self.change[name] += CHANGES[name].count(change)
            if change.size:
                self.change_square[name][block] += float(np.mean(np.square(change, dtype=np.float64))), 1
            now, later = (part[::EVERY_NTH_CELL, ::EVERY_NTH_CELL] for part in (before[name], field))
            self._memory.setdefault(name, _Memory(now)).add(now, later)

    def lag1(self, name: str) -> float:
        """Correlation of an hour with the next in a cell, averaged over cells; NaN without successive hours."""
        return self._memory[name].correlation() if name in self._memory else float("nan")


class _Memory:
    """Sums for the correlation of successive hours, cell by cell, from an origin that keeps them small."""

    def __init__(self, origin: FloatArray) -> None:
        self.origin = origin
        self.sums = np.zeros((5, *origin.shape))
        self.pairs = 0

    def add(self, now: FloatArray, later: FloatArray) -> None:
        a, b = now - self.origin, later - self.origin
        for total, part in zip(self.sums, (a, b, a * a, b * b, a * b), strict=True):
            total += part
        self.pairs += 1

    def correlation(self) -> float:
        a, b, aa, bb, ab = self.sums / self.pairs
        scale = np.sqrt(np.maximum(aa - a * a, 0) * np.maximum(bb - b * b, 0))
        moves = scale > 1e-9  # a constant cell has no correlation, a cell with a missing hour none that is known
        return float(np.mean((ab - a * b)[moves] / scale[moves])) if moves.any() else float("nan")
