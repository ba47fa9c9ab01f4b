"""The same day in every form that users have it in gives the same fields; forecasts and climate models too."""

from __future__ import annotations

import http.server
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cftime
import numpy as np
import pyproj  # noqa: F401  before eccodes, which crashes otherwise
import pytest
import xarray as xr
from eccodes import (
    codes_grib_multi_append,
    codes_grib_multi_new,
    codes_grib_multi_write,
    codes_release,
    codes_set,
    codes_set_values,
    codes_write,
)
from eccodes import codes_grib_new_from_samples as new_message

from ldmdown.data.grid import Grid
from ldmdown.data.reading.fields import Fields, open_fields
from ldmdown.data.reading.files import GriddedFiles
from ldmdown.data.reading.orography import read_heights
from ldmdown.data.reading.regridded import Regridded
from ldmdown.errors import LdmdownError
from ldmdown.options import DownscaleOptions
from ldmdown.system import choose_window

HOURS = np.arange(np.datetime64("2021-02-28T18", "h"), np.datetime64("2021-03-01T08", "h"))  # two months
LAT, LON = np.arange(45, 42.9, -0.25), np.arange(10, 13.1, 0.25)
SINGLE = {  # mean, amplitude, units, GRIB parameter, long name
    "t2m": (285, 5, "K", 167, "2m_temperature"),
    "u10": (1, 6, "m s**-1", 165, "10m_u_component_of_wind"),
    "v10": (-1, 4, "m s**-1", 166, "10m_v_component_of_wind"),
    "d2m": (280, 5, "K", 168, "2m_dewpoint_temperature"),
    "msl": (101300, 900, "Pa", 151, "mean_sea_level_pressure"),
    "sst": (288, 2, "K", 34, "sea_surface_temperature"),
    "sd": (0.2, 0.1, "m of water equivalent", 141, "snow_depth"),
    "tp": (1e-3, 9e-4, "m", 228, "total_precipitation"),
    "ssrd": (1.5e6, 1e6, "J m**-2", 169, "surface_solar_radiation_downwards"),
}
PRESSURE = {
    "q": (5e-3, 2e-3, "kg kg**-1", 133, "specific_humidity"),
    "t": (275, 5, "K", 130, "temperature"),
    "u": (8, 6, "m s**-1", 131, "u_component_of_wind"),
    "v": (-3, 5, "m s**-1", 132, "v_component_of_wind"),
    "w": (0.1, 0.3, "Pa s**-1", 135, "vertical_velocity"),
}
STATIC = {
    "z": (3000, 2500, "m**2 s**-2", 129, "geopotential_at_surface"),
    "lsm": (0.5, 0.5, "(0 - 1)", 172, "land_sea_mask"),
}
ACCUMULATED = ("tp", "ssrd")
ALL = SINGLE | PRESSURE | STATIC
NAMES = (*SINGLE, *(f"{name}850" for name in PRESSURE), *STATIC)
SHORT = {f"{name}850": name for name in PRESSURE}

Files = Sequence[Path | str]


def field(name: str, hours: np.ndarray = HOURS) -> np.ndarray:
    """(hours, latitude, longitude); sea surface temperature is missing in the west, the ground does not change."""
    mean, amplitude, *_ = ALL[name]
    phase = 0 if name in STATIC else hours.astype(int)[:, None, None] / 3
    values = mean + amplitude * np.sin(phase + 2 * LAT[:, None] + 3 * LON + list(ALL).index(name))
    values = np.broadcast_to(values, (len(hours), len(LAT), len(LON)))
    return np.where((name == "sst") & (LON < 10.6), np.nan, values).astype(np.float32)


def new_cds(names: Sequence[str], hours: np.ndarray = HOURS, version: str = "0001") -> xr.Dataset:
    """As the CDS delivers them since 2024."""
    levels = ["pressure_level"] if names[0] in PRESSURE else []
    dims = ("valid_time", *levels, "latitude", "longitude")
    coords: dict[str, Any] = {
        "valid_time": hours.astype("datetime64[ns]"), "latitude": LAT, "longitude": LON,
        "number": 0, "expver": ("valid_time", np.full(len(hours), version)),
    }  # fmt: skip
    if levels:
        coords["pressure_level"] = ("pressure_level", [1000.0, 850.0], {"units": "hPa"})
    return xr.Dataset({name: (dims, on_levels(name, hours), {"units": ALL[name][2]}) for name in names}, coords)


def on_levels(name: str, hours: np.ndarray) -> np.ndarray:
    values = field(name, hours)
    return np.stack([values * 1.01, values], axis=1) if name in PRESSURE else values


def old_cds(names: Sequence[str], hours: np.ndarray = HOURS) -> xr.Dataset:
    """As the CDS delivered them until 2024."""
    dataset = new_cds(names, hours).drop_vars(["number", "expver"]).rename(valid_time="time")
    return dataset.rename(pressure_level="level") if names[0] in PRESSURE else dataset


def written(dataset: xr.Dataset, path: Path, **encoding: Any) -> Path:
    dataset.to_netcdf(path, engine="netcdf4", encoding=encoding or None)
    return path


# Each form is written to a folder; it returns what a user would name


