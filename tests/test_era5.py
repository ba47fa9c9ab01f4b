"""ERA5 as it arrives: made-up files of every layout say the same, real ones are read, and bad ones are named."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from ldmdown.data.grid import Grid
from ldmdown.data.reading.blocks import SKIP
from ldmdown.data.reading.fields import open_fields
from ldmdown.data.reading.regridded import Regridded, check_coverage, covered_window
from ldmdown.data.solar import cos_zenith
from ldmdown.errors import LdmdownError

NAMES = ("t2m", "u10", "v10", "cossza", "cossza_2h")
ITALY = Grid()
DATA = os.environ.get("LDMDOWN_TEST_DATA")
real = pytest.mark.skipif(not DATA, reason="LDMDOWN_TEST_DATA is not set")


def data(name: str) -> Path:
    return Path(str(DATA)) / "data" / "era5" / name


@pytest.fixture
def new(era5: Callable[..., Path]) -> xr.Dataset:
    """Six hours in the new CDS layout."""
    with xr.open_dataset(era5(range(6)), engine="netcdf4") as dataset:
        return dataset.load()


def written(dataset: xr.Dataset, path: Path, **encoding: object) -> Path:
    dataset.to_netcdf(path, engine="netcdf4", encoding=encoding or None)
    return path


def test_predictors_are_bilinear_and_know_the_sun(new: xr.Dataset, tmp_path: Path) -> None:
    linear = new.assign(t2m=(new.t2m * 0 + 280 + new.latitude - 40 + 0.5 * new.longitude).assign_attrs(units="K"))
    fields = open_fields([written(linear, tmp_path / "linear.nc")], NAMES)
    window = covered_window(fields, ITALY)
    assert window is not None
    cells = ITALY.coarse.window(window)
    predictors = Regridded(fields, cells, NAMES)
    field = predictors.read(2)
    lat, lon = cells.lat, cells.lon
    np.testing.assert_allclose(field[0], 240 + lat + 0.5 * lon, atol=1e-4)
    np.testing.assert_allclose(field[3], cos_zenith(int(predictors.hours[2]), lat, lon), atol=1e-6)
    np.testing.assert_allclose(field[4], cos_zenith(int(predictors.hours[0]), lat, lon), atol=1e-6)


def test_the_nearest_value_instead_of_interpolation(new: xr.Dataset, tmp_path: Path) -> None:
    fields = open_fields([written(new, tmp_path / "new.nc")], ("t2m",))
    window = covered_window(fields, ITALY)
    assert window is not None
    cells = ITALY.coarse.window(window)
    field = Regridded(fields, cells, ["t2m"], nearest=True).read(2)[0]
    lat, lon = cells.lat, cells.lon
    for i, j in ((0, 0), (3, 2), (-1, -1)):
        assert field[i, j] == new.t2m[2].sel(latitude=lat[i, j], longitude=lon[i, j], method="nearest")


def test_the_sun_of_an_almanac() -> None:
    """On the day of the March equinox it is overhead on the equator, at 12 UTC 1.9 degrees east of Greenwich."""
    noon = np.datetime64("2021-03-20T12", "h").astype(int)
    assert cos_zenith(noon, np.array(0.0), np.array(1.9)) == pytest.approx(1, abs=1e-3)
    assert cos_zenith(noon, np.array(45.0), np.array(1.9)) == pytest.approx(np.sqrt(0.5), abs=0.01)
    assert cos_zenith(noon + 12, np.array(0.0), np.array(1.9)) == pytest.approx(-1, abs=1e-3)
    june = np.datetime64("2021-06-21T12", "h").astype(int)
    assert cos_zenith(june, np.array(23.44), np.array(0.0)) == pytest.approx(1, abs=1e-3)


# Errors: (bad input, exact message)


def test_a_missing_variable(new: xr.Dataset, tmp_path: Path) -> None:
    path = written(new[["t2m"]], tmp_path / "t.nc")
    with pytest.raises(LdmdownError) as caught:
        open_fields([path], NAMES, request="ldmdown request")
    assert str(caught.value) == (
        f"{path}: u10, v10 are missing\n"
        "  found: t2m\n"
        "  expected: under names such as u10, 10u, 10m_u_component_of_wind; "
        "v10, 10v, 10m_v_component_of_wind\n"
        "  fix: name all files together; this prints the script that gets them: "
        "ldmdown request --start 2021-03-01 --end 2021-03-01"
    )


def test_too_small_an_area(new: xr.Dataset, tmp_path: Path) -> None:
    fields = open_fields([written(new, tmp_path / "small.nc")], NAMES)
    with pytest.raises(LdmdownError) as caught:
        check_coverage(fields, ITALY, ITALY.whole)
    assert str(caught.value) == (
        f"{tmp_path / 'small.nc'}: covers too little of the domain\n"
        "  found: 14.00 to 17.50 E, 41.00 to 43.25 N\n"
        "  expected: at least 4.68 to 19.64 E, 34.97 to 47.32 N\n"
        "  fix: download a larger area, or downscale what is there with --region covered"
    )


def test_a_value_that_is_not_physical(new: xr.Dataset, tmp_path: Path) -> None:
    new.t2m[2, 3, 4] = 27.5
    path = written(new, tmp_path / "bad.nc")
    fields = open_fields([path], NAMES)
    with pytest.raises(LdmdownError) as caught:
        fields.read(2)
    assert str(caught.value) == (
        f"{path}: t2m is not physical\n"
        "  found: 27.5 K at 42.5 N, 15 E, 2021-03-01T02:00\n"
        "  expected: 180 to 340 K\n"
        f"  fix: check the attributes units and _FillValue of the file, or {SKIP}"
    )


def test_units_that_are_not_understood(new: xr.Dataset, tmp_path: Path) -> None:
    new.u10.attrs["units"] = "furlongs per fortnight"
    path = written(new, tmp_path / "bad.nc")
    with pytest.raises(LdmdownError) as caught:
        open_fields([path], NAMES)
    assert str(caught.value) == (
        f"{path}: u10 has units that are not understood\n"
        "  found: furlongs per fortnight\n"
        "  expected: m s-1\n"
        "  fix: correct its units"
    )


def test_files_that_are_not_data(tmp_path: Path) -> None:
    page = tmp_path / "era5.nc"
    page.write_text("<html>Your request was queued</html>")
    with pytest.raises(LdmdownError, match="is no NetCDF, GRIB or zip file\n  found: first bytes b'<htm'"):
        open_fields([page], NAMES)
    with pytest.raises(LdmdownError, match="no such file\n  fix: check the path"):
        open_fields([tmp_path / "none.nc"], NAMES)
    page.write_bytes(b"\x89HDF\r\n\x1a\ncut off")
    with pytest.raises(LdmdownError, match=r"era5.nc: cannot be read\n  found: .*\n  fix: download it again"):
        open_fields([page], NAMES)


def test_variables_on_different_grids(new: xr.Dataset, tmp_path: Path) -> None:
    written(new[["t2m"]], tmp_path / "t.nc")
    written(new[["u10", "v10"]].isel(latitude=slice(1, None)), tmp_path / "w.nc")
    with pytest.raises(
        LdmdownError, match="u10 and t2m are on different grids\n  found: 14.00 to 17.50 E, 41.00 to 43"
    ):
        open_fields([tmp_path / "t.nc", tmp_path / "w.nc"], NAMES)


# Real files


@real
def test_the_western_alps() -> None:
    fields = open_fields([data("legacy_western_alps_20160101_surface.nc")], NAMES)
    assert (len(fields), *fields.grid.shape) == (24, 12, 24)
    assert covered_window(fields, ITALY) == (0, 3, 13, 27)


@real
def test_temperature_alone_names_the_missing_winds() -> None:
    with pytest.raises(LdmdownError, match=r"cdm_global_20170101T12_t2m.nc: u10, v10 are missing\n  found: t2m"):
        open_fields([data("cdm_global_20170101T12_t2m.nc")], NAMES)


@real
def test_the_globe_at_one_degree() -> None:
    fields = open_fields([data("legacy_global_1deg_lon360_pressure_levels.nc")], ("t850",))
    t850 = fields.read(0)
    assert fields.grid.is_global and t850.min() > 200 and t850.max() < 320
