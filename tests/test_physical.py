"""What goes in far outside the training data is told, what comes out unphysical is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from conftest import CONFIG, NORMALIZATION, untrained
from conftest import ldmdown as command

import ldmdown
from ldmdown import checkpoint
from ldmdown.data.grid import Grid
from ldmdown.data.normalization import Normalization
from ldmdown.data.predictor_law import NAMES, PredictorLaw, tile_features
from ldmdown.data.reading.fields import open_fields
from ldmdown.data.reading.regridded import Regridded
from ldmdown.errors import LdmdownError

Write = Callable[..., Path]


def output(era5: Path, checkpoint: Path) -> xr.Dataset:
    with xr.open_dataset(era5, engine="netcdf4") as dataset:
        return ldmdown.load(str(checkpoint)).downscale(dataset)


@pytest.fixture(scope="module")
def lawful(era5: Write, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that knows the law of six days of the tests' weather."""
    with open_fields([era5(range(144))], NAMES) as fields:
        reader = Regridded(fields, Grid.of(CONFIG.grid).coarse, NAMES)
        features = np.stack([tile_features(reader.read(index)) for index in range(144)])
        law = PredictorLaw.fit(range(6), fields.hours, features)
    path = tmp_path_factory.mktemp("lawful") / "lawful.safetensors"
    header = checkpoint.header_of(CONFIG, NORMALIZATION, "unet", predictor_law=law.as_json())
    checkpoint.save(path, untrained("unet"), header)
    return path


