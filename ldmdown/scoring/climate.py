"""What a series of fields is like by itself: its distribution, its spectrum, and how it changes in time.

Hours are added one by one and only sums are kept. Winds are towards east and north.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ldmdown import metrics
from ldmdown.data.grid import LONLAT, SourceGrid, grid_north, rotate_to_earth

Array = NDArray[np.floating]
Fields = Mapping[str, Array]
"""By name, each (rows, cols)."""

THIN = 4  # cells between those whose correlation in time is followed


@dataclass(frozen=True)
class Bins:
    """Equal bins of a histogram; what lies beyond its ends counts in the outermost ones."""

    low: float
    high: float
    number: int

    @property
    def width(self) -> float:
        """Of one bin."""
        return (self.high - self.low) / self.number

    @cached_property
    def edges(self) -> Array:
        """(number + 1,)."""
        return np.linspace(self.low, self.high, self.number + 1)

    def count(self, values: Array) -> NDArray[np.int64]:
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


class Place:
    """The grid of the scores, as far as derivatives and wavelengths depend on it."""

    def __init__(self, grid: SourceGrid) -> None:
        self.grid = grid
        self.shape = grid.shape
        self.lon, self.lat = grid.lonlat()
        self.height, self.width = grid.cell_size()
        self.spacing_km = float(np.mean(self.height)) / 1e3, float(np.mean(self.width)) / 1e3
        self._turn = None if grid.crs == LONLAT else grid_north(grid.crs, *np.meshgrid(grid.x, grid.y))
        self._down = 1.0 if grid.y[-1] > grid.y[0] else -1.0
        self._right = 1.0 if grid.x[-1] > grid.x[0] else -1.0

    def divergence_and_vorticity(self, east: Array, north: Array) -> dict[str, Array]:
        """Of a wind (rows, cols) [m s-1], by central differences [s-1].

        In orthogonal coordinates whose cells are `width` by `height` large (Batchelor 1967, appendix 2).
        """
        u, v = (east, north) if self._turn is None else rotate_to_earth(east, north, -self._turn)
        height, width = self.height.astype(np.float32), self.width.astype(np.float32)
        area = height * width

        def along(field: Array, axis: int) -> Array:
            return np.gradient(field, axis=axis) * (self._down if axis == 0 else self._right)

        return {
            "divergence": (along(u * height, 1) + along(v * width, 0)) / area,
            "vorticity": (along(v * height, 1) - along(u * width, 0)) / area,
        }

    def spectrum(self, fields: Array) -> tuple[Array, Array]:
        """Wavelengths [km] and power of (..., rows, cols)."""
        return metrics.power_spectrum(fields, self.spacing_km)


class Climate:
    """Sums over the hours of one series.

    Parameters
    ----------
    place
        its grid.
    blocks
        how many blocks of days are kept apart.
    """

    def __init__(self, place: Place, blocks: int) -> None:
        self.place = place
        self.histogram = {name: np.zeros((blocks, bins.number)) for name, bins in BINS.items()}
        self.change = {name: np.zeros(bins.number) for name, bins in CHANGES.items()}
        self.change_square: dict[str, Array] = defaultdict(lambda: np.zeros((blocks, 2)))  # sum, hours
        self.diurnal: dict[str, Array] = defaultdict(lambda: np.zeros((24, 2)))  # sum, hours
        self.power: dict[str, Array] = {}
        self.wavelength_km: Array = np.zeros(0)
        self._memory: dict[str, _Memory] = {}
        self._last: tuple[int, Fields] | None = None

    def add(self, hour: int, block: int, fields: Fields, valid: NDArray[np.bool_] | None) -> None:
        """An hour's fields; only cells of `valid` count (None: all, and only then spectra and derivatives)."""
        everything = dict(fields)
        if valid is None:
            if "u10" in fields:
                everything |= self.place.divergence_and_vorticity(fields["u10"], fields["v10"])
            self._add_spectra(fields)
        for name, field in everything.items():
            values = field if valid is None else field[valid]
            self.histogram[name][block] += BINS[name].count(values)
            self.diurnal[name][hour % 24] += float(np.mean(values, dtype=np.float64)), 1
        if self._last is not None and self._last[0] == hour - 1:
            self._add_changes(block, self._last[1], fields)
        self._last = hour, fields

    def _add_spectra(self, fields: Fields) -> None:
        kinds = {"t2m": [fields["t2m"]]} if "t2m" in fields else {}
        kinds |= {"ke": [fields["u10"], fields["v10"]]} if "u10" in fields else {}
        for kind, parts in kinds.items():
            self.wavelength_km, power = self.place.spectrum(np.stack(parts))
            self.power[kind] = self.power.get(kind, 0.0) + power

    def _add_changes(self, block: int, before: Fields, fields: Fields) -> None:
        for name, field in fields.items():
            change = field - before[name]
            change = change[np.isfinite(change)]
            self.change[name] += CHANGES[name].count(change)
            if change.size:
                self.change_square[name][block] += float(np.mean(np.square(change, dtype=np.float64))), 1
            memory = self._memory.setdefault(name, _Memory(before[name][::THIN, ::THIN]))
            memory.add(before[name][::THIN, ::THIN], field[::THIN, ::THIN])

    def lag1(self, name: str) -> float:
        """Correlation of an hour with the next in a cell, averaged over cells; NaN without successive hours."""
        return self._memory[name].correlation() if name in self._memory else float("nan")


class _Memory:
    """Sums for the correlation of successive hours, cell by cell, from an origin that keeps them small."""

    def __init__(self, origin: Array) -> None:
        self.origin = origin
        self.sums = np.zeros((5, *origin.shape))
        self.pairs = 0

    def add(self, now: Array, later: Array) -> None:
        a, b = now - self.origin, later - self.origin
        for total, part in zip(self.sums, (a, b, a * a, b * b, a * b), strict=True):
            total += part
        self.pairs += 1

    def correlation(self) -> float:
        a, b, aa, bb, ab = self.sums / self.pairs
        scale = np.sqrt(np.maximum(aa - a * a, 0) * np.maximum(bb - b * b, 0))
        moves = scale > 1e-9  # a constant cell has no correlation, a cell with a missing hour none that is known
        return float(np.mean((ab - a * b)[moves] / scale[moves])) if moves.any() else float("nan")
