from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyproj
import pytest
import xarray as xr
from made_up import OUTPUT_FIELDS, OUTPUT_GRID, OUTPUT_HOURS, rotated_reference, write_output
from made_up import REFERENCE_TIMES as TIMES

from ldmdown.data.grid import LONLAT, Grid
from ldmdown.data.reading.fields import open_fields
from ldmdown.data.reading.regridded import Regridded
from ldmdown.errors import LdmdownError

NAMES = ("t2m", "u10", "v10")
GRID = Grid(west=4_700_000, north=2_200_000, rows=16, cols=16)


@pytest.mark.parametrize(("east", "north"), [(5.0, 0.0), (0.0, 5.0), (-3.0, 4.0)])
def test_winds_become_earth_relative(tmp_path: Path, east: float, north: float) -> None:
    rotated_reference(east, north).to_netcdf(tmp_path / "day.nc", engine="netcdf4")
    fields = Regridded(open_fields([tmp_path / "day.nc"], NAMES), GRID, NAMES).read(1)
    np.testing.assert_allclose(fields[1], east, atol=0.02)  # the sphere's latitudes beside WGS84's
    np.testing.assert_allclose(fields[2], north, atol=0.02)
    np.testing.assert_allclose(fields[0], GRID.lat + 240, atol=1e-3)


def test_one_variable_a_file_and_a_day_a_file(tmp_path: Path) -> None:
    whole = rotated_reference(1, 2)
    files = []
    for name in ("T_2M", "U_10M", "V_10M"):
        for number, part in enumerate((slice(0, 1), slice(1, 3))):
            files.append(tmp_path / f"{name}_{number}.nc")
            whole[[name, "crs"]].isel(time=part).to_netcdf(files[-1], engine="netcdf4")
    reference = open_fields(files, NAMES)
    np.testing.assert_array_equal(reference.times, whole.time)
    whole.to_netcdf(tmp_path / "whole.nc", engine="netcdf4")
    np.testing.assert_array_equal(reference.read(2), open_fields([tmp_path / "whole.nc"], NAMES).read(2))


def test_on_the_grid_of_the_output_nothing_moves(tmp_path: Path) -> None:
    """A reference on EPSG:3035 with wind along the grid: values stay in their cells, and the wind turns."""
    field = np.random.default_rng(0).normal(280, 5, (1, *GRID.shape)).astype(np.float32)
    dims = ("time", "y", "x")
    dataset = xr.Dataset(
        {
            "t2m": (dims, field, {"units": "K", "grid_mapping": "crs"}),
            "u10": (dims, field * 0 + 3, {"units": "m s-1", "grid_mapping": "crs"}),
            "v10": (dims, field * 0 + 4, {"units": "m s-1", "grid_mapping": "crs"}),
            "crs": ((), 0, GRID.grid_mapping()),
        },
        {"time": TIMES[:1], "y": GRID.y, "x": GRID.x},
    )
    dataset.to_netcdf(tmp_path / "r.nc", engine="netcdf4")
    t2m, u10, v10 = Regridded(open_fields([tmp_path / "r.nc"], NAMES), GRID, NAMES).read(0)
    np.testing.assert_allclose(t2m, field[0], atol=1e-3)
    np.testing.assert_allclose(np.hypot(u10, v10), 5, atol=1e-4)
    angle = np.degrees(np.arctan2(u10, v10) - np.arctan2(3, 4))
    convergence = pyproj.Proj(GRID.projection).get_factors(GRID.lon, GRID.lat).meridian_convergence
    np.testing.assert_allclose(angle, convergence, atol=0.1)


def test_the_south_pole_of_grib_is_the_north_pole_of_cf(tmp_path: Path) -> None:
    """-47 N, 12 E lies opposite 47 N, -168 E; the wind turns alike."""
    whole = rotated_reference(3, -4)
    whole.to_netcdf(tmp_path / "north.nc", engine="netcdf4")
    whole["crs"].attrs = {"grid_south_pole_latitude": -47.0, "grid_south_pole_longitude": 12.0,
                          "grid_mapping_name": "rotated_latitude_longitude"}  # fmt: skip
    whole.to_netcdf(tmp_path / "south.nc", engine="netcdf4")
    north, south = (
        Regridded(open_fields([tmp_path / f"{pole}.nc"], NAMES), GRID, NAMES).read(0) for pole in ("north", "south")
    )
    np.testing.assert_allclose(south, north, atol=1e-3)
    np.testing.assert_allclose(south[1], 3, atol=0.02)


