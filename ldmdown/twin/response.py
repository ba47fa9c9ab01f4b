"""What terrain does to the air: the part of the fine fields that follows from the coarse state.

The departure of the fine from the interpolated coarse fields is a sum of terms, each a feature of the terrain times a
multiplier that the coarse state gives. Vectors keep their sense when axes are turned: a term of the wind is a scalar
times the wind (`along`) or the wind turned to the left (`across`), a tensor times either (`tensor`, `turned`), or a
vector of the terrain (`vector`). Coefficients come from 609 fields of ICON-2I over Sicily, February 2026
(ItaliaMeteo-ARPAE, CC BY 4.0), by ridge regression: `tests/benchmarks/twin_fit.py` prints them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ldmdown.twin.coefficients import (
    TEMPERATURE_LAND,
    TEMPERATURE_SEA,
    VARIANCE_TEMPERATURE_LAND,
    VARIANCE_TEMPERATURE_SEA,
    VARIANCE_WIND_LAND,
    VARIANCE_WIND_SEA,
    WIND_LAND,
    WIND_SEA,
)
from ldmdown.twin.terrain import SECTORS, TerrainFeatures, blur
from ldmdown.typing import FloatArray

Term = tuple[str, str, str]
"""Operator, feature of the terrain, multiplier."""


@dataclass(frozen=True)
class State:
    """What a draw looks at, on the fine grid: coarse t2m [K], wind along the grid [m s-1], the sun, the shore."""

    t: FloatArray
    u: FloatArray
    v: FloatArray
    sun: FloatArray  # cosine of the zenith angle
    contrast: FloatArray  # of land minus sea, brought down to the sea's level [K]

    @cached_property
    def speed(self) -> FloatArray:
        """Wind speed [m s-1]."""
        return np.hypot(self.u, self.v)

    @cached_property
    def night(self) -> FloatArray:
        """0 by day, 1 at night; it changes over about an hour."""
        return 1 / (1 + np.exp(np.clip(self.sun / 0.08, -30, 30)))

    @cached_property
    def calm_night(self) -> FloatArray:
        """1 in still air at night, 0 in wind or by day."""
        return self.night * np.exp(-((self.speed / 3) ** 2))

    @cached_property
    def multipliers(self) -> dict[str, FloatArray | float]:
        """Numbers of order one by name."""
        speed = np.minimum(self.speed / 8, 2)
        return {
            "1": 1.0,
            "fast": speed - 1,
            "speed": speed,
            "speed2": speed**2,
            "day": 2 * np.maximum(self.sun, 0) - 0.5,
            "night": self.night,
            "contrast": np.clip(self.contrast / 3, -2, 2),
        }


def land_sea_contrast(low: FloatArray, land: FloatArray, step: float) -> FloatArray:
    """Mean of t2m reduced to sea level over land nearby minus that over the sea nearby; 0 far from the other one.

    `step` is the spacing of the fields [km].
    """
    near_land, near_sea = blur(land, 30, step), blur(1 - land, 30, step)
    weight = near_land * near_sea
    difference = blur(land * low, 30, step) * near_sea - blur((1 - land) * low, 30, step) * near_land
    return difference / (weight + 0.02)


class Terms:
    """The terms of the regression at an hour; those of the wind have a leading axis (u, v)."""

    def __init__(self, features: TerrainFeatures, state: State) -> None:
        self.features, self.state = features, state
        self.wind = np.stack([state.u, state.v])
        self.left = np.stack([-state.v, state.u])
        self.direction = self.wind / (state.speed + 0.5)
        sector = np.arctan2(state.v, state.u) / (2 * np.pi) * SECTORS % SECTORS
        self.sector, self.part = sector.astype(int) % SECTORS, (sector % 1).astype("f4")
        self.known = dict(features.scalars)

    def __getitem__(self, term: Term) -> FloatArray:
        operator, feature, multiplier = term
        factor = self.state.multipliers[multiplier]
        if operator in ("along", "across"):
            return factor * self.scalar(feature) * (self.wind if operator == "along" else self.left)
        if operator in ("tensor", "turned"):
            (xx, xy), (u, v) = self.features.tensors[feature], self.wind if operator == "tensor" else self.left
            return np.stack([xx * u + xy * v, xy * u - xx * v]) * factor
        if operator == "vector":
            return factor * self.features.vectors[feature]
        if operator == "ascent":
            return factor * (self.wind * self.features.vectors[feature]).sum(0) / 8
        return factor * self.scalar(feature)

    def scalar(self, name: str) -> FloatArray:
        """A feature; `behind NAME` is what lies downwind, `beside NAME` left of the wind minus right of it (90
        degrees), `flank NAME` the same 22.5 degrees off the wind."""
        if name not in self.known:
            view, _, kind = name.rpartition(" ")
            half, quarter = SECTORS // 2, SECTORS // 4
            offsets = {"": (0,), "behind": (half,), "beside": (quarter, -quarter), "flank": (1, -1)}[view]
            looks = [self._look(kind, offset) for offset in offsets]
            self.known[name] = looks[0] if len(looks) == 1 else looks[0] - looks[1]
        return self.known[name]

    def _look(self, kind: str, offset: int) -> FloatArray:
        sectors = self.features.directional[kind].ravel()
        cells = np.arange(self.sector.size).reshape(self.sector.shape) * SECTORS
        near, far = (sectors.take(cells + (self.sector + step) % SECTORS).astype("f4") for step in (offset, offset + 1))
        return near + (far - near) * self.part

    @cached_property
    def noise_predictors(self) -> dict[str, FloatArray]:
        """What the variance that terms leave is proportional to, by name; obstacles saturate."""
        scalars, state = self.features.scalars, self.state
        rough, shore, day = scalars["rugged"], np.abs(scalars["shore20"]), np.maximum(state.sun, 0)
        seen = {name: self.scalar(name) for name in ("shelter", "behind shelter", "wake")}
        return {name: field / (1 + field) for name, field in seen.items()} | {
            "1": np.ones_like(rough),
            "day": day,
            "shore": shore,
            "shore day": shore * day,
            "rough": rough,
            "rough2": rough**2,
            "rough speed": rough * state.speed / 8,
            "exposed2": scalars["exposed"] ** 2,
        }


def response(terms: Terms) -> tuple[FloatArray, FloatArray]:
    """Departure of temperature [K] and of wind (2, rows, cols) [m s-1] that the terrain brings about."""

    def total(coefficients: Mapping[Term, float]) -> FloatArray:
        return terms.features.high_pass(_weighted(terms, coefficients))

    land = terms.features.land > 0
    return (
        np.where(land, total(TEMPERATURE_LAND), total(TEMPERATURE_SEA)),
        np.where(land, total(WIND_LAND), total(WIND_SEA)),
    )


def remainder_variance(terms: Terms) -> tuple[FloatArray, FloatArray]:
    """Variance of temperature [K2] and of each component of the wind [m2 s-2] that the terms leave, (rows, cols)."""
    land, predictors = terms.features.land > 0, terms.noise_predictors
    return (
        np.where(
            land, _weighted(predictors, VARIANCE_TEMPERATURE_LAND), _weighted(predictors, VARIANCE_TEMPERATURE_SEA)
        ),
        np.where(land, _weighted(predictors, VARIANCE_WIND_LAND), _weighted(predictors, VARIANCE_WIND_SEA)),
    )


def _weighted(fields: Any, coefficients: Mapping[Any, float]) -> FloatArray:
    """Sum of fields by name times their coefficients."""
    first, *others = coefficients
    total = coefficients[first] * fields[first]
    for name in others:
        total += coefficients[name] * fields[name]
    return total
