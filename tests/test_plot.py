from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import xarray as xr
from made_up import OUTPUT_FIELDS, OUTPUT_GRID, rotated_reference, write_grib, write_output
from matplotlib import image
from PIL import Image

from ldmdown.commands.plot import plot, read_hour
from ldmdown.errors import LdmdownError
from ldmdown.options import PlotOptions


def test_era5_beside_an_output(tmp_path: Path, era5: Callable[..., Path]) -> None:
    """Two columns and two rows; the picture of another hour is another picture."""
    ensemble = write_output(tmp_path / "out.nc", OUTPUT_FIELDS, np.arange(448_488, 448_491))
    for name, time in (("a.png", "2021-03-01T01"), ("b.png", "2021-03-01T02")):
        plot([era5(range(3)), ensemble], tmp_path / name, PlotOptions(time=time, arrows=True))
    first, second = (image.imread(tmp_path / name) for name in ("a.png", "b.png"))
    assert first.shape == second.shape and first.shape[1] > 600
    assert np.abs(first - second).mean() > 0.01
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "out.nc"]


def test_an_animation_has_a_frame_an_hour_and_one_scale(tmp_path: Path) -> None:
    """Fields of 270, 280 and 290 K: the lowest, the middle and the highest colour; from the second hour on two."""
    fields = np.zeros((3, 1, 3, *OUTPUT_GRID.shape), np.float32)
    fields[:, 0, 0] = np.array([270, 280, 290])[:, None, None]
    file = write_output(tmp_path / "out.nc", fields)
    plot([file], tmp_path / "hours.gif", PlotOptions(("t2m",)))
    with Image.open(tmp_path / "hours.gif") as film:
        assert film.n_frames == 3
        for frame, share in enumerate((0.0, 0.5, 1.0)):
            film.seek(frame)
            middle = np.array(film.convert("RGB"))[film.height // 2, film.width // 3] / 255
            assert middle == pytest.approx(np.array(matplotlib.colormaps["plasma"](share)[:3]), abs=0.05)
    plot([file], tmp_path / "later.gif", PlotOptions(("t2m",), time="2021-03-06T01"))
    with Image.open(tmp_path / "later.gif") as film:
        assert film.n_frames == 2
    with pytest.raises(LdmdownError, match="no common hours with the other files from 2022-01-01 on"):
        plot([file], tmp_path / "none.gif", PlotOptions(("t2m",), time="2022-01-01"))
    if shutil.which("ffmpeg") is None:
        with pytest.raises(LdmdownError, match="needs the program ffmpeg\n  fix: install ffmpeg, or write a .gif"):
            plot([file], tmp_path / "hours.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hours.gif", "later.gif", "out.nc"]


def test_members_and_variables(tmp_path: Path) -> None:
    ensemble = write_output(tmp_path / "out.nc", OUTPUT_FIELDS)
    plot([ensemble], tmp_path / "u.png", PlotOptions(("u10",), member=2, extent=(14.8, 42.5, 15.0, 42.7)))
    assert (tmp_path / "u.png").stat().st_size > 5000
    with pytest.raises(LdmdownError, match="has no such member\n  found: 3 members, from 0\n  expected: 3"):
        plot([ensemble], tmp_path / "no.png", PlotOptions(member=3))
    with pytest.raises(LdmdownError, match="does not hold this hour\n  found: 2021-03-06T00 to 2021-03-06T02"):
        plot([ensemble], tmp_path / "no.png", PlotOptions(time="2020-01-01T00"))
    with pytest.raises(LdmdownError, match="tp is missing\n  found: t2m, u10, v10"):
        plot([ensemble], tmp_path / "no.png", PlotOptions(("tp",)))
    assert not (tmp_path / "no.png").exists()


def test_a_globe_of_one_hour_in_the_other_convention(tmp_path: Path) -> None:
    """A scalar time, longitudes 0 to 360 and latitudes that rise; west of Greenwich is on the left."""
    lon, lat = np.arange(0, 360, 2.0), np.arange(-88, 89, 2.0)
    field = np.where(lon > 180, 250.0, 300.0) + 0 * lat[:, None]
    coords = {"lat": lat, "lon": lon, "time": np.datetime64("2021-03-01T06", "ns")}
    xr.Dataset({"t2m": (("lat", "lon"), field)}, coords).to_netcdf(tmp_path / "globe.nc", engine="netcdf4")
    plot([tmp_path / "globe.nc"], tmp_path / "globe.png", PlotOptions(("t2m",)))
    picture = image.imread(tmp_path / "globe.png")
    row, width = picture[picture.shape[0] // 2, :, :3], picture.shape[1]
    cold, warm = (matplotlib.colormaps["plasma"](share)[:3] for share in (0.0, 1.0))
    assert row[width // 4] == pytest.approx(np.array(cold), abs=0.01)
    assert row[width // 2 + 20] == pytest.approx(np.array(warm), abs=0.01)
    with pytest.raises(LdmdownError, match="does not hold this hour\n  found: 2021-03-01T06 to 2021-03-01T06"):
        plot([tmp_path / "globe.nc"], tmp_path / "no.png", PlotOptions(("t2m",), time="2021-03-01T07"))


def test_every_form_of_a_file_is_the_same_map(tmp_path: Path, era5: Callable[..., Path]) -> None:
    """NetCDF, a zip, a folder with something else in it, a glob, GRIB, and Zarr."""
    file = era5(range(3))
    with zipfile.ZipFile(tmp_path / "era5.zip", "w") as packed:
        packed.write(file, "data.nc")
    (tmp_path / "folder").mkdir()
    shutil.copy(file, tmp_path / "folder" / "data.nc")
    (tmp_path / "folder" / ".DS_Store").write_bytes(b"finder")
    with xr.open_dataset(file, engine="netcdf4") as dataset:
        dataset.drop_encoding().to_zarr(tmp_path / "era5.zarr", zarr_format=2)
        write_grib(tmp_path / "era5.grib", dataset)
    expected = read_hour(file, ["t2m", "ws10"], "2021-03-01T02", 0)
    for name in ("era5.zip", "folder", "folder/*.nc", "era5.zarr", "era5.grib"):
        found = read_hour(tmp_path / name, ["t2m", "ws10"], "2021-03-01T02", 0)
        assert found.time == expected.time == "2021-03-01T02:00" and found.extent == pytest.approx(expected.extent)
        for key in ("t2m", "ws10"):
            np.testing.assert_allclose(found.fields[key], expected.fields[key], atol=2e-3)


def test_members_of_our_own_zarr(tmp_path: Path) -> None:
    ensemble = write_output(tmp_path / "out.zarr", OUTPUT_FIELDS)
    found = read_hour(ensemble, ["t2m", "v10"], None, 2)
    np.testing.assert_allclose(found.fields["v10"], OUTPUT_FIELDS[0, 2, 2], rtol=1e-6)
    np.testing.assert_allclose(found.lat, OUTPUT_GRID.lat, atol=1e-9)
    plot([ensemble], tmp_path / "map.png", PlotOptions(member=1))


def test_a_regional_model_along_its_own_grid(tmp_path: Path) -> None:
    """COSMO's layout: names in capitals, a height of one level, winds along a rotated grid, which become earth's."""
    dataset = rotated_reference(3, -4)
    for name in ("U_10M", "V_10M"):
        dataset[name] = dataset[name].expand_dims(height_10m=[10.0], axis=1)
    dataset["T_2M"] = dataset["T_2M"].expand_dims(height_2m=[2.0], axis=1)
    dataset.to_netcdf(tmp_path / "cosmo.nc", engine="netcdf4")
    found = read_hour(tmp_path / "cosmo.nc", ["t2m", "ws10"], "2020-01-01T01", 0)
    np.testing.assert_allclose(found.fields["t2m"], found.lat + 240, atol=1e-3)
    np.testing.assert_allclose(found.fields["u10"], 3, atol=0.02)
    np.testing.assert_allclose(found.fields["ws10"], 5, atol=0.02)
    plot([tmp_path / "cosmo.nc"], tmp_path / "map.png", PlotOptions(arrows=True))


@pytest.mark.parametrize(
    ("name", "extent", "message"),
    [
        ("map.tiff", None, "is not a name that a picture can have\n  expected: .png, .pdf, .svg"),
        ("none/map.png", None, "lies in a folder that is not there\n  fix: mkdir -p .*none"),
        ("map.png", (15.0, 42.0, 14.0, 43.0), "--extent: is empty\n  found: 15 42 14 43"),
        ("map.png", (5.0, 42.0, 6.0, 43.0), "has no values in the extent\n  found: it covers 14.6 to"),
    ],
)
def test_mistakes_are_explained(
    tmp_path: Path, name: str, extent: tuple[float, float, float, float] | None, message: str
) -> None:
    ensemble = write_output(tmp_path / "out.nc", OUTPUT_FIELDS)
    with pytest.raises(LdmdownError, match=message):
        plot([ensemble], tmp_path / name, PlotOptions(extent=extent))
    assert [path.name for path in tmp_path.iterdir()] == ["out.nc"]
