"""References as users have them: a part of the grid, runs of a forecast, without an analysis, in several sources."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml
from made_up import SHORT, SMALL

from ldmdown.commands.prepare import prepare
from ldmdown.config import BoxMeansConfig, Config
from ldmdown.data.archive.box_means import BoxMeans, era5_boxes
from ldmdown.data.archive.store import Archive
from ldmdown.data.grid import Grid
from ldmdown.data.reading.fields import open_fields
from ldmdown.errors import LdmdownError

GRID = {"west": 4_700_000, "north": 2_200_000, "rows": 64, "cols": 64}  # 14.6 to 16.3 E, 41.4 to 42.8 N
TARGETS = ("t2m", "u10", "v10")
REAL = Path(os.environ.get("LDMDOWN_TEST_DATA", "none")) / "data"


def model_run(path: Path, start: str, hours: int, west: float = 14.0, east: float = 17.0, add: float = 0.0) -> Path:
    """A forecast on longitudes and latitudes of 0.05 degrees: smooth fields in space and time, less what `add` says."""
    lat, lon = np.arange(43.5, 40.74, -0.05), np.arange(west, east + 0.01, 0.05)
    times = np.datetime64(start, "h") + np.arange(hours)
    hour = times.astype("datetime64[h]").astype(int)[:, None, None]
    t2m = 280 + 3 * np.sin(hour / 4 + 3 * lat[:, None]) + np.cos(5 * lon) + add
    fields = {"t2m": t2m, "u10": 4 * np.cos(hour / 6 + lon) + 0 * t2m, "v10": 2 + lat[:, None] - 42 + 0 * t2m}
    units = {"t2m": "K", "u10": "m s-1", "v10": "m s-1"}
    names = {"t2m": "air_temperature", "u10": "eastward_wind", "v10": "northward_wind"}
    path.parent.mkdir(exist_ok=True, parents=True)
    xr.Dataset(
        {
            name: (("time", "lat", "lon"), field.astype("f4"), {"units": units[name], "standard_name": names[name]})
            for name, field in fields.items()
        },
        {
            "time": times.astype("datetime64[ns]"),
            "lat": ("lat", lat, {"units": "degrees_north"}),
            "lon": ("lon", lon, {"units": "degrees_east"}),
        },
    ).to_netcdf(path, engine="netcdf4")
    return path


def heights(path: Path, metres: float) -> str:
    lat, lon = np.arange(40.0, 44.6, 0.1), np.arange(13.0, 18.1, 0.1)
    field = np.full((lat.size, lon.size), metres, np.float32)
    axes = {"lat": ("lat", lat, {"units": "degrees_north"}), "lon": ("lon", lon, {"units": "degrees_east"})}
    xr.Dataset({"height": (("lat", "lon"), field, {"units": "m"})}, axes).to_netcdf(path, engine="netcdf4")
    return path.name


def write(folder: Path, data: dict[str, Any]) -> Path:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({"name": "small", "grid": GRID, "data": data}))
    return path


SPLIT = {"train": [["2026-02-01", "2026-02-01"]], "validation": [["2026-02-03", "2026-02-03"]]}
PERFECT: dict[str, Any] = {"era5": "from_reference", "reference": "runs/*.nc", "forecast_runs": True, "split": SPLIT}


def test_box_means_are_exact_and_only_of_whole_boxes(tmp_path: Path) -> None:
    """Against sums over the overlaps along each axis, areas being differences of the sine of latitude."""
    file = model_run(tmp_path / "a.nc", "2026-02-01T00", 3)
    with open_fields([file], TARGETS) as fields:
        made = BoxMeans(fields, (*TARGETS, "cossza"), Grid(**GRID).coarse, BoxMeansConfig(), tmp_path)
        field, grid = fields.read(2)[1].astype(float), fields.grid
        boxes = made.boxes.means(made.boxes.of_source, field)
        lat, lon = made.boxes.centres.y, made.boxes.centres.x
        np.testing.assert_allclose(4 * lat % 1, 0, atol=1e-9)
        for row, col in ((3, 4), (6, 2)):
            north, south = np.minimum(grid.y + 0.025, lat[row] + 0.125), np.maximum(grid.y - 0.025, lat[row] - 0.125)
            down = np.where(north > south, np.sin(np.radians(north)) - np.sin(np.radians(south)), 0)
            right = np.clip(
                np.minimum(grid.x + 0.025, lon[col] + 0.125) - np.maximum(grid.x - 0.025, lon[col] - 0.125), 0, None
            )
            expected = down @ field @ right / down.sum() / right.sum()
            assert boxes[row, col] == pytest.approx(expected, rel=1e-6)
        assert np.isnan(boxes[0]).all() and np.isnan(boxes[:, 0]).all()  # half of these lie beyond the fields
        assert np.isfinite(boxes[1:-1, 1:-1]).all()
        assert np.isfinite(made.read(0)).all() and made.read(0).shape == (4, 8, 8)


def test_box_means_smoothed_and_moved_to_the_heights_of_era5(tmp_path: Path) -> None:
    """From 500 m to 700 m it is 1.3 K colder; a constant stays itself under smoothing, up to the edge of the boxes."""
    file = model_run(tmp_path / "a.nc", "2026-02-01T00", 1)
    settings: dict[str, Any] = {"reference_heights": heights(tmp_path / "ours.nc", 500)}
    settings |= {"era5_heights": heights(tmp_path / "era5.nc", 700)}
    grid = Grid(**GRID).coarse
    with open_fields([file], TARGETS) as fields:
        plain = BoxMeans(fields, TARGETS, grid, BoxMeansConfig(), tmp_path).read(0)
        moved = BoxMeans(fields, TARGETS, grid, BoxMeansConfig(**settings), tmp_path).read(0)
        smooth = BoxMeans(fields, TARGETS, grid, BoxMeansConfig(smoothing=1), tmp_path)
        np.testing.assert_allclose(moved[0], plain[0] - 1.3, atol=1e-4)
        np.testing.assert_array_equal(moved[1:], plain[1:])
        weaker = np.exp(-(0.25**2) / 2)  # what a cosine of unit wave number keeps
        np.testing.assert_allclose(smooth.read(0)[1][2:-2, 2:-2], (weaker * plain[1])[2:-2, 2:-2], atol=0.01)
        boxes = smooth.boxes.means(smooth.boxes.of_source, np.full(fields.grid.shape, 7.0))
        np.testing.assert_allclose(smooth.smoothed(boxes)[np.isfinite(boxes)], 7)
    with pytest.raises(ValueError, match="name both, or none"):
        BoxMeansConfig(era5_heights="era5.nc")


def test_every_run_of_an_hour_is_a_sample_of_its_own(tmp_path: Path) -> None:
    """Three runs that overlap and cross days: samples by run, none of the day between, statistics of training alone."""
    for number, (start, hours) in enumerate((("2026-02-01T00", 60), ("2026-02-01T12", 60), ("2026-02-03T18", 6))):
        model_run(tmp_path / "runs" / f"{number}.nc", start, hours, add=number)
    prepare(write(tmp_path, PERFECT))
    archive = Archive(tmp_path / "archive.zarr")
    train, validation = archive.split("train"), archive.split("validation")
    first = 24 * int(np.datetime64("2026-02-01", "D").astype(int))
    assert archive.hours[train].tolist() == [*range(first, first + 24), *range(first + 12, first + 24)]
    assert archive.realization[train].tolist() == [0] * 24 + [1] * 12
    assert archive.hours[validation].tolist() == [
        *range(first + 48, first + 60), *range(first + 48, first + 72), *range(first + 66, first + 72)
    ]  # fmt: skip
    assert not set(archive.hours[train]) & set(archive.hours[validation]) and len(archive) == len(train) + 42
    apart = archive.read(int(train[30]))["target"] - archive.read(int(train[18]))["target"]  # one hour of two runs
    np.testing.assert_allclose(apart[0], 1, atol=1 / 128)
    np.testing.assert_array_equal(apart[1:], 0)
    values = np.stack([archive.read(int(index))["target"][0] for index in train])
    assert archive.normalization["target"].mean["t2m"] == pytest.approx(values.mean(), rel=1e-6)
    assert archive.sources[0].coarse.startswith("means of the reference over boxes of 0.25 degrees; t2m at the ref")
    assert [len(archive.manifest["files"][kind]) for kind in ("era5", "reference")] == [0, 3]
    boxes = archive.manifest["learned_from"]["box_differences"]  # of such a pair next to none
    inner = {part: np.array(boxes[part]["u10"], float)[1:-1, 1:-1] for part in ("mean", "std")}
    assert max(np.nanmax(np.abs(part)) for part in inner.values()) < 0.05 and np.isfinite(inner["mean"]).any()


def test_a_reference_of_a_part_of_the_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cells without values are missing, and so are those whose coarse fields would need a box that is cut."""
    model_run(tmp_path / "runs" / "a.nc", "2026-02-01T00", 72, east=15.7)
    config = write(tmp_path, PERFECT)
    prepare(config)
    archive, grid = Archive(tmp_path / "archive.zarr"), Grid(**GRID)
    (source,) = archive.sources
    assert source.is_partial and "data has values in" in capsys.readouterr().err
    lon = grid.coarse.lon
    assert not source.valid[lon > 15.5].any() and source.valid[lon < 15.2].all()
    held = archive.read(0)
    np.testing.assert_array_equal(np.isfinite(held["predictors"]).all(axis=0), source.valid)
    np.testing.assert_array_equal(np.isfinite(held["target"][0]), source.valid.repeat(8, 0).repeat(8, 1))
    assert archive.normalization["target"].mean["t2m"] == pytest.approx(280, abs=2)
    boxes = era5_boxes(grid).centres
    wind = archive.read_boxes(5, boxes)["u10"]  # five cells of 0.05 degrees fill a box, alike from south to north
    cells = boxes.x[:, None] + np.array([-0.1, -0.05, 0, 0.05, 0.1])
    expected = 4 * np.cos(archive.hours[5] / 6 + cells).mean(axis=1)
    np.testing.assert_allclose(wind, np.where(boxes.x < 15.6, expected, np.nan) + 0 * boxes.y[:, None], atol=1e-4)
    for file in (tmp_path / "runs").iterdir():
        file.unlink()
    (tmp_path / "archive.zarr").rename(tmp_path / "old.zarr")
    model_run(tmp_path / "runs" / "a.nc", "2026-02-01T00", 72, west=20, east=21)
    with pytest.raises(LdmdownError, match="a.nc: covers no cell of the coarse grid"):
        prepare(config)


