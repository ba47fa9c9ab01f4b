"""Every verb that writes, on a disk that is full: one message, and with more room the work goes on."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from conftest import ldmdown
from made_up import write_archive, write_small

from ldmdown.config import parse_config

DISK = 64  # MB
DOWNSCALE = ["downscale", "era5.nc", "--checkpoint", "tiny.safetensors", "--device", "cpu", "--resume", "-o"]
VERBS: Mapping[str, list[str]] = {
    "NetCDF": [*DOWNSCALE, "out.nc"],
    "Zarr": [*DOWNSCALE, "out.zarr"],
    "prepare": ["prepare", "twin/small.yaml"],
    "train": ["train", "small.yaml", "--resume"],
    "evaluate": ["evaluate", "era5.nc", "--reference", "era5.nc", "-o", "scores"],
    "plot": ["plot", "era5.nc", "-o", "map.png"],
    "twin": ["twin", "-o", "files", "--start", "2021-01-01", "--end", "2021-01-01T02"],
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
    write_small(folder / "twin")
    write_archive(folder / "archive.zarr", parse_config(write_small(folder)))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("room", [8, 200])
@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_is_one_message_and_no_end(disk: Path, inputs: Path, verb: str, room: int) -> None:
    """`room` [kB] is left at first."""
    folder = shutil.copytree(inputs, disk / "work")
    (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - 1024 * room))
    done = ldmdown("--quiet", *VERBS[verb], folder=folder)
    (disk / "ballast").unlink()
    assert done.returncode == 1 or (done.returncode == 0 and room > 8), done.stderr
    if done.returncode:
        first, *others = done.stderr.strip().splitlines()
        assert any(text in first for text in ("cannot be written", "does not fit", "disk is full", "system refused"))
        assert all(line.startswith("  ") for line in others) and "Traceback" not in done.stderr, done.stderr
    again = ldmdown("--quiet", *VERBS[verb], folder=folder)
    shutil.rmtree(folder)
    assert again.returncode == 0, again.stderr
