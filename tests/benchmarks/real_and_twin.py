"""Real fields beside the twin: one table, the same code, the same terrain, windows of the same size over Sicily.

    python tests/benchmarks/real_and_twin.py ICON2I_FILE... --orography FILE --coarse-orography FILE

The residual is the fine field minus the means over 14 x 14 cells (31 km), interpolated bilinearly. Real: every third of
the steps 1 to 24 of each forecast run of ICON-2I (ItaliaMeteo-ARPAE, CC BY 4.0); another draw of an hour is the run
before. Twin: drawn from the coarse states of the same hours, means of ICON-2I over boxes of 0.25 degrees; another
draw is another member, of the same coarse state.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import fft, ndimage

from ldmdown.data.grid import Grid
from ldmdown.data.reading.orography import SHORE
from ldmdown.scoring.baselines import interpolate
from ldmdown.twin.recipe import RECIPE, TwinWorld
from ldmdown.twin.terrain import CELL, read_raster

SICILY = Grid(crs="EPSG:3035", west=4_380_000, north=1_880_000, rows=280, cols=290, spacing=2000)
INTERIOR, OPEN_SEA = (slice(118, 148), slice(88, 144)), (slice(0, 88), slice(8, 112))
BANDS = (64.0, 32.0, 16.0, 11.0, 8.0, 6.0, 4.45)  # [km]


@dataclass
class Sample:
    """Fields (hour, variable, rows, cols) with rows northwards, the hour that follows each, and another draw."""

    z: NDArray
    fields: NDArray
    following: NDArray  # the same hours plus one
    others: NDArray  # another draw of the last hours of `fields`

    @property
    def land(self) -> NDArray:
        """Mask."""
        return self.z > SHORE


class Real:
    """ICON-2I's fields."""

    def __init__(self, files: Sequence[Path], orography: Path) -> None:
        runs = [xr.open_dataset(file, engine="netcdf4").sortby("lat") for file in files]
        self.lat, self.lon = runs[0].lat.values, runs[0].lon.values
        self.z = np.maximum(read_raster(orography).at(*np.meshgrid(self.lat, self.lon, indexing="ij")), 0)
        self.fields = [run[["t2m", "u10", "v10"]].to_array().values.swapaxes(0, 1) for run in runs]
        self.hours = [run.time.values.astype("datetime64[h]").astype(int) for run in runs]

    def sample(self) -> Sample:
        """The fields as they are."""
        same, others = [], []
        for (early, then), (late, now) in pairwise(zip(self.fields, self.hours, strict=True)):
            _, first, second = np.intersect1d(now[0:23:3], then, return_indices=True)
            same.append(late[0:23:3][first])
            others.append(early[second])
        fields, following = (np.concatenate([run[start : start + 23 : 3] for run in self.fields]) for start in (0, 1))
        return Sample(self.z, np.concatenate([fields, *same]), following, np.concatenate(others))

    def twin(self, orography: Path, coarse_orography: Path) -> Sample:
        """What the twin draws from the coarse states of the same hours, every second run."""
        world = TwinWorld(SICILY, orography=orography, coarse_orography=coarse_orography)
        distance = np.hypot(world.lat - self.lat[0], (world.lon - self.lon[0]) * np.cos(np.radians(37)))
        row, col = np.unravel_index(distance.argmin(), distance.shape)
        window = (..., slice(row, row + len(self.lat)), slice(col, col + len(self.lon)))

        def draw(run: int, step: int, member: int) -> NDArray:
            coarse = self._coarse(self.fields[run][step], world)
            return np.stack(world.fine_on_grid(int(self.hours[run][step]), member, coarse))[window]

        steps = [(run, step) for run in range(0, len(self.fields), 2) for step in range(0, 23, 3)]
        drawn = [[draw(run, step + later, member) for run, step in steps] for later, member in ((0, 0), (1, 0), (0, 1))]
        return Sample(world.terrain.z[window], *(np.stack(part) for part in drawn))

    def _coarse(self, fields: NDArray, world: TwinWorld) -> dict[str, NDArray]:
        """Means over the boxes around the world's coarse points; outside, the nearest."""
        boxes = [
            np.abs(axis[:, None] - points).argmin(1)
            for axis, points in ((self.lat, world.latitude), (self.lon, world.longitude))
        ]
        known = [np.unique(box) for box in boxes]
        means = [
            (box == at[:, None]) / (box == at[:, None]).sum(1, keepdims=True)
            for box, at in zip(boxes, known, strict=True)
        ]
        inside = means[0] @ fields @ means[1].T
        rows, cols = (
            np.clip(np.arange(len(axis)) - at[0], 0, len(at) - 1)
            for axis, at in ((world.latitude, known[0]), (world.longitude, known[1]))
        )
        t, u, v = inside[:, rows][:, :, cols].astype("f4")
        return {"t2m": t + 273.15, "u10": u, "v10": v}