@pytest.mark.parametrize("along", [1, 0])
def test_grib_on_a_rotated_grid(tmp_path: Path, along: int) -> None:
    """Its flag says which way the wind points; its south pole and first point say where."""
    whole = rotated_reference(3, -4)
    import eccodes  # after pyproj

    fields = {"2t": (whole.T_2M, 2), "10u": (whole.U_10M, 10), "10v": (whole.V_10M, 10)}
    with (tmp_path / "day.grib2").open("wb") as file:
        for name, (field, height) in fields.items():
            handle = eccodes.codes_grib_new_from_samples("rotated_ll_sfc_grib2")
            keys = {
                "Ni": field.rlon.size, "Nj": field.rlat.size, "jScansPositively": 1, "uvRelativeToGrid": along,
                "latitudeOfFirstGridPointInDegrees": float(field.rlat[0]),
                "latitudeOfLastGridPointInDegrees": float(field.rlat[-1]),
                "longitudeOfFirstGridPointInDegrees": float(field.rlon[0]),
                "longitudeOfLastGridPointInDegrees": float(field.rlon[-1]),
                "iDirectionIncrementInDegrees": 0.02, "jDirectionIncrementInDegrees": 0.02,
                "latitudeOfSouthernPoleInDegrees": -47, "longitudeOfSouthernPoleInDegrees": 12,
                "dataDate": 20200101, "dataTime": 600, "typeOfLevel": "heightAboveGround", "level": height,
                "shortName": name, "bitsPerValue": 24,
            }  # fmt: skip
            for key, value in keys.items():
                eccodes.codes_set(handle, key, value)
            eccodes.codes_set_values(handle, field.values[0].ravel().astype(float))
            eccodes.codes_write(handle, file)
            eccodes.codes_release(handle)
    reference = open_fields([tmp_path / "day.grib2"], NAMES)
    assert reference.times[0] == np.datetime64("2020-01-01T06") and reference.rotated == bool(along)
    t2m, u10, v10 = Regridded(reference, GRID, reference.names).read(0)
    np.testing.assert_allclose(t2m, GRID.lat + 240, atol=1e-3)
    if along:
        np.testing.assert_allclose(u10, 3, atol=0.02)
        np.testing.assert_allclose(v10, -4, atol=0.02)
    else:
        assert np.abs(u10 - 3).min() > 0.1  # the numbers stand as they are


def test_grib_on_a_lambert_grid(tmp_path: Path) -> None:
    """As CERRA: the first point and the steps [m] say where; the wind along the grid is turned by pyproj's angle."""
    import eccodes  # after pyproj

    crs = pyproj.CRS("+proj=lcc +lat_0=44 +lat_1=44 +lat_2=44 +lon_0=8 +R=6371229")
    project = pyproj.Transformer.from_crs(LONLAT, crs, always_xy=True)
    x0, y0 = project.transform(10.0, 43.0)
    x, y = x0 + 5500 * np.arange(30), y0 + 5500 * np.arange(20)
    with (tmp_path / "cerra.grib2").open("wb") as file:
        for name, value in (("10u", 3.0), ("10v", -4.0)):
            handle = eccodes.codes_grib_new_from_samples("GRIB2")
            keys = {
                "gridType": "lambert", "shapeOfTheEarth": 6, "Nx": 30, "Ny": 20, "jScansPositively": 1,
                "LaDInDegrees": 44, "LoVInDegrees": 8, "Latin1InDegrees": 44, "Latin2InDegrees": 44,
                "DxInMetres": 5500, "DyInMetres": 5500, "latitudeOfFirstGridPointInDegrees": 43,
                "longitudeOfFirstGridPointInDegrees": 10, "uvRelativeToGrid": 1, "dataDate": 20200101,
                "dataTime": 600, "typeOfLevel": "heightAboveGround", "level": 10, "shortName": name,
            }  # fmt: skip
            for key, one in keys.items():
                eccodes.codes_set(handle, key, one)
            eccodes.codes_set_values(handle, np.full(600, value))
            eccodes.codes_write(handle, file)
            eccodes.codes_release(handle)
    with open_fields([tmp_path / "cerra.grib2"], ["u10", "v10"]) as fields:
        np.testing.assert_allclose(fields.grid.y, y[::-1], atol=1)
        np.testing.assert_allclose(fields.grid.x, x, atol=1)
        u10, v10 = fields.read(0)
        lon, lat = fields.grid.lonlat()
    turned = np.arctan2(3, -4) - np.arctan2(u10, v10)
    convergence = pyproj.Proj(crs).get_factors(lon, lat).meridian_convergence
    np.testing.assert_allclose(np.degrees(turned), -convergence, atol=0.01)
    np.testing.assert_allclose(np.hypot(u10, v10), 5, atol=1e-4)