@pytest.mark.parametrize(
    ("constant", "told"), [({"t2m": 325.0}, "mean t2m is +4"), ({"u10": 60.0}, "mean u10 is +6"), ({}, "")]
)
def test_input_unlike_training(
    era5: Write, lawful: Path, constant: dict[str, float], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = output(era5(range(1), **constant), lawful)
    errors = capsys.readouterr().err
    assert errors.count("warning: ") == len(constant) and told in errors
    expected = "the input is far outside the training data in 1 of 1 hours, most at 2021-03-01T00:00: "
    assert made.attrs.get("warnings", "").startswith(expected if constant else "")


@pytest.mark.parametrize("kind", ["nc", "zarr"])
def test_hours_unlike_training_are_flagged(era5: Write, lawful: Path, tmp_path: Path, kind: str) -> None:
    """The second of three hours is at 330 K everywhere, where about 285 K is usual."""
    with xr.open_dataset(era5(range(3)), engine="netcdf4") as dataset:
        dataset.load().t2m[1] = 330
        dataset.to_netcdf(tmp_path / "era5.nc", engine="netcdf4")
    out = tmp_path / f"out.{kind}"
    arguments = ("downscale", str(tmp_path / "era5.nc"), "-o", str(out), "--checkpoint", str(lawful))
    refused = command(*arguments, "--strict")
    assert refused.returncode == 3 and not out.exists()
    assert "far outside the training data in 1 of 3 hours, most at 2021-03-01T01:00: " in refused.stderr
    assert command(*arguments).returncode == 0
    with xr.open_dataset(out) as made:
        assert made.outside_training.values.tolist() == [0, 1, 0] and made.outside_training.flag_meanings == "no yes"


def test_input_without_an_hour_that_can_be_read_says_why(era5: Write, lawful: Path, tmp_path: Path) -> None:
    """Two members that are both called 0 contradict each other, and leave no hour to compare with training."""
    with xr.open_dataset(era5(range(1)), engine="netcdf4") as dataset:
        xr.concat([dataset.assign_coords(number=0), dataset.assign_coords(number=0) + 1], "number").to_netcdf(
            tmp_path / "era5.nc", engine="netcdf4"
        )
    arguments = ("downscale", str(tmp_path / "era5.nc"), "-o", str(tmp_path / "out.nc"), "--checkpoint", str(lawful))
    refused = command(*arguments)
    assert refused.returncode == 1 and "is given twice, with different values" in refused.stderr


def test_what_cannot_be_compared_with_training_is_told(
    era5: Write, lawful: Path, tiny: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    output(era5(range(1)), tiny["unet"])
    assert "unet.safetensors does not tell what its training input looked like" in capsys.readouterr().err
    with xr.open_dataset(era5(range(1)), engine="netcdf4") as dataset:
        ldmdown.load(str(lawful)).downscale(dataset.sel(longitude=slice(15.2, 15.8)), region="covered")
    assert "note: the input covers no sixth of the domain" in capsys.readouterr().err


def test_cells_much_wider_than_in_training(
    era5: Write, tiny: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with xr.open_dataset(era5(range(1)), engine="netcdf4") as dataset:
        wide = dataset.isel({str(axis): slice(None, None, 4) for axis in ("latitude", "longitude")}).load()
    made = ldmdown.load(str(tiny["unet"])).downscale(wide, region="covered")
    told = "the input's cells are 1 degrees wide; the checkpoint knows ERA5's 0.25"
    assert told in capsys.readouterr().err and made.attrs["warnings"] == told


def test_bad_hours_are_refused_or_left_out(
    era5: Write, tiny: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The first hour lacks a value, the third is not physical; the others are as without them."""
    with xr.open_dataset(era5(range(4)), engine="netcdf4") as dataset:
        good = dataset.load()
    bad = good.copy(deep=True)
    bad.t2m[0, 4, 5], bad.u10[2, 4, 5] = np.nan, 1e4
    system = ldmdown.load(str(tiny["ldm"]))
    with pytest.raises(LdmdownError, match="t2m is missing\n(.*\n)+  fix: download these hours again, or leave them"):
        system.downscale(bad)
    capsys.readouterr()
    made = system.downscale(bad, skip_bad_hours=True)
    expected = system.downscale(good).isel(time=[1, 3])
    xr.testing.assert_equal(made, expected)
    label = good.encoding["source"]
    told = f"2021-03-01T00:00 ({label}: t2m is missing); 2021-03-01T02:00 ({label}: u10 is not physical)"
    assert made.attrs["skipped_hours"] == told
    assert f"note: 2 hours are left out: {told}" in capsys.readouterr().err
    assert "skipped_hours" not in system.downscale(good, skip_bad_hours=True).attrs
    with pytest.raises(LdmdownError, match="t2m is missing"):
        system.downscale(bad.isel(valid_time=[0]), skip_bad_hours=True)


def test_fields_without_the_sea_are_named(era5: Write, tiny: dict[str, Path]) -> None:
    """The same cells lack values in every hour, as in ERA5-Land: downloading them again would not help."""
    with xr.open_dataset(era5(range(2)), engine="netcdf4") as dataset:
        land = dataset.load().where(dataset.longitude < 16)
    with pytest.raises(LdmdownError, match="other hours lack these too, as ERA5-Land lacks the sea"):
        ldmdown.load(str(tiny["unet"])).downscale(land)


def test_a_broken_checkpoint_writes_nothing(era5: Write, tmp_path: Path) -> None:
    target = NORMALIZATION["target"]
    broken = NORMALIZATION | {"target": replace(target, std=dict.fromkeys(target.std, 10000.0))}
    header = checkpoint.header_of(CONFIG, broken, "unet")
    checkpoint.save(tmp_path / "broken.safetensors", untrained("unet"), header)
    with pytest.raises(LdmdownError, match="comes out as what is not physical; it was not written") as caught:
        output(era5(range(1)), tmp_path / "broken.safetensors")
    assert "expected: 180 to 340 K" in str(caught.value) and "2021-03-01T00:00" in str(caught.value)


@pytest.mark.parametrize("cells", [1, 3])
def test_a_cell_just_outside_is_told(
    era5: Write, tiny: dict[str, Path], cells: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of 4096 cells at 341 K, where 340 K is the bound; nine are too many."""
    physical = Normalization.denormalize

    def with_hot_cells(self: Normalization, values: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
        made = physical(self, values, names)
        made[..., 0, 3 : 3 + cells, 5 : 5 + cells] = 341
        return made

    monkeypatch.setattr(Normalization, "denormalize", with_hot_cells)
    if cells == 1:
        output(era5(range(1)), tiny["unet"])
        assert "note: t2m is just outside 180 to 340: 341 K in 1 cells" in capsys.readouterr().err
    else:
        with pytest.raises(LdmdownError, match="found: 341 K in 9 cells"):
            output(era5(range(1)), tiny["unet"])