def residual(fields: NDArray, box: int = 14) -> NDArray:
    """Fine minus interpolated means of boxes, (..., rows, cols) cut to whole boxes."""
    rows, cols = (size // box for size in fields.shape[-2:])
    fields = fields[..., : rows * box, : cols * box]
    means = fields.reshape(*fields.shape[:-2], rows, box, cols, box).mean((-3, -1))
    return fields - interpolate(means, box, 1)


def bands(fields: NDArray, where: tuple[slice, slice] | None = None) -> NDArray:
    """Variance by band, (band, variable), of (hour, variable, rows, cols)."""
    fields = fields[(..., *where)] if where else fields
    return np.array([(part**2).mean((0, 2, 3)) for part in banded(fields)])


def banded(fields: NDArray) -> list[NDArray]:
    """Cosine coefficients of each band, zero elsewhere, scaled so that their mean square is the variance."""
    rows, cols = fields.shape[-2:]
    wave = np.hypot(np.arange(rows)[:, None] / rows, np.arange(cols) / cols) / (2 * CELL)
    spectrum = fft.dctn(fields, axes=(-2, -1), norm="ortho")
    return [spectrum * ((wave >= 1 / long) & (wave < 1 / short)) for long, short in pairwise(BANDS)]


def slope(fields: NDArray, long: float, short: float) -> list[float]:
    """Exponent of the spectrum between two wavelengths [km], of each variable."""
    rows, cols = fields.shape[-2:]
    wave = np.hypot(np.arange(rows)[:, None] / rows, np.arange(cols) / cols) / (2 * CELL)
    power = (fft.dctn(fields, axes=(-2, -1), norm="ortho") ** 2).mean(0)
    edges = np.geomspace(1 / long, 1 / short, 7)
    rings = [(wave >= low) & (wave < high) for low, high in pairwise(edges)]
    middle = np.log([wave[ring].mean() for ring in rings])
    density = [[np.log(one[ring].mean() * wave[ring].mean()) for ring in rings] for one in power]
    return [np.polyfit(middle, one, 1)[0] for one in density]


def kurtosis(values: NDArray) -> float:
    """0 for a Gaussian."""
    return float((values**4).mean() / (values**2).mean() ** 2 - 3)


def correlation(a: NDArray, b: NDArray) -> float:
    """Of two fields without their means."""
    return float((a * b).mean() / np.sqrt((a**2).mean() * (b**2).mean()))


Rows = dict[str, list[float]]


def table(sample: Sample) -> Rows:
    """The rows."""
    both = residual(sample.fields)
    sizes = both.shape[-2:]
    land = sample.land[: sizes[0], : sizes[1]]
    surfaces = {"land": land, "sea": ~land}
    count = len(sample.following)
    rows: Rows = {}
    for kind, inside in surfaces.items():
        rows[f"residual std, {kind}, t u v"] = list(both[..., inside].std((0, 2)))
    for kind, inside in {"land": sample.land, "sea": ~sample.land}.items():
        fine = residual(sample.fields, 7)
        rows[f"residual std at 16 km, {kind}"] = list(fine[..., inside[: fine.shape[-2], : fine.shape[-1]]].std((0, 2)))
    for name, where in (("interior", INTERIOR), ("open sea", OPEN_SEA)):
        power = bands(sample.fields[:count], where)
        for index, variable in ((1, "u"), (0, "t")):
            rows[f"variance of {variable}, {name}, 32-16 .. 6-4.4 km"] = list(power[1:, index])
    rows["slope 32-11 km"], rows["slope 11-4.5 km"] = (slope(both, *edges) for edges in ((32, 11), (11, 4.5)))
    rows |= _same_every_hour(both[:count], surfaces)
    rows |= _against_height(sample, both, land)
    rows |= _tails(both[:count], surfaces)
    rows |= _in_time(sample, surfaces)
    rows |= _wind(sample, surfaces)
    return rows | _other_draw(sample, surfaces)


def _same_every_hour(residuals: NDArray, surfaces: dict[str, NDArray]) -> Rows:
    inside = surfaces["land"]
    always = (residuals.mean(0)[:, inside] ** 2).mean(1) / (residuals[..., inside] ** 2).mean((0, 2))
    return {"share the same at every hour, land": list(always)}


def _against_height(sample: Sample, residuals: NDArray, land: NDArray) -> Rows:
    height = residual(sample.z[None])[0][land] / 1000
    speed = residual(np.hypot(sample.fields[:, 1], sample.fields[:, 2]))
    rows = {}
    for name, values in (("t2m", residuals[:, 0][:, land]), ("speed", speed[:, land])):
        slopes = (values * height).mean(1) / (height**2).mean()
        explained = 1 - ((values - slopes[:, None] * height) ** 2).mean() / (values**2).mean()
        rows[f"{name} against height: slope, std over hours, R2"] = [slopes.mean(), slopes.std(), explained]
    return rows


def _tails(residuals: NDArray, surfaces: dict[str, NDArray]) -> Rows:
    each: dict[str, Callable[[NDArray, NDArray], float]] = {
        "kurtosis of the residual": lambda one, inside: kurtosis(one[:, inside]),
        "kurtosis of 1-cell differences": lambda one, inside: kurtosis(np.diff(one)[:, inside[:, 1:] & inside[:, :-1]]),
        "kurtosis after division by each cell's std": lambda one, inside: kurtosis(
            ((one - one.mean(0)) / one.std(0))[:, inside]
        ),
    }
    return {
        f"{name}, {kind}": [function(residuals[:, variable], inside) for variable in range(3)]
        for name, function in each.items()
        for kind, inside in surfaces.items()
    }


def _in_time(sample: Sample, surfaces: dict[str, NDArray]) -> Rows:
    rows = {}
    for box, kinds in ((14, ("land", "sea")), (7, ("sea",))):
        now, then = (residual(part, box) for part in (sample.fields[: len(sample.following)], sample.following))
        now, then = now - now.mean(0), then - then.mean(0)
        for kind in kinds:
            inside = sample.land if kind == "land" else ~sample.land
            inside = inside[: now.shape[-2], : now.shape[-1]]
            rows[f"lag-1 h of anomalies, {kind}, {31 if box == 14 else 16} km"] = [
                correlation(now[:, i][:, inside], then[:, i][:, inside]) for i in range(3)
            ]
    return rows


def _wind(sample: Sample, surfaces: dict[str, NDArray]) -> Rows:
    fields = sample.fields[: len(sample.following)]
    full = np.concatenate([fields, np.hypot(fields[:, 1], fields[:, 2])[:, None]], 1)
    parts = residual(full)
    anomalies = parts - parts.mean(0)
    land, sea = surfaces["land"], surfaces["sea"]
    speed = full[:, 3, : land.shape[0], : land.shape[1]]
    coarse = speed - parts[:, 3]
    flat = np.sqrt((parts[:, 1] ** 2 + parts[:, 2] ** 2) / 2)
    classes = [
        np.sqrt((flat[(coarse >= low) & (coarse < high) & sea] ** 2).mean())
        for low, high in pairwise((0, 3, 6, 9, 12, 18))
    ]
    ashore, afloat = (inside & (ndimage.distance_transform_edt(inside) <= 4) for inside in (land, sea))
    return {
        "correlation of t and speed, land; sea": [
            correlation(anomalies[:, 0][:, inside], anomalies[:, 3][:, inside]) for inside in (land, sea)
        ],
        "correlation of u and v, land": [correlation(anomalies[:, 1][:, land], anomalies[:, 2][:, land])],
        "sea wind std, coarse speed 0-3, 3-6, 6-9, 9-12, 12-18": classes,
        "land - sea step of speed at the shore": [speed[:, ashore].mean() - speed[:, afloat].mean()],
    }


def _other_draw(sample: Sample, surfaces: dict[str, NDArray]) -> Rows:
    one, two = (residual(part) for part in (sample.fields[-len(sample.others) :], sample.others))
    always = residual(sample.fields[: len(sample.following)]).mean(0)
    rows = {}
    for variable, name in ((0, "t"), (1, "u")):
        pairs = zip(*(banded((part - always)[:, variable : variable + 1]) for part in (one, two)), strict=True)
        rows[f"other draw, correlation of {name} by band, 64-32 .."] = [correlation(a, b) for a, b in pairs]
    difference = np.sqrt(((one - two) ** 2).mean((0, 2, 3)) / 2)
    rows["other draw, rms of the difference / sqrt 2"] = list(difference)
    for kind, inside in surfaces.items():
        share = ((one - two)[..., inside] ** 2).mean((0, 2)) / 2 / (one[..., inside] ** 2).mean((0, 2))
        rows[f"other draw, share of variance, {kind}"] = list(share)
    low = [
        part[..., : one.shape[-2], : one.shape[-1]] - rest
        for part, rest in ((sample.fields[-len(sample.others) :], one), (sample.others, two))
    ]
    rows["other draw, std of the difference of 31-km means"] = list((low[0] - low[1]).std((0, 2, 3)))
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--orography", type=Path, required=True)
    parser.add_argument("--coarse-orography", type=Path, required=True)
    arguments = parser.parse_args()
    real = Real(sorted(arguments.files), arguments.orography)
    columns = table(real.sample()), table(real.twin(arguments.orography, arguments.coarse_orography))
    print(f"{'':62}{'ICON-2I':38}twin, recipe {RECIPE}")
    for name, ours in columns[0].items():
        texts = [" ".join(f"{value:.2g}" for value in values) for values in (ours, columns[1][name])]
        print(f"{name:62}{texts[0]:38}{texts[1]}")


if __name__ == "__main__":
    main()