def test_several_sources_in_one_archive(tmp_path: Path) -> None:
    """A source that covers the grid and one that does not; each keeps its split, and the statistics are of both."""
    model_run(tmp_path / "wide" / "a.nc", "2026-02-01T00", 72)
    model_run(tmp_path / "runs" / "a.nc", "2026-02-01T00", 72, east=15.7, add=5)
    wide = {"name": "wide", "era5": "from_reference", "reference": "wide", "split": SPLIT}
    narrow = PERFECT | {"name": "narrow", "weight": 3}
    narrow["split"] = {"train": [["2026-02-03", "2026-02-03T05"]], "validation": [["2026-02-01", "2026-02-01"]]}
    prepare(write(tmp_path, {"sources": [wide, narrow]}))
    archive = Archive(tmp_path / "archive.zarr")
    assert [source.name for source in archive.sources] == ["wide", "narrow"]
    assert [source.is_partial for source in archive.sources] == [False, True]
    train = archive.split("train")
    assert np.bincount(archive.source[train]).tolist() == [24, 6] and len(archive.split("validation")) == 48
    values = np.concatenate([archive.read(int(index))["target"][0].ravel() for index in train])
    known = values[np.isfinite(values)].astype(float)
    assert archive.normalization["target"].mean["t2m"] == pytest.approx(known.mean(), rel=1e-6)
    assert archive.normalization["target"].std["t2m"] == pytest.approx(known.std(), rel=1e-5)
    assert archive.manifest["sources"]["narrow"] == {"train": 6, "validation": 24, "test": 0}


