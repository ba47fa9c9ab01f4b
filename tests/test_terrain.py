from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from ldmdown.data.grid import Grid, SourceGrid
from ldmdown.errors import LdmdownError
from ldmdown.scoring.terrain import Terrain, heights_on

GRID = Grid(west=4_700_000, north=2_200_000, rows=16, cols=24)


def test_kinds_of_ground() -> None:
    """Sea in the west, mountains in the east; with cells of 2 by 3 km the coast is 3 cells wide on either side."""
    fine = np.zeros((5, 12), np.float32)
    fine[:, 6:], fine[:, 10:] = 200, 1500
    kinds = Terrain(fine).surfaces((2.0, 3.0))
    assert kinds["land"][0].tolist() == [False] * 6 + [True] * 6 and (kinds["sea"] == ~kinds["land"]).all()
    assert kinds["mountains"][0].sum() == 2
    assert np.flatnonzero(kinds["coast"][0]).tolist() == [3, 4, 5, 6, 7, 8]
    inland = Terrain(np.full((3, 3), 10, np.float32)).surfaces((2.0, 2.0))
    assert inland["land"].all() and not inland["coast"].any() and not inland["sea"].any()


def test_the_lapse_rate() -> None:
    """A peak 1000 m above the coarse ground is 6.5 K colder, a valley 200 m below 1.3 K warmer."""
    terrain = Terrain(np.array([[1500.0, 300.0]], np.float32), np.array([[500.0, 500.0]], np.float32))
    np.testing.assert_allclose(terrain.corrected(np.full((1, 2), 280.0)), [[273.5, 281.3]])


def test_heights_of_a_file(tmp_path: Path) -> None:
    lat, lon = np.arange(40.0, 44, 0.1), np.arange(13.0, 18, 0.1)
    height = 10 * lat[:, None] + lon
    xr.Dataset({"z": (("lat", "lon"), height)}, {"lat": lat, "lon": lon}).to_netcdf(tmp_path / "z.nc", engine="netcdf4")
    grid = SourceGrid(GRID.y, GRID.x, GRID.projection)
    np.testing.assert_allclose(heights_on(grid, tmp_path / "z.nc"), 10 * GRID.lat + GRID.lon, rtol=1e-5)
    attributes = {"units": "m**2 s**-2", "standard_name": "geopotential"}
    xr.Dataset({"z": (("lat", "lon"), 9.80665 * height, attributes)}, {"lat": lat, "lon": lon}).to_netcdf(
        tmp_path / "geopotential.nc", engine="netcdf4"
    )
    np.testing.assert_allclose(heights_on(grid, tmp_path / "geopotential.nc"), 10 * GRID.lat + GRID.lon, rtol=1e-5)
    far = SourceGrid(GRID.y + 300_000, GRID.x, GRID.projection)
    with pytest.raises(LdmdownError, match="does not cover the grid of the scores\n  found: 13.00 to 17.90 E"):
        heights_on(far, tmp_path / "z.nc")
    height[5, 5:9] = np.nan
    xr.Dataset({"z": (("lat", "lon"), height)}, {"lat": lat, "lon": lon}).to_netcdf(tmp_path / "n.nc", engine="netcdf4")
    heights_on(grid, tmp_path / "n.nc")  # what is missing beside the grid is not used
    height[20:32, 15:30] = np.nan
    xr.Dataset({"z": (("lat", "lon"), height)}, {"lat": lat, "lon": lon}).to_netcdf(tmp_path / "m.nc", engine="netcdf4")
    with pytest.raises(LdmdownError, match=r"lacks heights that are used\n  found: no value in \d+ of 384 cells"):
        heights_on(grid, tmp_path / "m.nc")
