"""One mean and std a variable: fitted in one exact pass by `prepare`, carried by the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ldmdown.data.variables import variable

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Normalization:
    """Means and deviations by variable, in the units of data/variables."""

    mean: dict[str, float]
    std: dict[str, float]

    def normalize(self, fields: Array, names: Sequence[str]) -> NDArray[np.float32]:
        """(..., C, rows, cols) to zero mean and unit standard deviation; missing values become the variable's fill."""
        mean, std = self._columns(names)
        result = ((fields - mean) / std).astype(np.float32)
        for channel, name in enumerate(names):
            fill = variable(name).fill
            if fill is not None:
                part = result[..., channel, :, :]
                part[np.isnan(part)] = fill
        return result

    def denormalize(self, fields: Array, names: Sequence[str]) -> NDArray[np.float32]:
        """(..., C, rows, cols) back to physical units."""
        mean, std = self._columns(names)
        return (fields * std + mean).astype(np.float32)

    def _columns(self, names: Sequence[str]) -> tuple[Array, Array]:
        mean, std = (
            np.array([values[name] for name in names], np.float32)[:, None, None] for values in (self.mean, self.std)
        )
        return mean, std


@dataclass
class Moments:
    """Count, mean and sum of squared deviations of a stream of values; missing ones are left out.

    Merging is exact (Chan, Golub and LeVeque 1983, doi:10.1080/00031305.1983.10483115, eq. 2.1).
    """

    count: dict[str, float] = field(default_factory=dict)
    mean: dict[str, float] = field(default_factory=dict)
    squares: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, values: Array) -> None:
        """Take the values of one variable."""
        values = values[np.isfinite(values)].astype(np.float64)
        if values.size:
            mean = float(values.mean())
            self._merge(name, values.size, mean, float(np.square(values - mean).sum()))

    def merge(self, other: Moments) -> None:
        """Take what another has seen."""
        for name in other.count:
            self._merge(name, other.count[name], other.mean[name], other.squares[name])

    def _merge(self, name: str, count: float, mean: float, squares: float) -> None:
        before = self.count.get(name, 0.0)
        total = before + count
        step = mean - self.mean.get(name, 0.0)
        self.mean[name] = self.mean.get(name, 0.0) + step * count / total
        self.squares[name] = self.squares.get(name, 0.0) + squares + step**2 * before * count / total
        self.count[name] = total

    def normalization(self) -> Normalization:
        """Mean and std; a constant variable has std 1."""
        std = {name: (self.squares[name] / self.count[name]) ** 0.5 or 1.0 for name in self.count}
        return Normalization(dict(self.mean), std)
