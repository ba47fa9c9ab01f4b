"""Thousands of damaged inputs: each gives the result of the undamaged one, or a clear refusal, or that of its values.

`LDMDOWN_FUZZ=2400` sets the number of cases; every case is made from its number alone, so that one can be run again.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import shutil
import signal
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from conftest import statistics
from made_up import SMALL, write_grib

from ldmdown.cli import main
from ldmdown.commands import convert, downscale, evaluate, info, plot, prepare, request, train

CASES = int(os.environ.get("LDMDOWN_FUZZ", "100"))
SECONDS, BYTES = 60, 4 * 2**30  # of the processor and of memory beside this process's, that a case may take
WAIT = 20 * SECONDS  # however busy the machine is
SAME = 0.3  # K or m s-1: what a row that moves within the tolerance of axes changes
NAMES = ("t2m", "u10", "v10")

COMMANDS = (convert, downscale, evaluate, info, plot, prepare, request, train)  # imported once, not in each process
Mutation = Callable[[np.random.Generator, Path], None]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, era5: Callable[..., Path], tiny: dict[str, Path]) -> Path:
    """A folder of undamaged inputs of every kind, and the result of one."""
    folder = tmp_path_factory.mktemp("bases")
    plain = shutil.copy(era5(range(2)), folder / "plain.nc")
    with xr.open_dataset(plain, engine="netcdf4") as dataset:
        dataset.load()
    dataset.drop_vars("expver").to_netcdf(folder / "classic.nc", format="NETCDF3_64BIT", engine="netcdf4")
    packed = {name: {"zlib": True, "fletcher32": True} for name in NAMES}
    dataset.to_netcdf(folder / "packed.nc", engine="netcdf4", encoding=packed)
    with zipfile.ZipFile(folder / "era5.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(plain, "data_stream-oper_stepType-instant.nc")
    write_grib(folder / "era5.grib", dataset)
    for version in (2, 3):
        dataset.drop_vars("expver").to_zarr(folder / f"v{version}.zarr", zarr_format=version, consolidated=False)
    shutil.copy(tiny["unet"], folder / "tiny.safetensors")
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    (folder / "statistics.pkl").write_bytes(pickle.dumps(statistics()))
    torch.save({"state_dict": {"net.w": torch.ones(3, 3)}}, folder / "UNET_2mT.ckpt")
    (folder / "stations.csv").write_text(
        "date;name;lat;lon;alt;t;wg\n" + "".join(f"2021-03-01 {h:02}:00;a;42.0;15.5;100;9.5;2.0\n" for h in range(2))
    )
    code, said = outcome(["downscale", str(plain), "-o", str(folder / "right.nc"), *_checkpoint(folder)])
    assert code == 0, said
    return folder


# Damage


def flip(random: np.random.Generator, path: Path) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(random.choice([1, 1, 1, 2, 16])):
        content[random.integers(len(content))] ^= 1 << random.integers(8)
    path.write_bytes(content)


def flip_start(random: np.random.Generator, path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.integers(min(len(content), 4096))] = random.integers(256)
    path.write_bytes(content)


def truncate(random: np.random.Generator, path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: random.integers(len(content))])


def overwrite(random: np.random.Generator, path: Path) -> None:
    content = bytearray(path.read_bytes())
    start = random.integers(len(content))
    content[start : start + 64] = random.bytes(64)
    path.write_bytes(content)


def delete(_: np.random.Generator, path: Path) -> None:
    path.unlink()


def change_axis(random: np.random.Generator, path: Path) -> None:
    """Damage an axis by the tool that wrote it."""
    with xr.open_dataset(path, engine="netcdf4", decode_times=False) as dataset:
        dataset = dataset.load()
    axis = str(random.choice(["latitude", "longitude", "valid_time"]))
    values = dataset[axis].values.astype(float)
    place = int(random.integers(len(values)))
    match random.integers(7):
        case 0:
            values[place] = random.choice([np.nan, np.inf, -np.inf, 0, 1e10, -400])
        case 1:
            values = random.permutation(values)
        case 2:
            values *= random.choice([1e10, -1, 2])
        case 3:
            values[place] = values[place - 1]
        case 4:
            dataset, values = dataset.drop_isel({axis: place}), np.delete(values, place)
        case 5:
            dataset, values = dataset.isel({axis: slice(0, place)}), values[:place]
        case 6:
            units = str(random.choice(["hours since 2021-3-1 9", "K", "", "days since x"]))
            dataset[axis].attrs["units"] = units
    changed = dataset.drop_encoding().assign_coords({axis: (axis, values, dataset[axis].attrs)})
    changed.to_netcdf(path, engine="netcdf4")


def change_variable(random: np.random.Generator, path: Path) -> None:
    """Damage a variable by the tool that wrote it."""
    with xr.open_dataset(path, engine="netcdf4", decode_times=False) as dataset:
        dataset = dataset.load()
    name = str(random.choice(NAMES))
    match random.integers(3):
        case 0:
            dataset[name].attrs["units"] = str(random.choice(["degC", "m", "", "\x1b[31mK", "knots"]))
        case 1:
            dataset[name].values[..., random.integers(9), 3] = random.choice([np.nan, np.inf, 1e30, -9999])
        case 2:
            dataset = dataset.rename({name: str(random.choice(["x", "2t", "T_2M"]))})
    dataset.to_netcdf(path, engine="netcdf4")


def change_json(random: np.random.Generator, path: Path) -> None:
    """Drop a key, or give it a value of another type, anywhere in the header of a checkpoint."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    inner = json.loads(header["__metadata__"]["ldmdown"])
    _change(random, inner)
    header["__metadata__"]["ldmdown"] = json.dumps(inner)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])


