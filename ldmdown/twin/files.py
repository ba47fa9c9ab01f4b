"""The twin's files, laid out as the archives deliver them: ERA5 as the new CDS, the reference as VHR-REA_IT.

What is in them comes from the recipe; their attributes say that they are synthetic.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from ldmdown.atomic import replacing
from ldmdown.data import parallel
from ldmdown.data.grid import POLE_LATITUDE, Grid
from ldmdown.twin.recipe import POLE_LONGITUDE, RECIPE, TwinWorld
from ldmdown.typing import FloatArray

Moment = str | date | np.datetime64
"""A day, or an hour."""

SINGLE = {  # CDS name in the file: units, long name, GRIB parameter
    "t2m": ("K", "2 metre temperature", 167),
    "u10": ("m s**-1", "10 metre U wind component", 165),
    "v10": ("m s**-1", "10 metre V wind component", 166),
    "msl": ("Pa", "Mean sea level pressure", 151),
    "d2m": ("K", "2 metre dewpoint temperature", 168),
    "sst": ("K", "Sea surface temperature", 34),
    "sd": ("m of water equivalent", "Snow depth", 141),
    "tp": ("m", "Total precipitation", 228),
    "ssrd": ("J m**-2", "Surface short-wave (solar) radiation downwards", 169),
}
PRESSURE = {
    "q": ("kg kg**-1", "Specific humidity", 133),
    "t": ("K", "Temperature", 130),
    "u": ("m s**-1", "U component of wind", 131),
    "v": ("m s**-1", "V component of wind", 132),
    "w": ("Pa s**-1", "Vertical velocity", 135),
}
LEVEL = 850  # [hPa]
REFERENCE = {  # name in the file: units, standard name, long name, height [m]
    "T_2M": ("K", "air_temperature", "2m temperature", 2),
    "U_10M": ("m s-1", "grid_eastward_wind", "U-component of 10m wind", 10),
    "V_10M": ("m s-1", "grid_northward_wind", "V-component of 10m wind", 10),
}
COMPRESSION = {"zlib": True, "complevel": 1, "shuffle": True, "dtype": "float32"}
PRECISION = 256  # the reference's fields are multiples of a 256th, which compresses
SECONDS = {"units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian", "dtype": "int64"}


@dataclass(frozen=True)
class TwinFiles:
    """Paired files of a world, one a day: `era5/`, `reference/`, and further draws of the truth in `members/NNN/`."""

    directory: Path
    grid: Grid
    seed: int = 0
    orography: Path | None = None  # a file of heights; None: made up
    coarse_orography: Path | None = None  # None: the fine one, smoothed
    members: int = 1  # draws of p(fine | coarse), the truth being the first, from which the others are independent

    def write(
        self,
        periods: Iterable[tuple[Moment, Moment]],
        every: int = 1,
        processes: int | None = None,
        progress: Callable[[int, int], None] = lambda *_: None,
    ) -> None:
        """Write the days of periods, both ends included; files that exist are left, so that a stopped run resumes.

        Of the days of a period every n-th is taken. Each of the processes, by default one for each
        core, needs about 0.6 GB for all Italy. `progress` is called with the days done and the days in all.

        Raises LdmdownError if a terrain file cannot be used.
        """
        days = list(_days(periods, every))
        left = [hours for hours in days if not all(path.exists() for path in self._paths(hours))]
        done = itertools.count(len(days) - len(left) + 1)
        write, advance = partial(_write_day, self), lambda: progress(next(done), len(days))
        if left:
            parallel.run(write, left, processes=processes, advance=advance)

    def _paths(self, hours: Sequence[int]) -> list[Path]:
        """Files of ERA5's single and pressure levels, and of the draws, of which the first is the reference."""
        date = str(np.datetime64(hours[0], "h").astype("datetime64[D]")).replace("-", "")
        folders = ["reference", *(f"members/{member:03d}" for member in range(1, self.members))]
        era5 = [self.directory / "era5" / f"era5_{kind}_{date}.nc" for kind in ("single", "pressure")]
        return [*era5, *(self.directory / folder / f"VHR-REA_IT_{date}.nc" for folder in folders)]


@lru_cache(maxsize=1)
def _world(files: TwinFiles) -> TwinWorld:
    return TwinWorld(files.grid, seed=files.seed, orography=files.orography, coarse_orography=files.coarse_orography)


