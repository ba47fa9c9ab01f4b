"""The twin's recipe: a synthetic world whose p(fine | coarse) can be sampled: the ideal score is known.

A coarse state (ERA5's grid and variables) evolves smoothly; a fine state (2 km, rotated pole) is drawn from
it. The draw looks at nothing but the coarse t2m, u10 and v10 of the hour, the sun's elevation and the ground.
It is a test world, never to be called a reanalysis.

Letters: t temperature [K]; u, v wind [m s-1]; z height [m]; x, y distance along the rotated grid, towards its
east and north; `medium` fields lie on a grid four times coarser than the fine one, where smooth fields are
cheap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pyproj
from numpy.typing import NDArray
from scipy import ndimage

from ldmdown.data.grid import Grid, rotated_pole
from ldmdown.data.solar import cos_zenith
from ldmdown.twin.noise import Cells, Field, SmoothNoise, Turbulence
from ldmdown.twin.terrain import (
    CELL,
    FINE_STEP,
    KILOMETRES,
    SHORE,
    Ground,
    Raster,
    analytic_orography,
    read_orography,
)

RECIPE = 2
"""Version of the recipe: every score on the twin cites it; whoever changes the recipe scores again."""

POLE_LATITUDE, POLE_LONGITUDE = 47.0, -168.0  # of the rotated grid [degrees]
ERA5_STEP, ERA5_MARGIN = 0.25, 0.5  # [degrees]
FINE_MARGIN = 0.06  # [degrees]
MEDIUM = 4  # fine cells in a medium cell
NEARBY = 17  # fine cells over which the cold of pools is balanced, twice


# The coarse state

WAVES = 72
SEASON_PEAK = 203  # warmest day of the year
DRAG_SEA, DRAG_LAND = 0.62, 0.42  # 10-m wind as a part of the geostrophic wind
TURN_SEA, TURN_LAND = 15.0, 30.0  # of the 10-m wind towards low pressure [degrees]


class Weather:
    """Travelling waves of pressure and temperature on a plane: any place, any hour.

    Amplitudes fall with the wavelength (3500 to 220 km), waves fade and return, and a slow storminess makes
    calm and stormy spells.
    """

    def __init__(self, seed: int) -> None:
        random = np.random.Generator(np.random.Philox(key=np.array([seed, 2**63], np.uint64)))
        length = 3500 * (220 / 3500) ** (np.arange(WAVES) / (WAVES - 1))  # [km]
        angle = random.uniform(-1.1, 1.1, WAVES)
        self.k = 2 * np.pi / length * np.array([np.cos(angle), np.sin(angle)])  # (2, WAVES) [km-1]
        self.frequency = self.k[0] * random.normal(32, 9, WAVES)  # eastwards at about 32 km an hour [rad h-1]
        self.phase = random.uniform(0, 2 * np.pi, (2, WAVES))
        self.fade = 2 * np.pi / random.uniform(35, 260, WAVES)  # [rad h-1]
        self.fading = random.uniform(0, 2 * np.pi, WAVES)
        self.pressure = self._amplitudes(length, 1.9)
        self.warmth = self._amplitudes(length, 1.25)
        self.slow = 2 * np.pi / (24 * np.array([3.3, 5.7, 9.1, 14.3, 23.0, 41.0]))
        self.slow_phase = random.uniform(0, 2 * np.pi, (2, 6))

    @staticmethod
    def _amplitudes(length: NDArray, power: float) -> NDArray:
        amplitude = length**power
        return amplitude * np.sqrt(2 / (amplitude**2).sum())

    def spell(self, hour: int, kind: int) -> float:
        """A slow number of unit variance: storminess (0) or warmth (1)."""
        return float(np.cos(self.slow * hour + self.slow_phase[kind]).sum() / np.sqrt(3))

    def at(self, hour: int, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        """(pressure, its gradients along x and y [km-1], warmth), of about unit variance."""
        tide = np.sqrt(2) * np.sin(self.fade * hour + self.fading)
        swing = self.k[0] * x[..., None] + self.k[1] * y[..., None] - self.frequency * hour + self.phase[0]
        cos, sin = np.cos(swing), np.sin(swing)
        p = self.pressure * tide
        lag = self.phase[1] * 0.35 + 1.2  # warm air ahead of the trough
        warmth = cos @ (self.warmth * tide * np.cos(lag)) - sin @ (self.warmth * tide * np.sin(lag))
        return cos @ p, -sin @ (p * self.k[0]), -sin @ (p * self.k[1]), warmth


# The fine state


@dataclass(frozen=True)
class State:
    """What the draw looks at, on the medium grid: coarse t2m and wind, the sun, and what follows."""

    t: Field
    u: Field  # along the rotated grid
    v: Field
    sun: Field  # cosine of the zenith angle
    z: Field  # coarse terrain
    lift: Callable[[Field], Field]  # to the fine grid

    @cached_property
    def speed(self) -> Field:
        """Of the wind."""
        return np.hypot(self.u, self.v)

    @cached_property
    def calm(self) -> Field:
        """1 in still air, 0 in strong wind."""
        return np.exp(-((self.speed / 4.5) ** 2))

    @cached_property
    def day(self) -> Field:
        """0 at night to 1 under a high sun."""
        return np.clip((self.sun - 0.05) / 0.75, 0, 1)

    @cached_property
    def night(self) -> Field:
        """0 by day, 1 after dusk."""
        return 1 / (1 + np.exp(np.clip((self.sun + 0.02) / 0.06, -30, 30)))

    @cached_property
    def low(self) -> Field:
        """Temperature brought down to the sea [K]."""
        return self.t + 0.0065 * self.z

    @cached_property
    def warm(self) -> Field:
        """0 in winter's cold to 1 in summer's heat."""
        return np.clip((self.low - 281) / 17, 0, 1)


@dataclass
class Air:
    """The fine fields while they are being made; wind along the rotated grid."""

    t: Field
    u: Field
    v: Field


def step(x: Field) -> Field:
    """0 below 0, 1 above 1, smooth between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def bump(x: Field) -> Field:
    """1 at 0, falling to 0 at -1 and 1."""
    return step(1 - np.abs(x))


