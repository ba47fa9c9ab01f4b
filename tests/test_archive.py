"""The form of the archive: what is put in comes out, whatever the grid, the variables and the hours."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from ldmdown.data.archive.box_means import era5_boxes
from ldmdown.data.archive.packing import FILL_VALUE, Packing
from ldmdown.data.archive.store import Archive, ArchiveSource
from ldmdown.data.archive.writer import ArchiveWriter, DayKey, layout
from ldmdown.data.grid import Grid
from ldmdown.data.normalization import Normalization
from ldmdown.data.variables import VARIABLES, variable
from ldmdown.errors import LdmdownError

GRID = Grid(west=4_700_000, north=2_200_000, rows=400, cols=24)
NAMES = {"predictors": ("t2m", "sst"), "targets": ("t2m", "tp")}
DAYS = (DayKey(0, 0, 18628), DayKey(0, 0, 18640))  # 2021-01-01 and twelve days on
ONE = {"t2m": 1.0, "sst": 1.0, "tp": 1.0}
SPLIT = {"train": [["2021-01-01", "2021-01-01"]], "validation": [["2021-01-13", "2021-01-13"]], "test": []}
SOURCE = ArchiveSource("data", "ERA5", SPLIT, np.ones((50, 3), bool))


def fields(hour: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(hour)
    predictors = random.normal(280, 5, (2, 50, 3)).astype(np.float32)
    predictors[1, :, 0] = np.nan  # land has no sea surface
    target = np.stack([random.normal(280, 10, GRID.shape), random.gamma(0.5, 0.002, GRID.shape)])
    return predictors, target.astype(np.float32)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Two days, the second written first and without its sixth hour."""
    writer = ArchiveWriter.begin(tmp_path / "a.zarr", GRID, NAMES, [SOURCE], DAYS, {"grid": 1}, {"era5": []})
    for key in reversed(DAYS):
        write_day(writer, key, [hour for hour in range(24) if (key, hour) != (DAYS[1], 5)])
    return close(writer)


def write_day(writer: ArchiveWriter, key: DayKey, hours: list[int]) -> None:
    day = writer.new_day()
    for hour in hours:
        writer.put(day, 24 * key.day + hour, *fields(24 * key.day + hour))
    writer.write(key, day, {"hours": [24 * key.day + hour for hour in hours]})


def close(writer: ArchiveWriter) -> Archive:
    normalization = {kind: Normalization(ONE, ONE) for kind in ("predictors", "target")}
    writer.close(normalization, {"files": {}}, ({"z": {"mean": 1.0}}, np.zeros((1, *GRID.shape), np.float32)))
    return Archive(writer.path)


def test_what_is_put_in_comes_out(archive: Archive) -> None:
    assert len(archive) == 47 and archive.hours[29] == 24 * DAYS[1].day + 6
    assert archive.split("train").tolist() == list(range(24)) and archive.split("test").size == 0
    for index in (0, 23, 29, 46):
        predictors, target = fields(int(archive.hours[index]))
        stored = archive.read(index)
        np.testing.assert_array_equal(stored["predictors"], predictors)
        np.testing.assert_allclose(stored["target"][0], target[0], atol=1 / 512 + 3e-5)
        np.testing.assert_allclose(stored["target"][1], target[1], atol=1 / 2**17 + 1e-8)
        window = archive.read(index, (7, 1, 4, 2))
        np.testing.assert_array_equal(window["target"], stored["target"][:, 56:88, 8:24])
        np.testing.assert_array_equal(window["predictors"], stored["predictors"][:, 7:11, 1:3])
    assert archive.load_statics().shape == (1, 400, 24) and archive.statics == ("z",)
    assert archive.statics_normalization == {"z": {"mean": 1.0}} and archive.manifest == {"files": {}}
    assert archive.fingerprint == {"grid": 1} and archive.sources[0].coarse == "ERA5"


