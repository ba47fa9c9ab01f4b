"""What a series of fields is like by itself: its distribution, its spectrum, and how it changes in time.

Hours are added one by one and only sums are kept. Winds are towards east and north.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ldmdown import metrics
from ldmdown.scoring.geometry import Cells, GridGeometry
from ldmdown.scoring.sums import add_sums, zeros
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
        self.change_square: dict[str, FloatArray] = zeros((blocks, 2))  # sum, hours
        self.diurnal: dict[str, FloatArray] = zeros((24, 2))  # sum, hours
        self.power: dict[str, FloatArray] = {}
        self.spectra = 0  # hours whose power was added
        self.wavelength_km: FloatArray = np.zeros(0)
        rows, cols = (-(-size // EVERY_NTH_CELL) for size in geometry.shape)
        self._pairs: dict[str, FloatArray] = zeros((6, rows, cols))  # of successive hours: sums of `_add_pair`
        self._last: tuple[int, FieldsByName] | None = None

    def join(self, later: Climatology) -> None:
        """Take the hours of another one, which follow."""
        for name in ("histogram", "change", "change_square", "diurnal", "power", "_pairs"):
            add_sums(getattr(self, name), getattr(later, name))
        self.spectra += later.spectra
        self.wavelength_km = later.wavelength_km if later.spectra else self.wavelength_km

    def begin(self, hour: int, fields: FieldsByName) -> None:
        """Take the hour before the first, from which that changes."""
        self._last = hour, fields

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
            self._add_pair(name, before[name], field)

    def _add_pair(self, name: str, now: FloatArray, later: FloatArray) -> None:
        origin = 280.0 if name == "t2m" else 0.0  # keeps the sums small
        a, b = (part[::EVERY_NTH_CELL, ::EVERY_NTH_CELL].astype(np.float64) - origin for part in (now, later))
        for total, part in zip(self._pairs[name], (a, b, a * a, b * b, a * b, 1), strict=True):
            total += part

    def lag1(self, name: str) -> float:
        """Correlation of an hour with the next in a cell, averaged over cells; NaN without successive hours."""
        if name not in self._pairs:
            return float("nan")
        *sums, pairs = self._pairs[name]
        a, b, aa, bb, ab = (part / pairs for part in sums)
        scale = np.sqrt(np.maximum(aa - a * a, 0) * np.maximum(bb - b * b, 0))
        moves = scale > 1e-9  # a constant cell has no correlation, a cell with a missing hour none that is known
        return float(np.mean((ab - a * b)[moves] / scale[moves])) if moves.any() else float("nan")