def as_new_cds(folder: Path) -> Files:
    static = new_cds([*STATIC], HOURS[:1])
    parts = {"s": new_cds([*SINGLE]), "p": new_cds([*PRESSURE]), "z": static}
    return [written(part, folder / f"{name}.nc") for name, part in parts.items()]


def as_old_cds(folder: Path) -> Files:
    """Packed into 16 bits, each month by itself."""
    files = []
    for month in np.unique(HOURS.astype("datetime64[M]")):
        hours = HOURS[HOURS.astype("datetime64[M]") == month]
        for kind in (SINGLE, PRESSURE, STATIC):
            dataset = old_cds([*kind], hours)
            packing = {}
            for name, values in dataset.items():
                low, high = float(values.min()), float(values.max())
                scale = (high - low) / 65000 or 1.0
                packing[str(name)] = {"dtype": "int16", "scale_factor": scale, "add_offset": (low + high) / 2,
                                      "_FillValue": -32767}  # fmt: skip
            files.append(written(dataset, folder / f"{month}_{next(iter(kind))}.nc", **packing))
    return files


def as_mixed_versions(folder: Path) -> Files:
    """A dimension expver, final (1) then preliminary (5), each half missing; preliminary values there are wrong."""
    files = []
    for kind in (SINGLE, PRESSURE):
        dataset = old_cds([*kind])
        final = dataset.isel(time=slice(0, 7)).reindex(time=dataset.time)
        preliminary = (dataset * 1.02).isel(time=slice(5, 7)).reindex(time=dataset.time)
        preliminary = preliminary.combine_first(dataset.isel(time=slice(7, None)))
        both = xr.concat([final, preliminary], dim=xr.DataArray([1, 5], dims="expver", name="expver"))
        for name in kind:
            both[name].attrs["units"] = ALL[name][2]
        files.append(written(both, folder / f"{next(iter(kind))}.nc"))
    return [*files, written(old_cds([*STATIC], HOURS[:1]), folder / "z.nc")]


def as_zip_named_nc(folder: Path) -> Files:
    """Members whose versions differ."""
    kinds = {
        "instant": new_cds([name for name in SINGLE if name not in ACCUMULATED]),
        "accum": new_cds(ACCUMULATED, version="0005"),
        "pressure": new_cds([*PRESSURE]),
        "static": new_cds([*STATIC], HOURS[:1]),
    }
    with zipfile.ZipFile(folder / "era5.nc", "w") as archive:
        for kind, part in kinds.items():
            archive.write(written(part, folder / "part.nc"), f"data_stream-oper_stepType-{kind}.nc")
    (folder / "part.nc").unlink()
    return [folder / "era5.nc"]


def message(name: str, edition: int, centre: str = "ecmf", **keys: Any) -> int:
    """A GRIB message on the grid, without values."""
    handle = new_message(f"regular_ll_{'pl' if name in PRESSURE else 'sfc'}_grib{edition}")
    grid = {"Ni": len(LON), "Nj": len(LAT), "latitudeOfFirstGridPointInDegrees": LAT[0],
            "latitudeOfLastGridPointInDegrees": LAT[-1], "longitudeOfFirstGridPointInDegrees": LON[0],
            "longitudeOfLastGridPointInDegrees": LON[-1], "iDirectionIncrementInDegrees": 0.25,
            "jDirectionIncrementInDegrees": 0.25}  # fmt: skip
    fill(handle, np.zeros(len(LAT) * len(LON)), centre=centre, **grid, bitsPerValue=24, **keys)
    return handle


def fill(handle: int, values: np.ndarray, **keys: Any) -> None:
    for key, value in keys.items():
        codes_set(handle, key, value)
    if np.isnan(values).any():
        codes_set(handle, "bitmapPresent", 1)
        codes_set(handle, "missingValue", 9999)
    codes_set_values(handle, np.where(np.isnan(values), 9999, values).ravel().astype(float))


def clock(run: np.datetime64) -> dict[str, int]:
    return {"dataDate": int(str(run)[:10].replace("-", "")), "dataTime": 100 * int(str(run)[11:13])}


def write(file: Any, name: str, values: np.ndarray, edition: int, run: np.datetime64, **keys: Any) -> None:
    handle = message(name, edition, **clock(run), **keys)
    fill(handle, values)
    codes_write(handle, file)
    codes_release(handle)


def as_grib(folder: Path, edition: int) -> Files:
    """One file of everything; sums as the CDS has them: runs from 6 and 18 UTC, the hour that ends at each step."""
    path = folder / "era5.grib"
    producer = {"setLocalDefinition": 1, "class": "ea"} if edition == 1 else {}
    with path.open("wb") as file:
        for name in ALL:
            handle = message(name, edition, paramId=ALL[name][3], **producer)
            for hour, values in zip(HOURS[: 1 if name in STATIC else None], field(name), strict=False):
                if name in ACCUMULATED:
                    step = (hour.astype(int) - 7) % 12 + 1
                    keys = {"stepType": "accum", "stepRange": f"{step - 1}-{step}"}
                    fill(handle, values, **clock(hour - step), **keys)
                elif name == "t":
                    fill(handle, values * 1.01, **clock(hour), level=1000)
                    codes_write(handle, file)
                    fill(handle, values, level=850)
                else:
                    fill(handle, values, **clock(hour), **({"level": 850} if name in PRESSURE else {}))
                codes_write(handle, file)
            codes_release(handle)
    return [path]


