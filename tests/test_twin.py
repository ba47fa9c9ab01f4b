from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyproj
import pytest
import xarray as xr
from benchmarks.twin_hardness import draw, excess, hardness, residual_std

from ldmdown.data.grid import Grid
from ldmdown.errors import LdmdownError
from ldmdown.metrics import power_spectrum
from ldmdown.twin.files import TwinFiles
from ldmdown.twin.noise import Noise, SmoothNoise
from ldmdown.twin.recipe import RECIPE, TwinWorld, limited_wind, medium_splines, rotation_of_grid
from ldmdown.twin.response import State, Terms, land_sea_contrast, response
from ldmdown.twin.terrain import CELL, HighPass, TerrainFeatures, blur, read_raster, riesz

NIGHT, NOON = (int(np.datetime64(moment, "h").astype(int)) for moment in ("2021-01-14T03", "2021-07-19T12"))
GRID = Grid(crs="EPSG:3035", west=4_330_000, north=2_420_000, rows=128, cols=128, spacing=2000)


@pytest.fixture(scope="module")
def world() -> TwinWorld:
    return TwinWorld(GRID)


def test_the_grids_cover_the_domain_and_are_laid_out_as_the_archives(world: TwinWorld) -> None:
    x = GRID.west + np.array([0, GRID.cols]) * GRID.spacing
    y = GRID.north - np.array([0, GRID.rows]) * GRID.spacing
    lon, lat = pyproj.Transformer.from_crs(GRID.crs, "EPSG:4326", always_xy=True).transform(*np.meshgrid(x, y))
    assert world.longitude[0] <= lon.min() - 0.5 and world.longitude[-1] >= lon.max() + 0.5
    assert world.latitude[-1] <= lat.min() - 0.5 and world.latitude[0] >= lat.max() + 0.5
    np.testing.assert_allclose(world.longitude * 4, np.round(world.longitude * 4))
    np.testing.assert_allclose(np.diff(world.latitude), -0.25)
    np.testing.assert_allclose(np.diff(world.rlon), 0.02)
    assert world.lat[0].max() < lat.min() and world.lat[-1].min() > lat.max()
    assert world.lon[:, 0].max() < lon.min() and world.lon[:, -1].min() > lon.max()


def test_the_rotated_pole_is_where_it_should_be(world: TwinWorld) -> None:
    rlat, rlon = np.meshgrid(np.radians(world.rlat), np.radians(world.rlon), indexing="ij")
    x, y, z = np.cos(rlat) * np.cos(rlon), np.cos(rlat) * np.sin(rlon), np.sin(rlat)
    up = np.radians(43)  # the grid's origin lies at 43 N, 12 E
    x, z = x * np.cos(up) - z * np.sin(up), z * np.cos(up) + x * np.sin(up)
    np.testing.assert_allclose(world.lon, 12 + np.degrees(np.arctan2(y, x)), atol=1e-6)
    np.testing.assert_allclose(world.lat, np.degrees(np.arcsin(z)), atol=1e-6)


def test_the_rotation_is_the_bearing_along_a_column(world: TwinWorld) -> None:
    sphere = pyproj.Geod(a=6371229, b=6371229)
    bearing, _, _ = sphere.inv(world.lon[:-1], world.lat[:-1], world.lon[1:], world.lat[1:])
    middle = rotation_of_grid((world.lat[1:] + world.lat[:-1]) / 2, (world.lon[1:] + world.lon[:-1]) / 2)
    np.testing.assert_allclose(np.degrees(middle), bearing, atol=0.01)


def test_the_weather_is_plausible_in_every_season(world: TwinWorld) -> None:
    states = [world.coarse(NIGHT + 601 * i) for i in range(40)]
    together = {name: np.stack([state[name] for state in states]) for name in states[0]}
    assert together["t2m"].min() > 240 and together["t2m"].max() < 320
    assert 3 < np.sqrt((together["u10"] ** 2 + together["v10"] ** 2).mean()) < 7
    assert 400 < together["msl"].std() < 1200
    assert (together["d2m"] <= together["t2m"]).all()
    assert all((together[name] >= 0).all() for name in ("sd", "tp", "ssrd", "q850"))
    land = np.isnan(together["sst"])
    assert 0.1 < land.mean() < 0.9 and (land == land[0]).all()
    assert all(np.isfinite(values).all() for name, values in together.items() if name != "sst")


