from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import xarray as xr
from made_up import OUTPUT_FIELDS, write_output
from matplotlib import image

from ldmdown.commands.plot import plot
from ldmdown.errors import LdmdownError


def test_era5_beside_an_output(tmp_path: Path, era5: Callable[..., Path]) -> None:
    """Two columns and two rows; the picture of another hour is another picture."""
    ensemble = write_output(tmp_path / "out.nc", OUTPUT_FIELDS, np.arange(448_488, 448_491))
    for name, time in (("a.png", "2021-03-01T01"), ("b.png", "2021-03-01T02")):
        plot([era5(range(3)), ensemble], tmp_path / name, time=time, arrows=True)
    first, second = (image.imread(tmp_path / name) for name in ("a.png", "b.png"))
    assert first.shape == second.shape and first.shape[1] > 600
    assert np.abs(first - second).mean() > 0.01
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "out.nc"]


def test_members_and_variables(tmp_path: Path) -> None:
    ensemble = write_output(tmp_path / "out.nc", OUTPUT_FIELDS)
    plot([ensemble], tmp_path / "u.png", variables=("u10",), member=2, extent=(14.8, 42.5, 15.0, 42.7))
    assert (tmp_path / "u.png").stat().st_size > 5000
    with pytest.raises(LdmdownError, match="has no such member\n  found: 3 members\n  expected: 3"):
        plot([ensemble], tmp_path / "no.png", member=3)
    with pytest.raises(LdmdownError, match="does not hold this hour\n  found: 2021-03-06T00 to 2021-03-06T02"):
        plot([ensemble], tmp_path / "no.png", time="2020-01-01T00")
    with pytest.raises(LdmdownError, match="tp is missing\n  found: t2m, u10, v10"):
        plot([ensemble], tmp_path / "no.png", variables=("tp",))
    assert not (tmp_path / "no.png").exists()


def test_a_globe_of_one_hour_in_the_other_convention(tmp_path: Path) -> None:
    """A scalar time, longitudes 0 to 360 and latitudes that rise; west of Greenwich is on the left."""
    lon, lat = np.arange(0, 360, 2.0), np.arange(-88, 89, 2.0)
    field = np.where(lon > 180, 250.0, 300.0) + 0 * lat[:, None]
    coords = {"lat": lat, "lon": lon, "time": np.datetime64("2021-03-01T06", "ns")}
    xr.Dataset({"t2m": (("lat", "lon"), field)}, coords).to_netcdf(tmp_path / "globe.nc", engine="netcdf4")
    plot([tmp_path / "globe.nc"], tmp_path / "globe.png", variables=("t2m",))
    picture = image.imread(tmp_path / "globe.png")
    row, width = picture[picture.shape[0] // 2, :, :3], picture.shape[1]
    cold, warm = (matplotlib.colormaps["plasma"](share)[:3] for share in (0.0, 1.0))
    assert row[width // 4] == pytest.approx(np.array(cold), abs=0.01)
    assert row[width // 2 + 20] == pytest.approx(np.array(warm), abs=0.01)
    with pytest.raises(LdmdownError, match="does not hold this hour\n  found: 2021-03-01T06 to 2021-03-01T06"):
        plot([tmp_path / "globe.nc"], tmp_path / "no.png", time="2021-03-01T07")


@pytest.mark.parametrize(
    ("name", "extent", "message"),
    [
        ("map.tiff", None, "is no name of a picture\n  expected: .png, .pdf, .svg"),
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
        plot([ensemble], tmp_path / name, extent=extent)
    assert [path.name for path in tmp_path.iterdir()] == ["out.nc"]
