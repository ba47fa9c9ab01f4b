from __future__ import annotations

from pathlib import Path

import numpy as np
import pyproj
import pytest
import xarray as xr

from ldmdown.data.grid import LONLAT, Grid
from ldmdown.data.reference import ReferenceOnGrid, open_reference
from ldmdown.errors import LdmdownError

NAMES = ("t2m", "u10", "v10")
GRID = Grid(west=4_700_000, north=2_200_000, rows=16, cols=16)
ROTATED = {
    "grid_mapping_name": "rotated_latitude_longitude",
    "grid_north_pole_latitude": 47.0,
    "grid_north_pole_longitude": -168.0,
}
TIMES = np.arange(3) * np.timedelta64(1, "h") + np.datetime64("2020-01-01", "ns")


def rotated(east: float, north: float) -> xr.Dataset:
    """VHR-REA_IT's layout with a wind that is the same everywhere on earth, turned onto the rotated grid.

    A step of the wind on the sphere, seen from the rotated pole: no formula of an angle in it.
    """
    rlat, rlon = np.arange(-1.2, 0.8, 0.02), np.arange(0.9, 2.9, 0.02)
    crs = pyproj.CRS.from_cf(ROTATED)
    there = pyproj.Transformer.from_crs(LONLAT, crs, always_xy=True)
    lon, lat = there.transform(*np.meshgrid(rlon, rlat), direction="INVERSE")
    step = 1e-4  # [degrees]
    forward = there.transform(lon + step * east / np.cos(np.radians(lat)), lat + step * north)
    back = there.transform(lon - step * east / np.cos(np.radians(lat)), lat - step * north)
    u = (forward[0] - back[0]) / (2 * step) * np.cos(np.radians(rlat))[:, None]
    v = (forward[1] - back[1]) / (2 * step)
    dims = ("time", "rlat", "rlon")
    fields = {
        "T_2M": (lat + 240, "K"),
        "U_10M": (u, "m s-1"),
        "V_10M": (v, "m s-1"),
    }
    return xr.Dataset(
        {
            name: (dims, np.stack([field] * 3).astype(np.float32), {"units": units, "grid_mapping": "crs"})
            for name, (field, units) in fields.items()
        }
        | {"crs": ((), 0, ROTATED)},
        {"time": TIMES, "rlat": rlat, "rlon": rlon},
    )


@pytest.mark.parametrize(("east", "north"), [(5.0, 0.0), (0.0, 5.0), (-3.0, 4.0)])
def test_winds_become_earth_relative(tmp_path: Path, east: float, north: float) -> None:
    rotated(east, north).to_netcdf(tmp_path / "day.nc", engine="netcdf4")
    fields = ReferenceOnGrid(open_reference([tmp_path / "day.nc"], NAMES), GRID).read(1)
    np.testing.assert_allclose(fields[1], east, atol=0.02)  # the sphere's latitudes beside WGS84's
    np.testing.assert_allclose(fields[2], north, atol=0.02)
    np.testing.assert_allclose(fields[0], GRID.lat + 240, atol=1e-3)


def test_one_variable_a_file_and_a_day_a_file(tmp_path: Path) -> None:
    whole = rotated(1, 2)
    files = []
    for name in ("T_2M", "U_10M", "V_10M"):
        for number, part in enumerate((slice(0, 1), slice(1, 3))):
            files.append(tmp_path / f"{name}_{number}.nc")
            whole[[name, "crs"]].isel(time=part).to_netcdf(files[-1], engine="netcdf4")
    reference = open_reference(files, NAMES)
    assert reference.times.tolist() == whole.time.values.tolist()
    whole.to_netcdf(tmp_path / "whole.nc", engine="netcdf4")
    np.testing.assert_array_equal(reference.read(2), open_reference([tmp_path / "whole.nc"], NAMES).read(2))


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
    t2m, u10, v10 = ReferenceOnGrid(open_reference([tmp_path / "r.nc"], NAMES), GRID).read(0)
    np.testing.assert_allclose(t2m, field[0], atol=1e-3)
    np.testing.assert_allclose(np.hypot(u10, v10), 5, atol=1e-4)
    angle = np.degrees(np.arctan2(u10, v10) - np.arctan2(3, 4))
    convergence = pyproj.Proj(GRID.projection).get_factors(GRID.lon, GRID.lat).meridian_convergence
    np.testing.assert_allclose(angle, convergence, atol=0.1)


def test_errors(tmp_path: Path) -> None:
    whole = rotated(1, 2)
    file = tmp_path / "r.nc"
    whole.drop_vars("crs").to_netcdf(file, engine="netcdf4")
    with pytest.raises(LdmdownError) as caught:
        open_reference([file], NAMES)
    assert str(caught.value) == (
        f"{file}: does not say what projection its grid is in\n"
        "  expected: a CF grid mapping variable, with grid_mapping_name\n"
        "  cure: restore it; it is lost when a tool copies only the fields"
    )
    file = tmp_path / "good.nc"
    whole.to_netcdf(file, engine="netcdf4")
    with pytest.raises(LdmdownError, match="one wind component alone cannot be turned"):
        open_reference([file], ("t2m", "u10"))
    with pytest.raises(LdmdownError, match="does not cover the grid of the configuration\n  found: "):
        ReferenceOnGrid(open_reference([file], NAMES), Grid())
    whole["T_2M"] -= 273.15
    whole.to_netcdf(tmp_path / "c.nc", engine="netcdf4")
    with pytest.raises(LdmdownError, match="t2m is not physical at 2020-01-01T01"):
        open_reference([tmp_path / "c.nc"], NAMES).read(1)
    with pytest.raises(LdmdownError, match="tp is missing\n  found: T_2M, U_10M, V_10M, crs"):
        open_reference([file], ("tp",))