def test_the_coarse_wind_is_linked_to_the_pressure(world: TwinWorld) -> None:
    state = world.coarse(NIGHT)
    dy, dx = np.gradient(state["msl"], -0.25 * 111195, 0.25 * 111195 * np.cos(np.radians(44)))
    sea = world.place.land < 0.05
    geostrophic = np.concatenate([-dy[sea], dx[sea]]) / (1.2 * 1.02e-4)
    assert np.corrcoef(geostrophic, np.concatenate([state["u10"][sea], state["v10"][sea]]))[0, 1] > 0.75


def test_an_hour_alone_is_the_hour_in_a_sequence(world: TwinWorld) -> None:
    sequence = [world.fine(NIGHT + step) for step in range(3)]
    alone, again = TwinWorld(GRID).fine(NIGHT + 2), TwinWorld(GRID, seed=1).fine(NIGHT + 2)
    for name, values in alone.items():
        assert values.dtype == np.float32
        np.testing.assert_array_equal(sequence[2][name], values)
        assert np.abs(again[name] - values).max() > 1


@pytest.mark.parametrize("hour", [NIGHT, NOON])
def test_members_differ_around_the_known_mean(world: TwinWorld, hour: int) -> None:
    coarse = world.coarse(hour)
    mean = world.mean(Terms(world.terrain, world.state(hour, coarse)))
    deviations = np.stack([world.fine_on_grid(hour, member, coarse) for member in range(24)]) - mean
    std = np.sqrt((deviations**2).mean((0, 2, 3)))
    assert 0.1 < std[0] < 0.8 and (std[1:] > 0.4).all() and (std[1:] < 1.5).all()
    error = np.sqrt((deviations.mean(0) ** 2).mean((1, 2)))
    np.testing.assert_allclose(error, std / np.sqrt(24), rtol=0.15)


@pytest.mark.parametrize("hour", [NIGHT, NOON])
def test_means_over_boxes_keep_to_the_coarse_state(world: TwinWorld, hour: int) -> None:
    state = world.state(hour, world.coarse(hour))
    away = world.fine_on_grid(hour, 0) - np.stack([state.t, state.u, state.v])
    boxes = away[:, :112, :112].reshape(3, 8, 14, 8, 14).mean((2, 4))
    assert (np.sqrt((boxes**2).mean((1, 2))) < (0.6, 0.5, 0.5)).all()


def test_the_response_turns_with_terrain_and_wind(world: TwinWorld) -> None:
    z = world.terrain.z[:112, :112]
    state, turned = (
        State(*(np.full_like(z, value) for value in (285, *wind, 0.3, 1))) for wind in ((4, -3), (3, 4))
    )  # the second a quarter turn to the left
    (t, wind), (t_turned, wind_turned) = (
        response(Terms(TerrainFeatures(heights), one)) for heights, one in ((z, state), (np.rot90(z, -1), turned))
    )
    np.testing.assert_allclose(np.rot90(t, -1), t_turned, atol=1e-3)
    u, v = (np.rot90(part, -1) for part in wind)
    assert np.abs(np.stack([-v, u]) - wind_turned).mean() < 0.01 * np.abs(wind_turned).mean()  # the grid's scale


def test_nothing_jumps_at_sunrise(world: TwinWorld) -> None:
    state = world.state(NOON, world.coarse(NOON))
    suns = np.linspace(-0.2, 0.2, 41)
    means = np.stack(
        [world.mean(Terms(world.terrain, replace(state, sun=state.sun * 0 + np.float32(sun)))) for sun in suns]
    )
    assert np.abs(np.diff(means[:, 0], axis=0)).max() < 0.15  # [K] for 0.01, two to four minutes
    assert np.abs(np.diff(means[:, 1:], axis=0)).max() < 0.15


