"""The twin's files, laid out as the archives deliver them: ERA5 as the new CDS, the reference as VHR-REA_IT.

What is in them comes from the recipe in data/twin_recipe; their attributes say that they are synthetic.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ldmdown.data.grid import Grid
from ldmdown.twin.noise import Field
from ldmdown.twin.recipe import POLE_LATITUDE, POLE_LONGITUDE, RECIPE, TwinWorld

__all__ = ["RECIPE", "TwinWorld", "write_twin"]

Moment = str | date | np.datetime64
"""A day, or an hour."""

Hours = NDArray[np.int64]
"""Since 1970-01-01T00."""

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


def write_twin(
    directory: str | Path,
    grid: Grid,
    periods: Iterable[tuple[Moment, Moment]],
    *,
    every: int = 1,
    seed: int = 0,
    orography: str | Path | None = None,
    coarse_orography: str | Path | None = None,
    members: int = 1,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write paired files, one a day: `era5/`, `reference/`, and further draws of the truth in `members/NNN/`.

    Files are written beside and renamed; those that exist are left, so that a stopped run goes on.

    Parameters
    ----------
    periods
        first and last day or hour of each, both included.
    every
        of the days of a period take every n-th.
    members
        draws of p(fine | coarse), the truth being the first; independent of it are `members/001` and so on.
    processes
        how many write at once, each in about 0.5 GB for all Italy.
    progress
        called with the days done and the days in all.

    Raises
    ------
    LdmdownError
        if a terrain file cannot be used.
    """
    days = list(_days(periods, every))
    world = (grid, seed, orography, coarse_orography)
    jobs = [(Path(directory), hours, members) for hours in days if not _finished(Path(directory), hours, members)]
    done = len(days) - len(jobs)
    for _ in _run(world, jobs, processes):
        done += 1
        if progress:
            progress(done, len(days))


def _days(periods: Iterable[tuple[Moment, Moment]], every: int) -> Iterator[Hours]:
    for first, last in periods:
        start, stop = np.datetime64(first), np.datetime64(last)
        whole = np.datetime_data(stop.dtype)[0] == "D"
        begin = start.astype("datetime64[h]").astype(int)
        end = stop.astype("datetime64[h]").astype(int) + (24 if whole else 1)
        for day in range(begin // 24, -(-end // 24), every):
            yield np.arange(max(begin, 24 * day), min(end, 24 * day + 24))


def _run(world: tuple, jobs: Sequence[tuple], processes: int) -> Iterator[None]:
    if jobs and processes == 1:
        _start(*world)
        for job in jobs:
            yield _write_day(*job)  # type: ignore[func-returns-value]
    elif jobs:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker, initargs=world) as pool:
            for future in as_completed([pool.submit(_write_day, *job) for job in jobs]):
                yield future.result()


_world: TwinWorld
"""Of this process."""


def _start(grid: Grid, seed: int, orography: str | Path | None, coarse_orography: str | Path | None) -> None:
    global _world
    _world = TwinWorld(grid, seed=seed, orography=orography, coarse_orography=coarse_orography)


def _start_worker(*world: Any) -> None:
    threadpool_limits(1)  # processes that all use all cores hinder each other
    _start(*world)


def _files(directory: Path, hours: Hours, members: int) -> tuple[Path, Path, list[Path]]:
    """ERA5's two files of a day, and the reference's, one a member."""
    day = np.datetime_as_string(hours[0].astype("datetime64[h]"), "D").replace("-", "")
    folders = ["reference", *(f"members/{member:03d}" for member in range(1, members))]
    era5 = directory / "era5"
    names = [directory / folder / f"VHR-REA_IT_{day}.nc" for folder in folders]
    return era5 / f"era5_single_{day}.nc", era5 / f"era5_pressure_{day}.nc", names


def _finished(directory: Path, hours: Hours, members: int) -> bool:
    single, pressure, references = _files(directory, hours, members)
    return all(path.exists() for path in (single, pressure, *references))


