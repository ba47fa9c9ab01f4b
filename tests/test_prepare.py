"""From files to an archive: what is left out and why, what is noted of the files, and the same archive every way."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml
from conftest import CONDITIONER
from made_up import damage_hour

from ldmdown.commands.prepare import prepare
from ldmdown.data.archive.box_means import era5_boxes
from ldmdown.data.archive.store import Archive
from ldmdown.data.grid import Grid
from ldmdown.data.reading.fields import open_fields
from ldmdown.data.reading.regridded import Regridded
from ldmdown.errors import LdmdownError
from ldmdown.twin.files import TwinFiles

GRID = {"west": 4_300_000, "north": 2_500_000, "rows": 32, "cols": 32}
DAYS = ("2021-01-01", "2021-01-02", "2021-01-05")
SETTINGS: dict[str, Any] = {
    "name": "small",
    "grid": GRID,
    "data": {"split": {"train": [DAYS[:2]], "validation": [[DAYS[2], DAYS[2]]]}},
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three days of ERA5 and reference files, six hours each."""
    folder = tmp_path_factory.mktemp("raw")
    TwinFiles(folder, Grid(**GRID)).write([(f"{day}T00", f"{day}T05") for day in DAYS])
    return folder


@pytest.fixture
def folder(raw: Path, tmp_path: Path) -> Path:
    """The same, to spoil and to prepare."""
    for kind in ("era5", "reference"):
        shutil.copytree(raw / kind, tmp_path / kind)
    return tmp_path


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(SETTINGS | changes))))
    return path


