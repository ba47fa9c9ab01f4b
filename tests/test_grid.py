from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyproj
import pytest
import xarray as xr

from ldmdown.data.grid import LONLAT, Grid, SourceGrid, grid_north, regrid, rotate_to_earth, rotated_pole

ITALY = Grid()
ROTATED = rotated_pole(47.0, -168.0)


def test_the_papers_grid() -> None:
    assert ITALY.shape == (672, 576) and ITALY.coarse.shape == (84, 72)
    assert (ITALY.x[0], ITALY.x[-1], ITALY.y[0], ITALY.y[-1]) == (3_911_000, 5_061_000, 2_697_000, 1_355_000)
    assert (ITALY.coarse.x[0], ITALY.coarse.y[0]) == (3_918_000, 2_690_000)
    np.testing.assert_allclose(ITALY.coarse.x, ITALY.x.reshape(-1, 8).mean(axis=1))


def test_north_of_epsg_3035_is_its_meridian_convergence() -> None:
    """0 at 10 E, growing eastwards. They part by a tenth of a degree: the map is not conformal."""
    grid = ITALY.coarse
    angle = np.degrees(grid_north(grid.projection, *np.meshgrid(grid.x, grid.y)))
    convergence = pyproj.Proj(grid.projection).get_factors(grid.lon, grid.lat).meridian_convergence
    np.testing.assert_allclose(angle, convergence, atol=0.2)
    column = np.abs(grid.lon[0] - 10).argmin()
    assert abs(angle[0, column]) < 0.1 and 6 < angle[0, -1] < 8 and (np.diff(angle[0]) > 0).all()


def test_a_wind_from_the_west_by_hand() -> None:
    """Where grid north points 30 degrees east of north, wind along the grid's x axis blows 30 degrees south of east."""
    east, north = rotate_to_earth(np.array(2.0), np.array(0.0), np.radians(30.0))
    assert (float(east), float(north)) == pytest.approx((3**0.5, -1.0))


def test_north_of_the_rotated_pole_by_spherical_trigonometry() -> None:
    """sin(angle) = sin(lon_pole - lon) cos(lat_pole) / cos(rlat), as the COSMO documentation has it."""
    rlon, rlat = np.meshgrid(np.linspace(-6, 6, 13), np.linspace(-8, 3, 12))
    lon, _ = pyproj.Transformer.from_crs(ROTATED, LONLAT, always_xy=True).transform(rlon, rlat)
    expected = np.arcsin(np.sin(np.radians(lon - 12)) * np.cos(np.radians(47)) / np.cos(np.radians(rlat)))
    np.testing.assert_allclose(
        grid_north(ROTATED, rlon, rlat), expected, atol=2e-3
    )  # the sphere beside WGS84's latitudes


def test_bilinear_is_exact_for_a_linear_field() -> None:
    source = SourceGrid(np.arange(48, 34, -0.25), np.arange(3, 21, 0.25))
    field = 3 * source.y[:, None] - 2 * source.x[None, :]
    lat, lon = ITALY.coarse.lat, ITALY.coarse.lon
    result = regrid(source.weights(lat, lon), field[None], lat.shape)
    np.testing.assert_allclose(result[0], 3 * lat - 2 * lon, atol=2e-5)


@pytest.mark.parametrize("shift", [0, 360])
def test_longitudes_round_the_globe(shift: int) -> None:
    source = SourceGrid(np.arange(90, -91, -1.0), np.arange(0, 360, 1.0) - 180 + shift / 2)
    field = np.cos(np.radians(source.x))[None, :] * np.ones((181, 1))
    lon = np.array([[-180.0, -179.6, -0.5, 0.0, 0.5, 179.6, 180.0]])
    result = regrid(source.weights(np.full_like(lon, 45.0), lon), field, lon.shape)
    np.testing.assert_allclose(result, np.cos(np.radians(lon)), atol=1e-4)