def _write_day(directory: Path, hours: Hours, members: int) -> None:
    single, pressure, references = _files(directory, hours, members)
    states = [_world.coarse(int(hour)) for hour in hours]
    _write(single, lambda: _era5(hours, {name: np.stack([state[name] for state in states]) for name in SINGLE}))
    above = {name: np.stack([state[f"{name}{LEVEL}"] for state in states])[:, None] for name in PRESSURE}
    _write(pressure, lambda: _era5(hours, above))
    for member, path in enumerate(references):
        _write(path, lambda member=member: _reference(hours, member))  # type: ignore[misc]


def _write(path: Path, make: Callable[[], xr.Dataset]) -> None:
    """Beside and renamed, unless it exists."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    make().to_netcdf(beside, engine="netcdf4")
    beside.rename(path)


def _attributes() -> dict[str, Any]:
    return {
        "title": "Synthetic fields of a test world; not a reanalysis, not a model's output",
        "institution": "none (synthetic)",
        "source": f"ldmdown twin, recipe {RECIPE}, seed {_world.seed}",
        "twin_recipe": RECIPE,
        "twin_seed": _world.seed,
    }


def _times(hours: Hours) -> NDArray[np.datetime64]:
    return hours.astype("datetime64[h]").astype("datetime64[ns]")


def _era5(hours: Hours, fields: dict[str, Field]) -> xr.Dataset:
    """As the new CDS delivers single levels, (time, lat, lon), or a pressure level, (time, 1, lat, lon)."""
    levels = ["pressure_level"] if next(iter(fields.values())).ndim == 4 else []
    dims = ["valid_time", *levels, "latitude", "longitude"]
    coords: dict[str, Any] = {
        "number": (
            (),
            0,
            {"long_name": "ensemble member numerical id", "units": "1", "standard_name": "realization"},
        ),
        "valid_time": ("valid_time", _times(hours), {"long_name": "time", "standard_name": "time"}, SECONDS),
        "expver": ("valid_time", np.full(len(hours), "0001")),
    }
    if levels:
        level = {"long_name": "pressure", "units": "hPa", "positive": "down", "standard_name": "air_pressure"}
        coords["pressure_level"] = ("pressure_level", [float(LEVEL)], level)
    for name, unit in (("latitude", "north"), ("longitude", "east")):
        attributes = {"units": f"degrees_{unit}", "standard_name": name, "long_name": name}
        coords[name] = (name, getattr(_world, name), attributes)
    variables = {}
    for name, values in fields.items():
        units, long_name, parameter = (SINGLE | PRESSURE)[name]
        attributes = {"units": units, "long_name": long_name, "standard_name": "unknown"}
        attributes |= {"GRIB_shortName": name, "GRIB_units": units, "GRIB_gridType": "regular_ll"}
        chunks = (1, *values.shape[1:])
        encoding = COMPRESSION | {"chunksizes": chunks, "_FillValue": np.float32(np.nan)}
        variables[name] = (dims, values, attributes | {"GRIB_paramId": parameter}, encoding)
    return xr.Dataset(variables, coords, _attributes() | {"Conventions": "CF-1.7"})


def _reference(hours: Hours, member: int) -> xr.Dataset:
    """As VHR-REA_IT: a rotated pole, wind along the grid, (time, rlat, rlon)."""
    drawn = [_world.fine_on_grid(int(hour), member) for hour in hours]
    dims, plane = ("time", "rlat", "rlon"), ("rlat", "rlon")
    coords: dict[str, Any] = {
        "time": ("time", _times(hours), {"standard_name": "time", "long_name": "time"}, SECONDS),
        "rlat": ("rlat", _world.rlat, {"standard_name": "grid_latitude", "units": "degrees", "axis": "Y"}),
        "rlon": ("rlon", _world.rlon, {"standard_name": "grid_longitude", "units": "degrees", "axis": "X"}),
        "lon": (plane, _world.lon, {"standard_name": "longitude", "units": "degrees_east"}, {"zlib": True}),
        "lat": (plane, _world.lat, {"standard_name": "latitude", "units": "degrees_north"}, {"zlib": True}),
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
    return xr.Dataset(variables, coords, _attributes() | {"Conventions": "CF-1.4", "member": member})
