"""The form of the archive: what is put in comes out, whatever the grid, the variables and the hours."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from ldmdown.data.archive.store import PRECISION, Archive, ArchiveWriter, Packing, layout
from ldmdown.data.grid import Grid
from ldmdown.data.normalization import Normalization
from ldmdown.data.variables import VARIABLES, variable
from ldmdown.errors import LdmdownError

GRID = Grid(west=4_700_000, north=2_200_000, rows=400, cols=24)
NAMES = {"predictors": ("t2m", "sst"), "targets": ("t2m", "tp")}
DAYS = (18628, 18640)  # 2021-01-01 and twelve days on
ONE = {"t2m": 1.0, "sst": 1.0, "tp": 1.0}
PLAN = {"split": {"train": [["2021-01-01", "2021-01-01"]], "validation": [["2021-01-13", "2021-01-13"]], "test": []}}


def fields(hour: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(hour)
    predictors = random.normal(280, 5, (2, 50, 3)).astype(np.float32)
    predictors[1, :, 0] = np.nan  # land has no sea surface
    target = np.stack([random.normal(280, 10, GRID.shape), random.gamma(0.5, 0.002, GRID.shape)])
    return predictors, target.astype(np.float32)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Two days, the second written first and without its sixth hour."""
    writer = ArchiveWriter.begin(tmp_path / "a.zarr", GRID, NAMES, DAYS, PLAN, {"era5": []})
    for number in reversed(DAYS):
        hours = [24 * number + hour for hour in range(24) if (number, hour) != (DAYS[1], 5)]
        day = writer.new_day()
        for hour in hours:
            writer.put(day, hour, *fields(hour))
        writer.write(number, day, {"hours": hours})
    normalization = {kind: Normalization(ONE, ONE) for kind in ("predictors", "target")}
    writer.close(normalization, {"files": {}}, ({"z": {"mean": 1.0}}, np.zeros((1, *GRID.shape), np.float32)))
    return Archive(tmp_path / "a.zarr")


def test_what_is_put_in_comes_out(archive: Archive) -> None:
    assert len(archive) == 47 and archive.hours[29] == 24 * DAYS[1] + 6
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


def test_the_compact_form_is_exact(archive: Archive) -> None:
    offset = np.array([283, 0], np.float32)[:, None, None]
    compact = archive.read_target(29, offset, slice(None), slice(None))
    assert compact.dtype == np.int16 and archive.target_bytes == compact.nbytes
    np.testing.assert_array_equal(compact / archive.steps + offset, archive.read(29)["target"])
    part = archive.read_target(29, offset, slice(100, 140), slice(3, 9))
    np.testing.assert_array_equal(part, compact[:, 100:140, 3:9])
    np.testing.assert_array_equal(archive.load_predictors(np.array([29]))[0], archive.read(29)["predictors"])


def test_a_day_that_has_gone_from_the_disk_is_no_field_of_numbers(archive: Archive) -> None:
    shutil.rmtree(archive.path / "target" / "c" / "1")
    assert np.isfinite(archive.read(3)["target"]).all()
    for read in (archive.read, lambda index: archive.read_target(index, np.zeros((2, 1, 1)), slice(4), slice(4))):
        with pytest.raises(ValueError, match="its part of the archive is gone"):
            read(29)


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
    half = 0.5 / float(packing.steps.item()) * 1.01
    np.testing.assert_allclose(packing.unpack(packed), values, atol=half, rtol=1e-6)
    assert np.all(np.diff(packed.ravel().astype(int)) >= 0)  # nothing ran over
    if name in ("t2m", "u10", "v10"):
        assert packing.steps.item() == PRECISION
    assert packing.unpack(packing.pack(np.zeros((1, 1, 1), np.float32))).item() == 0 or low > 0


def test_begun_with_other_files_it_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    ArchiveWriter.begin(path, GRID, NAMES, DAYS, PLAN, {"era5": [{"name": "a.nc", "bytes": 1}]})
    ArchiveWriter.begin(path, GRID, NAMES, DAYS, PLAN, {"era5": [{"name": "a.nc", "bytes": 1}]})
    with pytest.raises(LdmdownError, match="was begun with another configuration or other files"):
        ArchiveWriter.begin(path, GRID, NAMES, DAYS, PLAN, {"era5": [{"name": "a.nc", "bytes": 2}]})
    with pytest.raises(LdmdownError, match="the archive is unfinished"):
        Archive(path)