def test_the_packed_form_is_exact(archive: Archive) -> None:
    packed = archive.read_packed(29, slice(None), slice(None))
    assert packed.dtype == np.int16
    np.testing.assert_array_equal(packed * archive.scale_factor + archive.add_offset, archive.read(29)["target"])
    part = archive.read_packed(29, slice(100, 140), slice(3, 9))
    np.testing.assert_array_equal(part, packed[:, 100:140, 3:9])
    np.testing.assert_array_equal(archive.load_predictors(np.array([29]))[0], archive.read(29)["predictors"])


def test_coarse_fields_are_kept_on_the_boxes_of_era5(archive: Archive, tmp_path: Path) -> None:
    """Those of the targets that are predictors, in the place of each box; archives of before have none."""
    writer = ArchiveWriter.begin(tmp_path / "b.zarr", GRID, NAMES, [SOURCE], DAYS[:1], {}, {})
    lat, lon = era5_boxes(GRID).latlon()
    day = writer.new_day()
    for hour, boxes in ((3, None), (4, (lat + lon / 100)[None])):
        writer.put(day, 24 * DAYS[0].day + hour, *fields(0), boxes)
    writer.write(DAYS[0], day, {"hours": [24 * DAYS[0].day + hour for hour in (3, 4)]})
    kept, part = close(writer), era5_boxes(GRID.window((20, 0, 30, 3)))
    assert part.grid.shape < era5_boxes(GRID).grid.shape
    found, (lat, lon) = kept.read_boxes(1, part.centres), part.latlon()
    np.testing.assert_allclose(found["t2m"], lat + lon / 100, rtol=1e-6)
    assert np.isnan(found["tp"]).all() and np.isnan(kept.read_boxes(0, part.centres)["t2m"]).all()
    shutil.rmtree(kept.path / "boxes")
    np.testing.assert_array_equal(Archive(kept.path).read(1)["target"], kept.read(1)["target"])
    with pytest.raises(LdmdownError, match="b.zarr: holds no coarse fields on ERA5's boxes: prepare it again"):
        Archive(kept.path).read_boxes(1, part.centres)


def test_a_chunk_that_is_missing_on_the_disk_is_no_field_of_numbers(archive: Archive) -> None:
    shutil.rmtree(archive.path / "target" / "c" / "1")
    assert np.isfinite(archive.read(3)["target"]).all()
    for read in (archive.read, lambda index: archive.read_packed(index, slice(4), slice(4))):
        with pytest.raises(ValueError, match="chunk is missing"):
            read(29)


def test_sources_that_cover_a_part_and_realizations_of_an_hour(tmp_path: Path) -> None:
    """Two sources; the second covers an L of coarse cells, and has the first day twice."""
    valid = np.zeros((50, 3), bool)
    valid[10:14, 0] = valid[13, :] = True
    partial = ArchiveSource("part", "boxes", SPLIT | {"test": [["2021-01-13T06", "2021-01-13T08"]]}, valid)
    days = [DAYS[0], DayKey(1, 0, 18628), DayKey(1, 1, 18628), DayKey(1, 1, 18640)]
    writer = ArchiveWriter.begin(tmp_path / "a.zarr", GRID, NAMES, [SOURCE, partial], days, {}, {})
    for key in days:
        day = writer.new_day()
        predictors, target = fields(key.source + key.realization)
        if key.source:
            predictors, target = np.where(valid, predictors, np.nan), target.copy()
            target[:, ~valid.repeat(8, axis=0).repeat(8, axis=1)] = np.nan
        writer.put(day, 7, predictors, target)
        writer.write(key, day, {"hours": [24 * key.day + 7]})
    archive = close(writer)
    assert archive.source.tolist() == [0, 1, 1, 1] and archive.realization.tolist() == [0, 0, 1, 1]
    assert archive.split("train").tolist() == [0, 1, 2] and archive.split("test").tolist() == [3]
    assert [one.is_partial for one in archive.sources] == [False, True]
    np.testing.assert_array_equal(archive.sources[1].valid, valid)
    held = archive.read(1)
    assert np.isnan(held["target"]).mean() == 1 - 6 / 150 and np.isfinite(archive.read(0)["target"]).all()
    np.testing.assert_array_equal(np.isfinite(held["predictors"][0]), valid)
    assert (archive.read_packed(1, slice(0, 8), slice(0, 8)) == FILL_VALUE).all()
    assert archive.sources[1].corners((4, 1)).tolist() == [[10, 0]]
    assert archive.sources[1].corners((1, 2)).tolist() == [[13, 0], [13, 1]]
    assert not len(archive.sources[1].corners((2, 2))) and not len(archive.sources[1].corners((60, 60)))
    assert archive.window(1) == (10, 0, 4, 1) and archive.window(0, multiple=3) == (0, 0, 48, 3)
    with pytest.raises(LdmdownError, match="part covers too little for the networks"):
        archive.window(1, multiple=2)
    shutil.rmtree(archive.path / "target" / "c" / "1")
    with pytest.raises(ValueError, match="chunk is missing"):
        archive.read(1)
    assert (archive.read_packed(1, slice(0, 8), slice(0, 8)) == FILL_VALUE).all()  # where nothing is expected