def arco() -> xr.Dataset:
    """As in ARCO-ERA5: long names, levels together, missing values after `valid_time_stop`."""
    parts = [old_cds([*SINGLE]), old_cds([*PRESSURE]).transpose("time", "level", ...), old_cds([*STATIC])]
    dataset = xr.merge(parts).rename({name: values[4] for name, values in ALL.items()})
    later = HOURS[-1] + np.arange(1, 37)
    dataset = dataset.reindex(time=np.concatenate([HOURS, later]).astype("datetime64[ns]"))
    return dataset.assign_attrs(valid_time_start="1940-01-01", valid_time_stop=str(HOURS[-1]))


def as_zarr(folder: Path, version: int, consolidated: bool) -> Files:
    arco().to_zarr(folder / "store", zarr_format=version, consolidated=consolidated)
    return [folder / "store"]


def as_zarr_behind_an_address(folder: Path) -> Files:
    arco().to_zarr("memory://era5.zarr", zarr_format=2, consolidated=True, mode="w")
    return ["memory://era5.zarr"]


def as_longitudes_from_zero(folder: Path) -> Files:
    """Round the globe, the wanted ones on both sides of the end of the file."""
    files = []
    for kind in (SINGLE, PRESSURE, STATIC):
        dataset = new_cds([*kind]).assign_coords(longitude=LON % 360)
        turned = dataset.roll(longitude=5, roll_coords=True).assign_coords(
            longitude=np.roll(LON, 5) + np.where(np.arange(len(LON)) < 5, -360, 0)
        )
        files.append(written(turned, folder / f"{next(iter(kind))}.nc"))
    return files


def as_latitudes_rising(folder: Path) -> Files:
    return [
        written(new_cds([*kind]).sortby("latitude").rename(latitude="lat", longitude="lon"), folder / f"{i}.nc")
        for i, kind in enumerate((SINGLE, PRESSURE, STATIC))
    ]


def as_other_units(folder: Path) -> Files:
    """As tools for climate models like them."""
    dataset = new_cds([*SINGLE])
    changes = {"t2m": (1, -273.15, "degC"), "d2m": (1.8, -459.67, "degF"), "msl": (0.01, 0, "hPa"),
               "sst": (1, -273.15, "Celsius"), "u10": (3600 / 1852, 0, "knots"), "v10": (3.6, 0, "km/h"),
               "sd": (1000, 0, "kg m-2"), "tp": (1 / 3.6, 0, "kg m-2 s-1"), "ssrd": (1 / 3600, 0, "W/m^2")}  # fmt: skip
    for name, (factor, offset, units) in changes.items():
        dataset[name] = (dataset[name].astype(float) * factor + offset).assign_attrs(units=units)
    above, ground = new_cds([*PRESSURE]), new_cds([*STATIC])
    above["q"] = (above.q * 1000).assign_attrs(units="g/kg")
    above = above.assign_coords(pressure_level=("pressure_level", [100000.0, 85000.0], {"units": "Pa"}))
    ground["z"] = (ground.z / 9.80665).assign_attrs(units="m")
    ground["lsm"] = (ground.lsm * 100).assign_attrs(units="%")
    return [written(part, folder / f"{i}.nc") for i, part in enumerate((dataset, above, ground))]


def as_unsorted_hours(folder: Path) -> Files:
    """Shuffled, one twice, in a folder with other things, one hour a file without a dimension of time."""
    order = np.random.default_rng(0).permutation(len(HOURS) - 1)
    for i, kind in enumerate((SINGLE, PRESSURE, STATIC)):
        dataset = new_cds([*kind])
        written(dataset.isel(valid_time=[*order, order[3]]), folder / f"{i}.nc")
        (folder / "below").mkdir(exist_ok=True)
        written(dataset.isel(valid_time=-1), folder / "below" / f"{i}_last.nc")
    (folder / "README").write_text("notes")
    return [folder]


def as_cfgrib_wrote_it(folder: Path) -> Files:
    """Sums along time and step; what no run has is missing. Two files, each lacking what the other has."""
    runs = np.array(["2021-02-28T06", "2021-02-28T18", "2021-03-01T06"], "datetime64[h]")
    steps = np.arange(1, 13)
    valid = runs[:, None] + steps
    files = list(as_new_cds(folder))
    written(new_cds([name for name in SINGLE if name not in ACCUMULATED]), folder / "s.nc")
    for month in ("2021-02", "2021-03"):
        held = valid.astype("datetime64[M]") == np.datetime64(month)
        fields = {}
        for name in ACCUMULATED:
            values = field(name, valid.ravel()).reshape(len(runs), len(steps), len(LAT), len(LON))
            values = np.where(held[..., None, None], values, np.nan)
            fields[name] = (("time", "step", "latitude", "longitude"), values, {"units": ALL[name][2]})
        coords = {"time": runs.astype("datetime64[ns]"), "step": (valid[0] - runs[0]).astype("timedelta64[ns]"),
                  "valid_time": (("time", "step"), valid.astype("datetime64[ns]")), "surface": 0.0,
                  "latitude": LAT, "longitude": LON}  # fmt: skip
        files.append(written(xr.Dataset(fields, coords), folder / f"accumulated_{month}.nc"))
    return files


