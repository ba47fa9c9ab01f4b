"""The twin's weather: coarse states that evolve smoothly, on ERA5's grid and with its variables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldmdown.data.solar import cos_zenith
from ldmdown.twin.terrain import KILOMETRES
from ldmdown.typing import FloatArray

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


@dataclass(frozen=True)
class Place:
    """The coarse grid: (latitude, longitude) arrays of its degrees, terrain height [m] and land fraction."""

    lat: FloatArray
    lon: FloatArray
    z: FloatArray
    land: FloatArray


@dataclass(frozen=True)
class Season:
    """Where an hour lies in the year and in the day."""

    hour: int

    @property
    def summer(self) -> float:
        """-1 in January to 1 in July."""
        return self._cycle(SEASON_PEAK)

    @property
    def late(self) -> float:
        """Give the season of the sea, which follows the air's by four weeks."""
        return self._cycle(SEASON_PEAK + 28)

    def _cycle(self, peak: int) -> float:
        return float(np.cos(2 * np.pi * (self.hour / 24 % 365.2425 - peak) / 365.2425))


def coarse_state(weather: Weather, hour: int, place: Place) -> dict[str, FloatArray]:
    """The 14 predictors at an hour since 1970, by short name, float32 (latitude, longitude); no sst on land."""
    season, land = Season(hour), place.land
    x = (place.lon - 12) * KILOMETRES * np.cos(np.radians(42))
    y = (place.lat - 42) * KILOMETRES
    p, px, py, warmth = weather.at(hour, x, y)
    storm = np.exp(0.3 * weather.spell(hour, 0)) * (1 - 0.25 * season.summer)
    pressure = 430.0 * storm  # [Pa]
    per_km = pressure / (1.2 * 1.02e-4) / 1e3  # [m s-1] for a gradient of 1 km-1
    ug, vg = -per_km * py + 2.0, per_km * px
    brake = 1 / np.sqrt(1 + (ug**2 + vg**2) / 45.0**2)  # no wind without bounds
    ug, vg = ug * brake, vg * brake

    local = (hour % 24 + place.lon / 15 - 14.5) / 24 * 2 * np.pi  # time of day [radians], 0 in the early afternoon
    cloud = 1 / (1 + np.exp(1.3 * p + 0.6 * warmth + 0.5 * season.summer))
    front = 2.6 * np.tanh(1.6 * warmth) + 1.5 * warmth + 1.1 * weather.spell(hour, 1)
    t2m, sst = _temperature(season, place, local, cloud, front, x, y)
    u10, v10 = _surface_wind(season, place, ug, vg, local, cloud)
    dry = (2.0 + 4.5 * (1 - cloud) * land + 1.2) * (1 + 0.35 * season.summer * np.cos(local) * land)
    d2m = t2m - np.maximum(dry, 0.3)
    clear = np.maximum(cos_zenith(hour, place.lat, place.lon), 0) ** 1.15 * 1080 * 3600  # [J m-2]
    cold = 276.5 - (287.2 + 8.6 * season.late - 0.55 * (place.lat - 42) - 0.0062 * place.z)  # [K]
    fields = {
        "t2m": t2m,
        "u10": u10,
        "v10": v10,
        "msl": 101500 + pressure * p,
        "d2m": np.minimum(d2m, 294 + 0.25 * (d2m - 294)),
        "sst": sst,
        "sd": np.clip(cold * 0.018, 0, 0.6) * land,
        "tp": 6e-3 * np.maximum(cloud - 0.72, 0) ** 1.4 * (1 + place.z / 1200),  # [m] in the hour
        "ssrd": clear * (1 - 0.72 * cloud),
    } | _upper_air(season, place, ug, vg, local, cloud, front)
    return {name: np.asarray(field, "f4") for name, field in fields.items()}


def _temperature(
    season: Season, place: Place, local: NDArray, cloud: NDArray, front: NDArray, x: NDArray, y: NDArray
) -> tuple[NDArray, NDArray]:
    """t2m, and sea surface temperature, NaN on land [K]."""
    air = 287.2 + 8.6 * season.summer - 0.55 * (place.lat - 42) + (1.25 - 0.25 * season.summer) * front
    swing = (4.4 + 2.0 * season.summer) * (1.25 - 0.8 * cloud) * (np.cos(local) + 0.22 * np.cos(2 * local - 0.6))
    over_land = air + swing - (0.0060 + 0.0008 * season.summer) * place.z
    water = 290.3 + 4.9 * season.late - 0.42 * (place.lat - 42) + 0.8 * np.sin(x / 310 + 1) * np.cos(y / 270)
    over_sea = 0.62 * water + 0.38 * air + 0.35 * np.cos(local) - 0.3
    return (1 - place.land) * over_sea + place.land * over_land, np.where(place.land > 0.5, np.nan, water)


def _surface_wind(
    season: Season, place: Place, ug: NDArray, vg: NDArray, local: NDArray, cloud: NDArray
) -> tuple[NDArray, NDArray]:
    """u10, v10: the geostrophic wind, braked and turned, and a breeze towards land and heights by day."""
    sea = 1 - place.land
    drag = DRAG_LAND + (DRAG_SEA - DRAG_LAND) * sea
    turn = np.radians(TURN_LAND + (TURN_SEA - TURN_LAND) * sea)
    thermal = 4.0 * (0.9 + 0.6 * season.summer) * np.cos(local - 0.35) * (1 - 0.6 * cloud)
    gy, gx = np.gradient(ndimage.gaussian_filter(place.land + place.z / 1600, 1.0))
    return (
        drag * (ug * np.cos(turn) - vg * np.sin(turn)) + thermal * gx,
        drag * (vg * np.cos(turn) + ug * np.sin(turn)) - thermal * gy,  # latitudes fall along the rows
    )


def _upper_air(
    season: Season, place: Place, ug: NDArray, vg: NDArray, local: NDArray, cloud: NDArray, front: NDArray
) -> dict[str, NDArray]:
    """Fields at 850 hPa."""
    t850 = 279.2 + 7.2 * season.summer - 0.5 * (place.lat - 42) + 1.35 * front + 0.3 * np.cos(local)
    vapour = 611.2 * np.exp(17.67 * (t850 - 273.15) / (t850 - 29.65))
    ty, tx = np.gradient(front)
    u850, v850 = 0.95 * ug + 1.5 + 3.0 * ty, 0.95 * vg + 3.0 * tx
    zy, zx = np.gradient(place.z, 28000.0, 20500.0)
    return {
        "q850": 0.622 * np.minimum(vapour / 85000, 0.028) * (0.3 + 0.65 * cloud),
        "t850": t850,
        "u850": u850,
        "v850": v850,
        "w850": -3.5 * (u850 * zx - v850 * zy) + 0.35 * (0.45 - cloud),
    }
