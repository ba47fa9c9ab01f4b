"""`prepare` from end to end, on a small twin: what the archive holds, other configurations, missing files, a kill."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
import zarr
from made_up import SMALL, write_small

from ldmdown.commands.prepare import prepare
from ldmdown.data.archive.store import Archive
from ldmdown.data.grid import Grid
from ldmdown.data.reading.fields import open_fields
from ldmdown.data.reading.regridded import Regridded
from ldmdown.errors import LdmdownError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration and its archive."""
    folder = tmp_path_factory.mktemp("prepared")
    prepare(write_small(folder))
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """The same, to train in."""
    shutil.copy(prepared / "small.yaml", tmp_path)
    shutil.copytree(prepared / "archive.zarr", tmp_path / "archive.zarr")
    return tmp_path


def test_the_archive_holds_what_the_files_hold(prepared: Path) -> None:
    archive = Archive(prepared / "archive.zarr")
    assert len(archive) == 72 and archive.grid == Grid(west=4_300_000, north=2_500_000, rows=64, cols=64)
    files = sorted((prepared / "reference").glob("*.nc"))
    reference = Regridded(open_fields(files, archive.targets), archive.grid)
    stored = archive.read(30)
    np.testing.assert_allclose(stored["target"], reference.read(30), atol=1 / 512 + 1e-4)
    window = archive.read(30, (2, 1, 3, 4))
    np.testing.assert_array_equal(window["target"], stored["target"][:, 16:40, 8:40])
    np.testing.assert_array_equal(window["predictors"], stored["predictors"][:, 2:5, 1:5])
    days = {"train": range(48), "validation": range(48, 72), "test": range(0)}
    assert {use: archive.split(use).tolist() for use in days} == {use: list(hours) for use, hours in days.items()}


def test_statistics_are_those_of_the_training_days(prepared: Path) -> None:
    archive = Archive(prepared / "archive.zarr")
    hours = [archive.read(index) for index in range(48)]
    for kind, names in (("predictors", archive.predictors), ("target", archive.targets)):
        values = np.stack([hour[kind] for hour in hours]).astype(float)
        np.testing.assert_allclose(
            [archive.normalization[kind].mean[name] for name in names], values.mean(axis=(0, 2, 3)), rtol=1e-6
        )
        np.testing.assert_allclose(
            [archive.normalization[kind].std[name] for name in names], values.std(axis=(0, 2, 3)), rtol=1e-6
        )


def test_prepared_again_it_is_left_alone(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(prepared / "small.yaml")
    assert "is there already, prepared with this configuration" in capsys.readouterr().err


def test_another_configuration_in_the_way(folder: Path) -> None:
    path = write_small(folder, targets=["t2m"])
    with pytest.raises(LdmdownError) as caught:
        prepare(path)
    assert str(caught.value) == (
        f"{folder / 'archive.zarr'}: was prepared with another configuration\n"
        "  fix: delete it to prepare it again, or name another data.archive"
    )


def test_missing_files_and_days(tmp_path: Path, prepared: Path) -> None:
    bare = {key: value for key, value in SMALL.items() if key != "twin"}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(bare))
    with pytest.raises(LdmdownError, match=r"era5/\*.nc: no such file\n  fix: put the files there, or correct"):
        prepare(path)
    for kind in ("era5", "reference"):
        shutil.copytree(prepared / kind, tmp_path / kind)
    (tmp_path / "reference" / "VHR-REA_IT_20210105.nc").unlink()
    with pytest.raises(
        LdmdownError, match="no hour from 2021-01-05 to 2021-01-05 is both in ERA5 and in the reference"
    ):
        prepare(path)


def test_killed_and_gone_on_with_it_is_the_same_archive(prepared: Path, tmp_path: Path) -> None:
    write_small(tmp_path)
    for kind in ("era5", "reference"):
        shutil.copytree(prepared / kind, tmp_path / kind)
    process = subprocess.Popen([sys.executable, "-m", "ldmdown", "prepare", "small.yaml"], cwd=tmp_path)
    records = tmp_path / "archive.zarr.part" / "records"
    for _ in range(1200):
        if list(records.glob("*.json")) or process.poll() is not None:
            break
        time.sleep(0.02)
    process.kill()
    process.wait()
    time.sleep(1)  # workers notice that nobody asks any more
    with pytest.raises(LdmdownError, match="the archive is unfinished\n  fix: run `ldmdown prepare` again"):
        Archive(tmp_path / "archive.zarr")
    prepare(tmp_path / "small.yaml")
    ours, theirs = (zarr.open_group(place / "archive.zarr", mode="r") for place in (tmp_path, prepared))
    for name in ("time", "predictors", "target"):
        np.testing.assert_array_equal(ours[name][:], theirs[name][:])
    assert ours.attrs["normalization"] == theirs.attrs["normalization"]