def change(path: Path, edit: Any) -> None:
    """Rewrite a file."""
    with xr.open_dataset(path, engine="netcdf4") as dataset:
        changed = edit(dataset.load())
    changed.to_netcdf(path.with_suffix(".new"), engine="netcdf4")
    path.with_suffix(".new").replace(path)  # it may still be open


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_archive_holds_what_the_files_hold(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fields, windows of them, periods, and statistics of the training days; prepared again it is left alone."""
    path = write(folder)
    prepare(path)
    archive = Archive(folder / "archive.zarr")
    assert len(archive) == 18 and archive.grid == Grid(**GRID)
    with open_fields(sorted((folder / "reference").glob("*.nc")), archive.targets) as fields:
        expected = Regridded(fields, archive.grid, archive.targets).read(10)
    stored = archive.read(10)
    np.testing.assert_allclose(stored["target"], expected, atol=1 / 512 + 1e-4)
    boxes = era5_boxes(archive.grid).centres
    with xr.open_dataset(folder / "era5" / "era5_single_20210102.nc", engine="netcdf4") as dataset:
        hour = dataset.isel(valid_time=4).interp(latitude=boxes.y, longitude=boxes.x)
        for name, field in archive.read_boxes(10, boxes).items():
            np.testing.assert_allclose(field, hour[name], atol=1e-4)
    window = archive.read(10, (2, 1, 1, 3))
    np.testing.assert_array_equal(window["target"], stored["target"][:, 16:24, 8:32])
    np.testing.assert_array_equal(window["predictors"], stored["predictors"][:, 2:3, 1:4])
    days = {"train": [*range(12)], "validation": [*range(12, 18)], "test": []}
    assert {use: archive.split(use).tolist() for use in days} == days
    hours = [archive.read(index) for index in days["train"]]
    for kind, names in (("predictors", archive.predictors), ("target", archive.targets)):
        values, found = np.stack([hour[kind] for hour in hours]).astype(float), archive.normalization[kind]
        np.testing.assert_allclose([found.mean[name] for name in names], values.mean(axis=(0, 2, 3)), rtol=1e-6)
        np.testing.assert_allclose([found.std[name] for name in names], values.std(axis=(0, 2, 3)), rtol=1e-6)
    prepare(path)
    assert "is there already, prepared with this configuration" in capsys.readouterr().err
    with pytest.raises(LdmdownError) as caught:
        prepare(write(folder, targets=["t2m"]))
    assert str(caught.value) == (
        f"{folder / 'archive.zarr'}: was prepared with another configuration\n"
        "  fix: delete it to prepare it again, or name another data.archive"
    )


def test_missing_files_and_days(folder: Path) -> None:
    path = write(folder)
    (folder / "reference" / "VHR-REA_IT_20210105.nc").unlink()
    message = "no hour from 2021-01-05 to 2021-01-05 is both in ERA5 and in the reference"
    with pytest.raises(LdmdownError, match=message):
        prepare(path)
    shutil.rmtree(folder / "era5")
    with pytest.raises(LdmdownError, match=r"era5/\*.nc: no such file\n  fix: put the files there, or correct"):
        prepare(path)


def test_hours_that_are_left_out_and_why(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One hour absent from ERA5, one from the reference, one hot; the statistics do not see them."""
    change(folder / "era5" / "era5_single_20210101.nc", lambda data: data.isel(valid_time=[0, 1, 3, 4, 5]))
    change(folder / "reference" / "VHR-REA_IT_20210102.nc", lambda data: data.isel(time=slice(1, None)))

    def spoil(data: xr.Dataset) -> xr.Dataset:
        data.T_2M[4, 20, 20] = 400
        return data

    change(folder / "reference" / "VHR-REA_IT_20210101.nc", spoil)
    prepare(write(folder))
    archive = Archive(folder / "archive.zarr")
    assert len(archive) == 15 and archive.manifest["hours"] == {"train": 9, "validation": 6, "test": 0}
    kept = archive.hours.astype("datetime64[h]").astype(str).tolist()
    assert kept[:4] == [f"2021-01-01T{hour:02}" for hour in (0, 1, 3, 5)] and kept[4] == "2021-01-02T01"
    dropped = archive.manifest["dropped"]
    file = folder / "reference" / "VHR-REA_IT_20210101.nc"
    assert dropped.pop("only in reference") == ["2021-01-01T02"]
    assert dropped.pop("only in era5") == ["2021-01-02T00"]
    ((reason, hours),) = dropped.items()
    assert reason.startswith(f"{file}: t2m is not physical found: ") and hours == ["2021-01-01T04"]
    turned = "the wind of the files runs along their grid: it is turned to east and north"
    assert archive.manifest["notes"][turned] == [*DAYS]
    said = capsys.readouterr().err
    assert f"note: {turned} (2021-01-01 and 2 more days)" in said
    assert "note: 1 hours are missing between the first and the last, the first 2021-01-01T02:00 (2021-01-01)" in said
    assert "wrote" in said and "; 3 left out, manifest.json in it says why" in said
    values = np.stack([archive.read(index)["target"][0] for index in archive.split("train")]).astype(float)
    assert archive.normalization["target"].mean["t2m"] == pytest.approx(values.mean(), rel=1e-6)


def test_a_hole_on_the_grid_and_a_day_without_a_usable_hour(folder: Path) -> None:
    lon, lat = Grid(**GRID).lon[16, 16], Grid(**GRID).lat[16, 16]

    def hole(data: xr.Dataset, hours: Any) -> xr.Dataset:
        near = (np.abs(data.lon - lon) < 0.05) & (np.abs(data.lat - lat) < 0.05)
        data["V_10M"][hours] = data.V_10M[hours].where(~near)
        return data

    file = folder / "reference" / "VHR-REA_IT_20210105.nc"
    change(file, lambda data: hole(data, slice(3, 4)))
    prepare(write(folder))
    dropped = Archive(folder / "archive.zarr").manifest["dropped"]
    ((reason, hours),) = dropped.items()
    assert "u10 has missing values on the grid at 2021-01-05T03 found: 12 of 1024 cells" in reason and hours == [
        "2021-01-05T03"
    ]
    shutil.rmtree(folder / "archive.zarr")
    change(file, lambda data: hole(data, slice(None)))
    with pytest.raises(LdmdownError, match="u10 has missing values on the grid at 2021-01-05T00"):
        prepare(folder / "small.yaml")


def test_a_file_that_cannot_be_decoded_stops(folder: Path) -> None:
    """Another download mends it, while a missing value stays missing."""
    file = folder / "reference" / "VHR-REA_IT_20210105.nc"
    with xr.open_dataset(file, engine="netcdf4") as dataset:
        fields = dataset.load().drop_encoding()
    hourly = {"zlib": True, "chunksizes": (1, *fields.T_2M.shape[1:])}
    fields.to_netcdf(file, engine="netcdf4", encoding={"T_2M": hourly})
    damage_hour(file, "T_2M", 3)
    with pytest.raises(LdmdownError, match="VHR-REA_IT_20210105.nc: cannot be read"):
        prepare(write(folder))


def test_the_manifest_names_the_files_by_their_hashes(folder: Path) -> None:
    path = write(folder)
    with (folder / "era5" / "era5_single_20201231.nc").open("wb") as unused:
        unused.write((folder / "era5" / "era5_single_20210101.nc").read_bytes())
    change(
        folder / "era5" / "era5_single_20201231.nc",
        lambda data: data.assign_coords(valid_time=data.valid_time - np.timedelta64(1000, "h")),
    )
    prepare(path)
    archive = Archive(folder / "archive.zarr")
    files, (truth,) = archive.manifest["files"], archive.manifest["learned_from"]["training_truth"].values()
    assert truth["hours"] > 0 and truth["numbers"]["vorticity"]["mean"] > 0
    assert [file["name"] for file in files["reference"]] == [
        f"reference/VHR-REA_IT_{day.replace('-', '')}.nc" for day in DAYS
    ]
    assert len(files["era5"]) == 6 and files["statics"] == []
    for file in files["era5"] + files["reference"]:
        data = (folder / file["name"]).read_bytes()
        assert file["bytes"] == len(data) and file["sha256"] == hashlib.sha256(data).hexdigest()


def test_files_of_any_cut_make_the_same_archive(
    folder: Path, raw: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A variable a file, all days in it; and by absolute names."""
    other = tmp_path_factory.mktemp("cut")
    days = [xr.open_dataset(file, engine="netcdf4") for file in sorted((raw / "reference").glob("*.nc"))]
    whole = xr.concat(days, dim="time", data_vars="minimal", coords="minimal", compat="override", join="override")
    mapping = "crs_rotated_latitude_longitude"
    for name in ("T_2M", "U_10M", "V_10M"):
        whole[[name, mapping]].to_netcdf(other / f"{name}.nc", engine="netcdf4")
    for day in days:
        day.close()
    prepare(write(folder))
    data = SETTINGS["data"] | {"era5": str(raw / "era5" / "*.nc"), "reference": ["*.nc"]}
    prepare(write(other, data=data))
    ours, theirs = content(folder / "archive.zarr"), content(other / "archive.zarr")
    assert {name for name in ours if ours[name] != theirs.get(name)} == {"zarr.json", "manifest.json"}
    first, second = Archive(folder / "archive.zarr"), Archive(other / "archive.zarr")
    assert first.normalization == second.normalization and np.array_equal(first.hours, second.hours)


def test_killed_at_any_moment_the_archive_is_the_same_bytes(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write(folder)
    prepare(path)
    expected = content(folder / "archive.zarr")
    shutil.rmtree(folder / "archive.zarr")
    process = subprocess.Popen([sys.executable, "-m", "ldmdown", "prepare", "small.yaml"], cwd=folder)
    records = folder / "archive.zarr.part" / "records"
    while not list(records.glob("*.json")) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    if (part := folder / "archive.zarr.part").exists():  # torn writes, of a shard and of a record
        with pytest.raises(LdmdownError, match="the archive is unfinished\n  fix: run `ldmdown prepare` again"):
            Archive(folder / "archive.zarr")
        (part / "target" / "0.123.partial").write_bytes(b"torn")
        (records / "2021-01-05.tmp").write_text("{")
        prepare(path)
    assert content(folder / "archive.zarr") == expected


def test_killed_after_the_archive_has_its_name_it_is_completed(folder: Path) -> None:
    path = write(folder)
    prepare(path)
    archive = folder / "archive.zarr"
    expected = content(archive)
    manifest = json.loads((archive / "manifest.json").read_text())
    del manifest["learned_from"]
    (archive / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    (archive / "records").mkdir()
    (archive / "records" / "0-0-18628.json").write_text("{}")
    prepare(path)
    assert content(archive) == expected


def test_a_dry_run_says_what_it_would_make_and_keeps_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(folder)
    before = content(folder)
    prepare(path, dry_run=True)
    said = capsys.readouterr().out
    assert content(folder) == before
    assert said.startswith(
        "archive.zarr: 18 hours of 3 days\n  train      12 hours of 2 days, 2021-01-01 to 2021-01-02\n"
    )
    assert "  predictors t2m, u10, v10, cossza; 4 x 4 cells of 16 km, chunks 1 x 4 x 4 x 4, a day a shard" in said
    assert "  target     t2m, u10, v10; 32 x 32 cells of 2 km, chunks 1 x 3 x 32 x 32, a day a shard" in said
    assert "  era5       6 files, " in said and "  reference  3 files, " in said and "measured on 18 hours" in said
    size = float(said.split("size       about ")[1].split(" ")[0])
    prepare(path)
    arrays = sum(len(data) for name, data in content(folder / "archive.zarr").items() if "/c/" in f"/{name}")
    assert size * 1e3 == pytest.approx(arrays, rel=0.1)


@pytest.mark.parametrize("era5", ["era5/*.nc", "from_reference"])
def test_a_dry_run_of_a_twin_that_is_not_written_yet(tmp_path: Path, era5: str) -> None:
    path = write(tmp_path, twin={"periods": [DAYS[:2]]}, data=SETTINGS["data"] | {"era5": era5})
    with pytest.raises(LdmdownError, match=f"{tmp_path}: the twin's files are not written yet"):
        prepare(path, dry_run=True)


def test_an_unknown_scheduler_is_named(folder: Path) -> None:
    with pytest.raises(LdmdownError, match="no Dask scheduler at this address"):
        prepare(write(folder), scheduler="nonsense://nowhere:1")


@pytest.mark.slow
def test_a_cluster_makes_the_same_archive(folder: Path) -> None:
    distributed = pytest.importorskip("distributed")
    path = write(folder)
    prepare(path)
    expected = content(folder / "archive.zarr")
    shutil.rmtree(folder / "archive.zarr")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        prepare(path, scheduler=cluster.scheduler_address)
        assert content(folder / "archive.zarr") == expected
        shutil.rmtree(folder / "archive.zarr")
        change(folder / "reference" / "VHR-REA_IT_20210105.nc", lambda data: data.assign(T_2M=data.T_2M - 273.15))
        with pytest.raises(LdmdownError, match="t2m is not physical\n.*2021-01-05T00"):
            prepare(path, scheduler=cluster.scheduler_address)


DAVOS = {"west": 4_298_000, "north": 2_648_000, "rows": 16, "cols": 16}
TERRAIN = Path(os.environ.get("LDMDOWN_TEST_DATA", "none")) / "data" / "terrain" / "srtm1_davos.tif"


@pytest.mark.skipif(not TERRAIN.exists(), reason="LDMDOWN_TEST_DATA has no terrain")
def test_a_system_of_its_own_terrain_is_prepared_and_trained(tmp_path: Path) -> None:
    """Real heights over Davos as the networks' ground, from a file to a checkpoint that holds them."""
    from ldmdown import checkpoint
    from ldmdown.commands.train import train

    TwinFiles(tmp_path, Grid(**DAVOS)).write([(f"{day}T00", f"{day}T03") for day in (DAYS[0], DAYS[2])])
    stage = {"steps": 2, "learning_rate": 1e-3, "batch": 2, "crop": 2, "validate_every": 2}
    path = write(
        tmp_path,
        grid=DAVOS,
        data={
            "split": {"train": [[DAYS[0], DAYS[0]]], "validation": [[DAYS[2], DAYS[2]]]},
            "statics": {"terrain": str(TERRAIN)},
        },
        statics={"fields": ["z", "z_std", "lat"]},
        unet={"features": [8], "bottleneck": 8},
        conditioner=CONDITIONER,
        scale={"conditioner": CONDITIONER},
        denoiser={"channels": 32, "multipliers": [1], "blocks": 1},
        train=dict.fromkeys(("unet", "scale", "ldm"), stage),
    )
    prepare(path)
    archive = Archive(tmp_path / "archive.zarr")
    assert archive.statics == ("z", "z_std", "lat")
    how = archive.statics_normalization
    assert 1500 < how["z"]["mean"] < 2500 and 100 < how["z_std"]["mean"] < 300
    (file,) = archive.manifest["files"]["statics"]
    assert file["sha256"] == hashlib.sha256(TERRAIN.read_bytes()).hexdigest()
    train(path, "unet")
    loaded = checkpoint.load(tmp_path / "checkpoints" / "small.safetensors")
    np.testing.assert_allclose(loaded.model.statics[:3], archive.load_statics(), atol=2e-3)  # then estimated ones