def terrain_wind(air: Air, ground: Ground, state: State) -> None:
    """Crests speed the wind up, valleys shelter it and turn it along their axis, smooth sea lets it run."""
    firm = state.lift(0.75 + 0.35 * state.night * state.calm)  # stable air feels the ground more
    factor = 1 + firm * ground.speed_up - 0.5 * ground.coast
    u, v = air.u, air.v
    xy = firm * ground.shelter_xy
    air.u = factor * (u - firm * ground.shelter_xx * u - xy * v)
    air.v = factor * (v - firm * ground.shelter_yy * v - xy * u)


def lapse(air: Air, ground: Ground, state: State) -> None:
    """Height differences cool at up to 8.5 K km-1 by day, and at 2.5 in calm cold nights."""
    rate = 0.0062 + 0.0023 * state.day - 0.0037 * state.night * state.calm * (1 - 0.5 * state.warm)
    air.t -= state.lift(rate) * (ground.z - ground.z_coarse)


def coast_contrast(air: Air, ground: Ground, state: State) -> None:
    """Land is warmer than sea by day and colder at night, which the coarse coast blurs."""
    air.t += ground.coast * state.lift(4.5 * state.day * (0.4 + 0.6 * state.warm) - 2.6 * state.night * state.calm)


def slope_wind(air: Air, ground: Ground, state: State) -> None:
    """Upslope by day, downslope at night, in weak wind."""
    drive = state.lift((3.4 * state.day * (0.4 + 0.6 * state.warm) - 3.0 * state.night) * np.sqrt(state.calm))
    air.u += drive * ground.slope_x
    air.v += drive * ground.slope_y


def foehn(air: Air, ground: Ground, state: State, latent: Field) -> None:
    """Air that falls over a slope warms and blasts; whether it breaks through is decided range by range."""
    u, v = state.lift(state.u), state.lift(state.v)
    fall = -(u * ground.rise_x + v * ground.rise_y)  # [m s-1], positive in the lee
    strong = np.clip(fall / 0.5, 0, 1.5)
    through = step((state.lift(latent) + 0.1) / 0.25 + 0.5) * strong
    speed = np.hypot(u, v) + 1
    air.t += 3.6 * through
    gust = (2.0 + 0.45 * speed) * through / speed
    air.u += gust * u
    air.v += gust * v


