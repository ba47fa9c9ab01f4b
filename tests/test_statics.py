"""Fields of the ground, made from small files of known content and from the real terrain."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import xarray as xr
from conftest import CONFIG
from rasterio.warp import Resampling, reproject
from scipy.ndimage import gaussian_filter
from torch.nn import functional

from ldmdown.config import Config
from ldmdown.data.archive.statics import static_fields
from ldmdown.data.grid import Grid, SourceGrid, regrid
from ldmdown.data.reading.raster import cell_means
from ldmdown.errors import LdmdownError

GRID = Grid(west=4_700_000, north=2_200_000, rows=8, cols=8)
TERRAIN = Path(os.environ.get("LDMDOWN_TEST_DATA", "none")) / "data" / "terrain"
needs_terrain = pytest.mark.skipif(not TERRAIN.exists(), reason="LDMDOWN_TEST_DATA has no terrain")
ALPS = Grid(west=4_200_000, north=2_660_000, rows=160, cols=160)


def plain(values: np.ndarray) -> np.ndarray:
    return values


def tiff(path: Path, values: np.ndarray, pixel: float, **settings: object) -> Path:
    """Values from the grid's north-western corner on, in its projection."""
    options = {"crs": "EPSG:3035", "transform": rasterio.Affine(pixel, 0, GRID.west, 0, -pixel, GRID.north)} | settings
    rows, cols = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", height=rows, width=cols, count=1, dtype=values.dtype, **options
    ) as file:
        file.write(values, 1)
    return path


def config(given: list[str], **files: str) -> Config:
    settings = CONFIG.model_dump()
    grid = {"west": GRID.west, "north": GRID.north, "rows": GRID.rows, "cols": GRID.cols}
    data = settings["data"] | {"statics": files}
    return Config.model_validate(settings | {"grid": grid, "data": data, "statics": {"fields": given}})


@pytest.fixture
def heights(tmp_path: Path) -> np.ndarray:
    """100 m pixels over the grid, 20 x 20 a cell, written as terrain.tif."""
    values = np.random.default_rng(0).normal(500, 200, (160, 160)).astype(np.float32)
    tiff(tmp_path / "terrain.tif", values, 100)
    return values


def by_cell(values: np.ndarray) -> np.ndarray:
    """(cell rows, cell columns, pixels of the cell)."""
    return values.reshape(8, 20, 8, 20).swapaxes(1, 2).reshape(8, 8, 400)


def test_height_and_deviation_of_a_cell(tmp_path: Path, heights: np.ndarray) -> None:
    made = static_fields(config(["z", "z_std", "lat"], terrain="terrain.tif"), tmp_path)
    assert made is not None and list(made.normalization) == ["z", "z_std", "lat"]
    assert made.files == (tmp_path / "terrain.tif",)
    for field, expected, name in (
        (made.fields[0], by_cell(heights).mean(-1), "z"),
        (made.fields[1], by_cell(heights).std(-1), "z_std"),
        (made.fields[2], GRID.lat, "lat"),
    ):
        how = made.normalization[name]
        np.testing.assert_allclose(field * how["std"] + how["mean"], expected, rtol=1e-5)
        assert field.mean() == pytest.approx(0, abs=1e-5) and field.std() == pytest.approx(1, abs=1e-5)
        assert how["units"] == ("degrees_north" if name == "lat" else "m")


def test_without_a_mask_land_is_above_sea_level(tmp_path: Path) -> None:
    """A cell of which a quarter is above 0 m; the sea's heights may be a little below it."""
    values = np.full((160, 160), -0.02, np.float32)
    values[:20, :20] = 100
    values[20:30, 40:50] = 3
    tiff(tmp_path / "terrain.tif", values, 100)
    made = static_fields(config(["land_sea_mask"], terrain="terrain.tif"), tmp_path)
    assert made is not None
    expected = np.zeros((8, 8))
    expected[0, 0], expected[1, 2] = 1, 0.25
    np.testing.assert_allclose(made.fields[0], expected)