def change_yaml(random: np.random.Generator, path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    _change(random, content)
    path.write_text(yaml.safe_dump(content))


def _change(random: np.random.Generator, value: dict) -> None:
    """One key of nested dictionaries."""
    key = list(value)[random.integers(len(value))]
    if isinstance(value[key], dict) and value[key] and random.random() < 0.8:
        _change(random, value[key])
    elif random.random() < 0.25:
        del value[key]
    else:
        strange = [None, -1, 0, 1e30, "text", [], {}, [1], {"a": 1}, True, 10**9, float("nan"), "../x", "\x1b[31m"]
        value[key] = strange[random.integers(len(strange))]


BYTES_DAMAGE = (flip, flip_start, truncate, overwrite)
KINDS: dict[str, tuple[float, tuple[Mutation, ...]]] = {  # share of the cases, and what is done
    "plain.nc": (0.25, (*BYTES_DAMAGE, change_axis, change_axis, change_axis, change_variable)),
    "classic.nc": (0.1, BYTES_DAMAGE),
    "packed.nc": (0.05, BYTES_DAMAGE),
    "era5.zip": (0.05, BYTES_DAMAGE),
    "era5.grib": (0.1, BYTES_DAMAGE),
    "v2.zarr": (0.08, (*BYTES_DAMAGE, delete)),
    "v3.zarr": (0.08, (*BYTES_DAMAGE, delete)),
    "tiny.safetensors": (0.13, (*BYTES_DAMAGE, change_json, change_json, change_json)),
    "small.yaml": (0.07, (*BYTES_DAMAGE, change_yaml, change_yaml, change_yaml)),
    "stations.csv": (0.03, BYTES_DAMAGE),
    "statistics.pkl": (0.03, BYTES_DAMAGE),
    "UNET_2mT.ckpt": (0.03, BYTES_DAMAGE),
}


def _checkpoint(folder: Path) -> list[str]:
    return ["--checkpoint", str(folder / "tiny.safetensors"), "--region", "covered", "--device", "cpu"]


def command(random: np.random.Generator, kind: str, bases: Path, folder: Path) -> list[str]:
    """A verb that reads the damaged file in `folder`."""
    damaged, out = str(folder / kind), str(folder / "out.nc")
    if kind == "small.yaml":
        return ["prepare", damaged, "--dry-run"] if random.random() < 0.8 else ["train", damaged]
    if kind == "stations.csv":
        right = str(bases / "right.nc")
        return ["evaluate", right, "--reference", right, "--stations", damaged, "-o", str(folder / "scores")]
    if kind in ("statistics.pkl", "UNET_2mT.ckpt"):
        weights, numbers = (folder if kind == name else bases for name in ("UNET_2mT.ckpt", "statistics.pkl"))
        files = ["--statistics", str(numbers / "statistics.pkl"), "--statics", str(bases)]
        return ["convert", str(weights / "UNET_2mT.ckpt"), *files, "-o", str(folder / "c.safetensors")]
    if kind == "tiny.safetensors":
        first, last = "--start", "--end"
        verbs = [
            ["downscale", str(bases / "plain.nc"), "-o", out, *_checkpoint(folder)],
            ["info", damaged],
            ["request", first, "2021-03-01", last, "2021-03-01", "--checkpoint", damaged],
        ]
        return verbs[random.choice(3, p=[0.7, 0.15, 0.15])]
    verbs = [
        ["downscale", damaged, "-o", out, *_checkpoint(bases)],
        ["info", damaged],
        ["plot", damaged, "-o", str(folder / "map.png"), "--variables", "t2m"],
        ["evaluate", damaged, "--reference", str(bases / "plain.nc"), "-o", str(folder / "scores")],
    ]
    return verbs[random.choice(4, p=[0.8, 0.1, 0.05, 0.05])]


def outcome(arguments: list[str]) -> tuple[int, str]:
    """Exit code and output of a command in a process of its own; a negative code is the signal that ended it."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        _child(arguments, write)
    os.close(write)
    os.set_blocking(read, False)
    text, until = b"", time.monotonic() + WAIT
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        with suppress(BlockingIOError):
            text += os.read(read, 65536)
        if done:
            break
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    os.close(read)
    return os.waitstatus_to_exitcode(status), text.decode(errors="replace")


def _child(arguments: list[str], write: int) -> None:
    code, said = 99, io.StringIO()
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
        sys.argv = ["ldmdown", *arguments]
        with redirect_stdout(said), redirect_stderr(said):
            main()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException as error:
        said.write(f"Traceback: {type(error).__name__}: {error}")
    finally:
        os.write(write, said.getvalue()[:60_000].encode(errors="replace"))
        os._exit(code)


def verdict(code: int, said: str, arguments: list[str], bases: Path, folder: Path, kind: str) -> str:
    """right, refusal, other values (which the input holds), or a failure in words."""
    if "\x1b" in said:
        return "failure: an escape reached the terminal"
    if code in (1, 2):
        return "refusal" if said.strip() and "Traceback" not in said else "failure: no message"
    if code:
        return f"failure: exit code {code}"
    if arguments[0] != "downscale":
        return "right"
    with (
        xr.open_dataset(bases / "right.nc", engine="netcdf4") as right,
        xr.open_dataset(folder / "out.nc", engine="netcdf4") as made,
    ):
        if right.sizes == made.sizes and (right.time.values == made.time.values).all():
            if all(np.allclose(right[name], made[name], rtol=0, atol=SAME) for name in NAMES):
                return "right"
        elif kind.endswith(".nc"):
            with xr.open_dataset(folder / kind, engine="netcdf4") as given:
                times = given[next(name for name in ("valid_time", "time") if name in given)].values
                return "other values" if np.isin(made.time.values, times).all() else "failure: other times"
    explained = kind != "tiny.safetensors" and _holds_others(kind, bases, folder)
    return "other values" if explained else "failure: another result"


def _holds_others(kind: str, bases: Path, folder: Path) -> bool:
    """Whether a damaged file holds other values than the undamaged one, as read by no code of ldmdown."""
    if kind in ("era5.grib", "era5.zip"):
        return kind == "era5.grib"  # GRIB has no checksum; a zip has
    engine = {"engine": "zarr", "consolidated": False} if kind.endswith(".zarr") else {"engine": "netcdf4"}
    with xr.open_dataset(bases / kind, **engine) as one, xr.open_dataset(folder / kind, **engine) as other:
        known = [name for name in NAMES if name in other]
        return (
            len(known) < 3
            or one.sizes != other.sizes
            or not np.array_equal(one.valid_time, other.valid_time)
            or any(
                not np.array_equal(one[name], other[name], equal_nan=True) or one[name].attrs != other[name].attrs
                for name in known
            )
        )


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_damaged_inputs(bases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names, shares = list(KINDS), np.array([share for share, _ in KINDS.values()])
    counts: Counter[tuple[str, str]] = Counter()
    failures = []
    for number in range(CASES):
        random = np.random.default_rng([12, number])
        kind = names[random.choice(len(names), p=shares / shares.sum())]
        mutations = KINDS[kind][1]
        mutate = mutations[random.integers(len(mutations))]
        folder = tmp_path / str(number)
        folder.mkdir()
        copy = shutil.copytree if (bases / kind).is_dir() else shutil.copy
        copy(bases / kind, folder / kind)
        files = sorted(one for one in (folder / kind).rglob("*") if one.is_file()) or [folder / kind]
        mutate(random, files[random.integers(len(files))])
        arguments = command(random, kind, bases, folder)
        code, said = outcome(arguments)
        result = verdict(code, said, arguments, bases, folder, kind)
        counts[kind, result.partition(":")[0]] += 1
        if result.startswith("failure"):
            failures.append(f"case {number}, {mutate.__name__} of {kind}, {arguments[0]}: {result}\n{said[-600:]}")
        else:
            shutil.rmtree(folder)
    with capsys.disabled():
        print(f"\n{CASES} cases: {dict(sorted(counts.items()))}")
    assert not failures, f"{len(failures)} failures\n\n" + "\n\n".join(failures)