def cold_pools(air: Air, ground: Ground, state: State, latent: Field) -> None:
    """Still nights fill valleys with cold air, or do not: there is no half-filled valley.

    The coarse state knows how cold a region is; what pools in valleys is missing from the slopes around.
    """
    chance = 1.1 - 2.2 * np.clip(state.speed / 6.5, 0, 1)  # calm fills
    depth = (0.25 + 0.75 * state.night * (1 - 0.25 * state.warm)) * (1 - 0.85 * state.day) * np.exp(-state.speed / 14)
    filled = step(state.lift(latent + chance - 0.2) / 0.3 + 0.5) * ground.pool * state.lift(depth)
    air.t -= 6.0 * (filled - ndimage.uniform_filter(ndimage.uniform_filter(filled, NEARBY), NEARBY))
    still = 1 - 0.75 * filled
    air.u *= still
    air.v *= still


def breeze(air: Air, ground: Ground, state: State, latent: Field) -> None:
    """Sea air pushes inland by day behind a sharp front whose place is uncertain."""
    force = state.lift(state.day * (0.3 + 0.7 * state.warm) * np.exp(-((state.speed / 7.5) ** 2)))
    reach = force * 26 + 13 * state.lift(latent)  # [km]
    behind = reach - ground.inland  # [km]
    marine = step(behind / 5 + 0.5) * step((ground.inland + 30) / 30) * force
    front = bump(behind / 7) * step((ground.inland + 6) / 12) * force
    air.t -= 4.2 * marine * (0.4 + 0.6 * ground.land)
    push = 4.3 * marine + 2.2 * front
    air.u += push * ground.onshore_x
    air.v += push * ground.onshore_y


def fronts(air: Air, state: State, latent: Field) -> None:
    """A broad coarse gradient is really a sharp front somewhere inside it, with a jump of wind along it."""
    interval = 6.0  # [K] between fronts
    low = ndimage.gaussian_filter(state.low, 2.0, mode="nearest")
    gy, gx = np.gradient(low, MEDIUM * CELL)  # [K km-1]
    steep = np.hypot(gx, gy)
    sharp = step((steep - 0.008) / 0.035)
    place = state.lift((low - 273.15) / interval + 0.36 * latent)
    phase = place - np.floor(place)
    saw = 0.5 - phase  # what turns the ramp into a staircase with its step at integers
    saw = saw * step(np.minimum(phase, 1 - phase) / 0.055)
    air.t += 0.85 * interval * state.lift(sharp) * saw
    jet = 3.4 * state.lift(sharp / (steep + 0.004) * gx), 3.4 * state.lift(sharp / (steep + 0.004) * gy)
    side = 1.6 * saw
    air.u += side * -jet[1] + 0.5 * side * jet[0]
    air.v += side * jet[0] + 0.5 * side * jet[1]


def turbulence(air: Air, ground: Ground, state: State, awake: Field, eddies: tuple[Field, Field, Field]) -> None:
    """Mesoscale eddies, stronger in wind, sun and rough ground, in patches that are lively or quiet."""
    lively = 0.5 + 2.1 * awake
    wind = state.lift(lively * (0.28 + 0.055 * state.speed + 0.32 * state.day))
    warmth = state.lift(lively * (0.16 + 0.012 * state.speed + 0.28 * state.day + 0.22 * state.night * state.calm))
    rough = 1 + 1.1 * ground.rugged
    t, u, v = eddies
    air.t += warmth * rough * (0.45 + 0.55 * ground.land) * t
    air.u += wind * rough * u
    air.v += wind * rough * v


def gust_cells(air: Air, ground: Ground, state: State, awake: Field, cells: Callable[[Field, Field], Field]) -> None:
    """Cells come and go: a burst along the wind, air flowing out on all sides, rain-cooled below."""
    speed = state.speed + 0.5
    stretch = 0.8 * np.clip(speed / 9, 0, 1) / speed**2
    cos, sin = stretch * (state.u**2 - state.v**2), stretch * (2 * state.u * state.v)
    latent = cells(state.lift(cos), state.lift(sin))
    active = state.lift(np.clip(0.3 + 0.65 * state.day * state.warm + 0.5 * np.clip(state.speed / 11, 0, 1), 0, 1))
    active = active * (0.85 + 0.15 * ground.land)
    busy = state.lift(awake)
    cell = step((latent - 2.3 + (0.5 + active) * busy) / 1.0) * (0.3 + 0.7 * busy)
    sheet = 0.4 * busy * active
    out_y, out_x = np.gradient(ndimage.uniform_filter(cell, 3))
    burst = (1.6 + 0.38 * state.speed) / speed
    air.t -= state.lift(1.3 + 2.2 * state.day * state.warm) * (cell + sheet)
    air.u += state.lift(burst * state.u) * (cell + sheet) - 4.0 * out_x
    air.v += state.lift(burst * state.v) * (cell + sheet) - 4.0 * out_y


