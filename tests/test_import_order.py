"""Scripts that import and read in whatever order: PROJ of ecCodes, of pyproj and of rasterio in one fresh process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import eccodes
import numpy as np
import pytest

DOWNSCALE = (
    "out = ldmdown.load({tiny!r}).downscale(xarray.open_dataset({netcdf!r}, engine='netcdf4').isel(valid_time=[0]))"
)
READ_GRIB = "print(open_fields([{grib!r}], ['t2m']).read(0).mean())"
READ_NETCDF = "open_fields([{netcdf!r}], ['t2m']).read(0)"
OPEN_FIELDS = "from ldmdown.data.reading.fields import open_fields"
ORDERS = {
    "xarray guesses the engine": ["import xarray", "xarray.open_dataset({netcdf!r})", "import ldmdown", DOWNSCALE],
    "eccodes first": ["import eccodes", "import xarray, ldmdown", DOWNSCALE],
    "rasterio first": ["import rasterio", "rasterio.crs.CRS.from_epsg(3035)", "import xarray, ldmdown", DOWNSCALE],
    "cfgrib of the user": [
        "import xarray",
        "xarray.open_dataset({grib!r}, engine='cfgrib', backend_kwargs=dict(indexpath=''))",
        "import ldmdown",
        DOWNSCALE,
    ],
    "GRIB, then NetCDF": [OPEN_FIELDS, READ_GRIB, READ_NETCDF, "import xarray, ldmdown", DOWNSCALE],
}


@pytest.fixture
def grib(tmp_path: Path) -> Path:
    """A field of 280 K."""
    handle = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
    for key, value in {"shortName": "2t", "dataDate": 20210301, "dataTime": 0}.items():
        eccodes.codes_set(handle, key, value)
    eccodes.codes_set_values(handle, np.full(eccodes.codes_get(handle, "numberOfDataPoints"), 280.0))
    with (tmp_path / "t2m.grib2").open("wb") as file:
        eccodes.codes_write(handle, file)
    eccodes.codes_release(handle)
    return tmp_path / "t2m.grib2"


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_no_order_of_imports_crashes(order: str, tiny: dict[str, Path], era5: Callable[..., Path], grib: Path) -> None:
    files = {"tiny": str(tiny["unet"]), "netcdf": str(era5(range(2))), "grib": str(grib)}
    program = "\n".join(ORDERS[order]).format(**files)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_reading_grib_leaves_nothing_beside_it(grib: Path) -> None:
    from ldmdown.data.reading.fields import open_fields

    with open_fields([grib], ["t2m"]) as fields:
        np.testing.assert_allclose(fields.read(0), 280, atol=1e-3)
    assert [path.name for path in grib.parent.iterdir()] == [grib.name]
