from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyproj
import pytest
import xarray as xr

from ldmdown.data.grid import (
    LONLAT,
    Grid,
    SourceGrid,
    grid_north,
    largest_rectangle,
    regrid,
    rotate_to_earth,
    rotated_pole,
    transformer,
)

ITALY = Grid()
ROTATED = rotated_pole(47.0, -168.0)


def test_the_papers_grid() -> None:
    assert ITALY.shape == (672, 576) and ITALY.coarse.shape == (84, 72)
    assert (ITALY.x[0], ITALY.x[-1], ITALY.y[0], ITALY.y[-1]) == (3_911_000, 5_061_000, 2_697_000, 1_355_000)
    assert (ITALY.coarse.x[0], ITALY.coarse.y[0]) == (3_918_000, 2_690_000)
    np.testing.assert_allclose(ITALY.coarse.x, ITALY.x.reshape(-1, 8).mean(axis=1))


def test_wgs84_is_etrs89_and_no_other_datum() -> None:
    """pyproj's own choice of a shift gives the same, bit for bit; from Rome's old datum (Monte Mario) it is metres."""
    for crs, point in (("EPSG:3035", (4_500_000.0, 2_000_000.0)), ("EPSG:3003", (1_700_000.0, 4_700_000.0))):
        lonlat = pyproj.Transformer.from_crs(crs, LONLAT, always_xy=True).transform(*point)
        assert transformer(pyproj.CRS(crs), LONLAT).transform(*point) == lonlat
        there = pyproj.Transformer.from_crs(LONLAT, crs, always_xy=True).transform(*lonlat)
        assert transformer(LONLAT, crs).transform(*lonlat) == there


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


def test_a_point_outside_has_no_value() -> None:
    """Not zero, where a field without gaps covers only a part of a grid."""
    source = SourceGrid(np.array([46.0, 45.0]), np.array([10.0, 11.0]))
    weights = source.weights(np.array([45.5, 44.5]), np.array([10.5, 10.5]))
    np.testing.assert_array_equal(regrid(weights, np.full((2, 2), 7.0), (1, 2)), [[7.0, np.nan]])


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


def test_a_share_of_each_cell_that_is_cut() -> None:
    """A target's cell of 2 x 2 over cells of 1.6 x 1.6 with a corner at its south-west: shares by hand."""
    target = Grid(west=4_000_000, north=2_000_000, rows=1, cols=1, spacing=2, factor=1)
    centres = 0.8 + 1.6 * np.arange(2)
    source = SourceGrid(1_999_998 + centres, 4_000_000 + centres, target.projection)
    expected = np.outer([0.8, 0.2], [0.8, 0.2]).ravel()
    np.testing.assert_allclose(source.conservative(target).toarray()[0], expected, atol=1e-6)


def test_conservative_to_coarser_cells_is_their_mean() -> None:
    source = SourceGrid(ITALY.y, ITALY.x, ITALY.projection)
    field = np.random.default_rng(0).random(ITALY.shape)
    result = regrid(source.conservative(ITALY.coarse), field, ITALY.coarse.shape)
    np.testing.assert_allclose(result, field.reshape(84, 8, 72, 8).mean(axis=(1, 3)), atol=1e-6)


def test_conservative_keeps_the_whole_amount() -> None:
    """Rain on one patch of the ellipsoid, with its area from geodesics."""
    source = SourceGrid(np.arange(50, 31.9, -0.25), np.arange(2, 23.1, 0.25))
    field = np.zeros(source.shape)
    field[20:50, 30:55] = np.random.default_rng(0).random((30, 25))
    geod = pyproj.Geod(ellps="GRS80")
    fell = 0.0
    for i, j in np.argwhere(field):
        west, south = source.x[j] - 0.125, source.y[i] - 0.125
        east, north = west + 0.25, south + 0.25
        area, _ = geod.polygon_area_perimeter([west, east, east, west], [south, south, north, north])
        fell += field[i, j] * abs(area)
    coarse = ITALY.coarse
    arrived = coarse.spacing**2 * regrid(source.conservative(coarse), field, coarse.shape).sum()
    assert arrived == pytest.approx(fell, rel=1e-4)


