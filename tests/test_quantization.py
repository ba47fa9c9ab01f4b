from __future__ import annotations

from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr

from ldmdown.data.grid import Grid
from ldmdown.data.netcdf import NetcdfWriter
from ldmdown.data.quantization import quantized
from ldmdown.data.template import OutputTemplate
from ldmdown.data.zarr_store import ZarrWriter

RANDOM = np.random.default_rng(0)
SPECIAL = [0.0, -0.0, 0.01, 0.1, 1, 9.9999, 10, 99.999, 100, 340, 1000, -10, -100, 1e-30, -1e-5]
VALUES = np.concatenate([RANDOM.normal(280, 15, 20_000), RANDOM.normal(0, 6, 20_000), SPECIAL]).astype("f4")


@pytest.mark.parametrize("digits", [3, 4, 5])
def test_values_are_those_of_the_netcdf_library(tmp_path: Path, digits: int) -> None:
    """Bit by bit, as it quantizes with its Granular BitRound."""
    with netCDF4.Dataset(tmp_path / "theirs.nc", "w") as dataset:
        dataset.createDimension("n", VALUES.size)
        field = dataset.createVariable(
            "x", "f4", ("n",), fill_value=False, zlib=True, significant_digits=digits, quantize_mode="GranularBitRound"
        )
        field[:] = VALUES
    with netCDF4.Dataset(tmp_path / "theirs.nc") as dataset:
        dataset.set_auto_mask(False)
        theirs = dataset["x"][:]
    np.testing.assert_array_equal(quantized(VALUES, digits).view(np.uint32), theirs.view(np.uint32))


@pytest.mark.parametrize(("digits", "low", "high"), [(5, 180, 340), (4, -99.99, 99.99)])
def test_the_error_is_at_most_half_a_hundredth(digits: int, low: float, high: float) -> None:
    values = RANDOM.uniform(low, high, 200_000).astype("f4")
    error = np.abs(quantized(values, digits).astype(float) - values).max()
    assert 0.003 < error <= 0.005
    np.testing.assert_array_equal(quantized(quantized(values, digits), digits), quantized(values, digits))


@pytest.mark.parametrize("kind", [NetcdfWriter, ZarrWriter])
def test_a_quantized_output_says_so_and_is_smaller(tmp_path: Path, kind: type) -> None:
    """As CF-1.12 asks in section 8.4.2, beside the attribute by which the netCDF library knows such a variable."""
    grid, sizes = Grid(west=4_310_000, north=2_498_000, rows=64, cols=64), {}
    smooth = RANDOM.normal(size=(1, 2, 64, 64)).cumsum(axis=2).cumsum(axis=3) / 30
    fields = (smooth + np.array([285.0, 2.0])[:, None, None]).astype("f4")
    for lossy in (False, True):
        template = OutputTemplate(grid, ("t2m", "u10"), None, {"title": "A test"}, lossy=lossy)
        writer = kind(tmp_path / f"{lossy}{'.nc' if kind is NetcdfWriter else '.zarr'}", template, np.array([420_000]))
        writer.begin()
        writer.write(0, template.reduced(fields))
        files = [one for one in writer.part.rglob("*") if one.is_file() and one.name != "run.json"]
        sizes[lossy] = sum(one.stat().st_size for one in files)
        writer.close()
    with xr.open_dataset(writer.path, engine="netcdf4" if kind is NetcdfWriter else "zarr") as made:
        np.testing.assert_array_equal(made.t2m[0], quantized(fields[0, 0], 5))
        assert made.Conventions == "CF-1.12" and made.t2m.quantization_nsd == 5 and made.u10.quantization_nsd == 4
        assert made[made.u10.quantization].attrs["algorithm"] == "granular_bitround"
        assert made.quantization_info.implementation.startswith("ldmdown version ")
        assert made.u10.attrs["_QuantizeGranularBitRoundNumberOfSignificantDigits"] == 4
        assert np.abs(made.u10[0] - fields[0, 1]).max() <= 0.005 and "quantization" not in made.lat.attrs
    if kind is NetcdfWriter:
        assert sizes[True] < 0.75 * sizes[False]
        with netCDF4.Dataset(writer.path) as file:
            assert file["t2m"].quantization() is None or file["t2m"].quantization()[0] == 5
