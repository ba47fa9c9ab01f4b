"""Small files of the kinds that people brought and that once failed: each has the right values or the right message."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from ldmdown.data.grid import Grid
from ldmdown.data.reading.fields import Fields, open_fields
from ldmdown.data.reading.regridded import Regridded
from ldmdown.data.reading.stations import read_stations
from ldmdown.errors import LdmdownError

NAMES = ("t2m", "u10", "v10")
CASES = Path(os.environ.get("LDMDOWN_TEST_DATA", "")) / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="needs LDMDOWN_TEST_DATA")


def read(fields: Fields, member: int = 0) -> np.ndarray:
    return np.stack([fields.read(index, member) for index in range(len(fields))], axis=1)


@pytest.fixture(scope="module")
def weather() -> np.ndarray:
    """(variable, 2 hours from 2016-01-01T00, rows, cols) of the file whose weather most others hold."""
    with xr.open_dataset(CASES / "14-python-order" / "ok.nc", engine="netcdf4") as dataset:
        return np.stack([dataset[name].values for name in NAMES])


@pytest.mark.parametrize(
    ("file", "hours"),
    [
        ("01-expver-no-number/expver_empty.nc", 2),
        ("01-expver-no-number/expver_exp.nc", 2),
        ("02-grib-steps-in-minutes/minutes.grib2", 4),
        ("10-zip-with-more/mac.zip", 2),
        ("11-era5-land-sea/nanhour.nc", 4),
        ("13-names-and-axes/a_Time.nc", 4),
        ("13-names-and-axes/a_rio.nc", 4),
        ("13-names-and-axes/n_era5pds.nc", 4),
        ("13-names-and-axes/n_ncl.nc", 4),
        ("13-names-and-axes/n_rda.nc", 4),
        ("15-one-other-field-spoils-grib/mixed.grib", 2),
        ("21-absolute-time/abs.nc", 2),
    ],
)
def test_the_same_weather_whatever_it_is_called(file: str, hours: int, weather: np.ndarray) -> None:
    with open_fields([CASES / file], NAMES) as fields:
        np.testing.assert_array_equal(
            fields.times, np.datetime64("2016-01-01T00", "s") + 3600 * np.arange(hours).astype("timedelta64[s]")
        )
        np.testing.assert_allclose(read(fields)[:, :2], weather, atol=2e-3)


def test_steps_of_a_forecast_begin_an_hour_later(weather: np.ndarray) -> None:
    with open_fields([CASES / "23-earthkit-steps-without-start" / "ek_fc_0.nc"], NAMES) as fields:
        assert fields.times.astype(str).tolist() == [f"2016-01-01T0{hour}:00:00" for hour in (1, 2, 3)]
        np.testing.assert_allclose(fields.read(0), weather[:, 1], atol=2e-3)


@pytest.mark.parametrize(
    ("file", "wrong"),
    [
        ("03-grib-half-hours/halfhour.grib1", "times between full hours"),
        ("04-means-as-instants/daily.nc", "no instantaneous values"),
        ("04-means-as-instants/monthly.nc", "no instantaneous values"),
        ("05-winds-along-a-grid-that-is-gone/vhr_lonlat.nc", "along a grid that is no longer in the file"),
        ("09-members-in-files/dupdiff.nc", "given twice, with different values"),
        ("19-packed-and-wrapped/overflow.nc", "does not fit into its packing"),
        ("22-wrf-reference/wrf_like.nc", "is output of WRF"),
    ],
)
def test_what_is_refused(file: str, wrong: str) -> None:
    with pytest.raises(LdmdownError, match=wrong), open_fields([CASES / file], NAMES) as fields:
        read(fields)


def test_wind_along_a_rotated_grid() -> None:
    """10 m s-1 from the west everywhere."""
    with open_fields([CASES / "05-winds-along-a-grid-that-is-gone" / "rot.grib2"], NAMES) as fields:
        _, u10, v10 = read(fields)
    np.testing.assert_allclose(u10, 10, atol=0.02)
    np.testing.assert_allclose(v10, 0, atol=0.02)


def test_places_and_values_of_a_lambert_grid() -> None:
    """Against ecCodes' own longitudes and latitudes of each value."""
    import eccodes

    path = CASES / "06-lambert-grib-reference" / "cerra_like.grib2"
    with open_fields([path], ["t2m"]) as fields:
        lon, lat = fields.grid.lonlat()
        found = np.stack([lat, lon, fields.read(0)[0]], axis=-1).reshape(-1, 3)
    with path.open("rb") as file:
        while eccodes.codes_get((handle := eccodes.codes_grib_new_from_file(file)), "shortName") != "2t":
            eccodes.codes_release(handle)
        points = np.array([[one["lat"], one["lon"], one["value"]] for one in eccodes.codes_grib_get_data(handle)])
        eccodes.codes_release(handle)
    points[:, 1] = (points[:, 1] + 180) % 360 - 180
    points = points.reshape(*fields.grid.shape, 3)[::-1].reshape(-1, 3)  # the file begins in the south
    np.testing.assert_allclose(found, points, atol=1e-3)


def test_members_in_files_of_their_own(weather: np.ndarray) -> None:
    """The temperature of member 1 is 1 K above that of member 0, and of member 2 2 K."""
    paths = [CASES / "09-members-in-files" / f"member{number}.nc" for number in (2, 1, 0)]
    with open_fields(paths, NAMES) as fields:
        assert fields.members == (0, 1, 2)
        for member in fields.members:
            np.testing.assert_allclose(read(fields, member)[0] - weather[0], member, atol=2e-3)


@pytest.mark.parametrize(
    ("file", "wrong"),
    [
        ("land.nc", "t2m is missing\n.*\n.*\n.*other hours lack these too, as ERA5-Land lacks the sea"),
        ("nanhour.nc", "t2m is missing\n.*2016-01-01T02:00\n.*\n.*--skip-bad-hours"),
    ],
)
def test_missing_values_are_told_apart(file: str, wrong: str) -> None:
    with open_fields([CASES / "11-era5-land-sea" / file], NAMES) as fields:
        grid = Grid(rows=32, cols=32, west=3_960_000, north=2_550_000)
        regridded = Regridded(fields, grid.coarse, NAMES)
        with pytest.raises(LdmdownError, match=wrong):
            [regridded.read(index) for index in range(len(fields))]


def test_tables_of_stations() -> None:
    folder = CASES / "12-station-tables"
    hour = int(np.datetime64("2022-01-15T09", "h").astype(int))
    missing = read_stations(folder / "missing.csv").values
    assert np.isnan(missing[hour]["t2m"]).sum() == np.isnan(missing[hour + 1]["t2m"]).sum() == 1
    np.testing.assert_allclose(np.nanmean(missing[hour + 1]["t2m"]), 273.15 + 2.5)
    assert np.isnan(missing[hour + 1]["ws10"]).sum() == 1
    comma = read_stations(folder / "comma.csv")
    assert (comma.lat[0], comma.lon[0]) == (45.45, 9.28)
    np.testing.assert_allclose([comma.values[hour + place]["t2m"][0] for place in (0, 1)], [274.15, 275.15])
    with pytest.raises(LdmdownError, match="can be read"):
        read_stations(folder / "ddmm.csv")


@pytest.mark.slow
def test_the_python_script_runs(tmp_path: Path) -> None:
    for file in (CASES / "14-python-order").iterdir():
        shutil.copy(file, tmp_path)
    done = subprocess.run([sys.executable, "api1.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 250 < float(done.stdout.split()[-1]) < 300
