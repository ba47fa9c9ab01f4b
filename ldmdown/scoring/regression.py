"""A linear regression at each fine cell: what a careful person fits to the same training hours."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ldmdown.typing import Float32Array, FloatArray

PREDICTORS = ("t2m", "u10", "v10")
SCALES = {"t2m": (280.0, 10.0), "u10": (0.0, 5.0), "v10": (0.0, 5.0)}  # near the mean and std: rounding only
RIDGE = 1e-5  # of the mean square of the features, so that features that do not vary are no error
ROWS_AT_ONCE = 16


def features(coarse: Mapping[str, FloatArray], hour: int) -> Float32Array:
    """One, temperature, wind components, speed, and sine and cosine of the hour of day (feature, rows, cols).

    `coarse` are the predictors, interpolated; those that are not there are left out.
    """
    scaled = {name: (coarse[name] - SCALES[name][0]) / SCALES[name][1] for name in PREDICTORS if name in coarse}
    found = list(scaled.values())
    if {"u10", "v10"} <= scaled.keys():
        found.append(np.hypot(scaled["u10"], scaled["v10"]))
    angle = 2 * math.pi * (hour % 24) / 24
    constants = [np.full_like(found[0], value) for value in (1.0, math.sin(angle), math.cos(angle))]
    return np.stack([*found, *constants]).astype(np.float32)


class CellRegression:
    """Least squares of residuals on features at every cell, from sums over hours that are added one by one."""

    def __init__(self, features: int, targets: int, shape: tuple[int, int]) -> None:
        self.coefficients = np.full((features, targets, *shape), np.nan, np.float32)
        self._xx = np.zeros((features, features, *shape), np.float32)
        self._xy = np.zeros((features, targets, *shape), np.float32)

    def add(self, x: Float32Array, y: Float32Array) -> None:
        """Take an hour: features x (F, rows, cols), residuals y (T, rows, cols), NaN where there is no reference."""
        known = np.isfinite(y).all(axis=0)
        x, y = np.where(known, x, 0), np.where(known, y, 0)
        self._xx += x[:, None] * x
        self._xy += x[:, None] * y

    def solve(self) -> None:
        """Fit the coefficients (F, T, rows, cols), which stay NaN at cells that never had a reference."""
        for start in range(0, self._xx.shape[2], ROWS_AT_ONCE):
            part = np.s_[:, :, start : start + ROWS_AT_ONCE]
            xx, xy = (np.moveaxis(sums[part], (0, 1), (2, 3)).astype(np.float64) for sums in (self._xx, self._xy))
            size = np.trace(xx, axis1=-2, axis2=-1)[..., None, None] / xx.shape[-1]
            ridge = RIDGE * np.where(size > 0, size, 1) * np.eye(xx.shape[-1])
            fitted = np.where(size > 0, np.linalg.solve(xx + ridge, xy), np.nan)
            self.coefficients[part] = np.moveaxis(fitted, (2, 3), (0, 1))
        del self._xx, self._xy

    def predict(self, x: Float32Array) -> Float32Array:
        """Residuals (T, rows, cols) for features (F, rows, cols)."""
        return np.einsum("fij,ftij->tij", x, self.coefficients)