def test_missing_values_leave_their_weight_to_the_others() -> None:
    source = SourceGrid(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    field = np.array([[np.nan, 5.0], [np.nan, 7.0]])
    weights = source.weights(np.array([[0.5, 0.5]]), np.array([[0.5, 0.0]]))
    result = regrid(weights, field, (1, 2))
    assert result[0, 0] == 6 and np.isnan(result[0, 1])


@pytest.mark.skipif(shutil.which("cdo") is None, reason="needs cdo")
def test_bilinear_is_that_of_cdo(tmp_path: Path) -> None:
    lat, lon = np.arange(48, 33.9, -0.25), np.arange(3, 21.1, 0.25)
    field = np.sin(lat[:, None]) + np.cos(2 * lon[None, :]) + np.random.default_rng(0).normal(size=(57, 73))
    attributes = {name: {"units": f"degrees_{to}"} for name, to in (("lat", "north"), ("lon", "east"))}
    dataset = xr.Dataset(
        {"t": (("lat", "lon"), field)},
        {"lat": ("lat", lat, attributes["lat"]), "lon": ("lon", lon, attributes["lon"])},
    )
    dataset.to_netcdf(tmp_path / "in.nc", engine="netcdf4")
    target = ITALY.coarse
    rows, cols = target.shape
    lines = ["gridtype = curvilinear", f"gridsize = {rows * cols}", f"xsize = {cols}", f"ysize = {rows}"]
    for name, values in (("xvals", target.lon), ("yvals", target.lat)):
        lines += [f"{name} =", *(" ".join(f"{value:.10f}" for value in row) for row in values)]
    (tmp_path / "grid").write_text("\n".join(lines) + "\n")
    subprocess.run(["cdo", "-s", "remapbil,grid", "in.nc", "out.nc"], cwd=tmp_path, check=True, capture_output=True)
    with xr.open_dataset(tmp_path / "out.nc", engine="netcdf4") as result:
        ours = regrid(SourceGrid(lat, lon).weights(target.lat, target.lon), field, target.shape)
        np.testing.assert_allclose(ours, result.t.values, atol=1e-3 * field.std())


def test_the_largest_rectangle_by_trying_all() -> None:
    random = np.random.default_rng(1)
    for _ in range(20):
        inside = random.random((7, 9)) < 0.75
        row, col, rows, cols = Grid().covered(inside) or (0, 0, 0, 0)
        assert inside[row : row + rows, col : col + cols].all()
        best = max(
            (b - a) * (d - c)
            for a in range(7)
            for b in range(a + 1, 8)
            for c in range(9)
            for d in range(c + 1, 10)
            if inside[a:b, c:d].all()
        )
        assert rows * cols == best
    assert Grid().covered(np.zeros((3, 3), bool)) is None


def test_a_window_grows_to_what_the_networks_divide_and_stays_inside() -> None:
    (row, col, rows, cols), inner = ITALY.grow((80, 3, 3, 27), 4)
    assert (row, col, rows, cols) == (80, 3, 4, 28) and inner == (slice(0, 3), slice(0, 27))
    grown, inner = ITALY.grow((81, 45, 3, 27), 4)
    assert grown == (80, 44, 4, 28) and inner == (slice(1, 4), slice(1, 28))
    assert ITALY.window(grown).shape == (32, 224)
    assert ITALY.window((1, 2, 3, 4)).x[0] == ITALY.x[16]


def test_a_box_in_degrees() -> None:
    window = ITALY.containing(10.5, 45.9, 12.5, 47.1)
    assert window is not None
    row, col, rows, cols = window
    coarse = ITALY.coarse
    inside = (coarse.lon >= 10.5) & (coarse.lon <= 12.5) & (coarse.lat >= 45.9) & (coarse.lat <= 47.1)
    outside = inside.copy()
    outside[row : row + rows, col : col + cols] = False
    assert inside.any() and not outside.any()
    assert ITALY.containing(30, 45, 31, 46) is None
