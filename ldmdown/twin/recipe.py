"""The twin's recipe: a synthetic world whose p(fine | coarse) can be sampled, so that the ideal score is known.

A coarse state (ERA5's grid and variables) evolves smoothly; a fine state (2 km, rotated pole) is drawn from it: the
interpolated coarse fields, the terrain's response to them, and noise. The draw looks at nothing but the coarse t2m,
u10 and v10 of the hour, the sun's elevation and the terrain. It is a test world, never to be called a reanalysis.

Response and noise are fitted to one windy winter week over Sicily. What that week cannot say is assumed, modestly:
features of higher mountains than Sicily's saturate; in calm clear nights valleys hold cold pools whose depth is
uncertain; in summer the fitted answers to sun and to the contrast of land and sea go on linearly, up to 6 K.

Letters: t temperature [K]; u, v wind [m s-1]; z height [m]; x, y distance along the rotated grid, towards its
east and north; `medium` fields lie on a grid four times coarser than the fine one, where smooth fields are cheap.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldmdown.config import LAPSE_RATE
from ldmdown.data.grid import ERA5_SPACING, LONLAT, POLE_LATITUDE, Grid, rotate_to_earth, rotated_pole, transformer
from ldmdown.data.reading.orography import SHORE
from ldmdown.data.solar import cos_zenith
from ldmdown.twin.noise import Eddies, SmoothNoise, Streaks
from ldmdown.twin.response import State, Terms, land_sea_contrast, remainder_variance, response
from ldmdown.twin.terrain import CELL, FINE_STEP, Raster, TerrainFeatures, analytic_orography, blur, read_raster
from ldmdown.twin.weather import Place, Weather, coarse_state
from ldmdown.typing import FloatArray

RECIPE = 3
"""Version of the recipe: every score on the twin cites it; whoever changes the recipe scores again."""

POLE_LONGITUDE = -168.0  # of the rotated grid [degrees]
ERA5_MARGIN = 0.5  # [degrees]
FINE_MARGIN = 0.06  # [degrees]
MEDIUM = 4  # fine cells in a medium cell

# The regression explains 0.84 of the residual's variance for t2m on land, 0.41 for wind on land and 0.13 at sea. Real
# forecasts that start 12 hours apart agree far better than that: most of the rest is as fixed as what the terms catch,
# only more intricate. So the response is raised, most on scales below about 10 km, where the terms are too smooth, and
# noise gets less than what the regression leaves.
GAIN_T, GAIN_WIND_LAND, GAIN_WIND_SEA = 1.03, 1.15, 1.3
SHARPEN_T, SHARPEN_WIND = 0.25, 0.6  # added to the gain on scales below about 10 km, on land
SHARE_T, SHARE_WIND_LAND, SHARE_WIND_SEA = 0.8, 0.6, 1.0  # of the variance that the regression leaves
COLD_POOL = 2.0  # [K] in calm nights in valleys 700 m deep


def detail(field: FloatArray) -> FloatArray:
    """What a field has on scales below about 10 km."""
    return field - blur(field, 3.0)


def noise_std(terms: Terms) -> tuple[FloatArray, FloatArray]:
    """Std of temperature [K] and of each component of the wind [m s-1] that are left to chance, (rows, cols).

    What valleys do in calm nights is assumed, the rest is measured.
    """
    land = terms.features.land
    t, wind = remainder_variance(terms)
    pools = land * terms.state.calm_night * np.maximum(terms.features.scalars["depth"], 0)
    share_wind = SHARE_WIND_SEA + (SHARE_WIND_LAND - SHARE_WIND_SEA) * land
    return np.sqrt(SHARE_T * t + 0.4 * pools), np.sqrt(share_wind * wind)


def limited_wind(departure: FloatArray, speed: FloatArray) -> FloatArray:
    """A departure (2, rows, cols) [m s-1] that stays below the coarse speed plus 6 m s-1."""
    size = np.hypot(*departure) / (speed + 6)
    return departure / np.sqrt(1 + size**2)


class TwinWorld:
    """The synthetic world around a grid.

    Args:
        grid: the fine grid of the downscaling; the world's own grids cover it with a margin.
        seed: of the weather and of every member.
        orography, coarse_orography: files with the fine terrain and with ERA5's; None: a made-up one, and the fine one,
            smoothed.

    Attributes:
        latitude, longitude: axes of the coarse grid [degrees]; latitudes fall.
        rlat, rlon: axes of the reference grid [degrees], both rising.
        lat, lon: its geographic coordinates, (rlat, rlon) [degrees].
        rotation: direction of its north, clockwise from true north, (rlat, rlon) [radians].
    """

    def __init__(
        self,
        grid: Grid,
        *,
        seed: int = 0,
        orography: str | Path | None = None,
        coarse_orography: str | Path | None = None,
    ) -> None:
        self.seed = seed
        self._axes(grid)
        fine = read_raster(orography) if orography else analytic_orography()
        coarse = read_raster(coarse_orography) if coarse_orography else fine.smoothed(0.2)
        lat, lon = np.meshgrid(self.latitude, self.longitude, indexing="ij")
        land = Raster(fine.latitude, fine.longitude, (fine.height > SHORE).astype("f4")).smoothed(0.12)
        self.place = Place(lat, lon, np.maximum(coarse.at(lat, lon), 0), land.at(lat, lon))
        self.terrain = TerrainFeatures(fine.at(self.lat, self.lon))
        self.medium_z, self.medium_land = self._to_medium(self.place.z), self._to_medium(self.place.land)
        self.z_coarse = self._lift(self.medium_z)
        self.weather = Weather(seed)
        self._noises()

    def _axes(self, grid: Grid) -> None:
        x = grid.west + np.linspace(0, grid.cols * grid.spacing, 65)
        y = grid.north - np.linspace(0, grid.rows * grid.spacing, 65)
        x, y = np.meshgrid(x, y)
        lon, lat = transformer(grid.crs, LONLAT).transform(x, y)
        self.longitude = _multiples(lon.min() - ERA5_MARGIN, lon.max() + ERA5_MARGIN, ERA5_SPACING)
        self.latitude = _multiples(lat.min() - ERA5_MARGIN, lat.max() + ERA5_MARGIN, ERA5_SPACING)[::-1]
        rotated = rotated_pole(POLE_LATITUDE, POLE_LONGITUDE)
        back = transformer(rotated, LONLAT)
        rlon, rlat = back.transform(lon, lat, direction="INVERSE")
        self.rlon = _multiples(rlon.min() - FINE_MARGIN, rlon.max() + FINE_MARGIN, FINE_STEP)
        self.rlat = _multiples(rlat.min() - FINE_MARGIN, rlat.max() + FINE_MARGIN, FINE_STEP)
        self.lon, self.lat = back.transform(*np.meshgrid(self.rlon, self.rlat))
        self.rotation = rotation_of_grid(self.lat, self.lon)
        medium = [
            axis[0] + FINE_STEP * MEDIUM * np.arange(-2, -(-len(axis) // MEDIUM) + 3) for axis in (self.rlat, self.rlon)
        ]
        self.medium_lon, self.medium_lat = back.transform(*np.meshgrid(medium[1], medium[0]))
        self.medium_rotation = rotation_of_grid(self.medium_lat, self.medium_lon)
        self._rows, self._cols = (medium_splines(len(axis)) for axis in (self.rlat, self.rlon))

    def _noises(self) -> None:
        fine, medium = self.lat.shape, self.medium_lat.shape
        self._lively = SmoothNoise(self.seed, 1, medium, CELL * MEDIUM, memory=0.9, length=40)
        self._land_eddies = Eddies(self.seed, 2, fine, CELL, memory=0.65, resolved=7.0)
        self._sea_eddies = Eddies(self.seed, 5, fine, CELL, memory=0.15, resolved=13.0)
        self._streaks = Streaks(self.seed, 8, fine, CELL, memory=0.3)

    def _to_medium(self, coarse: NDArray) -> FloatArray:
        """(latitude, longitude) to the medium grid, by cubic splines."""
        rows = (self.latitude[0] - self.medium_lat) / ERA5_SPACING
        cols = (self.medium_lon - self.longitude[0]) / ERA5_SPACING
        return ndimage.map_coordinates(np.asarray(coarse, "f4"), [rows, cols], order=3, mode="nearest")

    def _lift(self, medium: FloatArray) -> FloatArray:
        """Medium to fine, by cubic B-splines."""
        return self._rows @ np.asarray(medium, "f4") @ self._cols.T

    def coarse(self, hour: int) -> dict[str, FloatArray]:
        """The 14 predictors at an hour since 1970, by short name, (latitude, longitude); no sst on land."""
        return coarse_state(self.weather, hour, self.place)

    def fine(self, hour: int, member: int = 0, coarse: dict[str, FloatArray] | None = None) -> dict[str, FloatArray]:
        """One draw of p(fine | coarse) at an hour: t2m, and u10, v10 towards east and north, (rlat, rlon).

        Member 0 is the truth. Members are independent given the coarse state; each remembers a few hours.
        `coarse` replaces the world's own state.
        """
        t, u, v = self.fine_on_grid(hour, member, coarse)
        east, north = rotate_to_earth(u, v, self.rotation)
        return {"t2m": t, "u10": east, "v10": north}

    def fine_on_grid(self, hour: int, member: int, coarse: dict[str, FloatArray] | None = None) -> FloatArray:
        """As `fine`, (t, u, v) with the wind along the rotated grid, as the reference's files hold it."""
        terms = Terms(self.terrain, self.state(hour, coarse or self.coarse(hour)))
        return self.mean(terms) + self.noise(terms, member, hour)

    def mean(self, terms: Terms) -> FloatArray:
        """The mean of p(fine | coarse), (t, u, v) along the rotated grid."""
        state, (t, wind) = terms.state, response(terms)
        pools = COLD_POOL * state.calm_night * self.terrain.scalars["depth"]
        land = self.terrain.land
        gain = GAIN_WIND_SEA + (GAIN_WIND_LAND - GAIN_WIND_SEA) * land
        t = GAIN_T * t + SHARPEN_T * land * detail(t)
        wind = gain * wind + SHARPEN_WIND * land * np.stack([detail(part) for part in wind])
        return np.stack([state.t + t - self.terrain.high_pass(pools), *(terms.wind + limited_wind(wind, state.speed))])

    def noise(self, terms: Terms, member: int, hour: int) -> FloatArray:
        """What is left to chance, (t, u, v): eddies over rough ground, streaks along the wind at sea."""
        lively = self._lift(self._lively.draw(member, hour))
        land, direction = self.terrain.land > 0, terms.direction
        t, wind = self._land_eddies.draw(member, hour)
        along = (wind * direction).sum(0)
        t_land, wind_land = 0.97 * t + 0.23 * along, 0.85 * wind + 0.3 * along * direction
        t_sea, wind = self._sea_eddies.draw(member, hour)
        wind_sea = 0.87 * wind + 0.7 * self._streaks.draw(member, hour, terms.state.u, terms.state.v) * direction
        std_t, std_wind = noise_std(terms)
        restless = 0.7 - 0.4 * self.terrain.land
        busy = np.exp(restless * lively - restless**2)
        drawn = [std_t * busy * np.where(land, t_land, t_sea), *(std_wind * busy * np.where(land, wind_land, wind_sea))]
        return self.terrain.high_pass(np.stack(drawn))

    def state(self, hour: int, coarse: dict[str, FloatArray]) -> State:
        """What a draw may know of the hour."""
        t, east, north = (self._to_medium(coarse[name]) for name in ("t2m", "u10", "v10"))
        along_x, along_y = rotate_to_earth(east, north, -self.medium_rotation)
        sun = cos_zenith(hour, self.medium_lat, self.medium_lon).astype("f4")
        contrast = land_sea_contrast(t + LAPSE_RATE * self.medium_z, self.medium_land, CELL * MEDIUM)
        return State(*(self._lift(field) for field in (t, along_x, along_y, sun, contrast)))