def test_the_shelter_of_a_wall() -> None:
    z = np.full((120, 120), 100.0, "f4")
    z[:, 60] = 1100.0
    features = TerrainFeatures(z)
    crest = blur(z, 1.5)[60, 60] - 100
    still, east = np.zeros_like(z), np.full_like(z, 5)
    terms = Terms(features, State(still, east, still, still, still))
    lee, luv = terms.scalar("shelter")[60, 60 + 9], terms.scalar("shelter")[60, 60 - 9]  # 20 km away
    assert lee == pytest.approx(crest / 1000 * np.exp((8 - 20) / 20), rel=1e-2)
    assert luv == pytest.approx(0, abs=1e-3)
    assert terms.scalar("behind shelter")[60, 60 - 9] == pytest.approx(lee, rel=1e-2)
    assert terms.scalar("beside shelter")[60, 60 + 9] == pytest.approx(0, abs=1e-3)


def test_a_departure_of_the_wind_is_limited() -> None:
    strong = np.array([30.0, 40.0])[:, None, None]
    np.testing.assert_allclose(limited_wind(strong, np.full((1, 1), 4.0)), strong / np.sqrt(1 + 5**2))


def test_linear_theory_of_a_plane_wave() -> None:
    x = np.arange(64)[None] * np.ones((64, 1))
    wave = np.cos(2 * np.pi * 4 * x / 64)
    np.testing.assert_allclose(riesz(wave), [wave, 0 * wave], atol=1e-5)
    np.testing.assert_allclose(riesz(wave.T), [-wave.T, 0 * wave], atol=1e-5)
    diagonal = np.cos(2 * np.pi * 4 * (x + x.T) / 64)
    np.testing.assert_allclose(riesz(diagonal), [0 * wave, diagonal], atol=1e-5)


def test_the_contrast_of_warm_land_and_cold_sea() -> None:
    land = np.zeros((80, 80), "f4")
    land[:, 40:] = 1
    contrast = land_sea_contrast(280 + 5 * land, land, CELL)
    assert contrast[40, 39:41] == pytest.approx(5 * 0.25 / 0.27, rel=0.01)
    assert np.abs(land_sea_contrast(280 + 0 * land, land, CELL)).max() < 1e-3


def test_a_high_pass_takes_constants_and_keeps_what_a_box_averages_out() -> None:
    high_pass = HighPass((70, 84))
    np.testing.assert_allclose(high_pass(np.full((70, 84), 3.0)), 0, atol=1e-5)
    checker = (-1.0) ** np.add.outer(np.arange(70), np.arange(84))
    np.testing.assert_allclose(high_pass(checker), checker, atol=1e-6)


def test_a_draw_sees_only_temperature_wind_and_sun(world: TwinWorld) -> None:
    coarse = world.coarse(NOON)
    known = world.fine(NOON, 3, coarse)
    others = {name: values if name in ("t2m", "u10", "v10") else values * 0 for name, values in coarse.items()}
    for name, values in world.fine(NOON, 3, others).items():
        np.testing.assert_array_equal(values, known[name])
    warmer = world.fine(NOON, 3, coarse | {"t2m": coarse["t2m"] + 1})
    assert np.abs(warmer["t2m"] - known["t2m"]).max() > 0.5


def test_the_state_of_a_uniform_wind(world: TwinWorld) -> None:
    east = {
        "t2m": np.full_like(world.place.z, 280),
        "u10": np.full_like(world.place.z, 5),
        "v10": np.zeros_like(world.place.z),
    }
    state = world.state(NIGHT, east)
    np.testing.assert_allclose(state.u, 5 * np.cos(world.rotation), atol=1e-3)
    np.testing.assert_allclose(state.v, 5 * np.sin(world.rotation), atol=1e-3)
    np.testing.assert_allclose(state.speed, 5, atol=1e-3)


def test_splines_keep_constants_and_lines() -> None:
    matrix = medium_splines(37)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(matrix @ np.arange(matrix.shape[1]), 2 + np.arange(37) / 4, atol=1e-5)


def test_noise_has_unit_variance_and_its_memory() -> None:
    noise = SmoothNoise(0, 9, (200, 200), 1.0, memory=0.6, length=4)
    hours = np.stack([noise.draw(0, hour) for hour in range(6)])
    assert hours.var() == pytest.approx(1, abs=0.1)
    weights = 0.6 ** np.arange(Noise.LAGS)
    expected = (weights[1:] * weights[:-1]).sum() / (weights**2).sum()
    assert np.mean(hours[1:] * hours[:-1]) == pytest.approx(expected, abs=0.07)
    assert abs(np.mean(hours * noise.draw(1, 0))) < 0.1