FORMS: dict[str, Callable[[Path], Files]] = {
    "old CDS": as_old_cds,
    "mixed versions": as_mixed_versions,
    "zip named nc": as_zip_named_nc,
    "GRIB1": partial(as_grib, edition=1),
    "GRIB2": partial(as_grib, edition=2),
    "Zarr 2": partial(as_zarr, version=2, consolidated=True),
    "Zarr 2, not consolidated": partial(as_zarr, version=2, consolidated=False),
    "Zarr 3": partial(as_zarr, version=3, consolidated=False),
    "Zarr at an address": as_zarr_behind_an_address,
    "longitudes from zero": as_longitudes_from_zero,
    "latitudes rising": as_latitudes_rising,
    "other units": as_other_units,
    "hours in disorder": as_unsorted_hours,
    "cfgrib's NetCDF": as_cfgrib_wrote_it,
}


def values_of(fields: Fields) -> dict[str, np.ndarray]:
    """(hours, rows, cols) of each variable."""
    values = np.stack([fields.read(index) for index in range(len(fields))], axis=1)
    return dict(zip(fields.names, values, strict=True))


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return {name: field(SHORT.get(name, name)) for name in NAMES}


def test_the_new_cds_is_read_as_it_was_written(expected: dict[str, np.ndarray], tmp_path: Path) -> None:
    with open_fields(as_new_cds(tmp_path), NAMES) as found:
        assert found.names == NAMES and found.members == (0,) and found.notes == [] and not found.rotated
        np.testing.assert_array_equal(found.times, HOURS)
        np.testing.assert_array_equal(found.grid.y, LAT)
        np.testing.assert_array_equal(found.grid.x, LON)
        for name, values in values_of(found).items():
            np.testing.assert_array_equal(values, expected[name])


@pytest.mark.parametrize("form", FORMS)
def test_every_form_says_the_same(expected: dict[str, np.ndarray], form: str, tmp_path: Path) -> None:
    with open_fields(FORMS[form](tmp_path), NAMES) as found:
        held = values_of(found)
    np.testing.assert_array_equal(found.times, HOURS)
    np.testing.assert_allclose(found.grid.y, LAT, atol=1e-5)
    np.testing.assert_allclose(found.grid.x, LON, atol=1e-5)
    for name, values in held.items():
        right = expected[name]
        precision = float(np.nanmax(right) - np.nanmin(right)) / (40000 if form == "old CDS" else 1e5)
        rounding = 4e-7 * float(np.nanmax(np.abs(right)))
        np.testing.assert_allclose(values, right, atol=precision + rounding, err_msg=name)
    beyond = [note for note in found.notes if "22 hours are left out that not every variable has" in note]
    assert found.notes == beyond and bool(beyond) == (form == "cfgrib's NetCDF")


