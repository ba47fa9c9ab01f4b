"""What is compared with checkpoints and needs no network: interpolations of the coarse fields, and a regression.

This is what a careful person has without this tool.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy import ndimage

from ldmdown.data.archive.store import Archive
from ldmdown.data.grid import Window
from ldmdown.scoring.regression import PREDICTORS, CellRegression, features
from ldmdown.scoring.results import ScoredSystem
from ldmdown.scoring.terrain import Terrain
from ldmdown.typing import Float32Array, FloatArray

SplineOrder = Literal[1, 2]
"""Bilinear, or quadratic as in the paper."""

INTERPOLATIONS = ("bilinear", "quadratic")
LAPSE_RATE = "lapse rate"
REGRESSION = "cell regression"
MAX_FIT_HOURS = 500  # of the training period, evenly taken


class Baselines:
    """Interpolations, one with a lapse rate where the terrain is known, and a regression on the training hours.

    Parameters
    ----------
    source, window
        the source of the archive whose training hours the regression is fitted to, and where.
    names
        the variables to make; baselines need them among the archive's predictors, and are none without.
    """

    def __init__(
        self, archive: Archive, source: int, window: Window, names: Sequence[str], terrain: Terrain | None
    ) -> None:
        self._archive, self._window, self._names, self._terrain = archive, window, tuple(names), terrain
        self.systems: list[ScoredSystem] = []
        self.notes: list[str] = []
        if not set(names) <= set(archive.predictors):
            return
        corrected = [LAPSE_RATE] if terrain is not None and "t2m" in names else []
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
            if one.name == LAPSE_RATE and self._terrain is not None:
                at = self._names.index("t2m")
                fine[at] = self._terrain.corrected(fine[at])
            if one.name == REGRESSION:
                fine += self._regression.predict(features(coarse, hour))
            found[one.name] = fine[None]
        return found

    def _fit(self, indices: Sequence[int]) -> CellRegression:
        archive = self._archive
        channels = [archive.targets.index(name) for name in self._names]
        regression = None
        for index in indices:
            held = archive.read(index, self._window)
            coarse = self._interpolate(held["predictors"], 1)
            x = features(coarse, int(archive.hours[index]))
            y = held["target"][channels] - np.stack([coarse[name] for name in self._names])
            if regression is None:
                regression = CellRegression(len(x), len(y), y.shape[1:])
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