def _days(periods: Iterable[tuple[Moment, Moment]], every: int) -> Iterator[tuple[int, ...]]:
    for first, last in periods:
        start, stop = np.datetime64(first), np.datetime64(last)
        whole = np.datetime_data(stop.dtype)[0] == "D"
        begin = start.astype("datetime64[h]").astype(int)
        end = stop.astype("datetime64[h]").astype(int) + (24 if whole else 1)
        for day in range(begin // 24, -(-end // 24), every):
            yield tuple(range(max(begin, 24 * day), min(end, 24 * day + 24)))


def _write_day(files: TwinFiles, hours: tuple[int, ...]) -> None:
    world, times = _world(files), np.array(hours, "datetime64[h]").astype("datetime64[ns]")
    states = [world.coarse(hour) for hour in hours]
    single = {name: np.stack([state[name] for state in states]) for name in SINGLE}
    above = {name: np.stack([state[f"{name}{LEVEL}"] for state in states])[:, None] for name in PRESSURE}
    era5_single, era5_pressure, *draws = files._paths(hours)
    _write(era5_single, partial(_era5, world, times, single))
    _write(era5_pressure, partial(_era5, world, times, above))
    for member, path in enumerate(draws):
        _write(path, partial(_reference, world, times, hours, member))


def _write(path: Path, make: Callable[[], xr.Dataset]) -> None:
    """Write a file unless it exists."""
    if not path.exists():
        with replacing(path, lock=True) as beside:
            make().to_netcdf(beside, engine="netcdf4")


def _attributes(world: TwinWorld) -> dict[str, Any]:
    return {
        "title": "Synthetic fields of a test world; not a reanalysis, not a model's output",
        "institution": "none (synthetic)",
        "source": f"ldmdown twin, recipe {RECIPE}, seed {world.seed}",
        "twin_recipe": RECIPE,
        "twin_seed": world.seed,
    }


def _era5(world: TwinWorld, times: NDArray[np.datetime64], fields: dict[str, FloatArray]) -> xr.Dataset:
    """As the new CDS delivers single levels, (time, lat, lon), or a pressure level, (time, 1, lat, lon)."""
    levels = ["pressure_level"] if next(iter(fields.values())).ndim == 4 else []
    dims = ["valid_time", *levels, "latitude", "longitude"]
    coords: dict[str, Any] = {
        "number": ((), 0, {"long_name": "ensemble member numerical id", "units": "1", "standard_name": "realization"}),
        "valid_time": ("valid_time", times, {"long_name": "time", "standard_name": "time"}, SECONDS),
        "expver": ("valid_time", np.full(len(times), "0001")),
    }
    if levels:
        level = {"long_name": "pressure", "units": "hPa", "positive": "down", "standard_name": "air_pressure"}
        coords["pressure_level"] = ("pressure_level", [float(LEVEL)], level)
    for name, unit in (("latitude", "north"), ("longitude", "east")):
        attributes = {"units": f"degrees_{unit}", "standard_name": name, "long_name": name}
        coords[name] = (name, getattr(world, name), attributes)
    variables = {}
    for name, values in fields.items():
        units, long_name, parameter = (SINGLE | PRESSURE)[name]
        attributes = {"units": units, "long_name": long_name, "standard_name": "unknown"}
        attributes |= {"GRIB_shortName": name, "GRIB_units": units, "GRIB_gridType": "regular_ll"}
        chunks = (1, *values.shape[1:])
        encoding = COMPRESSION | {"chunksizes": chunks, "_FillValue": np.float32(np.nan)}
        variables[name] = (dims, values, attributes | {"GRIB_paramId": parameter}, encoding)
    return xr.Dataset(variables, coords, _attributes(world) | {"Conventions": "CF-1.7"})


def _reference(world: TwinWorld, times: NDArray[np.datetime64], hours: Sequence[int], member: int) -> xr.Dataset:
    """As VHR-REA_IT: a rotated pole, wind along the grid, (time, rlat, rlon)."""
    drawn = [world.fine_on_grid(hour, member) for hour in hours]
    dims, plane = ("time", "rlat", "rlon"), ("rlat", "rlon")
    coords: dict[str, Any] = {
        "time": ("time", times, {"standard_name": "time", "long_name": "time"}, SECONDS),
        "rlat": ("rlat", world.rlat, {"standard_name": "grid_latitude", "units": "degrees", "axis": "Y"}),
        "rlon": ("rlon", world.rlon, {"standard_name": "grid_longitude", "units": "degrees", "axis": "X"}),
        "lon": (plane, world.lon, {"standard_name": "longitude", "units": "degrees_east"}, {"zlib": True}),
        "lat": (plane, world.lat, {"standard_name": "latitude", "units": "degrees_north"}, {"zlib": True}),
    }
    for height in (2, 10):
        attributes = {"standard_name": "height", "units": "m", "positive": "up", "axis": "Z"}
        coords[f"height_{height}m"] = ((), float(height), attributes)
    rotated = {
        "grid_mapping_name": "rotated_latitude_longitude",
        "grid_north_pole_latitude": POLE_LATITUDE,
        "grid_north_pole_longitude": POLE_LONGITUDE,
        "north_pole_grid_longitude": 0.0,
    }
    variables: dict[str, Any] = {"crs_rotated_latitude_longitude": ((), np.int32(0), rotated)}
    for index, (name, (units, standard_name, long_name, height)) in enumerate(REFERENCE.items()):
        values = np.stack([np.round(fields[index] * PRECISION) / PRECISION for fields in drawn])
        attributes = {"units": units, "standard_name": standard_name, "long_name": long_name}
        attributes |= {"grid_mapping": "crs_rotated_latitude_longitude"}
        encoding = COMPRESSION | {"chunksizes": (1, *values.shape[1:]), "_FillValue": np.float32(-1e20)}
        variables[name] = (dims, values, attributes, encoding | {"coordinates": f"lon lat height_{height}m"})
    return xr.Dataset(variables, coords, _attributes(world) | {"Conventions": "CF-1.4", "member": member})
