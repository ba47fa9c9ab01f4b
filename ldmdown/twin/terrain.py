"""The twin's ground: terrain from a file or made up, and what the fine fields know about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyproj  # noqa: F401  before cfgrib, which crashes otherwise
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage

from ldmdown.errors import LdmdownError
from ldmdown.twin.noise import Field, shaped, wavenumbers

KILOMETRES = 111.195  # in a degree of a great circle
FINE_STEP = 0.02  # of the reference grid [degrees]
CELL = FINE_STEP * KILOMETRES  # [km]
SHORE = 0.5  # [m] above which ground is land


@dataclass(frozen=True)
class Raster:
    """Heights [m] on ascending latitudes and longitudes."""

    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    height: Field

    def at(self, latitude: NDArray, longitude: NDArray) -> Field:
        """Heights at these points; outside the raster its nearest edge."""
        rows = (latitude - self.latitude[0]) / (self.latitude[1] - self.latitude[0])
        cols = (longitude - self.longitude[0]) / (self.longitude[1] - self.longitude[0])
        return ndimage.map_coordinates(self.height, [rows, cols], order=1, mode="nearest")

    def smoothed(self, degrees: float) -> Raster:
        """The same raster under a Gaussian of this std."""
        sigma = (degrees / np.diff(self.latitude[:2])[0], degrees / np.diff(self.longitude[:2])[0] * 1.37)
        return Raster(self.latitude, self.longitude, ndimage.gaussian_filter(self.height, sigma))


def read_orography(path: str | Path) -> Raster:
    """The single field [m] of a GRIB or NetCDF file on regular latitudes and longitudes.

    Raises
    ------
    LdmdownError
        if the file is missing, or is not one field on a regular grid.
    """
    try:
        with Path(path).open("rb") as file:
            start = file.read(4)
    except OSError:
        raise LdmdownError(path, "no such orography file") from None
    if start == b"GRIB":
        dataset = xr.open_dataset(path, engine="cfgrib", backend_kwargs={"indexpath": ""})
    else:
        dataset = xr.open_dataset(path, engine="netcdf4")
    with dataset:
        short = {name: short for name, short in (("lat", "latitude"), ("lon", "longitude")) if name in dataset.dims}
        fields = [field for field in dataset.rename(short).squeeze().data_vars.values() if field.ndim == 2]
        if len(fields) != 1 or set(fields[0].dims) != {"latitude", "longitude"}:
            raise LdmdownError(
                path,
                "is not one field of heights on regular latitudes and longitudes",
                found=", ".join(f"{field.name} {field.dims}" for field in fields) or "no two-dimensional field",
            )
        field = fields[0].sortby(["latitude", "longitude"]).transpose("latitude", "longitude").astype("f4").load()
    return Raster(field.latitude.values.astype(float), field.longitude.values.astype(float), field.values)


ALPS = (
    (43.7, 7.6),
    (44.3, 7.1),
    (45.1, 6.9),
    (45.9, 7.2),
    (46.4, 8.6),
    (46.7, 10.5),
    (46.9, 12.5),
    (46.7, 14.5),
)
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


class Ground:
    """What the fine fields know about the ground; all (rlat, rlon) float32."""

    def __init__(self, z: Field, z_coarse: Field, land_coarse: Field) -> None:
        blur = partial(ndimage.gaussian_filter, mode="nearest")
        self.z, self.z_coarse = z, z_coarse
        self.land = (z > SHORE).astype("f4")
        self.coast = self.land - land_coarse  # what the coarse state takes for the other one
        hill = blur(z, 3.5 / CELL) - blur(z, 14 / CELL)
        relief = np.sqrt(blur(hill**2, 12 / CELL))  # [m]
        self.rugged = relief / (relief + 120)
        exposed = hill / (relief + 60)
        depth = blur(ndimage.maximum_filter(z, 9), 8 / CELL) - blur(z, 2.5 / CELL)  # below the surrounding crests [m]
        valley = np.clip(depth / 700, 0, 1) * self.land
        plain = np.clip(1 - z / 400, 0, 1) * (1 - self.rugged) ** 2 * self.land
        self.pool = np.clip((depth - 150) / 500, 0, 1) * (exposed < 0.6) * self.land + 0.35 * plain
        self.pool = blur(self.pool, 2.5 / CELL)
        zy, zx = np.gradient(blur(z, 5 / CELL), CELL * 1e3)
        self.slope_x, self.slope_y = (part / (np.hypot(zx, zy) + 0.04) for part in (zx, zy))
        zy, zx = np.gradient(blur(z, 7 / CELL), CELL * 1e3)
        self.rise_x, self.rise_y = zx, zy
        xx, yy, xy = (blur(part, 10 / CELL) for part in (zx * zx, zy * zy, zx * zy))
        across = 0.5 * np.arctan2(2 * xy, xx - yy)  # direction in which the ground falls and rises
        ordered = np.hypot(xx - yy, 2 * xy) / (xx + yy + 0.02**2)
        channel = 0.85 * ordered * valley
        self.shelter_xx = channel * np.cos(across) ** 2
        self.shelter_yy = channel * np.sin(across) ** 2
        self.shelter_xy = channel * np.sin(across) * np.cos(across)
        self.speed_up = 0.9 * np.clip(exposed, 0, 2) * self.rugged - 0.62 * valley
        self.inland, self.onshore_x, self.onshore_y = self._shore()

    def _shore(self) -> tuple[Field, Field, Field]:
        """Distance [km] inland, negative at sea (of 5000 km2 and more), and the unit vector landwards."""
        parts, _ = ndimage.label(self.land == 0)
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        sea = (sizes >= 5000 / CELL**2)[parts]
        far = np.full(sea.shape, 200.0)
        inland = np.where(
            sea,
            -ndimage.distance_transform_edt(sea) if not sea.all() else -far,
            ndimage.distance_transform_edt(~sea) if sea.any() else far,
        )
        inland = np.clip(inland * CELL, -200, 200)
        gy, gx = np.gradient(ndimage.gaussian_filter(inland, 12 / CELL))
        norm = np.hypot(gx, gy) + 0.3
        return tuple(part.astype("f4") for part in (ndimage.gaussian_filter(inland, 0.7), gx / norm, gy / norm))  # type: ignore[return-value]