def test_tiles_and_missing_pixels(tmp_path: Path, heights: np.ndarray) -> None:
    """Two tiles that part a cell, and a quarter of another cell unknown, are the mean of what is known."""
    whole = cell_means([tmp_path / "terrain.tif"], GRID, {"z": plain})[0]["z"]
    holes = heights.copy()
    holes[:10, :10] = -9999
    left = tiff(tmp_path / "left.tif", holes[:, :70], 100, nodata=-9999)
    place = rasterio.Affine(100, 0, GRID.west + 7000, 0, -100, GRID.north)
    right = tiff(tmp_path / "right.tif", heights[:, 70:], 100, transform=place)
    parts = cell_means([left, right], GRID, {"z": plain})[0]["z"]
    known = by_cell(np.where(holes == -9999, np.nan, holes))[0, 0]
    assert parts[0, 0] == pytest.approx(np.nanmean(known), rel=1e-6) and np.isnan(known).sum() == 100
    parts[0, 0] = whole[0, 0]
    np.testing.assert_allclose(parts, whole, rtol=1e-6)


@pytest.mark.parametrize("pixel", [0.001, 0.02])
def test_another_projection_as_gdal_averages_it(tmp_path: Path, pixel: float) -> None:
    """Counted pixels of 100 m, and shares of pixels of 2 km, of smooth heights in longitude and latitude."""
    west, north = GRID.lon.min() - 0.2, GRID.lat.max() + 0.2
    size = round(0.7 / pixel)
    lon, lat = west + (np.arange(size) + 0.5) * pixel, north - (np.arange(size) + 0.5) * pixel
    values = (1000 + 500 * np.sin(20 * lon)[None] * np.cos(25 * lat)[:, None]).astype(np.float32)
    place = rasterio.Affine(pixel, 0, west, 0, -pixel, north)
    path = tiff(tmp_path / "t.tif", values, pixel, crs="EPSG:4326", transform=place)
    ours, size = cell_means([path], GRID, {"z": plain})
    theirs = np.empty(GRID.shape)
    target = rasterio.Affine(GRID.spacing, 0, GRID.west, 0, -GRID.spacing, GRID.north)
    reproject(values, theirs, src_crs="EPSG:4326", src_transform=place, dst_crs="EPSG:3035", dst_transform=target,
              resampling=Resampling.average)  # fmt: skip
    assert (ours["z"] - theirs).std() < 0.02 * theirs.std()
    assert size == pytest.approx(pixel * 111_000, rel=0.05)


def test_shares_of_land_and_of_classes(tmp_path: Path) -> None:
    classes = np.full((160, 160), 7, np.uint8)
    classes[:, :90] = 3  # four and a half of eight columns
    classes[0, 0] = 255
    tiff(tmp_path / "cover.tif", classes, 100, nodata=255)
    tiff(tmp_path / "land.tif", (classes == 7).astype(np.float32), 100)
    given = ["land_cover_7", "land_sea_mask", "land_cover_3", "coast_distance"]
    made = static_fields(config(given, land_cover="cover.tif", land_sea_mask="land.tif"), tmp_path)
    assert made is not None
    share = np.broadcast_to([0, 0, 0, 0, 0.5, 1, 1, 1], GRID.shape)
    for field, expected in zip(made.fields, (share, share, 1 - share), strict=False):
        np.testing.assert_allclose(field, expected, atol=1e-6)
    how = made.normalization["coast_distance"]
    distance = made.fields[3] * how["std"] + how["mean"]
    np.testing.assert_allclose(distance[2], [-7000, -5000, -3000, -1000, 1000, 3000, 5000, 7000], rtol=1e-5)


def test_the_open_sea_needs_no_terrain(tmp_path: Path, heights: np.ndarray) -> None:
    tiff(tmp_path / "part.tif", heights[:, :120], 100)  # two columns of cells without
    land = np.ones((160, 160), np.float32)
    land[:, 120:] = 0
    tiff(tmp_path / "land.tif", land, 100)
    with pytest.raises(LdmdownError) as caught:
        static_fields(config(["z"], terrain="part.tif"), tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'part.tif'}: does not cover the grid of the configuration\n  found: 75.0%")
    assert "name data.statics.land_sea_mask: where it has no land, terrain may be missing" in message
    made = static_fields(config(["z", "z_std"], terrain="part.tif", land_sea_mask="land.tif"), tmp_path)
    assert made is not None
    how = made.normalization["z"]
    np.testing.assert_allclose(made.fields[0][:, 6:] * how["std"] + how["mean"], 0, atol=1e-3)
    np.testing.assert_allclose(made.fields[0][:, 5] * how["std"] + how["mean"], by_cell(heights).mean(-1)[:, 5])