@pytest.mark.parametrize("form", ["out.nc", "out.zarr"])
def test_our_own_output_comes_back(form: str, tmp_path: Path) -> None:
    with open_fields([write_output(tmp_path / form, OUTPUT_FIELDS)], NAMES) as fields:
        assert fields.members == (0, 1, 2) and not fields.rotated
        np.testing.assert_array_equal(fields.hours, OUTPUT_HOURS)
        np.testing.assert_array_equal(fields.grid.x, OUTPUT_GRID.x)
        np.testing.assert_array_equal(fields.grid.y, OUTPUT_GRID.y)
        for hour, member in ((0, 0), (2, 1), (1, 2)):
            np.testing.assert_array_equal(fields.read(hour, member), OUTPUT_FIELDS[hour, member])


def on_the_output_grid(values: np.ndarray, name: str, units: str, spacing: float) -> xr.Dataset:
    """Cells of another size over the fine grid and two of its cells around, in kilometres."""
    size = values.shape[-1]
    x = (GRID.west - 4000 + (np.arange(size) + 0.5) * spacing) / 1000
    y = (GRID.north + 4000 - (np.arange(size) + 0.5) * spacing) / 1000
    axes = {"x": ("x", x, {"units": "km", "standard_name": "projection_x_coordinate"}),
            "y": ("y", y, {"units": "km", "standard_name": "projection_y_coordinate"})}  # fmt: skip
    field = (("time", "y", "x"), values[None], {"units": units, "grid_mapping": "crs"})
    return xr.Dataset({name: field, "crs": ((), 0, GRID.grid_mapping())}, {"time": TIMES[:1], **axes})


def test_amounts_are_kept_and_states_are_not_averaged(tmp_path: Path) -> None:
    """Of 1 km cells, rain is the mean of the four in a cell, in metres; temperature the value at its centre."""
    values = np.random.default_rng(0).gamma(0.5, 2, (40, 40)).astype(np.float32)
    on_the_output_grid(values, "TOT_PREC", "kg m-2", 1000).to_netcdf(tmp_path / "rain.nc", engine="netcdf4")
    rain = Regridded(open_fields([tmp_path / "rain.nc"], ["tp"]), GRID, ["tp"]).read(0)[0]
    means = values.reshape(20, 2, 20, 2).mean((1, 3))[2:-2, 2:-2]
    np.testing.assert_allclose(rain, means / 1000, rtol=1e-4)
    coarse = np.random.default_rng(0).normal(10, 2, (10, 10)).astype(np.float32)
    on_the_output_grid(coarse, "T_2M", "degC", 4000).to_netcdf(tmp_path / "warm.nc", engine="netcdf4")
    warm = Regridded(open_fields([tmp_path / "warm.nc"], ["t2m"]), GRID, ["t2m"]).read(0)[0]
    corner = coarse[:2, :2] * np.array([[1, 3], [3, 9]]) / 16  # a quarter of the way from the second centre
    assert warm[0, 0] == pytest.approx(corner.sum() + 273.15, abs=1e-3)