def test_the_cell_opposite_the_projections_centre_stays_there() -> None:
    """A corner at 52 S, 170 W lies at infinity, and its neighbours all round the map."""
    source = SourceGrid(np.arange(89, -90, -2.0), np.arange(1, 360, 2.0))
    used = np.unique(source.conservative(ITALY.coarse).indices)
    lat, lon = source.y[used // 180], source.x[used % 180]
    assert lat.min() > 30 and lat.max() < 52 and ((lon < 25) | (lon > 355)).all()


class Cdo:
    """Regrids one field with cdo, from cells given by their corners to those of a grid."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, operator: str, source: SourceGrid, field: np.ndarray, target: Grid) -> np.ndarray:
        back = pyproj.Transformer.from_crs(target.projection, LONLAT, always_xy=True)
        corners = _corners(target.y, target.x, back)
        rows, cols = target.shape
        lines = ["gridtype = curvilinear", f"gridsize = {rows * cols}", f"xsize = {cols}", f"ysize = {rows}"]
        numbers = {"xvals": target.lon, "yvals": target.lat, "xbounds": corners[0], "ybounds": corners[1]}
        for name, values in numbers.items():
            lines += [f"{name} =", *(" ".join(f"{value:.10f}" for value in row) for row in values.reshape(rows, -1))]
        (self.folder / "grid").write_text("\n".join(lines) + "\n")
        self._write(source, field)
        command = ["cdo", "-s", f"{operator},grid", "in.nc", "out.nc"]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True)
        with xr.open_dataset(self.folder / "out.nc", engine="netcdf4") as result:
            return result.t.values

    def _write(self, source: SourceGrid, field: np.ndarray) -> None:
        dims = ("lat", "lon")
        lat, lon = ("lat", source.y), ("lon", source.x)
        bounds = {}
        if source.crs != LONLAT:
            dims = ("y", "x")
            lon, lat = ((dims, values) for values in source.lonlat())
            back = pyproj.Transformer.from_crs(source.crs, LONLAT, always_xy=True)
            for name, values in zip(("lon", "lat"), _corners(source.y, source.x, back), strict=True):
                bounds[f"{name}_bounds"] = ((*dims, "corner"), values)
        dataset = xr.Dataset({"t": (dims, field), **bounds}, {"lat": lat, "lon": lon})
        for name, to in (("lat", "north"), ("lon", "east")):
            dataset[name].attrs = {"units": f"degrees_{to}"} | ({"bounds": f"{name}_bounds"} if bounds else {})
        dataset.to_netcdf(self.folder / "in.nc", engine="netcdf4")


def _corners(y: np.ndarray, x: np.ndarray, back: pyproj.Transformer) -> np.ndarray:
    """(2, rows, cols, 4): longitudes and latitudes of the corners of cells, counterclockwise."""
    half_x, half_y = np.diff(x).mean() / 2, np.diff(y).mean() / 2
    xs, ys = np.meshgrid(x, y)
    around = [back.transform(xs + i * half_x, ys + j * half_y) for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    return np.stack(around, axis=-1).reshape(2, *xs.shape, 4)


@pytest.fixture
def cdo(tmp_path: Path) -> Cdo:
    if shutil.which("cdo") is None:
        pytest.skip("needs cdo")
    return Cdo(tmp_path)


SOURCES = {
    "a quarter of a degree": SourceGrid(np.arange(50, 31.9, -0.25), np.arange(2, 23.1, 0.25)),
    "the globe, a degree, from Greenwich": SourceGrid(np.arange(90, -91, -1.0), np.arange(0, 360, 1.0)),
    "a rotated pole": SourceGrid(np.arange(-8, 7.5, 0.2), np.arange(-6.5, 6.6, 0.2), rotated_pole(47, -168)),
}


def weather(source: SourceGrid, missing: bool) -> np.ndarray:
    """Waves and noise; with `missing`, a sea without values whose coast crosses the domain."""
    lon, lat = source.lonlat()
    lon = (lon + 180) % 360 - 180
    field = np.sin(lat) + np.cos(2 * lon) + np.random.default_rng(0).normal(size=lat.shape)
    return np.where(missing & (lon + np.sin(lat) > 12), np.nan, field)


@pytest.mark.parametrize("missing", [False, True], ids=["everywhere", "coast"])
@pytest.mark.parametrize("name", SOURCES)
def test_conservative_is_that_of_cdo(cdo: Cdo, name: str, missing: bool) -> None:
    source, target = SOURCES[name], ITALY.coarse
    field = weather(source, missing)
    expected = cdo("remapcon", source, field, target)
    result = regrid(source.conservative(target), field, target.shape)
    np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))
    np.testing.assert_allclose(result, expected, atol=1e-3 * np.nanstd(field))


@pytest.mark.parametrize("name", ["a quarter of a degree", "the globe, a degree, from Greenwich"])
def test_bilinear_is_that_of_cdo(cdo: Cdo, name: str) -> None:
    source, target = SOURCES[name], ITALY.coarse
    field = weather(source, missing=False)
    expected = cdo("remapbil", source, field, target)
    result = regrid(source.weights(target.lat, target.lon), field, target.shape)
    np.testing.assert_allclose(result, expected, atol=1e-3 * field.std())


def test_the_largest_rectangle_by_trying_all() -> None:
    random = np.random.default_rng(1)
    for _ in range(20):
        inside = random.random((7, 9)) < 0.75
        row, col, rows, cols = largest_rectangle(inside) or (0, 0, 0, 0)
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
    assert largest_rectangle(np.zeros((3, 3), bool)) is None


def test_a_window_grows_to_what_the_networks_divide_and_stays_inside() -> None:
    assert ITALY.grow((80, 3, 3, 27), 4) == (80, 0, 4, 32)
    grown = ITALY.grow((81, 45, 3, 27), 4)
    assert grown == (80, 44, 4, 28)
    assert ITALY.grow((81, 1, 2, 7), 16) == (68, 0, 16, 16)  # 84 rows are no multiple of 16
    assert ITALY.grow((0, 0, 84, 72), 16) == (0, 0, 84, 72)
    assert ITALY.window(grown).shape == (32, 224)
    assert ITALY.window((1, 2, 3, 4)).x[0] == ITALY.x[16]
    assert ITALY.fine((1, 2, 3, 4)) == (slice(8, 32), slice(16, 48))


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
