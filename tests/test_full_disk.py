"""Every verb that writes, on a disk that is full: one message, and with more room the work goes on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from conftest import ldmdown, write_published
from made_up import SHORT, write_archive, write_small

from ldmdown import checkpoint
from ldmdown.commands import fetch
from ldmdown.config import parse_config
from ldmdown.models.unet import UNet

DATA = os.environ.get("LDMDOWN_TEST_DATA")
DISK = 128  # MB
DOWNSCALE = ["downscale", "era5.nc", "--checkpoint", "tiny.safetensors", "--device", "cpu", "--resume", "-o"]
VERBS: Mapping[str, list[str]] = {
    "NetCDF": [*DOWNSCALE, "out.nc"],
    "Zarr": [*DOWNSCALE, "out.zarr"],
    "prepare": ["prepare", "twin/small.yaml"],
    "train": ["train", "small.yaml", "--resume"],
    "evaluate": ["evaluate", "era5.nc", "--reference", "era5.nc", "-o", "scores"],
    "plot": ["plot", "era5.nc", "-o", "map.png"],
    "twin": ["twin", "-o", "files", "--start", "2021-01-01", "--end", "2021-01-01T02"],
    "convert": [
        *("convert", "UNET_2mT.ckpt", "-o", "c.safetensors"),
        *("--statistics", "normalization_data.pkl", "--statics", "static_var"),
    ],
}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small disk of its own."""
    folder = tmp_path_factory.mktemp("disk")
    mounted = ["mount", "-t", "tmpfs", "-o", f"size={DISK}m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, era5: Callable[..., Path], tiny: dict[str, Path]) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    shutil.copy(era5(range(12)), folder / "era5.nc")
    shutil.copy(tiny["ldm"], folder / "tiny.safetensors")
    (folder / "twin").mkdir()
    write_small(folder / "twin", twin={"periods": [[f"{day}T00", f"{day}T03"] for day in ("2021-01-01", "2021-01-05")]})
    write_archive(folder / "archive.zarr", parse_config(write_small(folder, train=SHORT)))
    write_published(folder)
    weights = {f"net.{name}": tensor for name, tensor in UNet(32, 1, (4, 4), 8).state_dict().items()}
    torch.save({"state_dict": weights}, folder / "UNET_2mT.ckpt")
    return folder


def run_with(room: int, disk: Path, folder: Path, *command: str) -> int:
    """The exit code of a command for which `room` [kB] is left; it says what it should."""
    (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - 1024 * room))
    done = ldmdown("--quiet", *command, folder=folder)
    (disk / "ballast").unlink()
    if done.returncode:
        first, *others = done.stderr.strip().splitlines()
        assert done.returncode == 1, done.stderr
        assert any(text in first for text in ("cannot be written", "does not fit", "disk is full", "system refused"))
        assert all(line.startswith("  ") for line in others) and "Traceback" not in done.stderr, done.stderr
    return done.returncode


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_is_one_message_and_no_end(disk: Path, inputs: Path, verb: str) -> None:
    """There is room for nothing, then for a part, then for all."""
    folder = shutil.copytree(inputs, disk / "work")
    assert run_with(8, disk, folder, *VERBS[verb])
    run_with(200, disk, folder, *VERBS[verb])
    again = ldmdown("--quiet", *VERBS[verb], folder=folder)
    shutil.rmtree(folder)
    assert again.returncode == 0, again.stderr


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server of this machine that plays the record of the published files."""
    weights = sorted((Path(str(DATA)) / "parity").glob("*_2mT.ckpt"))
    others = [one for one in write_published(tmp_path).rglob("*") if one.is_file()]
    packed = tmp_path / "pretrained_models.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for one in (*weights, *others):
            archive.write(one, one.name)
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(tmp_path))) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        checksum = f"md5:{hashlib.md5(packed.read_bytes()).hexdigest()}"
        file = {"key": packed.name, "size": packed.stat().st_size, "checksum": checksum}
        (tmp_path / "api" / "records").mkdir(parents=True)
        for number in fetch.RECORDS:
            listed = json.dumps({"files": [file | {"links": {"self": f"{address}/{packed.name}"}}]})
            (tmp_path / "api" / "records" / number).write_text(listed)
        monkeypatch.setattr(fetch, "SERVER", address)
        yield
        server.shutdown()


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="LDMDOWN_TEST_DATA is not set")
@pytest.mark.usefixtures("record")
def test_a_disk_that_is_full_in_the_middle_of_fetch(disk: Path) -> None:
    """There is room for nothing, for the download, and for the unpacked weights too: the download is kept."""
    folder = disk / "work"
    folder.mkdir()
    kept = folder / "checkpoints" / "downloads" / "pretrained_models.zip"
    for room, downloaded in ((8, False), (30_000, True), (25_000, True)):
        assert run_with(room, disk, folder, "fetch", "paper-t2m") == 1
        assert [one for one in folder.rglob("*") if one.is_file()] == [kept] * downloaded
    assert ldmdown("--quiet", "fetch", "paper-t2m", folder=folder).returncode == 0
    assert checkpoint.load(folder / "checkpoints" / "paper-t2m.safetensors").stage == "ldm"
    shutil.rmtree(folder)
