"""The twin's ground: terrain from a file or made up, and what the fine fields know about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from ldmdown.data.grid import LONLAT
from ldmdown.data.reading.orography import SHORE, check_complete, read_heights
from ldmdown.errors import LdmdownError
from ldmdown.twin.noise import shaped, wavenumbers
from ldmdown.typing import FloatArray

KILOMETRES = 111.195  # in a degree of a great circle
FINE_STEP = 0.02  # of the reference grid [degrees]
CELL = FINE_STEP * KILOMETRES  # [km]
BOX = 14  # cells in a box whose mean the coarse state knows, 31 km
SECTORS = 16  # of wind direction


@dataclass(frozen=True)
class Raster:
    """Heights [m] on ascending latitudes and longitudes."""

    latitude: FloatArray
    longitude: FloatArray
    height: FloatArray

    def at(self, latitude: NDArray, longitude: NDArray) -> FloatArray:
        """Heights at these points; outside the raster its nearest edge."""
        rows = (latitude - self.latitude[0]) / (self.latitude[1] - self.latitude[0])
        cols = (longitude - self.longitude[0]) / (self.longitude[1] - self.longitude[0])
        return ndimage.map_coordinates(self.height, [rows, cols], order=1, mode="nearest")

    def smoothed(self, degrees: float) -> Raster:
        """Smooth the raster with a Gaussian of this std."""
        sigma = (degrees / np.diff(self.latitude[:2])[0], degrees / np.diff(self.longitude[:2])[0] * 1.37)
        return Raster(self.latitude, self.longitude, ndimage.gaussian_filter(self.height, sigma))


def read_raster(path: str | Path) -> Raster:
    """The heights of a GRIB or NetCDF file on regular latitudes and longitudes.

    Raises LdmdownError if the file cannot be read, or is not one complete field of heights on such a grid.
    """
    grid, height = read_heights(path)
    check_complete(path, height)
    if grid.crs != LONLAT:
        raise LdmdownError(path, "is not on regular latitudes and longitudes", found=grid.crs.name)
    rows, cols = (slice(None, None, 1 if axis[0] < axis[-1] else -1) for axis in (grid.y, grid.x))
    return Raster(grid.y[rows], grid.x[cols], height[rows, cols])


ALPS = ((43.7, 7.6), (44.3, 7.1), (45.1, 6.9), (45.9, 7.2), (46.4, 8.6), (46.7, 10.5), (46.9, 12.5), (46.7, 14.5))
APENNINES = (
    *((44.4, 8.5), (44.3, 10.0), (43.6, 12.0), (42.5, 13.5), (41.6, 14.3), (40.7, 15.5), (39.8, 16.1)),
    *((39.0, 16.5), (38.2, 16.0)),
)
DINARIDES = ((46.1, 14.2), (45.0, 15.4), (43.8, 17.2), (42.6, 19.2), (40.5, 20.6))
SICILY = ((37.9, 13.0), (37.8, 14.6))
SARDINIA = ((39.3, 9.0), (40.7, 9.1))
CORSICA = ((41.7, 9.1), (42.6, 9.1))
RIDGES = (  # axis, height [m], half width [km], half width of the land [km]
    (ALPS, 2300.0, 62.0, 190.0),
    (APENNINES, 1150.0, 34.0, 72.0),
    (DINARIDES, 1100.0, 55.0, 95.0),
    (SICILY, 700.0, 40.0, 62.0),
    (SARDINIA, 600.0, 45.0, 55.0),
    (CORSICA, 1300.0, 24.0, 35.0),
)


@lru_cache(maxsize=1)
def analytic_orography() -> Raster:
    """A made-up Italy: arcs of mountains, coasts around them, valleys from noise with a k^-2 spectrum."""
    latitude, longitude = np.arange(33.5, 49.51, 0.02), np.arange(3.0, 22.01, 0.025)
    y = (latitude[:, None] - 42) * KILOMETRES
    x = (longitude - 12) * KILOMETRES * np.cos(np.radians(43))
    x, y = np.broadcast_arrays(x, y)
    step = 2.1  # [km]
    k = wavenumbers(x.shape, step)[2]
    random = np.random.Generator(np.random.Philox(key=1))
    noise = [
        shaped(random.standard_normal(x.shape), (k**2 + (1 / size) ** 2) ** -power)
        for size, power in ((150, 1.6), (150, 1.6), (40, 1.25), (40, 1.25))
    ]
    x, y = x + 18 * noise[0], y + 18 * noise[1]  # crooked coasts and ridges
    land = np.minimum(y - 380 + 210 * (x < -330), 60.0)  # the continent north of the coast
    land = np.where(x > 560, 60.0, land)
    height = np.zeros_like(x)
    carved = 1.25 - 1.1 * np.exp(-np.abs(noise[2]) * 2.2) + 0.22 * noise[3]  # valleys where the noise crosses zero
    for axis, top, width, shore in RIDGES:
        distance = _distance(x, y, axis)
        height += top * np.exp(-((distance / width) ** 2)) * carved
        land = np.maximum(land, shore - distance)
    plain = np.clip(land, 0, 60) * (1.4 + 0.5 * noise[3])
    return Raster(latitude, longitude, np.where(land > 0, np.maximum(height + plain, 1.0), 0.0).astype("f4"))


def _distance(x: NDArray, y: NDArray, axis: Sequence[tuple[float, float]]) -> NDArray:
    """Distance [km] from a broken line of (latitude, longitude)."""
    points = [((lon - 12) * KILOMETRES * np.cos(np.radians(43)), (lat - 42) * KILOMETRES) for lat, lon in axis]
    nearest = np.full(x.shape, np.inf)
    for (x0, y0), (x1, y1) in pairwise(points):
        dx, dy = x1 - x0, y1 - y0
        along = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx**2 + dy**2), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - x0 - along * dx, y - y0 - along * dy))
    return nearest


class TerrainFeatures:
    """What the fine fields know about the terrain, (rlat, rlon) float32, by name.

    Attributes:
        z, land: height [m] and land mask.
        scalars: `z` [km]; `dz`, height above the coarse terrain [500 m], and its bands `b0` to `b3` (below 2.5, 5, 10
            and 20 km); `land`; `shore3` and `shore20`, land fraction around minus land; `rugged`, `exposed`, `depth`
            (below the surrounding crests [700 m]) and `slope`.
        vectors: uphill gradients `up0`, `up5`, `up10` of the height and landwards ones `inland3`, `inland8`, (2, rlat,
            rlon).
        tensors: (xx, xy) of symmetric tensors without trace, (2, rlat, rlon): of linear theory for the bands (`b0` to
            `b3`), and `valley`, the direction across which the ground falls and rises, times the depth.
        directional: by direction towards which the wind blows, (rlat, rlon, SECTORS) float16: `shelter`, crests upwind
            within 40 km [km]; `rise`, mean height upwind within 15 km above the cell [500 m]; `wake`, obstacles upwind
            within 120 km [km]; `near_land`, `far_land`, land fraction upwind within 8 and from 10 to 40 km, minus land.
    """

    def __init__(self, z: FloatArray) -> None:
        self.z = z = np.maximum(z, 0).astype("f4")
        self.land = land = (z > SHORE).astype("f4")
        self.high_pass = HighPass(z.shape)
        smooth = {length: blur(z, length) for length in (2.5, 5, 10, 20)}
        edges = [z, *smooth.values()]
        bands = {f"b{i}": limited((a - b) / 500) for i, (a, b) in enumerate(pairwise(edges))}
        shore = {length: blur(land, length) for length in (3, 8, 20)}
        hill = blur(z, 3.5) - blur(z, 14)
        relief = np.sqrt(blur(hill**2, 12))  # [m]
        depth = (blur(ndimage.maximum_filter(z, 9), 8) - smooth[2.5]) / 700 * land
        self.scalars = bands | {
            "z": z / 1000,
            "dz": limited(self.high_pass(z) / 500),
            "land": land,
            "shore3": shore[3] - land,
            "shore20": shore[20] - land,
            "rugged": relief / (relief + 120),
            "exposed": hill / (relief + 60),
            "depth": limited(depth),
            "slope": limited(np.hypot(*gradient(smooth[2.5])) * 5),
        }
        self.vectors = {
            f"up{i}": limited(gradient(field) * 10) for i, field in ((0, z), (5, smooth[5]), (10, smooth[10]))
        }
        self.vectors |= {f"inland{length}": gradient(shore[length]) * length * 1000 for length in (3, 8)}
        self.tensors = {name: riesz(band) for name, band in bands.items()}
        x, y = gradient(smooth[10])
        across = np.stack([blur(x * x - y * y, 10), blur(2 * x * y, 10)])
        self.tensors["valley"] = across / (blur(x * x + y * y, 10) + 0.03**2) * self.scalars["depth"]
        self._look_upwind(land)

    def _look_upwind(self, land: FloatArray) -> None:
        """Fill in `directional`."""
        views: dict[str, list[FloatArray]] = {name: [] for name in ("shelter", "rise", "wake", "near_land", "far_land")}
        fine, broad = blur(self.z, 1.5), blur(self.z, 4)
        for angle in 2 * np.pi * np.arange(SECTORS) / SECTORS:
            upwind = partial(shifted, angle=angle)
            crests = [(upwind(fine, d) - fine) * np.exp((8 - d) / 20) for d in (8, 12, 16, 20, 25, 30, 40)]
            views["shelter"].append(np.clip(np.max(crests, 0) / 1000, 0, 2))
            views["rise"].append(
                np.clip(np.mean([upwind(fine, d) - fine for d in (3, 5, 7, 9, 12, 15)], 0) / 500, -2, 2)
            )
            wakes = [upwind(broad, d) * np.exp(-d / 60) for d in range(4, 121, 5)]
            views["wake"].append(np.clip(np.max(wakes, 0) / 1000, 0, 2))
            views["near_land"].append(np.mean([upwind(land, d) for d in (2, 4, 6, 8)], 0) - land)
            views["far_land"].append(np.mean([upwind(land, d) for d in (10, 15, 20, 25, 30, 40)], 0) - land)
        self.directional = {name: np.stack(view, -1).astype("f2") for name, view in views.items()}


def blur(field: FloatArray, length: float, step: float = CELL) -> FloatArray:
    """A field of this spacing under a Gaussian of this std [km]."""
    return ndimage.gaussian_filter(field, length / step, mode="nearest")


def limited(field: FloatArray) -> FloatArray:
    """Values that grow slower beyond 1 and stay below 2.5: features seen in Sicily do not run away in the Alps."""
    return (2.5 * np.tanh(field / 2.5)).astype("f4")


def gradient(field: FloatArray) -> FloatArray:
    """(x, y) derivatives by the metre of a field in metres, (2, rows, cols)."""
    return np.stack([np.gradient(field, CELL * 1e3, axis=axis) for axis in (1, 0)]).astype("f4")


def riesz(field: FloatArray) -> FloatArray:
    """(xx, xy) of k k / k^2 without its trace, applied to the field: how potential flow turns around it."""
    ky, kx, k = wavenumbers(field.shape, CELL)
    spectrum = fft.rfft2(field) / k**2
    parts = [fft.irfft2(spectrum * factor, field.shape) for factor in (kx**2 - ky**2, 2 * kx * ky)]
    return np.stack(parts).astype("f4")


def shifted(field: FloatArray, distance: float, angle: float) -> FloatArray:
    """The field as seen this far [km] upwind of a wind that blows towards `angle`; beyond the edge, the edge."""
    rows, cols = (round(-distance * part / CELL) for part in (np.sin(angle), np.cos(angle)))
    padded = np.pad(field, ((abs(rows),) * 2, (abs(cols),) * 2), mode="edge")
    return padded[abs(rows) + rows :, abs(cols) + cols :][: field.shape[0], : field.shape[1]]


class HighPass:
    """A field minus what means over boxes of `BOX` cells tell of it, interpolated by cubic splines."""

    def __init__(self, shape: tuple[int, int]) -> None:
        (self.rows_mean, self.rows_lift), (self.cols_mean, self.cols_lift) = (self._matrices(size) for size in shape)

    @staticmethod
    def _matrices(size: int) -> tuple[FloatArray, FloatArray]:
        """(boxes, size) of the means, (size, boxes) of the splines."""
        box = np.arange(size) // BOX
        mean = (box == np.arange(box[-1] + 1)[:, None]).astype("f4")
        mean /= mean.sum(1, keepdims=True)
        places = (np.arange(size) + 0.5) / BOX - 0.5
        lift = [ndimage.map_coordinates(one, [places], order=3, mode="nearest") for one in np.eye(len(mean))]
        return mean, np.stack(lift, 1).astype("f4")

    def low(self, field: FloatArray) -> FloatArray:
        """What the means tell of (..., rows, cols)."""
        means = self.rows_mean @ field @ self.cols_mean.T
        return self.rows_lift @ means @ self.cols_lift.T

    def __call__(self, field: FloatArray) -> FloatArray:
        """The rest."""
        return field - self.low(field)