def test_members_remember_a_few_hours(world: TwinWorld) -> None:
    now, later = (np.stack([world.fine_on_grid(NIGHT + step, member) for member in range(6)]) for step in (0, 1))
    now, later = (fields - fields.mean(0) for fields in (now, later))
    memory = (now * later).mean((0, 2, 3)) / np.sqrt((now**2).mean((0, 2, 3)) * (later**2).mean((0, 2, 3)))
    assert ((memory > 0.4) & (memory < 0.9)).all()


@pytest.mark.parametrize("hour", [NIGHT, NOON])
def test_spectra_fall_as_the_mesoscale_does(world: TwinWorld, hour: int) -> None:
    """Exponents of the energy by wavenumber from 24 to 4 cells, and from 5 to 2: no hole at the grid's scale."""
    fields = np.stack([world.fine_on_grid(hour, member) for member in range(4)], axis=1)
    for variable in fields:
        cells, power = power_spectrum(variable, (1, 1))
        for long, short, steepest, flattest in ((24, 4, -3.2, -0.5), (5, 2, -4.5, -1.4)):
            inside = (cells <= long) & (cells >= short)
            slope = np.polyfit(np.log(1 / cells[inside]), np.log(power[inside] / cells[inside]), 1)[0]
            assert steepest < slope < flattest


def test_scaled_white_noise_is_clearly_worse_than_the_ideal(world: TwinWorld) -> None:
    scale = residual_std(world, [NIGHT, NOON])
    random = np.random.default_rng(0)
    scores = [hardness(draw(world, hour, 24, scale), random) for hour in (NIGHT, NOON)]
    worse = excess({kind: scores[0][kind] + scores[1][kind] for kind in scores[0]})
    for kind in ("pixels", "latents"):
        assert worse[kind][1] > 5  # variogram score
        assert worse[kind][0] > 0  # energy score


def test_files_are_laid_out_as_the_archives_deliver_them(tmp_path: Path) -> None:
    grid = Grid(crs="EPSG:3035", west=4_200_000, north=2_560_000, rows=48, cols=48, spacing=2000)
    done: list[tuple[int, int]] = []
    periods = [("2021-01-14T02", "2021-01-14T03"), ("2021-07-01T22", "2021-07-02T00")]
    TwinFiles(tmp_path, grid, members=2).write(periods, progress=lambda *counts: done.append(counts))
    assert done == [(1, 3), (2, 3), (3, 3)]
    world = TwinWorld(grid)

    with xr.open_dataset(tmp_path / "era5/era5_single_20210114.nc", engine="netcdf4") as single:
        assert dict(single.sizes) == {
            "valid_time": 2,
            "latitude": len(world.latitude),
            "longitude": len(world.longitude),
        }
        assert single.t2m.attrs["units"] == "K" and single.u10.attrs["units"] == "m s**-1"
        assert single.expver.dtype.kind == "U" and single.number == 0
        assert single.valid_time[1] == np.datetime64("2021-01-14T03")
        np.testing.assert_array_equal(single.msl[1], world.coarse(NIGHT)["msl"])
    with xr.open_dataset(tmp_path / "era5/era5_pressure_20210701.nc", engine="netcdf4") as pressure:
        assert set(pressure.data_vars) == {"q", "t", "u", "v", "w"}
        assert pressure.t.dims == ("valid_time", "pressure_level", "latitude", "longitude")
        assert pressure.pressure_level.item() == 850
    with xr.open_dataset(tmp_path / "reference/VHR-REA_IT_20210114.nc", engine="netcdf4", decode_coords="all") as truth:
        assert truth.T_2M.dims == ("time", "rlat", "rlon")
        pole = truth.crs_rotated_latitude_longitude.attrs
        assert (pole["grid_north_pole_latitude"], pole["grid_north_pole_longitude"]) == (47, -168)
        assert truth.attrs["twin_recipe"] == RECIPE and "ynthetic" in truth.attrs["title"]
        assert truth.height_2m == 2 and truth.height_10m == 10
        fine = world.fine(NIGHT)
        # the grid's eastward and northward unit vectors, from the file's own longitudes and latitudes
        up = np.stack(
            [
                np.gradient(truth.lon.values, axis=0) * np.cos(np.radians(truth.lat.values)),
                np.gradient(truth.lat.values, axis=0),
            ]
        )
        up /= np.hypot(*up)
        u, v = truth.U_10M.values[1], truth.V_10M.values[1]
        np.testing.assert_allclose(truth.T_2M[1], fine["t2m"], atol=1 / 500)
        np.testing.assert_allclose(u * up[1] + v * up[0], fine["u10"], atol=0.01)
        np.testing.assert_allclose(v * up[1] - u * up[0], fine["v10"], atol=0.01)
        with xr.open_dataset(tmp_path / "members/001/VHR-REA_IT_20210114.nc", engine="netcdf4") as member:
            assert np.abs(member.T_2M - truth.T_2M).max() > 0.5
    assert not list(tmp_path.rglob("*.part"))


