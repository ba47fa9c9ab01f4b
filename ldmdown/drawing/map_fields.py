"""The fields that figures and pages show beside the scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from ldmdown.typing import Float32Array, FloatArray


@dataclass(frozen=True)
class MapFields:
    """Fields on the grid of the scores.

    `lat`, `lon` are (rows, cols) [degrees], `x`, `y` the axes in the units of the projection. `maps` are by score
    (bias, rmse), variable and system; `snapshots` by system, or "reference", and variable, at `snapshot_time`, of the
    first member of an ensemble.
    """

    lat: FloatArray
    lon: FloatArray
    x: FloatArray
    y: FloatArray
    maps: Mapping[str, Mapping[str, Mapping[str, Float32Array]]] = field(default_factory=dict)
    snapshot_time: str = ""
    snapshots: Mapping[str, Mapping[str, Float32Array]] = field(default_factory=dict)

    @cached_property
    def cell_shape(self) -> float:
        """Height over width of a cell in the middle of the grid, on the ground."""
        row, col = (size // 2 for size in self.lat.shape)
        here = self.lat[row, col], self.lon[row, col]
        narrow = np.cos(np.radians(here[0]))
        height, width = (
            np.hypot(self.lat[place] - here[0], (self.lon[place] - here[1]) * narrow)
            for place in ((row - 1, col), (row, col - 1))
        )
        return float(height / width)

    @property
    def north_up(self) -> MapFields:
        """With the first row in the north."""
        if self.lat[0].mean() > self.lat[-1].mean():
            return self
        return replace(
            self, **{name: _turned(getattr(self, name)) for name in ("lat", "lon", "y", "maps", "snapshots")}
        )


def _turned(part: Any) -> Any:
    """Fields with their rows in reverse order, alone or in dictionaries."""
    return {name: _turned(one) for name, one in part.items()} if isinstance(part, Mapping) else part[::-1]