def test_geopotential_in_netcdf(tmp_path: Path) -> None:
    lon, lat = np.arange(14.5, 16, 0.01), np.arange(41, 43, 0.01)
    field = np.full((1, lat.size, lon.size), 9806.65, np.float32)
    dataset = xr.Dataset(
        {"z": (("time", "latitude", "longitude"), field, {"units": "m**2 s**-2"})}, {"latitude": lat, "longitude": lon}
    )
    dataset.to_netcdf(tmp_path / "z.nc", engine="netcdf4")
    np.testing.assert_allclose(cell_means([tmp_path / "z.nc"], GRID, {"z": plain})[0]["z"], 1000, rtol=1e-5)
    dataset.assign(other=dataset.z).to_netcdf(tmp_path / "two.nc", engine="netcdf4")
    with pytest.raises(LdmdownError, match="does not hold one static field\n  found: z, other"):
        cell_means([tmp_path / "two.nc"], GRID, {"z": plain})


def test_the_terrain_of_the_coarse_fields_is_interpolated_as_these_are(tmp_path: Path) -> None:
    """First to the coarse grid, then from it as the networks do."""
    grid = Grid(west=4_200_000, north=2_660_000, rows=24, cols=40)
    lat, lon = np.arange(47.5, 45.9, -0.25), np.arange(7, 9.6, 0.25)
    heights = np.random.default_rng(1).normal(800, 300, (len(lat), len(lon))).astype(np.float32)
    era5 = xr.Dataset({"z": (("lat", "lon"), heights * 9.80665, {"units": "m2 s-2"})}, {"lat": lat, "lon": lon})
    era5["lat"].attrs, era5["lon"].attrs = {"units": "degrees_north"}, {"units": "degrees_east"}
    era5.to_netcdf(tmp_path / "era5.nc", engine="netcdf4")
    settings = config(["coarse_z"], coarse_terrain="era5.nc").model_dump()
    settings["grid"] |= {"west": grid.west, "north": grid.north, "rows": grid.rows, "cols": grid.cols}
    made = static_fields(Config.model_validate(settings), tmp_path)
    assert made is not None
    on_coarse = regrid(SourceGrid(lat, lon).weights(grid.coarse.lat, grid.coarse.lon), heights, grid.coarse.shape)
    expected = functional.interpolate(torch.from_numpy(on_coarse)[None, None], scale_factor=8, mode="bilinear")[0, 0]
    how = made.normalization["coarse_z"]
    np.testing.assert_allclose(made.fields[0] * how["std"] + how["mean"], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("given", "files", "message"),
    [
        (["slope"], {}, "statics.fields names a field that nothing makes\n  found: slope"),
        (["z"], {}, "statics.fields has z, which is made from files\n  expected: data.statics.terrain"),
        (["z"], {"terrain": "no/*.tif"}, "no such file"),
        (["coarse_z"], {}, "coarse_z, which is made from files\n  expected: data.statics.coarse_terrain"),
        (["coarse_z"], {"coarse_terrain": "*.tif"}, "is a second file of data.statics.coarse_terrain"),
        (
            ["land_cover_5"],
            {"land_cover": "ones.tif"},
            "of a class that is named\n  found: classes 1\n  expected: land_",
        ),
        (["land_sea_mask"], {"land_sea_mask": "terrain.tif"}, "is no land-sea mask\n  found: 4"),
        (["coast_distance"], {"land_sea_mask": "ones.tif"}, "but the grid has no coast"),
        (["z", "z_std"], {"terrain": "coarse.tif"}, "is too coarse for z_std\n  found: pixels of 2000 m"),
        (["z"], {"terrain": "text.tif"}, "text.tif: cannot be read"),
    ],
)
def test_errors(tmp_path: Path, heights: np.ndarray, given: list[str], files: dict[str, str], message: str) -> None:
    tiff(tmp_path / "ones.tif", np.ones((160, 160), np.uint8), 100)
    place = rasterio.Affine(2000, 0, GRID.west - 8000, 0, -2000, GRID.north + 8000)
    tiff(tmp_path / "coarse.tif", np.ones((20, 20), np.float32), 2000, transform=place)
    (tmp_path / "text.tif").write_text("II, but not a picture")
    with pytest.raises(LdmdownError, match=message):
        static_fields(config(given, **files), tmp_path)


