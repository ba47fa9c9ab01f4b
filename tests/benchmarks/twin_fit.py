"""Fit the twin's terrain response, and the variance that it leaves, to real fields, and print the coefficients.

    python tests/benchmarks/twin_fit.py ICON2I_FILE... --orography FILE > coefficients.py

The output is ldmdown/twin/coefficients.py. Terms are chosen forward from a pool, by what a fit west of 15 E explains
east of it and the other way round.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.optimize import nnls

from ldmdown.config import LAPSE_RATE
from ldmdown.data.solar import cos_zenith
from ldmdown.twin.response import State, Term, Terms, land_sea_contrast
from ldmdown.twin.terrain import CELL, HighPass, TerrainFeatures, read_raster

MARGIN, RIDGE, SPLIT = 60, 1e-2, 15.0  # cells; of each term's sum of squares; degrees east
LIMITS = {("TEMPERATURE", "LAND"): 18, ("TEMPERATURE", "SEA"): 10, ("WIND", "LAND"): 34, ("WIND", "SEA"): 14}
STATIC = ("z", "dz", "b0", "b1", "b2", "b3", "land", "shore3", "shore20", "rugged", "exposed", "depth", "slope")
SEEN = ("shelter", "rise", "wake", "near_land", "far_land")
LOOKS = (*SEEN, *(f"behind {name}" for name in SEEN))
ASIDE = ("beside shelter", "beside rise", "beside wake", "flank shelter", "flank wake", "flank far_land")


def pool(variable: str) -> list[Term]:
    """Candidates."""
    if variable == "t":
        terms = [("scalar", name, by) for name in (*STATIC, *LOOKS) for by in ("1", "fast", "day", "night", "contrast")]
        return terms + [("ascent", f"up{length}", by) for length in (0, 5, 10) for by in ("1", "fast", "day")]
    terms = [("along", name, by) for name in (*STATIC, *LOOKS) for by in ("1", "fast", "day")]
    terms += [("across", name, by) for name in (*ASIDE, *STATIC) for by in ("1", "fast")]
    terms += [("tensor", name, by) for name in ("b0", "b1", "b2", "b3", "valley") for by in ("1", "fast", "day")]
    terms += [("turned", name, "1") for name in ("b0", "b1", "b2", "b3", "valley")]
    vectors = ("up0", "up5", "up10", "inland3", "inland8")
    return terms + [("vector", name, by) for name in vectors for by in ("1", "speed", "speed2", "day", "contrast")]


class Fields:
    """Real fields, rows from south to north, and the terrain features under them."""

    def __init__(self, files: list[Path], orography: Path, every: int) -> None:
        datasets = [xr.open_dataset(file, engine="netcdf4").sortby("lat") for file in files]
        self.lat, self.lon = np.meshgrid(datasets[0].lat, datasets[0].lon, indexing="ij")
        names = ("t2m", "u10", "v10")
        self.values = np.concatenate([np.stack([data[name] for name in names], 1) for data in datasets])[::every]
        times = np.concatenate([data.time.values for data in datasets])[::every]
        self.hours = times.astype("datetime64[h]").astype(int)
        axes = (np.arange(-MARGIN, size + MARGIN) for size in self.lat.shape)
        origins, steps = (
            (self.lat[0, 0], self.lon[0, 0]),
            (self.lat[1, 0] - self.lat[0, 0], self.lon[0, 1] - self.lon[0, 0]),
        )
        wide = [origin + step * axis for origin, step, axis in zip(origins, steps, axes, strict=True)]
        self.features = TerrainFeatures(read_raster(orography).at(*np.meshgrid(*wide, indexing="ij")))
        self._crop()

    def _crop(self) -> None:
        """Take the margin from all features."""
        features, inner = self.features, (..., slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
        features.z, features.land = features.z[inner], features.land[inner]
        for group in (features.scalars, features.vectors, features.tensors):
            group.update({name: field[inner] for name, field in group.items()})
        features.directional = {name: field[inner[1:]] for name, field in features.directional.items()}
        features.high_pass = HighPass(self.lat.shape)
        features.scalars["dz"] = (2.5 * np.tanh(features.high_pass(features.z) / 500 / 2.5)).astype("f4")

    def hour(self, index: int) -> tuple[Terms, NDArray]:
        """The terms of an hour, and the residual (3, rows, cols) that they are to explain."""
        features = self.features
        low = features.high_pass.low(self.values[index])
        reduced = low[0] + LAPSE_RATE * features.high_pass.low(features.z)
        contrast = land_sea_contrast(reduced, features.land, CELL)
        sun = cos_zenith(int(self.hours[index]), self.lat, self.lon).astype("f4")
        return Terms(features, State(*low, sun, contrast)), self.values[index] - low


class Normal:
    """Normal equations of a regression, for each part of the region: land and sea, west and east of SPLIT."""

    def __init__(self, terms: list[Term], variables: slice, parts: list[NDArray]) -> None:
        self.terms, self.variables, self.parts = terms, variables, parts
        self.squares = np.zeros((len(parts), len(terms), len(terms)))
        self.products, self.total = np.zeros((len(parts), len(terms))), np.zeros(len(parts))

    def add(self, terms: Terms, residual: NDArray, high_pass: HighPass) -> None:
        """Add an hour."""
        columns = np.stack([high_pass(terms[term]) for term in self.terms])
        columns = columns.reshape(len(self.terms), -1, *self.parts[0].shape)
        for index, part in enumerate(self.parts):
            x, y = columns[:, :, part].reshape(len(self.terms), -1), residual[self.variables][:, part].ravel()
            self.squares[index] += x @ x.T
            self.products[index] += x @ y
            self.total[index] += y @ y

    def solve(self, chosen: list[int], parts: tuple[int, ...]) -> NDArray:
        """Ridge regression on these terms over these parts, each part counting the same."""
        at = np.ix_(chosen, chosen)
        squares = sum(self.squares[part][at] / self.total[part] for part in parts)
        products = sum(self.products[part][chosen] / self.total[part] for part in parts)
        return np.linalg.solve(squares + RIDGE * np.diag(np.diag(squares)) + 1e-12 * np.eye(len(chosen)), products)

    def explained(self, chosen: list[int], weights: NDArray, part: int) -> float:
        """Share of the variance."""
        squares, products = self.squares[part][np.ix_(chosen, chosen)], self.products[part][chosen]
        return float((2 * weights @ products - weights @ squares @ weights) / self.total[part])

    def scores(self, chosen: list[int], west: int, east: int) -> list[float]:
        """Variance explained: fitted west in the east, east in the west, on both in the west, in the east."""
        ways = (((west,), east), ((east,), west), ((west, east), west), ((west, east), east))
        return [self.explained(chosen, self.solve(chosen, fitted), part) for fitted, part in ways]

    def choose(self, limit: int, west: int, east: int) -> list[int]:
        """Forward selection."""
        chosen: list[int] = []
        while len(chosen) < limit:
            left = [index for index in range(len(self.terms)) if index not in chosen]
            chosen.append(max(left, key=lambda index: sum(self.scores([*chosen, index], west, east))))
        return chosen


def main() -> None:
    """Print the coefficients; what they explain goes to stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--orography", type=Path, required=True)
    parser.add_argument("--every", type=int, default=5, help="use every n-th field")
    arguments = parser.parse_args()
    fields = Fields(sorted(arguments.files), arguments.orography, arguments.every)
    land, west = fields.features.land > 0, fields.lon < SPLIT
    parts = [land & west, land & ~west, ~land & west, ~land & ~west]
    normals = {"TEMPERATURE": Normal(pool("t"), slice(0, 1), parts), "WIND": Normal(pool("wind"), slice(1, 3), parts)}
    for index in range(len(fields.hours)):
        terms, residual = fields.hour(index)
        for normal in normals.values():
            normal.add(terms, residual, fields.features.high_pass)
    fitted: dict[tuple[str, str], tuple[list[Term], NDArray]] = {}
    print('"""The terrain response and the variance that it leaves, as tests/benchmarks/twin_fit.py printed them."""')
    for name, normal in normals.items():
        for ground, (west_part, east_part) in (("LAND", (0, 1)), ("SEA", (2, 3))):
            chosen = normal.choose(LIMITS[name, ground], west_part, east_part)
            print(f"{name}_{ground} = {{")
            for index, weight in zip(chosen, normal.solve(chosen, (west_part, east_part)), strict=True):
                print(f"    {normal.terms[index]}: {weight:.3g},".replace("'", '"'))
            print("}")
            fitted[name, ground] = (
                [normal.terms[index] for index in chosen],
                normal.solve(chosen, (west_part, east_part)),
            )
            print(name, ground, np.round(normal.scores(chosen, west_part, east_part), 3), file=sys.stderr)
    for (name, ground), (chosen_terms, weights) in fitted.items():
        inside = land if ground == "LAND" else ~land
        variance = remainder(fields, chosen_terms, weights, normals[name].variables, inside)
        print(f"VARIANCE_{name}_{ground} = {{")
        for predictor, weight in variance.items():
            print(f'    "{predictor}": {weight:.2g},')
        print("}")


def remainder(
    fields: Fields, chosen: list[Term], weights: NDArray, variables: slice, inside: NDArray
) -> dict[str, float]:
    """Coefficients, none negative, of the variance that the terms leave, each hour's 0.1 % largest squares cut."""
    squares, products = 0.0, 0.0
    for index in range(0, len(fields.hours), 3):
        terms, residual = fields.hour(index)
        left = residual[variables] - fields.features.high_pass(
            np.sum([weight * terms[term] for term, weight in zip(chosen, weights, strict=True)], axis=0)
        )
        energy = (left[:, inside] ** 2).mean(0)
        energy = np.minimum(energy, np.quantile(energy, 0.999))
        names = list(terms.noise_predictors)
        x = np.stack([terms.noise_predictors[name][inside] for name in names])
        squares, products = squares + x @ x.T, products + x @ energy
    found, _ = nnls(squares, products)
    return {name: float(weight) for name, weight in zip(names, found, strict=True) if weight > 0.001}


if __name__ == "__main__":
    main()