class TwinWorld:
    """The synthetic world around a grid.

    Parameters
    ----------
    grid
        the fine grid of the downscaling; the world's own grids cover it with a margin.
    seed
        of the weather and of every member.
    orography, coarse_orography
        files with the fine terrain and with ERA5's; None: a made-up one, and the fine one, smoothed.

    Attributes
    ----------
    latitude, longitude
        axes of the coarse grid [degrees]; latitudes fall.
    rlat, rlon
        axes of the reference grid [degrees], both rising.
    lat, lon
        its geographic coordinates, (rlat, rlon) [degrees].
    turn
        direction of its north, clockwise from true north, (rlat, rlon) [radians].
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
        fine = read_orography(orography) if orography else analytic_orography()
        coarse = read_orography(coarse_orography) if coarse_orography else fine.smoothed(0.2)
        mesh = np.meshgrid(self.latitude, self.longitude, indexing="ij")
        self.z = np.maximum(coarse.at(*mesh), 0)
        land = Raster(fine.latitude, fine.longitude, (fine.height > SHORE).astype("f4"))
        self.land = land.smoothed(0.12).at(*mesh)
        self.medium_z = self._to_medium(self.z)
        self.ground = Ground(
            fine.at(self.lat, self.lon), self._lift(self.medium_z), self._lift(self._to_medium(self.land))
        )
        self.weather = Weather(seed)
        self._noises()

    def _axes(self, grid: Grid) -> None:
        x = grid.west + np.linspace(0, grid.cols * grid.spacing, 65)
        y = grid.north - np.linspace(0, grid.rows * grid.spacing, 65)
        x, y = np.meshgrid(x, y)
        lon, lat = pyproj.Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True).transform(x, y)
        self.longitude = _multiples(lon.min() - ERA5_MARGIN, lon.max() + ERA5_MARGIN, ERA5_STEP)
        self.latitude = _multiples(lat.min() - ERA5_MARGIN, lat.max() + ERA5_MARGIN, ERA5_STEP)[::-1]
        rotated = rotated_pole(POLE_LATITUDE, POLE_LONGITUDE)
        back = pyproj.Transformer.from_crs(rotated, "EPSG:4326", always_xy=True)
        rlon, rlat = back.transform(lon, lat, direction="INVERSE")
        self.rlon = _multiples(rlon.min() - FINE_MARGIN, rlon.max() + FINE_MARGIN, FINE_STEP)
        self.rlat = _multiples(rlat.min() - FINE_MARGIN, rlat.max() + FINE_MARGIN, FINE_STEP)
        self.lon, self.lat = back.transform(*np.meshgrid(self.rlon, self.rlat))
        self.turn = _turn(self.lat, self.lon)
        medium = [
            axis[0] + FINE_STEP * MEDIUM * np.arange(-2, -(-len(axis) // MEDIUM) + 3) for axis in (self.rlat, self.rlon)
        ]
        self.medium_lon, self.medium_lat = back.transform(*np.meshgrid(medium[1], medium[0]))
        self.medium_turn = _turn(self.medium_lat, self.medium_lon)
        self._rows, self._cols = (_spline(len(axis)) for axis in (self.rlat, self.rlon))

    def _noises(self) -> None:
        fine, medium = self.lat.shape, self.medium_lat.shape
        smooth = partial(SmoothNoise, self.seed, shape=medium, step=CELL * MEDIUM)
        self._pool = smooth(1, memory=0.95, length=24)
        self._foehn = smooth(2, memory=0.92, length=30)
        self._breeze = smooth(3, memory=0.88, length=45)
        self._front = smooth(4, memory=0.92, length=70)
        self._lively = smooth(5, memory=0.92, length=45)
        self._eddies = Turbulence(self.seed, 6, fine, CELL, 0.85)
        self._cells = Cells(self.seed, 8, fine, CELL, 0.75)

    def _to_medium(self, coarse: NDArray) -> Field:
        """(latitude, longitude) to the medium grid, by cubic splines."""
        rows = (self.latitude[0] - self.medium_lat) / ERA5_STEP
        cols = (self.medium_lon - self.longitude[0]) / ERA5_STEP
        return ndimage.map_coordinates(np.asarray(coarse, "f4"), [rows, cols], order=3, mode="nearest")

    def _lift(self, medium: Field) -> Field:
        """Medium to fine, by cubic B-splines."""
        return self._rows @ np.asarray(medium, "f4") @ self._cols.T

    def coarse(self, hour: int) -> dict[str, Field]:
        """The 14 predictors at an hour since 1970, by short name, (latitude, longitude); no sst on land."""
        lat, lon = np.meshgrid(self.latitude, self.longitude, indexing="ij")
        x = (lon - 12) * KILOMETRES * np.cos(np.radians(42))
        y = (lat - 42) * KILOMETRES
        p, px, py, warmth = self.weather.at(hour, x, y)
        day_of_year = hour / 24 % 365.2425
        summer = np.cos(2 * np.pi * (day_of_year - SEASON_PEAK) / 365.2425)  # -1 to 1
        late = np.cos(2 * np.pi * (day_of_year - SEASON_PEAK - 28) / 365.2425)
        storm = np.exp(0.3 * self.weather.spell(hour, 0)) * (1 - 0.25 * summer)

        pressure = 430.0 * storm  # [Pa]
        msl = 101500 + pressure * p
        per_km = pressure / (1.2 * 1.02e-4) / 1e3  # [m s-1] for a gradient of 1 km-1
        ug, vg = -per_km * py + 2.0, per_km * px
        brake = 1 / np.sqrt(1 + (ug**2 + vg**2) / 45.0**2)  # no wind without bounds
        ug, vg = ug * brake, vg * brake
        sea = 1 - self.land
        drag = DRAG_LAND + (DRAG_SEA - DRAG_LAND) * sea
        turn = np.radians(TURN_LAND + (TURN_SEA - TURN_LAND) * sea)
        u10 = drag * (ug * np.cos(turn) - vg * np.sin(turn))
        v10 = drag * (vg * np.cos(turn) + ug * np.sin(turn))

        sun = cos_zenith(hour, lat, lon)
        local = (hour % 24 + lon / 15 - 14.5) / 24 * 2 * np.pi
        cloud = 1 / (1 + np.exp(1.3 * p + 0.6 * warmth + 0.5 * summer))
        front = 2.6 * np.tanh(1.6 * warmth) + 1.5 * warmth + 1.1 * self.weather.spell(hour, 1)
        swing = (4.4 + 2.0 * summer) * (1.25 - 0.8 * cloud)
        height = 0.0060 + 0.0008 * summer
        air = 287.2 + 8.6 * summer - 0.55 * (lat - 42) + (1.25 - 0.25 * summer) * front
        t2m_land = air + swing * (np.cos(local) + 0.22 * np.cos(2 * local - 0.6)) - height * self.z
        water = 290.3 + 4.9 * late - 0.42 * (lat - 42) + 0.8 * np.sin(x / 310 + 1) * np.cos(y / 270)
        t2m_sea = 0.62 * water + 0.38 * air + 0.35 * np.cos(local) - 0.3
        t2m = sea * t2m_sea + self.land * t2m_land
        thermal = (0.9 + 0.6 * summer) * np.cos(local - 0.35) * (1 - 0.6 * cloud)
        gy, gx = np.gradient(ndimage.gaussian_filter(self.land + self.z / 1600, 1.0))
        u10 = u10 + 4.0 * thermal * gx
        v10 = v10 - 4.0 * thermal * gy  # latitudes fall along the rows

        dry = (2.0 + 4.5 * (1 - cloud) * self.land + 1.2) * (1 + 0.35 * summer * np.cos(local) * self.land)
        d2m = t2m - np.maximum(dry, 0.3)
        d2m = np.minimum(d2m, 294 + 0.25 * (d2m - 294))
        rain = 6e-3 * np.maximum(cloud - 0.72, 0) ** 1.4 * (1 + self.z / 1200)  # [m] in the hour
        clear = np.maximum(sun, 0) ** 1.15 * 1080 * 3600  # [J m-2]
        snow = np.clip((276.5 - (287.2 + 8.6 * late - 0.55 * (lat - 42) - 0.0062 * self.z)) * 0.018, 0, 0.6)
        t850 = 279.2 + 7.2 * summer - 0.5 * (lat - 42) + 1.35 * front + 0.3 * np.cos(local)
        vapour = 611.2 * np.exp(17.67 * (t850 - 273.15) / (t850 - 29.65))
        q850 = 0.622 * np.minimum(vapour / 85000, 0.028) * (0.3 + 0.65 * cloud)
        ty, tx = np.gradient(front)
        u850, v850 = 0.95 * ug + 1.5 + 3.0 * ty, 0.95 * vg + 3.0 * tx
        zy, zx = np.gradient(self.z, 28000.0, 20500.0)
        w850 = -3.5 * (u850 * zx - v850 * zy) + 0.35 * (0.45 - cloud)
        fields = {
            "t2m": t2m,
            "u10": u10,
            "v10": v10,
            "msl": msl,
            "d2m": d2m,
            "sst": np.where(self.land > 0.5, np.nan, water),
            "sd": snow * self.land,
            "tp": rain,
            "ssrd": clear * (1 - 0.72 * cloud),
            "q850": q850,
            "t850": t850,
            "u850": u850,
            "v850": v850,
            "w850": w850,
        }
        return {name: np.asarray(field, "f4") for name, field in fields.items()}

    def fine(self, hour: int, member: int = 0, coarse: dict[str, Field] | None = None) -> dict[str, Field]:
        """One draw of p(fine | coarse) at an hour: t2m, and u10, v10 towards east and north, (rlat, rlon).

        Member 0 is the truth. Members are independent given the coarse state; each remembers a few hours.
        `coarse` replaces the world's own state.
        """
        t, u, v = self.fine_on_grid(hour, member, coarse)
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        return {"t2m": t, "u10": u * cos + v * sin, "v10": v * cos - u * sin}

    def fine_on_grid(
        self, hour: int, member: int, coarse: dict[str, Field] | None = None
    ) -> tuple[Field, Field, Field]:
        """As `fine`, (t, u, v) with the wind along the rotated grid, as the reference's files hold it."""
        state, ground = self.state(hour, coarse or self.coarse(hour)), self.ground
        air = Air(*(state.lift(part) for part in (state.t, state.u, state.v)))
        terrain_wind(air, ground, state)
        lapse(air, ground, state)
        coast_contrast(air, ground, state)
        slope_wind(air, ground, state)
        foehn(air, ground, state, self._foehn.draw(member, hour))
        cold_pools(air, ground, state, self._pool.draw(member, hour))
        breeze(air, ground, state, self._breeze.draw(member, hour))
        fronts(air, state, self._front.draw(member, hour))
        awake = step((self._lively.draw(member, hour) + 0.05) / 0.7)
        turbulence(air, ground, state, awake, self._eddies.draw(member, hour))
        gust_cells(air, ground, state, awake, partial(self._cells.draw, member, hour))
        return air.t, air.u, air.v

    def state(self, hour: int, coarse: dict[str, Field]) -> State:
        """What a draw may know of the hour."""
        t, east, north = (self._to_medium(coarse[name]) for name in ("t2m", "u10", "v10"))
        cos, sin = np.cos(self.medium_turn), np.sin(self.medium_turn)
        sun = cos_zenith(hour, self.medium_lat, self.medium_lon).astype("f4")
        return State(t, east * cos - north * sin, north * cos + east * sin, sun, self.medium_z, self._lift)


def _multiples(first: float, last: float, step: float) -> NDArray[np.float64]:
    """Multiples of `step` from at most `first` to at least `last`."""
    return np.arange(np.floor(first / step + 1e-9), np.ceil(last / step - 1e-9) + 1) * step


def _spline(size: int) -> Field:
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


def _turn(latitude: NDArray, longitude: NDArray) -> Field:
    """Bearing of the rotated pole: the direction of the grid's north, clockwise from true north [radians]."""
    lat, away = np.radians(latitude), np.radians(POLE_LONGITUDE - longitude)
    pole = np.radians(POLE_LATITUDE)
    east = np.sin(away) * np.cos(pole)
    north = np.cos(lat) * np.sin(pole) - np.sin(lat) * np.cos(pole) * np.cos(away)
    return np.arctan2(east, north).astype("f4")