def test_a_day_is_a_shard_of_tiles_about_as_large_as_a_crop(archive: Archive) -> None:
    target = zarr.open_group(archive.path, mode="r")["target"]
    assert target.shards == (24, 2, 400, 24) and target.chunks == (1, 2, 200, 24)
    assert len([file for file in (archive.path / "target").rglob("*") if file.is_file()]) == 3  # and its zarr.json
    italy = layout(Grid(), {"predictors": range(14), "targets": range(3)})["target"]
    assert italy["chunks"] == (1, 3, 168, 144) and italy["shards"] == (24, 3, 672, 576)


@pytest.mark.parametrize("name", [name for name, known in VARIABLES.items() if not known.derived])
def test_sixteen_bits_hold_every_variable_within_its_bounds(name: str) -> None:
    low, high = variable(name).bounds
    packing = Packing.of([name])
    values = np.linspace(low, high, 1001, dtype=np.float32).reshape(1, 1, -1)
    packed = packing.pack(values)
    half = 0.5 * float(packing.scale_factor.item()) * 1.01
    np.testing.assert_allclose(packing.unpack(packed), values, atol=half, rtol=1e-6)
    assert np.all(np.diff(packed.ravel().astype(int)) >= 0)  # nothing ran over
    if name in ("t2m", "u10", "v10"):
        assert packing.scale_factor.item() == 1 / 256
    assert packing.unpack(packing.pack(np.zeros((1, 1, 1), np.float32))).item() == 0 or low > 0


def test_numbers_keep_their_distance_whatever_the_spread() -> None:
    """Values more than 16 std of 1 m from each other, at either end of the bounds, where 16 bits would overflow."""
    packing = Packing.of(["sd"])
    low, high = variable("sd").bounds
    values = np.array([low, high, np.nan], np.float32).reshape(1, 1, -1)
    packed = packing.pack(values)
    assert packed.ravel()[2] == FILL_VALUE and packed.ravel()[0] > FILL_VALUE
    np.testing.assert_allclose(packing.unpack(packed), values, atol=packing.scale_factor.item())


def test_begun_with_other_files_it_is_not_resumed(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    files = {"era5": [{"name": "a.nc", "bytes": 1}]}
    assert ArchiveWriter.resume(path, {}, files) is None
    writer = ArchiveWriter.begin(path, GRID, NAMES, [SOURCE], DAYS, {}, files)
    write_day(writer, DAYS[1], [3])
    resumed = ArchiveWriter.resume(path, {}, files)
    assert resumed is not None and resumed.keys == list(DAYS)
    assert [resumed.done(key) for key in DAYS] == [False, True]
    for fingerprint, other in (({}, {"era5": [{"name": "a.nc", "bytes": 2}]}), ({"grid": 2}, files)):
        with pytest.raises(LdmdownError, match="was begun with another configuration or other files"):
            ArchiveWriter.resume(path, fingerprint, other)
    with pytest.raises(LdmdownError, match="the archive is unfinished"):
        Archive(path)
