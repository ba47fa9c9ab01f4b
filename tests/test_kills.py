"""Every verb that writes is killed at random moments, resumes, and ends with what it makes undisturbed, bit by bit.

`LDMDOWN_KILLS=50` sets the number of kills. Their moments are drawn from the seed, over the time of an undisturbed run.
"""

from __future__ import annotations

import csv
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml
from made_up import SHORT, write_archive, write_small
from safetensors.numpy import load_file

from ldmdown.atomic import BESIDE
from ldmdown.cli import main
from ldmdown.commands import downscale, evaluate, prepare, train
from ldmdown.config import parse_config
from ldmdown.data.grid import Grid
from ldmdown.twin.files import TwinFiles

KILLS = int(os.environ.get("LDMDOWN_KILLS", "8"))
PATIENCE = 600  # seconds, however busy the machine is
LEFT_BEHIND = (".part", ".unpacked", ".lock", BESIDE)
COMMANDS = (downscale, evaluate, prepare, train)  # imported once, not in each process
DOWNSCALE = ["downscale", "era5.nc", "--checkpoint", "tiny.safetensors", "--device", "cpu", "--resume", "-o"]
RUNS: Mapping[str, tuple[float, list[str]]] = {  # share of the kills, and the command
    "NetCDF": (0.2, [*DOWNSCALE, "out.nc"]),
    "Zarr": (0.2, [*DOWNSCALE, "out.zarr"]),
    "a file a day": (0.2, [*DOWNSCALE, "out_{time:%d}.nc"]),
    "prepare": (0.12, ["prepare", "own.yaml"]),
    "two processes": (0.1, [*DOWNSCALE, "out.nc", "--processes", "2"]),
    "two ranks": (0.06, [*DOWNSCALE, "out.nc"]),
    "evaluate": (0.06, ["evaluate", "era5.nc", "--reference", "era5.nc", "-o", "scores"]),
    "train": (0.06, ["train", "small.yaml", "--resume"]),
}
GRID = {"west": 4_300_000, "north": 2_500_000, "rows": 32, "cols": 32}
DAYS = ("2021-01-01", "2021-01-02", "2021-01-03", "2021-01-05")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, era5: Callable[..., Path], tiny: dict[str, Path]) -> Path:
    """A folder of what the verbs read."""
    folder = tmp_path_factory.mktemp("inputs")
    TwinFiles(folder, Grid(**GRID)).write([(f"{day}T00", f"{day}T05") for day in DAYS])
    split = {"train": [[DAYS[0], DAYS[2]]], "validation": [[DAYS[3], DAYS[3]]]}
    config = {"name": "own", "grid": GRID, "data": {"archive": "own.zarr", "split": split}}
    (folder / "own.yaml").write_text(yaml.safe_dump(config))
    write_archive(folder / "archive.zarr", parse_config(write_small(folder, train=SHORT)))
    shutil.copy(era5(range(12, 36)), folder / "era5.nc")
    shutil.copy(tiny["ldm"], folder / "tiny.safetensors")
    return folder


def start(folder: Path, name: str) -> int:
    """Begin a run, in a process that leads a group of its own."""
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            os.chdir(folder)
            with Path("said.txt").open("a", buffering=1) as said:
                if name == "two ranks":
                    for stream in (1, 2):
                        os.dup2(said.fileno(), stream)
                    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "ldmdown"]
                    os.execv(sys.executable, [sys.executable, *launcher, *RUNS[name][1]])
                sys.stdout = sys.stderr = said
                sys.argv = ["ldmdown", *RUNS[name][1]]
                main()
        except SystemExit as end:
            os._exit(int(end.code or 0))
        finally:
            os._exit(99)
    return child


def finish(folder: Path, name: str) -> float:
    """The seconds that a run takes which nobody disturbs."""
    began = time.monotonic()
    _, status = os.waitpid(start(folder, name), 0)
    assert status == 0, f"{name}:\n{(folder / 'said.txt').read_text()[-3000:]}"
    left = [one.name for one in folder.iterdir() if one.name.endswith(LEFT_BEHIND)]
    assert not left, f"{name}: {left}"
    return time.monotonic() - began


def working_in(folder: Path) -> list[str]:
    """The processes that run in a folder."""
    found = []
    for one in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):  # of others, and of those that have ended
            if one.readlink() == folder:
                found.append((one.parent / "cmdline").read_text())
    return found


def kill(leader: int, folder: Path, *, group: bool) -> bool:
    """Kill a run, or its first process only, and wait until none of its processes runs; False if it had finished."""
    with suppress(ProcessLookupError):  # torchrun's may not lead its group yet
        (os.killpg if group else os.kill)(leader, signal.SIGKILL)
    _, status = os.waitpid(leader, 0)
    until = time.monotonic() + PATIENCE
    while working_in(folder):
        assert time.monotonic() < until, f"processes outlive the first one: {working_in(folder)}"
        time.sleep(0.05)
    return os.WIFSIGNALED(status)


def result(folder: Path, name: str) -> dict[str, bytes]:
    """What a run made, as far as it does not tell the time."""
    if name == "prepare":
        archive = folder / "own.zarr"
        return {str(one.relative_to(archive)): one.read_bytes() for one in archive.rglob("*") if one.is_file()}
    if name == "evaluate":
        return {"scores": (folder / "scores" / "scores.csv").read_bytes()}
    if name == "train":
        found = {key: values.tobytes() for key, values in load_file(folder / "checkpoints/small.safetensors").items()}
        for stage in ("unet", "scale", "ldm"):
            with (folder / "run" / f"{stage}.csv").open() as file:
                rows = [(row["step"], row["loss"], row["validation"]) for row in csv.DictReader(file)]
            found[stage] = repr(rows).encode()
        return found
    found = {}
    for path in sorted(folder.glob("out*")):
        with xr.open_dataset(path, engine="zarr" if path.suffix == ".zarr" else "netcdf4") as dataset:
            found |= {f"{path.name} {key}": np.asarray(one).tobytes() for key, one in dataset.variables.items()}
    return found


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_killed_at_random_it_ends_the_same(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(50)
    kills: Counter[str] = Counter()
    for name, (share, _) in RUNS.items():
        given = shutil.copytree(inputs, tmp_path / f"{name} given")
        undisturbed = shutil.copytree(given, tmp_path / name)
        seconds, right = finish(undisturbed, name), result(undisturbed, name)
        wanted = max(1, round(share * KILLS))
        while kills[name] < wanted:
            folder = shutil.copytree(given, tmp_path / f"{name} {kills[name]}")
            while kills[name] < wanted:
                leader = start(folder, name)
                time.sleep(random.uniform(0, seconds))
                if not kill(leader, folder, group=random.random() < 0.5):
                    break
                kills[name] += 1
            finish(folder, name)
            assert result(folder, name) == right, f"{name} after {kills[name]} kills"
            shutil.rmtree(folder)
    with capsys.disabled():
        print(f"\n{kills.total()} kills: {dict(kills)}")
