from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rioxarray
import xarray as xr
from rio_cogeo.cogeo import cog_validate

from ldmdown.commands.downscale import downscale
from ldmdown.data.geotiff import GeotiffWriter
from ldmdown.data.grid import Grid
from ldmdown.data.template import OutputTemplate
from ldmdown.errors import LdmdownError
from ldmdown.options import DownscaleOptions, RunOptions

GRID = Grid(west=4_310_000, north=2_498_000, rows=600, cols=640)
HOURS = np.arange(420_000, 420_002)  # 2017-11-30T00 and on
FIELDS = np.random.default_rng(0).normal(280, 5, (2, 3, 2, *GRID.shape)).astype(np.float32)
TEMPLATE = OutputTemplate(GRID, ("t2m", "ws10"), 3, {"title": "A test", "source": "numbers"}, {"seed": 0})


def test_bands_are_named_and_lie_where_they_belong(tmp_path: Path) -> None:
    """In hours, fields and members; stopped after an hour and resumed; whole tiles and overviews, as a COG has them."""
    path = tmp_path / "out.tif"
    first = GeotiffWriter(path, TEMPLATE, HOURS)
    first.begin()
    first.write(1, TEMPLATE.reduced(FIELDS[1]))
    assert not first.close() and not path.exists()
    again = GeotiffWriter(path, TEMPLATE, HOURS, resume=True)
    assert again.left == [0]
    again.begin()
    again.write(0, TEMPLATE.reduced(FIELDS[0]))
    assert again.close() and [one.name for one in tmp_path.iterdir()] == ["out.tif"]
    valid, errors, warnings = cog_validate(path)
    assert valid and not errors and not warnings
    with rasterio.open(path) as file:
        assert file.crs.to_epsg() == 3035 and file.count == 12 and np.isnan(file.nodata)
        assert file.transform == rasterio.Affine(2000, 0, 4_310_000, 0, -2000, 2_498_000)
        assert file.descriptions[0] == "t2m 2017-11-30T00:00 member 0"
        assert file.descriptions[11] == "ws10 2017-11-30T01:00 member 2"
        assert file.units == (*["K"] * 3, *["m s-1"] * 3) * 2 and file.overviews(1) == [2]
        assert file.tags()["title"] == "A test" and file.tags(12)["standard_name"] == "wind_speed"
        assert file.tags(12)["time"] == "2017-11-30T01:00" and file.tags(12)["realization"] == "2"
        expected = FIELDS.transpose(0, 2, 1, 3, 4).reshape(12, *GRID.shape)
        np.testing.assert_array_equal(file.read(), expected)
    with rioxarray.open_rasterio(path) as array:
        assert array.rio.crs.to_epsg() == 3035 and array.sizes["band"] == 12
    assert GeotiffWriter(path, TEMPLATE, HOURS, resume=True).finished
    with pytest.raises(LdmdownError, match="was made with other options\n  found: seed 0"):
        GeotiffWriter(path, OutputTemplate(GRID, ("t2m", "ws10"), 3, {}, {"seed": 1}), HOURS, resume=True)


def test_no_tiff_holds_years(tmp_path: Path) -> None:
    with pytest.raises(LdmdownError, match="has too many bands\n  found: 65700\n  expected: up to 65535"):
        GeotiffWriter(tmp_path / "out.tif", TEMPLATE, np.arange(10_950))


def test_a_file_an_hour(tiny: dict[str, Path], era5: Callable[..., Path], tmp_path: Path) -> None:
    """As the NetCDF holds it; what is finished is not made again."""
    command = partial(downscale, [str(era5(range(2)))], checkpoint=str(tiny["unet"]))
    command(tmp_path / "out.nc", DownscaleOptions())
    pattern = tmp_path / "{time:%Y%m%dT%H}.tif"
    command(pattern, DownscaleOptions())
    files = sorted(tmp_path.glob("*.tif"))
    assert [one.name for one in files] == ["20210301T00.tif", "20210301T01.tif"]
    made = [one.stat().st_mtime_ns for one in files]
    command(pattern, DownscaleOptions(), run=RunOptions(resume=True))
    assert [one.stat().st_mtime_ns for one in files] == made
    with xr.open_dataset(tmp_path / "out.nc", engine="netcdf4") as expected, rasterio.open(files[1]) as file:
        np.testing.assert_array_equal(file.read(2), expected.u10[1])
        assert file.descriptions == tuple(f"{name} 2021-03-01T01:00" for name in ("t2m", "u10", "v10"))
