"""Files that would run code, fill the disk or wait for ever are refused, and nothing of them is executed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
import zarr
from conftest import Attack, ldmdown
from made_up import write_grib

from ldmdown.commands import info
from ldmdown.data.archive.store import Archive
from ldmdown.data.reading.fields import open_fields
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


def test_times_of_zarr_that_are_damaged(tmp_path: Path) -> None:
    dataset = xr.Dataset({"t2m": ("time", [280.0])}, {"time": ("time", [0], {"units": "hours since x"})})
    dataset.to_zarr(tmp_path / "era5.zarr", zarr_format=2, consolidated=False)
    with pytest.raises(LdmdownError, match="era5.zarr: "):
        GriddedFiles([tmp_path / "era5.zarr"])


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
        (b"Rar!\x1a\x07", "unpack it with unrar x"),
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


def with_filter(source: Path, path: Path, number: int) -> Path:
    """The same file with a variable that says it was compressed by a filter of this number."""
    shutil.copy(source, path)
    with h5py.File(path, "r+") as file:
        values, units = file["t2m"][...], file["t2m"].attrs["units"]
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((1, *values.shape[1:]))
        plan.set_filter(number, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple(values.shape)
        made = h5py.Dataset(h5py.h5d.create(file.id, b"made", h5py.h5t.IEEE_F32LE, space, plan))
        for hour, field in enumerate(values):
            made.id.write_direct_chunk((hour, 0, 0), field.tobytes())
        for axis, name in enumerate(("valid_time", "latitude", "longitude")):
            made.dims[axis].attach_scale(file[name])
        made.attrs["units"] = units
        del file["t2m"]
        file.move("made", "t2m")
    return path


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_no_filter_beside_a_file_is_loaded(tmp_path: Path, era5: Callable[..., Path]) -> None:
    """A library beside the file and in the working folder runs only where the user's HDF5_PLUGIN_PATH names it."""
    path = with_filter(era5(range(1)), tmp_path / "era5.nc", 32026)
    code = f'#include <stdio.h>\n__attribute__((constructor)) void run(void) {{ fopen("{tmp_path}/ran", "w"); }}'
    (tmp_path / "evil.c").write_text(code)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", "libh5evil.so", "evil.c"], cwd=tmp_path, check=True)
    program = (
        "import sys\nfrom ldmdown.data.reading.fields import open_fields\n"
        "try:\n    open_fields(sys.argv[1:], ['t2m']).read(0)\nexcept Exception as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", program, "era5.nc"]
    plain = {name: value for name, value in os.environ.items() if name != "HDF5_PLUGIN_PATH"}
    for environment, ran in ((plain, False), (plain | {"HDF5_PLUGIN_PATH": str(tmp_path)}, True)):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.startswith(f"{path.name}: cannot be read\n") and " (32026; unpack it" in done.stdout
        assert (tmp_path / "ran").exists() == ran


def test_sections_that_do_not_fit_into_their_message(tmp_path: Path, era5: Callable[..., Path]) -> None:
    """ecCodes would release the message twice, which ends the process."""
    path = tmp_path / "era5.grib"
    with xr.open_dataset(era5(range(2)), engine="netcdf4") as dataset:
        write_grib(path, dataset)
    content = bytearray(path.read_bytes())
    content[content.index(b"\0\0\0\x06\x06\xff") + 2] = 16  # the length of a section
    path.write_bytes(content)
    message = "era5.grib: cannot be read\n  found: the sections of a message do not fit into it"
    with pytest.raises(LdmdownError, match=message), open_fields([path], ("t2m",)):
        pass
