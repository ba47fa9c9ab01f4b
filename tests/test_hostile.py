"""Files that would run code, fill the disk or wait for ever are refused, and nothing of them is executed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from conftest import Attack, ldmdown

from ldmdown.commands import info
from ldmdown.data.archive.store import Archive
from ldmdown.data.reading.files import GriddedFiles, list_files
from ldmdown.errors import LdmdownError


def store(path: Path) -> Path:
    dims = ("latitude", "longitude")
    axes = {"latitude": [44.0, 43.75], "longitude": [10.0, 10.25]}
    xr.Dataset({"t2m": (dims, np.full((2, 2), 280.0))}, axes).to_zarr(path, zarr_format=2, consolidated=False)
    return path


@pytest.mark.parametrize("array", ["latitude", "t2m"])
def test_pickled_chunks_of_zarr_are_not_decoded(tmp_path: Path, array: str) -> None:
    """Zarr itself looks at the first codec of objects only."""
    folder = store(tmp_path / "era5.zarr") / array
    metadata = json.loads((folder / ".zarray").read_text())
    metadata |= {
        "dtype": "|O",
        "filters": [{"id": "vlen-utf8"}, {"id": "pickle"}],
        "compressor": None,
        "fill_value": None,
    }
    (folder / ".zarray").write_text(json.dumps(metadata))
    ran = tmp_path / "ran"
    for chunk in [one for one in folder.iterdir() if not one.name.startswith(".")]:
        chunk.write_bytes(pickle.dumps(Attack(ran)))
    with pytest.raises(LdmdownError, match=f"{array}: is encoded in a way that is not read\n  found: pickle"):
        GriddedFiles([tmp_path / "era5.zarr"])
    assert not ran.exists()


def test_codecs_inside_shards_are_looked_at(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    group.create_array("t2m", shape=(4,), shards=(4,), chunks=(2,), dtype="f4")
    text = (tmp_path / "a.zarr" / "t2m" / "zarr.json").read_text()
    (tmp_path / "a.zarr" / "t2m" / "zarr.json").write_text(text.replace('"zstd"', '"blosc3"'))
    with pytest.raises(LdmdownError, match="blosc3"):
        GriddedFiles([tmp_path / "a.zarr"])


def test_an_archive_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(LdmdownError, match="is not a whole archive"):
        Archive(tmp_path)


def test_a_pipe_is_no_input(tmp_path: Path) -> None:
    """Reading one would wait for ever; in a folder of data it is passed over."""
    os.mkfifo(tmp_path / "era5.nc")
    with pytest.raises(LdmdownError, match="is no file"):
        list_files([tmp_path / "era5.nc"])
    with pytest.raises(LdmdownError, match="holds no data"):
        list_files([tmp_path])


def test_a_zip_that_does_not_fit_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.nc", bytes(10_000_000))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(LdmdownError, match=r"found: 0.01 GB in it, 0.001 GB free"):
        GriddedFiles([tmp_path / "bomb.zip"])


@pytest.mark.parametrize(
    ("start", "fix"),
    [
        (b"BZh91AY", "unpack it with bunzip2"),
        (b"\xfd7zXZ\0", "unpack it with unxz"),
        (b"\x1f\x8b\x08", "unpack it with gunzip, or tar xzf if it is an archive"),
        (b'{"error": 404}', "this is JSON, an error of a server or a list of references: download the data again"),
        (b"<html>", "this is a web page: download the data again"),
    ],
)
def test_what_is_packed_otherwise(tmp_path: Path, start: bytes, fix: str) -> None:
    (tmp_path / "era5.nc").write_bytes(start)
    with pytest.raises(LdmdownError, match=f"is no NetCDF, GRIB or zip file\n  found: .*\n  fix: {fix}$"):
        GriddedFiles([tmp_path / "era5.nc"])


def test_a_tar_is_named(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("a")
    with tarfile.open(tmp_path / "era5.tar", "w") as archive:
        archive.add(tmp_path / "note.txt")
    with pytest.raises(LdmdownError, match="fix: unpack it with tar xf$"):
        GriddedFiles([tmp_path / "era5.tar"])


def test_escapes_do_not_reach_the_terminal(tmp_path: Path) -> None:
    store(tmp_path / "\x1b[31mera5.zarr")
    for command in ("info", "plot"):
        shown = ldmdown(command, str(tmp_path / "\x1b[31mera5.zarr"), *(["-o", "map.png"] if command == "plot" else []))
        assert "\x1b" not in shown.stdout + shown.stderr and "\\x1b[31m" in shown.stdout + shown.stderr


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            ZeroDivisionError("half"),
            70,
            "ldmdown info a.nc: has met a defect of its own\n  found: ZeroDivisionError: half",
        ),
        (PermissionError(13, "Permission denied", "a.nc"), 1, "a.nc: the system refused to read, write or compute"),
        (MemoryError(), 1, "found: no memory is left"),
    ],
)
def test_what_nobody_foresaw_is_one_message(
    error: Exception, code: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(info, "card", fail)
    shown = ldmdown("info", "a.nc")
    assert shown.returncode == code and message in shown.stderr and "Traceback" not in shown.stderr
    monkeypatch.setenv("LDMDOWN_DEBUG", "1")
    with pytest.raises(type(error)):
        ldmdown("info", "a.nc")