def test_finished_files_are_left_and_whole_days_are_written(tmp_path: Path) -> None:
    grid = Grid(crs="EPSG:3035", west=4_200_000, north=2_560_000, rows=16, cols=16, spacing=2000)
    TwinFiles(tmp_path, grid).write([("2021-01-01", "2021-01-03")], every=2)
    names = sorted(path.name for path in (tmp_path / "reference").iterdir())
    assert names == ["VHR-REA_IT_20210101.nc", "VHR-REA_IT_20210103.nc"]
    with xr.open_dataset(tmp_path / "reference" / names[0], engine="netcdf4") as day:
        assert day.sizes["time"] == 24
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nc")}
    (tmp_path / "reference" / names[1]).unlink()
    TwinFiles(tmp_path, grid).write([("2021-01-01", "2021-01-03")], every=2)
    changed = {path.name for path in before if path.stat().st_mtime_ns != before[path]}
    assert changed == {names[1]}


@pytest.mark.slow
def test_processes_write_the_same(tmp_path: Path) -> None:
    grid = Grid(crs="EPSG:3035", west=4_200_000, north=2_560_000, rows=16, cols=16, spacing=2000)
    for processes in (1, 2):
        TwinFiles(tmp_path / str(processes), grid).write([("2021-01-01", "2021-01-02")], processes=processes)
    for path in (tmp_path / "1").rglob("*.nc"):
        with (
            xr.open_dataset(path, engine="netcdf4") as one,
            xr.open_dataset(tmp_path / "2" / path.relative_to(tmp_path / "1"), engine="netcdf4") as two,
        ):
            xr.testing.assert_identical(one, two)


def test_terrain_from_files(tmp_path: Path) -> None:
    data = os.environ.get("LDMDOWN_TEST_DATA")
    if not data:
        pytest.skip("LDMDOWN_TEST_DATA is not set")
    fine = Path(data) / "data/terrain/icon2i_orography_lonlat.grib2"
    coarse = Path(data) / "data/era5/surface_height_europe.nc"
    world = TwinWorld(GRID, orography=fine, coarse_orography=coarse)
    raster = read_raster(fine)
    converted = xr.DataArray(raster.height, {"lat": raster.latitude, "lon": raster.longitude}, name="HSURF")
    converted.to_netcdf(tmp_path / "fine.nc", engine="netcdf4")
    np.testing.assert_array_equal(read_raster(tmp_path / "fine.nc").height, raster.height)
    assert 1500 < world.terrain.z.max() < 2900
    with xr.open_dataset(coarse, engine="netcdf4") as heights:
        known = heights.height[0].sel(lat=world.latitude, lon=world.longitude).values
    np.testing.assert_allclose(world.place.z, np.maximum(known, 0), atol=0.5)


def test_terrain_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(LdmdownError, match="no such file"):
        read_raster(tmp_path / "absent.nc")
    xr.Dataset({"a": ("x", [1.0])}).to_netcdf(tmp_path / "line.nc", engine="netcdf4")
    with pytest.raises(LdmdownError, match="does not hold one static field"):
        read_raster(tmp_path / "line.nc")


def test_all_italy_is_about_the_size_of_the_real_reference() -> None:
    world = TwinWorld(Grid())
    assert 600 <= len(world.rlat) <= 730 and 520 <= len(world.rlon) <= 585
    assert np.sqrt(((world.terrain.z - world.z_coarse) ** 2).mean()) > 50
    assert abs(CELL - 2.22) < 0.01