@pytest.mark.slow
def test_a_system_is_trained_on_a_source_of_a_part_and_one_of_the_whole(tmp_path: Path) -> None:
    """From files to a checkpoint that says of what its coarse fields were made, and to scores on either source."""
    from ldmdown import checkpoint
    from ldmdown.commands.train import train
    from ldmdown.options import CheckpointOptions
    from ldmdown.scoring.systems import Systems

    model_run(tmp_path / "wide" / "a.nc", "2026-02-01T00", 54)
    model_run(tmp_path / "runs" / "a.nc", "2026-02-01T00", 54, east=15.7)
    wide = {"name": "wide", "era5": "from_reference", "reference": "wide", "split": SPLIT}
    path = write(tmp_path, {"sources": [wide, PERFECT | {"name": "narrow", "weight": 3}]})
    networks = {key: SMALL[key] for key in ("statics", "unet", "conditioner", "scale", "denoiser", "sampler")}
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | networks | {"train": SHORT}))
    prepare(path)
    train(path)
    loaded = checkpoint.load(tmp_path / "checkpoints" / "small.safetensors")
    assert set(loaded.header["training"]["coarse"]) == {"wide", "narrow"} and loaded.header["training"]["hours"] == 48
    assert all(tensor.isfinite().all() for tensor in loaded.model.state_dict().values())
    assert all(np.isfinite(value) for value in loaded.header["training"]["validation_loss"].values())
    files = [str(tmp_path / "checkpoints" / "small.safetensors")], tmp_path / "archive.zarr"
    data = Systems(*files, CheckpointOptions("validation", 2, source="narrow"))
    _, _, rows, cols = Archive(files[1]).window(1)
    truth, fields = data.read(data.hours[0])
    assert len(data.hours) == 6 and truth.shape == (3, *data.grid.shape) == (3, 8 * rows, 8 * cols)
    assert np.isfinite(truth).all() and all(np.isfinite(field).all() for field in fields.values())
    assert {"bilinear", "cell regression", "LDM", "U-Net"} <= set(fields)
    for source, message in ((None, "has several sources"), ("sea", "has no such source\n  found: sea")):
        with pytest.raises(LdmdownError, match=message):
            Systems(*files, CheckpointOptions("validation", 2, source=source))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "split: Field required"),
        ({"sources": [{"name": "a", "split": SPLIT}], "weight": 2}, "weight: name it in each of the `sources`"),
        ({"sources": [{"name": "a", "split": SPLIT}] * 2}, "two have one name: a, a"),
        ({"split": SPLIT | {"gap": 1.5}}, "leaves no gap of 1.5 days"),
        ({"split": SPLIT | {"test": [["2026-02-03T12", "2026-02-04"]]}}, "overlaps validation"),
    ],
)
def test_sources_that_make_no_sense(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config.model_validate({"name": "a", "data": data})


def test_a_configuration_with_hours_and_sources_survives_its_own_dump() -> None:
    split = {"train": [["2026-02-01", "2026-02-05T00"]], "validation": [["2026-02-05T06", 2027]], "gap": 0.2}
    split["validation"] = [["2026-02-05T06", "2026-02-06"]]
    config = Config.model_validate({"name": "a", "data": {"sources": [{"name": "b", "split": split}]}})
    assert Config.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.skipif(not REAL.exists(), reason="LDMDOWN_TEST_DATA has no real fields")
def test_real_fields_of_icon(tmp_path: Path) -> None:
    """An evening of two runs, one starting 12 hours after the other, at ERA5's heights."""
    folder = tmp_path / "runs"
    folder.mkdir()
    for run in ("20260201T12", "20260202T00"):
        (folder / f"{run}.nc").symlink_to(REAL / "icon2i" / f"icon2i_sicily_{run}.nc")
    split = {"train": [["2026-02-02T20", "2026-02-02T21"]], "validation": [["2026-02-04T00", "2026-02-04T00"]]}
    terrain = {"reference_heights": str(REAL / "terrain" / "icon2i_orography_lonlat.grib2")}
    terrain |= {"era5_heights": str(REAL / "era5" / "surface_height_europe.nc")}
    path = write(tmp_path, PERFECT | {"split": split, "box_means": terrain})
    settings = yaml.safe_load(path.read_text()) | {
        "grid": {"west": 4456000, "north": 1776000, "rows": 192, "cols": 192}
    }
    path.write_text(yaml.safe_dump(settings))
    prepare(path)
    archive = Archive(tmp_path / "archive.zarr")
    assert len(archive) == 6 and not archive.sources[0].is_partial
    fields = archive.read(0)
    coarse = fields["target"].reshape(3, 24, 8, 24, 8).mean(axis=(2, 4))
    difference = fields["predictors"][:3] - coarse
    assert np.abs(difference[1:]).mean() < 0.5  # wind of boxes against that of the coarse cells
    etna = np.unravel_index(np.argmax(-coarse[0]), coarse[0].shape)
    assert difference[0][etna] > 3  # ERA5's Etna is lower, and warmer
    difference = archive.read(0)["target"] - archive.read(3)["target"]
    assert 0.1 < np.abs(difference[0]).mean() < 1  # another run is another realization of the hour
