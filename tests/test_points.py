"""Values at sites: which windows are computed, what they are equal to, and how they are written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyproj
import pytest
import torch
import xarray as xr
from made_up import cf_problems
from scipy.interpolate import RegularGridInterpolator

import ldmdown
from ldmdown import checkpoint
from ldmdown.commands.downscale import downscale
from ldmdown.data.grid import Grid
from ldmdown.data.reading.stations import read_sites
from ldmdown.data.sites import Sites, windows_of
from ldmdown.errors import LdmdownError
from ldmdown.options import DownscaleOptions, RunOptions

Write = Callable[..., Path]
GRID = Grid("EPSG:3035", 4_700_000, 2_200_000, 64, 64, 2000.0)
CELLS = {"Alba": (20.25, 30.5), "Borgo": (21.0, 31.75), "Città": (5.5, 59.0)}  # fractional row and column


def sites_at(cells: dict[str, tuple[float, float]]) -> Sites:
    rows, cols = np.array(list(cells.values())).T
    x, y = 4_701_000 + 2000 * cols, 2_199_000 - 2000 * rows
    lon, lat = pyproj.Transformer.from_crs(3035, 4326, always_xy=True).transform(x, y)
    return Sites(tuple(cells), lat, lon, np.full(len(lat), np.nan))


def write_sites(path: Path, heights: tuple[str, ...] = ("", "", "")) -> Path:
    """As a spreadsheet writes it here: Latin-1, semicolons, decimal commas."""
    sites = sites_at(CELLS)
    lines = ["Name;Lat;Lon;Alt"]
    for name, lat, lon, height in zip(sites.names, sites.lat, sites.lon, heights, strict=True):
        lines.append(f"{name};{lat:.7f};{lon:.7f};{height}".replace(".", ","))
    path.write_bytes("\r\n".join(lines).encode("latin-1"))
    return path


def test_windows_hold_the_cells_around_each_site() -> None:
    """By hand: rows 20, 21 and columns 30, 31 are coarse cell (2, 3); column 31.75 needs 32, in the next one."""
    found = windows_of(sites_at(CELLS), GRID, 1)
    assert [window for window, _ in found] == [(2, 3, 1, 2), (0, 7, 1, 1)]
    assert [served.tolist() for _, served in found] == [[True, True, False], [False, False, True]]
    assert [window for window, _ in windows_of(sites_at(CELLS), GRID, 8)] == [(0, 3, 3, 5)]  # less than twice 17 x 18
    with pytest.raises(LdmdownError, match="1 of 2 sites lie outside the domain\n  found: Rome at"):
        windows_of(sites_at({"Alba": (1, 1), "Rome": (-1, 3)}), GRID, 4)


@pytest.mark.parametrize("name", ["out.nc", "out.csv", "out.parquet"])
def test_values_are_those_of_the_fields(tiny: dict[str, Path], era5: Write, tmp_path: Path, name: str) -> None:
    """Of a run over the whole domain, interpolated by SciPy."""
    table, file = write_sites(tmp_path / "sites.csv"), str(era5(range(3)))
    options = {"members": 2, "variables": ("t2m", "ws10")}
    downscale([file], tmp_path / "whole.nc", DownscaleOptions(**options), checkpoint=str(tiny["ldm"]))
    at_sites = DownscaleOptions(**options, points=table)
    downscale([file], tmp_path / name, at_sites, checkpoint=str(tiny["ldm"]))
    with xr.open_dataset(tmp_path / "whole.nc", engine="netcdf4") as whole:
        axes, values = (np.arange(64.0), np.arange(64.0)), {}
        for key in options["variables"]:
            fields = whole[key].values.reshape(-1, 64, 64)
            found = [RegularGridInterpolator(axes, field)(list(CELLS.values())) for field in fields]
            values[key] = np.reshape(found, (3, 2, 3))
    if name == "out.nc":
        with xr.open_dataset(tmp_path / name, engine="netcdf4") as made:
            assert made.t2m.dims == ("time", "realization", "station") and made.featureType == "timeSeries"
            assert made.station_name.values.tolist() == list(CELLS)
            assert made.station_name.cf_role == "timeseries_id" and "altitude" not in made.coords
            for key, expected in values.items():
                np.testing.assert_allclose(made[key], expected, atol=2e-3)
        with xr.open_dataset(file, engine="netcdf4") as source:
            same = ldmdown.load(str(tiny["ldm"]), "cpu").downscale(source, **options, points=table)
        np.testing.assert_array_equal(same.t2m, made.t2m)
    else:
        frame = pd.read_csv(tmp_path / name) if name == "out.csv" else pd.read_parquet(tmp_path / name)
        assert frame.columns.tolist() == ["time", "name", "lat", "lon", "realization", "t2m", "ws10"]
        assert pd.to_datetime(frame["time"], utc=True)[17] == pd.Timestamp("2021-03-01T02", tz="UTC")
        assert frame["name"][:6].tolist() == ["Alba", "Alba", "Borgo", "Borgo", "Città", "Città"]
        assert frame["realization"][:4].tolist() == [0, 1, 0, 1]
        for key, expected in values.items():
            np.testing.assert_allclose(frame[key], expected.transpose(0, 2, 1).ravel(), atol=2e-3)
    if name != "out.csv":  # which does not say what it was made with
        downscale([file], tmp_path / name, at_sites, checkpoint=str(tiny["ldm"]), run=RunOptions(resume=True))
    assert not list(tmp_path.glob("*.part"))


def test_the_time_series_follow_cf(tiny: dict[str, Path], era5: Write, tmp_path: Path) -> None:
    table, output = write_sites(tmp_path / "sites.csv", ("100", "200", "300")), tmp_path / "out.nc"
    downscale([str(era5(range(2)))], output, DownscaleOptions(points=table), checkpoint=str(tiny["unet"]))
    assert cf_problems(output, tmp_path / "report.json") == []


def test_temperature_is_moved_to_the_height_of_a_site(tiny: dict[str, Path], era5: Write, tmp_path: Path) -> None:
    """By 6.5 K/km from the model's ground, here a slope of 10 m a column, 350 m at column 30.5 and 635 m at 59."""
    loaded = checkpoint.load(tiny["unet"])
    statics = loaded.config.statics.model_copy(update={"fields": ("z",), "embedding": 1})
    config = loaded.config.model_copy(update={"statics": statics})
    torch.manual_seed(0)
    model = checkpoint.build(config, loaded.normalization, "unet")
    model.statics[0] = torch.arange(64) / 8
    header = checkpoint.header_of(config, loaded.normalization, "unet")
    header["statics_normalization"] = {"z": {"mean": 45.0, "std": 80.0, "units": "m"}}
    checkpoint.save(tmp_path / "ground.safetensors", model, header, half=False)
    made = {}
    for name, heights in (("plain", ("", "", "")), ("moved", ("1350", "", "135"))):
        options = DownscaleOptions(points=write_sites(tmp_path / f"{name}.csv", heights))
        file = str(tmp_path / "ground.safetensors")
        downscale([str(era5(range(1)))], tmp_path / f"{name}.nc", options, checkpoint=file)
        with xr.open_dataset(tmp_path / f"{name}.nc", engine="netcdf4") as dataset:
            made[name] = dataset.load()
    np.testing.assert_allclose(made["moved"].t2m[0] - made["plain"].t2m[0], [-6.5, 0, 0.5 * 6.5], atol=2e-3)
    np.testing.assert_array_equal(made["moved"].u10, made["plain"].u10)
    np.testing.assert_array_equal(made["moved"].altitude, [1350, np.nan, 135])
    assert made["moved"].comment.endswith("t2m is moved to the heights of the sites by 6.5 K/km.")
    assert "heights" not in made["plain"].comment


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("name,lat\nA,42", "has no column lon\n"),
        ("name,lat,lon\nA,42,15\nA,42,15", "needs a name of its own, lat and lon in each row\n  found: A, in row 2"),
        ("name,lat,lon\nA,42,", "lon is not physical\n  found: nan at A"),
        ("name,lat,lon\n", "needs a name of its own, lat and lon in each row\n  found: no row"),
    ],
)
def test_tables_that_do_not_serve(tmp_path: Path, text: str, wrong: str) -> None:
    (tmp_path / "sites.csv").write_text(text)
    with pytest.raises(LdmdownError) as caught:
        read_sites(tmp_path / "sites.csv")
    assert wrong in str(caught.value)


def test_sites_go_to_tables_and_not_with_an_area(tmp_path: Path) -> None:
    with pytest.raises(LdmdownError, match="expected: sites.nc, sites.csv or sites.parquet, with --points"):
        downscale(["era5.nc"], tmp_path / "out.tif", DownscaleOptions(points=tmp_path / "sites.csv"))
    with pytest.raises(LdmdownError, match="--region and --points: exclude each other"):
        DownscaleOptions(region="covered", points=tmp_path / "sites.csv")