@needs_terrain
def test_srtm_covers_davos_and_not_italy() -> None:
    """Against the exact means over the areas of the pixels, where counting them was 1.4 m off."""
    davos = Grid(west=4_298_000, north=2_648_000, rows=6, cols=6)
    made = cell_means([TERRAIN / "srtm1_davos.tif"], davos, {"z": plain, "squares": np.square})[0]
    with rasterio.open(TERRAIN / "srtm1_davos.tif") as raster:
        x, y = raster.xy(0, np.arange(raster.width))[0], raster.xy(np.arange(raster.height), 0)[1]
        rows = np.flatnonzero((y > davos.lat.min() - 0.03) & (y < davos.lat.max() + 0.03))
        cols = np.flatnonzero((x > davos.lon.min() - 0.04) & (x < davos.lon.max() + 0.04))
        height = raster.read(1)[rows][:, cols].astype(float)
    weights = SourceGrid(y[rows], x[cols]).conservative(davos)
    z, squares = (regrid(weights, field, davos.shape) for field in (height, np.square(height)))
    error = made["z"] - z
    assert np.sqrt(np.mean(error**2)) < 0.4 and np.abs(error).max() < 1.2
    spread, expected = (np.sqrt(second - first**2) for first, second in ((made["z"], made["squares"]), (z, squares)))
    np.testing.assert_allclose(spread, expected, atol=1)
    with pytest.raises(LdmdownError, match=r"does not cover the grid .*\n  found: 0.\d% of its cells, within 9.6"):
        settings = CONFIG.model_dump() | {"grid": {}, "statics": {"fields": ["z"]}}
        settings["data"] |= {"statics": {"terrain": "srtm1_davos.tif"}}
        static_fields(Config.model_validate(settings), TERRAIN)


@needs_terrain
def test_two_models_have_the_same_alps() -> None:
    """COSMO-2I's terrain on a rotated pole and ICON-2I's in longitude and latitude, at 2 km.

    Below some 10 km COSMO's is filtered (at 7 km it has a third of ICON's variance, at 5 km a fifteenth), so
    that it cannot be nearer to ICON's than ICON's without these scales is: `fine` is that ratio. Above 30 km
    nothing was filtered and they are one terrain: `large` is their difference there over its std. What
    remains is that COSMO's lies about 1 km further south, in its file; further by a cell to the east, the west
    or the south, as an error in a projection would put it, it breaks both bounds.
    """
    cosmo, icon = (
        cell_means([TERRAIN / name], ALPS, {"z": plain})[0]["z"]
        for name in ("cosmo2i_orography_rotated.grb", "icon2i_orography_lonlat.grib2")
    )

    def apart(shift: tuple[int, int]) -> tuple[float, float]:
        """The two ratios, were COSMO's cells moved by rows and columns."""
        inner = (slice(4, -4), slice(4, -4))
        moved, fixed = np.roll(cosmo, shift, (0, 1))[inner], icon[inner]
        large = gaussian_filter(moved, 4) - gaussian_filter(fixed, 4)
        filtered = fixed - gaussian_filter(fixed, 1.5)
        return float(large.std() / gaussian_filter(fixed, 4).std()), float((moved - fixed).std() / filtered.std())

    large, fine = apart((0, 0))
    assert large < 0.035 and fine < 1
    for shift in ((1, 0), (0, 1), (0, -1)):
        large, fine = apart(shift)
        assert large > 0.035 and fine > 1


def test_on_the_grid_itself_nothing_moves(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=(10, 10)).astype(np.float32)
    place = rasterio.Affine(2000, 0, GRID.west - 2000, 0, -2000, GRID.north + 2000)
    path = tiff(tmp_path / "same.tif", values, 2000, transform=place)
    means, pixel = cell_means([path], GRID, {"z": plain})
    np.testing.assert_allclose(means["z"], values[1:-1, 1:-1], atol=1e-5)
    assert pixel == 2000
