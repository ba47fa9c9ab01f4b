"""What is compared with checkpoints and needs no network: interpolations of the coarse fields, and a regression.

This is what a careful person has without this tool.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy import ndimage

from ldmdown.data.archive.store import Archive
from ldmdown.data.grid import Window
from ldmdown.scoring.results import ScoredSystem
from ldmdown.scoring.terrain import Terrain
from ldmdown.typing import Float32Array, FloatArray

SplineOrder = Literal[1, 2]
"""Bilinear, or quadratic as in the paper."""

INTERPOLATIONS = ("bilinear", "quadratic")
WITH_LAPSE_RATE = "lapse rate"
REGRESSION = "cell regression"
MAX_FIT_HOURS = 500  # of the training period, evenly taken

PREDICTORS = ("t2m", "u10", "v10")
SCALES = {"t2m": (280.0, 10.0), "u10": (0.0, 5.0), "v10": (0.0, 5.0)}  # near the mean and std: rounding only
RIDGE = 1e-5  # of the mean square of the features, so that features that do not vary are no error
ROWS_AT_ONCE = 16


class Baselines:
    """Interpolations, one with a lapse rate where the terrain is known, and a regression on the training hours.

    The regression is fitted to the training hours of a source of the archive, in a window. There are no baselines
    unless the variables to make (`names`) are among the archive's predictors.
    """

    def __init__(
        self, archive: Archive, source: int, window: Window, names: Sequence[str], terrain: Terrain | None
    ) -> None:
        self._archive, self._window, self._names, self._terrain = archive, window, tuple(names), terrain
        self.systems: list[ScoredSystem] = []
        self.notes: list[str] = []
        if not set(names) <= set(archive.predictors):
            return
        corrected = [WITH_LAPSE_RATE] if terrain is not None and "t2m" in names else []
        self.systems = [ScoredSystem(name=name, kind="interpolation") for name in (*INTERPOLATIONS, *corrected)]
        hours = archive.split("train")
        hours = hours[archive.source[hours] == source]
        if len(hours):
            hours = hours[:: -(-len(hours) // MAX_FIT_HOURS)]
            self._regression = self._fit(hours.tolist())
            self.systems.append(ScoredSystem(name=REGRESSION, kind="regression"))
            self.notes.append(f"the {REGRESSION} is fitted to {len(hours)} hours of the training period")

    def fields(self, predictors: Float32Array, hour: int) -> dict[str, Float32Array]:
        """Make each baseline (1, variable, rows, cols) of an hour's predictors (predictor, rows, cols)."""
        bilinear = self._interpolate(predictors, 1)
        found = {}
        for one in self.systems:
            coarse = self._interpolate(predictors, 2) if one.name == "quadratic" else bilinear
            fine = np.stack([coarse[name] for name in self._names])
            if one.name == WITH_LAPSE_RATE and self._terrain is not None:
                at = self._names.index("t2m")
                fine[at] = self._terrain.corrected(fine[at])
            if one.name == REGRESSION:
                fine += self._regression.predict(features(coarse, hour))
            found[one.name] = fine[None]
        return found

    def _fit(self, indices: Sequence[int]) -> ResidualRegression:
        archive = self._archive
        channels = [archive.targets.index(name) for name in self._names]
        regression = None
        for index in indices:
            held = archive.read(index, self._window)
            coarse = self._interpolate(held["predictors"], 1)
            x = features(coarse, int(archive.hours[index]))
            y = held["target"][channels] - np.stack([coarse[name] for name in self._names])
            if regression is None:
                regression = ResidualRegression(len(x), len(y), y.shape[1:])
            regression.add(x, y)
        assert regression is not None
        regression.solve()
        return regression

    def _interpolate(self, predictors: Float32Array, order: SplineOrder) -> dict[str, Float32Array]:
        """Interpolate the predictors that baselines take to the fine grid."""
        wanted = {*self._names, *PREDICTORS}
        places = {name: place for place, name in enumerate(self._archive.predictors) if name in wanted}
        fine = interpolate(predictors[list(places.values())], self._archive.grid.factor, order)
        return dict(zip(places, fine, strict=True))


def interpolate(coarse: FloatArray, factor: int, order: SplineOrder) -> Float32Array:
    """Interpolate (..., h, w) to (..., factor h, factor w) by splines; beyond the borders the edge's value goes on."""
    rows, cols = (_splines(size, factor, order) for size in coarse.shape[-2:])
    return rows @ coarse.astype(np.float32) @ cols.T


@lru_cache(maxsize=8)
def _splines(size: int, factor: int, order: SplineOrder) -> Float32Array:
    """The weight of each coarse place at each fine one (factor size, size)."""
    places = (np.arange(factor * size) + 0.5) / factor - 0.5
    taken = [ndimage.map_coordinates(one, [places], order=order, mode="nearest") for one in np.eye(size)]
    return np.stack(taken, axis=1).astype(np.float32)


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


class ResidualRegression:
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