def test_a_part_is_read_alone(expected: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Any hours in any order, any rows and columns, also across the end of the file's longitudes."""
    found = open_fields(as_longitudes_from_zero(tmp_path), ["t2m"])
    part = found.at([5, 2, 9]).crop(slice(1, 7), slice(2, None)).crop(slice(1, 3), slice(4, 9))
    assert part.hours.tolist() == found.hours[[5, 2, 9]].tolist()
    np.testing.assert_array_equal(part.grid.y, LAT[2:4])
    np.testing.assert_array_equal(part.grid.x, LON[6:11])
    for index, hour in enumerate((5, 2, 9)):
        np.testing.assert_array_equal(part.read(index)[0], expected["t2m"][hour, 2:4, 6:11])
    day = found.between("2021-03-01", "2021-03-01T05")
    np.testing.assert_array_equal(day.times, HOURS[6:12])
    np.testing.assert_array_equal(day.read(5)[0], expected["t2m"][11])


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """An address that serves the folder."""
    service = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=service.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{service.server_port}"
    service.shutdown()
    service.server_close()


def test_zarr_on_the_web(expected: dict[str, np.ndarray], tmp_path: Path, server: str) -> None:
    pytest.importorskip("aiohttp")
    as_zarr(tmp_path, 2, True)
    found = open_fields([f"{server}/store"], ("t2m", "t850"))
    np.testing.assert_array_equal(found.read(4), [expected["t2m"][4], expected["t850"][4]])
    with pytest.raises(LdmdownError, match=f"{server}/nothing: cannot be opened as Zarr"):
        open_fields([f"{server}/nothing"], ("t2m",))


# Files


def test_a_zip_is_unpacked_once_and_its_copy_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (zipped,) = as_zip_named_nc(tmp_path)
    with open_fields([zipped], ("t2m", "tp")) as fields:
        fields.read(0)
        assert len([*(tmp_path / "temporary").rglob("*.nc")]) == 4
    assert not [*(tmp_path / "temporary").iterdir()]
    kept = tmp_path / "kept"
    for _ in range(3):
        with open_fields([zipped], ("t2m", "tp"), unpack_to=kept) as fields:
            fields.read(0)
    (folder,) = kept.iterdir()
    unpacked = [path.stat().st_mtime_ns for path in sorted(folder.iterdir())]
    with GriddedFiles([zipped], kept) as files:
        assert files.labels[0] == f"{zipped}/data_stream-oper_stepType-accum.nc"
        np.testing.assert_array_equal(files.hours(), HOURS.astype(int))
    assert [path.stat().st_mtime_ns for path in sorted(folder.iterdir())] == unpacked and len(unpacked) == 4


def test_folders_zips_and_brackets(tmp_path: Path, expected: dict[str, np.ndarray]) -> None:
    """What is no data is passed over in a folder and in a zip; a folder's own brackets are no pattern."""
    folder = tmp_path / "run [1]"
    (folder / "below").mkdir(parents=True)
    for name in (".DS_Store", "README.md", "below/SHA256SUMS"):
        (folder / name).write_text("not data")
    arco().to_zarr(folder / "below" / "store.zarr", zarr_format=2, consolidated=True)
    with zipfile.ZipFile(folder / "mac.zip", "w") as archive:
        archive.write(written(new_cds(["d2m"]), tmp_path / "d2m.nc"), "d2m.nc")
        archive.writestr("__MACOSX/._d2m.nc", b"resource fork")
        archive.writestr("README", "about")
    for paths in ([folder], [folder / "*" / "store.zarr", folder / "ma*.zip"], [folder / "**" / "*.z*"]):
        with open_fields(paths, ("t2m", "d2m")) as fields:
            np.testing.assert_array_equal(fields.read(4), [expected["t2m"][4], expected["d2m"][4]])
    packed = shutil.make_archive(str(tmp_path / "store.zarr"), "zip", folder / "below" / "store.zarr")  # as ZipStore
    with open_fields([packed], ("t2m",)) as fields:
        np.testing.assert_array_equal(fields.read(4), [expected["t2m"][4]])
    with pytest.raises(LdmdownError, match="no such file"):
        open_fields([folder / "*.grib"], ["t2m"])


def test_files_are_closed(tmp_path: Path) -> None:
    """A file can be written anew while the process lives, and a closed one is not read again."""
    path = written(new_cds(["t2m"]), tmp_path / "t.nc")
    with open_fields([path], ["t2m"]) as fields:
        fields.read(0)
    held = {str(one.readlink()) for one in Path("/proc/self/fd").iterdir() if one.exists()}
    assert str(path) not in held


# Sums


def since_start(name: str, hours: np.ndarray) -> np.ndarray:
    """Sums over all hours up to each."""
    return np.cumsum(field(name, hours).astype(float), axis=0)


def test_era5_land_sums_from_midnight(expected: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Each day's sums begin at 00 UTC; the last is that of 00 UTC of the next day. Files part the day."""
    hours = np.arange(np.datetime64("2021-02-28T01", "h"), np.datetime64("2021-03-01T12", "h"))
    fields = {}
    for name in ACCUMULATED:
        day = hours < np.datetime64("2021-03-01T01")
        sums = np.concatenate([since_start(name, hours[day]), since_start(name, hours[~day])])
        fields[name] = (("valid_time", "latitude", "longitude"), sums, {"units": ALL[name][2]})
    land = xr.Dataset(fields, {"valid_time": hours.astype("datetime64[ns]"), "latitude": 43 + np.arange(9) / 10,
                               "longitude": 10 + np.arange(13) / 10})  # fmt: skip
    files = [written(land.isel(valid_time=part), tmp_path / f"{i}.nc")
             for i, part in enumerate((slice(0, 20), slice(20, None)))]  # fmt: skip
    found = open_fields(files, ACCUMULATED)
    np.testing.assert_array_equal(found.times, hours)
    for name, values in values_of(found).items():
        np.testing.assert_allclose(values[np.isin(hours, HOURS)][:, ::-1], expected[name], rtol=1e-4)


def test_era5_on_a_finer_grid_is_not_era5_land(tmp_path: Path) -> None:
    """Hourly sums that somebody interpolated to a tenth of a degree fall, which sums of a day never do."""
    dataset = new_cds([*ACCUMULATED]).assign_coords(
        latitude=44 - np.arange(len(LAT)) / 10, longitude=10 + np.arange(len(LON)) / 10
    )
    found = open_fields([written(dataset, tmp_path / "fine.nc")], ACCUMULATED)
    np.testing.assert_array_equal(values_of(found)["tp"], field("tp"))


def forecast(run: np.datetime64, path: Path, steps: Sequence[int], edition: int, **producer: Any) -> Path:
    """A run whose sums begin at its start; its temperature tells the lead."""
    hours = run + np.array(steps)
    with path.open("wb") as file:
        for name in ("t2m", "u10", "v10", "tp", "q"):
            parameter = {"paramId": ALL[name][3]}
            values = field(name, hours)
            if name == "t2m":
                values = values + np.array(steps, np.float32)[:, None, None] / 100
            if name == "tp" and max(steps):
                total = np.cumsum(field(name, run + np.arange(1, max(steps) + 1)).astype(float), axis=0)
                values = np.stack([total[step - 1] if step else 0 * total[0] for step in steps])
            for step, one in zip(steps, values, strict=True):
                keys: dict[str, Any] = {**parameter, "stepRange": str(step)}
                if name == "tp":
                    keys = {"stepType": "accum", **parameter, "stepRange": f"0-{step}"}
                if name == "q":
                    keys["level"] = 850
                write(file, name, one, edition, run, **keys, **producer)
    return path


@pytest.mark.parametrize("edition", [1, 2])
def test_two_runs_of_a_forecast(edition: int, tmp_path: Path) -> None:
    """Steps become hours, the shorter lead wins, and sums from the start become those of an hour."""
    runs = np.array(["2021-03-01T00", "2021-03-01T06"], "datetime64[h]")
    files = [forecast(run, tmp_path / f"{run}.grib2", range(10), edition) for run in runs]
    found = open_fields(files, ("t2m", "tp", "q850"))
    hours = runs[0] + np.arange(1, 16)  # nothing has fallen at the first
    np.testing.assert_array_equal(found.times, hours)
    lead = np.where(hours < runs[1], hours - runs[0], hours - runs[1]).astype(int)
    values = values_of(found)
    np.testing.assert_allclose(values["tp"], field("tp", hours), atol=2e-9)
    np.testing.assert_allclose(values["q850"], field("q", hours), atol=1e-8)
    np.testing.assert_allclose(values["t2m"], field("t2m", hours) + lead[:, None, None] / 100, atol=1e-4)
    assert found.notes == [
        "1 hours are left out that not every variable has, the first 2021-03-01T00:00",
        "several runs of a forecast hold the same hours: the one with the shortest lead is taken",
    ]


def test_a_forecast_every_three_hours_a_step_a_file(tmp_path: Path) -> None:
    """As IFS open data comes: sums are the mean over the hours between the steps."""
    run = np.datetime64("2021-03-01T00", "h")
    files = [forecast(run, tmp_path / f"{step}h-oper-fc.grib2", [step], 2) for step in (0, 3, 6, 9)]
    found = open_fields([str(tmp_path / "*.grib2")], ("t2m", "tp"))
    assert len(files) == 4
    np.testing.assert_array_equal(found.times, run + np.array([3, 6, 9]))
    hourly = field("tp", run + np.arange(1, 10)).astype(float)
    np.testing.assert_allclose(values_of(found)["tp"], hourly.reshape(3, 3, len(LAT), len(LON)).mean(axis=1), atol=1e-8)
    assert found.notes[1] == "sums over more than an hour are spread evenly: tp over 3 hours"


def test_gfs(tmp_path: Path) -> None:
    """Another centre's names and units, both components of the wind in one message."""
    run = np.datetime64("2021-03-01T00", "h")
    path = tmp_path / "gfs.t00z.pgrb2.0p25.f003"
    names = {"t2m": "2t", "d2m": "2d", "msl": "prmsl", "q": "q", "tp": "tp", "ssrd": "sdswrf", "sd": ""}
    with path.open("wb") as file:
        for name, short in names.items():
            values = field(name, run + np.array([3]))[0]
            keys: dict[str, Any] = {"shortName": short, "stepRange": "3"}
            if name == "q":
                keys |= {"typeOfLevel": "isobaricInhPa", "level": 850}
            if name == "tp":
                keys = {"shortName": short, "stepType": "accum", "stepRange": "0-3"}
                values = 3000 * values
            if name == "ssrd":
                keys = {"shortName": short, "stepType": "avg", "stepRange": "0-3"}
                values = values / 3600
            if name == "sd":
                keys = {"discipline": 0, "parameterCategory": 1, "parameterNumber": 13, "stepRange": "3"}
                values = 1000 * values
            write(file, name, values, 2, run, centre="kwbc", **keys)
        both = codes_grib_multi_new()
        for name in ("u10", "v10"):
            handle = message(name, 2, paramId=ALL[name][3], stepRange="3", centre="kwbc", **clock(run))
            fill(handle, field(name, run + np.array([3]))[0])
            codes_grib_multi_append(handle, 4, both)
        codes_grib_multi_write(both, file)
    found = open_fields([path], ("t2m", "d2m", "msl", "q850", "tp", "ssrd", "sd", "u10", "v10"))
    np.testing.assert_array_equal(found.times, [run + 3])
    for name, values in values_of(found).items():
        np.testing.assert_allclose(values, field(SHORT.get(name, name), run + np.array([3])), rtol=1e-5, atol=1e-5)


def test_steps_of_a_single_run_in_netcdf(tmp_path: Path) -> None:
    """`step` as the only axis of time, and a scalar start; hours as numbers."""
    dataset = old_cds(["t2m"]).assign_coords(time=np.arange(len(HOURS))).rename(time="step")
    dataset["step"].attrs["units"] = "hours"
    dataset = dataset.assign_coords(time=HOURS[0].astype("datetime64[ns]"))
    found = open_fields([written(dataset, tmp_path / "run.nc")], ("t2m",))
    np.testing.assert_array_equal(found.times, HOURS)
    np.testing.assert_array_equal(values_of(found)["t2m"], field("t2m"))


def test_steps_in_minutes_and_hours_with_minutes(tmp_path: Path) -> None:
    """As ICON-2I counts its steps; a field at half past is no field of the full hour."""
    run = HOURS[0]
    for name, minutes in (("hours", 120), ("half", 90)):
        with (tmp_path / name).open("wb") as file:
            keys = {"paramId": 167, "indicatorOfUnitOfTimeRange": 0, "forecastTime": minutes}
            write(file, "t2m", field("t2m")[2], 2, run, **keys)
    found = open_fields([tmp_path / "hours"], ("t2m",))
    np.testing.assert_array_equal(found.times, [run + 2])
    with pytest.raises(LdmdownError, match="has times between full hours\n  found: 2021-02-28T19:30"):
        open_fields([tmp_path / "half"], ("t2m",))


def test_versions_that_are_no_numbers(expected: dict[str, np.ndarray], tmp_path: Path) -> None:
    for version in ("", "hplp"):
        found = open_fields([written(new_cds(["t2m"], version=version), tmp_path / f"v{version}.nc")], ("t2m",))
        np.testing.assert_array_equal(found.read(3)[0], expected["t2m"][3])


def test_another_grid_in_the_same_grib_spoils_nothing(expected: dict[str, np.ndarray], tmp_path: Path) -> None:
    """It is refused when it is asked for, with its kind."""
    with (tmp_path / "mixed.grib2").open("wb") as file:
        write(file, "t2m", field("t2m")[0], 2, HOURS[0], paramId=167)
        handle = new_message("sh_sfc_grib2")
        for key, value in {"paramId": 152, **clock(HOURS[0])}.items():
            codes_set(handle, key, value)
        codes_write(handle, file)
        codes_release(handle)
    found = open_fields([tmp_path / "mixed.grib2"], ("t2m",))
    np.testing.assert_allclose(found.read(0)[0], expected["t2m"][0], atol=1e-4)
    with GriddedFiles([tmp_path / "mixed.grib2"]) as files:
        (other,) = {*files.sources[0].names} - {"t2m"}
        with pytest.raises(LdmdownError, match="is on a grid that is not read\n  found: sh"):
            list(files.sources[0].blocks(other, None))


# Climate models


@pytest.mark.parametrize(
    ("calendar", "note"),
    [
        ("noleap", "dates of the calendar noleap are kept as they read"),
        (
            "360_day",
            "dates of the calendar 360_day are kept as they read; those that the standard calendar lacks, "
            "such as 30 February, are left out",
        ),
    ],
)
def test_calendars_of_climate_models(calendar: str, note: str, tmp_path: Path) -> None:
    days = xr.date_range("2021-02-27", periods=5, freq="D", calendar=calendar, use_cftime=True)
    values = (280 + np.arange(5)[:, None, None] + np.zeros((len(LAT), len(LON)))).astype(np.float32)
    dataset = xr.Dataset(
        {"tas": (("time", "lat", "lon"), values, {"units": "K"})}, {"time": days, "lat": LAT, "lon": LON, "height": 2.0}
    )
    found = open_fields([written(dataset, tmp_path / "tas.nc")], ("t2m",))
    kept = [day for day in days if (day.month, day.day) not in ((2, 29), (2, 30))]
    assert [str(day)[:10] for day in found.times] == [f"{day:%Y-%m-%d}" for day in kept]
    np.testing.assert_array_equal(values_of(found)["t2m"][:, 0, 0], [280 + list(days).index(day) for day in kept])
    assert isinstance(days[0], cftime.datetime) and found.notes[-1] == note


def test_cells_of_a_degree_are_read(tmp_path: Path) -> None:
    lat, lon = np.arange(30, 52.0), np.arange(0, 25.0)
    values = np.full((1, len(lat), len(lon)), 280, np.float32)
    dataset = xr.Dataset({"tas": (("time", "lat", "lon"), values, {"units": "K"})},
                         {"time": HOURS[:1].astype("datetime64[ns]"), "lat": lat, "lon": lon})  # fmt: skip
    found = open_fields([written(dataset, tmp_path / "tas.nc")], ("t2m",))
    assert choose_window(found, Grid(), DownscaleOptions()) == Grid().whole


# Heights


@pytest.mark.parametrize(("units", "factor"), [("m", 1), ("m**2 s**-2", 9.80665), ("gpm", 1), (None, 1), ("km", 1e-3)])
def test_heights_are_metres_whatever_their_units(units: str | None, factor: float, tmp_path: Path) -> None:
    """Geopotential of the CDS too; the name does not matter, nor a time of one."""
    height = np.add.outer(100 * np.arange(len(LAT)), np.arange(len(LON))).astype(np.float32)
    field = ("time", "lat", "lon"), height[None, ::-1] * factor, {"units": units} if units else {}
    axes = {"time": HOURS[:1].astype("datetime64[ns]"), "lat": LAT[::-1], "lon": LON}
    dataset = xr.Dataset({"HSURF": field}, axes)
    grid, found = read_heights(written(dataset, tmp_path / "h.nc"))
    np.testing.assert_array_equal(grid.y, LAT)
    np.testing.assert_allclose(found, height, rtol=1e-6)


def test_heights_in_kelvin_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LdmdownError, match="the height has units that are not understood\n  found: K"):
        read_heights(written(new_cds(["t2m"]), tmp_path / "t.nc"))


# What is said of files that do not serve


def test_missing_hours_are_told(tmp_path: Path) -> None:
    dataset = new_cds(["t2m", "u10"]).drop_isel(valid_time=[3, 4, 8])
    found = open_fields([written(dataset, tmp_path / "gaps.nc")], ("t2m", "u10"))
    assert found.notes == ["3 hours are missing between the first and the last, the first 2021-02-28T21:00"]


def test_a_missing_level(tmp_path: Path) -> None:
    path = written(new_cds(["t"]).isel(pressure_level=[0]), tmp_path / "p.nc")
    with pytest.raises(LdmdownError) as caught:
        open_fields([path], ("t850",), request="ldmdown request --checkpoint alps")
    assert str(caught.value) == (
        f"{path}: t850 is missing\n"
        "  found: t (1000 hPa)\n"
        "  expected: under names such as t850, t on 850 hPa, "
        "temperature on 850 hPa\n"
        "  fix: name all files together; this prints the script that gets them: "
        "ldmdown request --checkpoint alps --start 2021-02-28 --end 2021-03-01"
    )


def test_a_member_of_a_zip_is_named(tmp_path: Path) -> None:
    as_zip_named_nc(tmp_path)
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data_stream-oper_stepType-instant.nc", b"\x89HDF\r\n\x1a\ncut off")
    with pytest.raises(LdmdownError) as caught:
        open_fields([tmp_path / "era5.nc", path], ("t2m",))
    assert str(caught.value).startswith(f"{path}/data_stream-oper_stepType-instant.nc: cannot be read\n")
    assert "/tmp/ldmdown-" not in str(caught.value)


def test_one_wrong_file_among_many_is_named(tmp_path: Path) -> None:
    for number, hour in enumerate(HOURS):
        written(new_cds(["t2m"], HOURS[number : number + 1]), tmp_path / f"{hour}.nc")
    moved = new_cds(["t2m"], HOURS[-1:] + 1)
    bad = written(moved.assign_coords(latitude=moved.latitude + 0.1), tmp_path / "moved.nc")
    with pytest.raises(LdmdownError, match=f"{bad}: t2m is on two grids\n  found: 10.00 to 13.00 E, 43.10 to 45.10 N"):
        open_fields([tmp_path], ("t2m",))
    bad.write_text("<html>Service unavailable</html>")
    with pytest.raises(LdmdownError, match=f"{bad}: is no NetCDF, GRIB or zip file\n.*\n  fix: this is a web page"):
        open_fields([tmp_path], ("t2m",))


def test_units_that_the_values_contradict(tmp_path: Path) -> None:
    dataset = new_cds(["t2m"])
    dataset["t2m"] = (dataset.t2m - 273.15).assign_attrs(units="K")
    path = written(dataset, tmp_path / "celsius.nc")
    with pytest.raises(
        LdmdownError, match="t2m is not physical\n(.*\n)*  fix: these look like degC: correct the units"
    ):
        open_fields([path], ("t2m",)).read(0)


def test_members_of_an_ensemble_are_not_mixed(tmp_path: Path) -> None:
    """Along a dimension, or each in a file of its own."""
    members = [new_cds(["t2m"]).assign_coords(number=number) + number for number in range(3)]
    path = written(xr.concat(members, dim="number"), tmp_path / "ensemble.nc")
    files = [written(member, tmp_path / f"member{number}.nc") for number, member in enumerate(members)]
    for ensemble in ([path], files[::-1]):
        found = open_fields(ensemble, ("t2m",))
        assert found.members == (0, 1, 2)
        for member in range(3):
            np.testing.assert_allclose(found.read(5, member)[0], field("t2m")[5] + member, atol=1e-4)
        with pytest.raises(LdmdownError, match="is an ensemble\n  found: 3 members"):
            Regridded(found, Grid(), found.names)


def test_a_grid_that_is_not_regular(tmp_path: Path) -> None:
    """Two-dimensional coordinates are read where they are those of a regular grid."""
    lon, lat = np.meshgrid(LON, LAT)
    dataset = old_cds(["t2m"]).drop_vars(["latitude", "longitude"]).rename(latitude="y", longitude="x")
    regular = dataset.assign_coords(lon=(("y", "x"), lon), lat=(("y", "x"), lat))
    found = open_fields([written(regular, tmp_path / "regular.nc")], ("t2m",))
    np.testing.assert_array_equal(found.grid.x, LON)
    np.testing.assert_array_equal(found.read(3)[0], field("t2m")[3])
    curved = dataset.assign_coords(lon=(("y", "x"), lon + lat / 10), lat=(("y", "x"), lat))
    path = written(curved, tmp_path / "curvilinear.nc")
    with pytest.raises(LdmdownError, match=f"{path}: does not say what projection its grid is in"):
        open_fields([path], ("t2m",))


def test_a_store_that_is_broken(tmp_path: Path) -> None:
    as_zarr(tmp_path, 3, False)
    shutil.rmtree(tmp_path / "store" / "2m_temperature")
    with pytest.raises(LdmdownError, match="t2m is missing"):
        open_fields([tmp_path / "store"], ("t2m",))
    (tmp_path / "store" / "zarr.json").write_text("{")
    with pytest.raises(LdmdownError, match=f"{tmp_path / 'store'}: cannot be opened as Zarr"):
        open_fields([tmp_path / "store"], ("t2m",))