def test_longitude_and_latitude_need_no_turning(tmp_path: Path) -> None:
    lon, lat = np.arange(14.5, 16.5, 0.02), np.arange(43, 41, -0.02)
    wind = np.full((3, lat.size, lon.size), 5, np.float32)
    fields = {name: (("valid_time", "lat", "lon"), wind, {"units": "m/s"}) for name in ("u10", "v10")}
    xr.Dataset(fields, {"valid_time": TIMES, "lat": lat, "lon": lon}).to_netcdf(tmp_path / "l.nc", engine="netcdf4")
    reference = open_fields([tmp_path / "l.nc"], ["u10"])
    assert not reference.rotated and reference.hours[1] - reference.hours[0] == 1
    np.testing.assert_allclose(Regridded(reference, GRID, reference.names).read(2), 5)


def test_hours_kept_in_one_chunk_come_out_one_by_one(tmp_path: Path) -> None:
    whole = rotated_reference(1, 2)
    whole["T_2M"] = whole.T_2M + xr.DataArray(np.arange(3, dtype=np.float32), dims="time")
    encoding = {"T_2M": {"chunksizes": whole.T_2M.shape, "zlib": True}}
    whole.to_netcdf(tmp_path / "c.nc", engine="netcdf4", encoding=encoding)
    reference = open_fields([tmp_path / "c.nc"], NAMES)
    for index in (2, 0, 1):
        np.testing.assert_array_equal(reference.read(index)[0], whole.T_2M[index].values[::-1])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda d: d.assign_coords(time=d.time + np.timedelta64(30, "m")),
            "has times between full hours\n  found: 2020-01",
        ),
        (lambda d: d.expand_dims(soil=[1, 2]), "T_2M has unexpected dimensions\n  found: soil of 2"),
        (lambda d: d.rename(rlat="row", rlon="col"), "T_2M is on no regular grid\n  found: time of 3, row of"),
        (lambda d: d.drop_vars("time"), "has no coordinate of time"),
        (lambda d: d.assign(T_2M=d.T_2M.assign_attrs(units="W m-2")), "units that are not understood\n  found: W m-2"),
        (lambda d: d.assign(crs=d.crs.assign_attrs(grid_mapping_name="moon")), "its grid mapping is not understood"),
    ],
)
def test_files_that_are_not_understood(tmp_path: Path, edit: Callable[[xr.Dataset], xr.Dataset], message: str) -> None:
    edit(rotated_reference(1, 2)).to_netcdf(tmp_path / "r.nc", engine="netcdf4")
    with pytest.raises(LdmdownError, match=message):
        open_fields([tmp_path / "r.nc"], NAMES)


def test_errors(tmp_path: Path) -> None:
    whole = rotated_reference(1, 2)
    file = tmp_path / "r.nc"
    whole.drop_vars("crs").to_netcdf(file, engine="netcdf4")
    with pytest.raises(LdmdownError) as caught:
        open_fields([file], NAMES)
    assert str(caught.value) == (
        f"{file}: does not say what projection its grid is in\n"
        "  expected: a CF grid mapping variable, with grid_mapping_name\n"
        "  fix: restore it; it is lost when a tool copies only the fields"
    )
    file = tmp_path / "good.nc"
    whole.to_netcdf(file, engine="netcdf4")
    with pytest.raises(LdmdownError, match="one wind component alone cannot be turned"):
        open_fields([file], ("t2m", "u10"))
    whole["T_2M"] -= 273.15
    whole.to_netcdf(tmp_path / "c.nc", engine="netcdf4")
    with pytest.raises(
        LdmdownError, match="t2m is not physical\n  found: .* 2020-01-01T01:00\n(.*\n)*  fix: these look like degC"
    ):
        open_fields([tmp_path / "c.nc"], NAMES).read(1)
    with pytest.raises(LdmdownError, match="tp is missing\n  found: T_2M, U_10M, V_10M, crs"):
        open_fields([file], ("tp",))
