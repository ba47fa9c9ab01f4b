"""The land-sea breeze: the wind along the shore, onshore and offshore with the hours of the day."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.ndimage import gaussian_filter

from ldmdown.scoring.geometry import GridGeometry
from ldmdown.scoring.terrain import COAST, shore_distance
from ldmdown.typing import BoolArray, FloatArray

WIDEST_GAP = 6.5  # between hours of the day, from which they do not tell the cycle [h]


class Coast:
    """The cells within COAST of the shore by the side that they are on, and the unit vectors (2, rows, cols) onshore.

    Args:
        geometry: of the grid.
        land: which cells (rows, cols) are land.
    """

    def __init__(self, geometry: GridGeometry, land: BoolArray) -> None:
        near = shore_distance(land, geometry.spacing_km) <= COAST
        self.sides = {"land": near & land, "sea": near & ~land}
        smooth = gaussian_filter(land.astype(np.float64), [COAST / size for size in geometry.spacing_km])
        slope = np.stack(geometry.gradient(smooth))
        self.onshore = slope / np.maximum(np.hypot(*slope), np.finfo(float).tiny)
        self.solar_lead = float(geometry.lon[near].mean()) / 15 if near.any() else 0.0  # of solar time over UTC [h]


@dataclass(frozen=True, eq=False)
class DailyCycle:
    """A sinusoid fitted to hours of some days.

    `by_hour` (24) holds the means of the values of each hour, NaN where there are none.
    """

    amplitude: tuple[float, float, float]  # of the mean cycle, and the interval of the days' own cycles
    hour: tuple[float, float, float]  # of the maximum, likewise
    by_hour: FloatArray

    @classmethod
    def fit(cls, hours: FloatArray, values: FloatArray, interval: tuple[float, float]) -> Self | None:
        """The cycle of values at hours since some midnight; None if the hours do not tell it.

        The cycle of a day is the mean one plus the number of days times what the day's residuals add to the fit: the
        fit to the day alone, where days are whole.
        """
        of_day = np.sort(hours % 24)
        if np.diff(of_day, append=of_day[0] + 24).max() > WIDEST_GAP:
            return None
        angle = 2 * np.pi * hours / 24
        terms = np.stack([np.ones(len(hours)), np.cos(angle), np.sin(angle)], axis=1)
        inverse = np.linalg.inv(terms.T @ terms)
        mean = inverse @ terms.T @ values
        days, day = np.unique(hours // 24, return_inverse=True)
        added = np.zeros((len(days), 3))
        np.add.at(added, day, terms * (values - terms @ mean)[:, None])
        cycle, *cycles = (part[1] - 1j * part[2] for part in (mean, *(mean + len(days) * added @ inverse)))
        turned = np.array(cycles) * np.conj(cycle) / max(abs(cycle), np.finfo(float).tiny)
        low, high = np.quantile(turned.real, interval[0]), np.quantile(np.abs(turned), interval[1])
        later = -np.quantile(np.angle(turned), interval[::-1]) * 12 / np.pi
        hour = -np.angle(cycle) * 12 / np.pi % 24
        nearest = np.rint(hours % 24).astype(int) % 24
        count = np.bincount(nearest, minlength=24)
        by_hour = np.bincount(nearest, values, 24) / np.where(count, count, np.nan)
        return cls((abs(cycle), max(low, 0.0), high), (hour, hour + later[0], hour + later[1]), by_hour)