def _multiples(first: float, last: float, step: float) -> NDArray[np.float64]:
    """Multiples of `step` from at most `first` to at least `last`."""
    return np.arange(np.floor(first / step + 1e-9), np.ceil(last / step - 1e-9) + 1) * step


def medium_splines(size: int) -> FloatArray:
    """(size, medium) weights of cubic B-splines; the first fine cell lies on medium cell 2."""
    matrix = np.zeros((size, -(-size // MEDIUM) + 5), "f4")
    at, part = np.divmod(np.arange(size) / MEDIUM + 2, 1)
    rows, at = np.arange(size), at.astype(int)
    weights = (
        (1 - part) ** 3,
        3 * part**3 - 6 * part**2 + 4,
        3 * (1 - part) ** 3 - 6 * (1 - part) ** 2 + 4,
        part**3,
    )
    for offset, weight in enumerate(weights, start=-1):
        matrix[rows, at + offset] = weight / 6
    return matrix


def rotation_of_grid(latitude: NDArray, longitude: NDArray) -> FloatArray:
    """Bearing of the rotated pole: the direction of the grid's north, clockwise from true north [radians]."""
    lat, away = np.radians(latitude), np.radians(POLE_LONGITUDE - longitude)
    pole = np.radians(POLE_LATITUDE)
    east = np.sin(away) * np.cos(pole)
    north = np.cos(lat) * np.sin(pole) - np.sin(lat) * np.cos(pole) * np.cos(away)
    return np.arctan2(east, north).astype("f4")
