"""The main job, with untrained networks: what matters is which numbers come out where, not how good they are."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rioxarray  # noqa: F401
import torch
import xarray as xr
from conftest import ldmdown as ldmdown_command

import ldmdown
from ldmdown import checkpoint
from ldmdown.atomic import locked
from ldmdown.commands.downscale import downscale
from ldmdown.data.grid import Grid
from ldmdown.data.reading.regridded import covered_margin
from ldmdown.data.writer import FieldWriter
from ldmdown.errors import LdmdownError
from ldmdown.options import DownscaleOptions, RunOptions
from ldmdown.runtime import resolve_precision

Write = Callable[..., Path]
Stop = Callable[[int], AbstractContextManager[None]]
COMMAND = [sys.executable, "-m", "ldmdown", "downscale"]


def fields(path: Path) -> xr.Dataset:
    with xr.open_dataset(path, engine="netcdf4") as dataset:
        return dataset.load()


def run(files: Path | list[Path], output: Path, file: Path, **options: object) -> xr.Dataset:
    inputs = files if isinstance(files, list) else [files]
    how = {name: options.pop(name) for name in ("device", "processes", "overwrite", "resume") if name in options}
    files = [str(one) for one in inputs]
    downscale(files, output, DownscaleOptions(**options), checkpoint=str(file), run=RunOptions(**how))
    return fields(output)


def fresh(file: Path, folder: Path) -> Path:
    """The same system before any training: its mean interpolates, its denoiser says nothing."""
    loaded = checkpoint.load(file)
    model = checkpoint.build(loaded.config, loaded.normalization, loaded.stage)
    header = checkpoint.header_of(loaded.config, loaded.normalization, loaded.stage)
    checkpoint.save(folder / "fresh.safetensors", model, header)
    return folder / "fresh.safetensors"


def test_an_hour_is_the_same_whatever_surrounds_it(tiny: dict[str, Path], era5: Write, tmp_path: Path) -> None:
    """From a file of 24 hours and of one, in batches of one and of four, alone and among members."""
    day = run(era5(range(24)), tmp_path / "day.nc", tiny["ldm"])
    hour = run(era5(range(7, 8)), tmp_path / "hour.nc", tiny["ldm"])
    batch = run(era5(range(24)), tmp_path / "batch.nc", tiny["ldm"], batch_size=4)
    members = run(era5(range(7, 8)), tmp_path / "members.nc", tiny["ldm"], members=3)
    chosen = run(era5(range(24)), tmp_path / "c.nc", tiny["ldm"], start="2021-03-01T07", end="2021-03-01T07")
    assert day.sizes == {"time": 24, "y": 64, "x": 64, "bnds": 2}
    assert members.t2m.dims == ("time", "realization", "y", "x") and members.t2m.shape == (1, 3, 64, 64)
    for name in ("t2m", "u10", "v10"):
        expected = day[name][7]
        for other in (hour[name][0], batch[name][7], members[name][0, 0], chosen[name][0]):
            np.testing.assert_allclose(other, expected, atol=1e-3)
        assert np.abs(members[name][0, 0] - members[name][0, 1]).max() > 0.1
        assert np.abs(day[name][7] - day[name][8]).max() > 0.1


def test_seeds_and_samplers_matter(tiny: dict[str, Path], era5: Write, tmp_path: Path) -> None:
    file = era5(range(1))
    one = run(file, tmp_path / "0.nc", tiny["ldm"])
    same = run(file, tmp_path / "1.nc", tiny["ldm"], seed=0)
    np.testing.assert_array_equal(one.t2m, same.t2m)
    for number, options in enumerate(({"seed": 1}, {"sampler": "ddim"}, {"steps": 3}, {"temporal_correlation": 0.0})):
        other = run(file, tmp_path / f"other{number}.nc", tiny["ldm"], **options)
        assert np.abs(other.t2m - one.t2m).max() > 1e-3, options


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx2": True}, "fp32"), ({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16")],
)
def test_auto_is_bf16_where_the_cpu_computes_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert resolve_precision("auto", torch.device("cpu")) == expected
    assert resolve_precision("fp32", torch.device("cpu")) == "fp32"
    assert resolve_precision("auto", torch.device("cuda")) == "bf16"


def test_what_auto_became_is_recorded(
    tiny: dict[str, Path], era5: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was begun in bf16 is not completed in fp32 unnoticed."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    file = era5(range(1))
    made = run(file, tmp_path / "out.nc", tiny["unet"])
    assert json.loads(made.ldmdown_run)["precision"] == "bf16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    with pytest.raises(LdmdownError, match="other options\n  found: precision bf16\n  expected: precision fp32"):
        run(file, tmp_path / "out.nc", tiny["unet"], resume=True)


def test_a_dry_run_says_what_it_will_take_and_writes_nothing(
    tiny: dict[str, Path], era5: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, options = tmp_path / "{time:%m%d}.nc", DownscaleOptions(members=2)
    downscale([str(era5(range(48)))], output, options, checkpoint=str(tiny["ldm"]), run=RunOptions(dry_run=True))
    said = capsys.readouterr().err
    assert "48 hours from 2021-03-01T00:00 to 2021-03-02T23:00, in 2 files, 2 members" in said
    assert "about 3.3 MB on the disk, of " in said  # 48 x 2 x 3 fields of 64 x 64, 0.7 of 4 bytes
    assert re.search(r"\d s an hour, about \d+:\d\d:\d\d in all; \d\.\d GB of memory", said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "needed"), [("out.nc", "68.8 kB"), ("out.tif", "128 kB")])
def test_a_full_disk_is_seen_at_the_start(
    name: str, needed: str, tiny: dict[str, Path], era5: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours and the file, and for GeoTIFF a plain one of 4 bytes a value too: 39.3 + 39.3 + 49.2 kB."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(LdmdownError, match=f"does not fit on the disk\n  found: 1 kB\n  expected: {needed}"):
        run(era5(range(1)), tmp_path / name, tiny["unet"])
    assert not list(tmp_path.iterdir())


def test_winds_are_earth_relative(era5: Write, tmp_path: Path, tiny: dict[str, Path]) -> None:
    """A wind due north stays due north, 4 degrees of convergence or not: an untrained mean only interpolates."""
    output = run(era5(range(1), u10=0.0, v10=7.0), tmp_path / "out.nc", fresh(tiny["unet"], tmp_path))
    np.testing.assert_allclose(output.u10, 0, atol=1e-3)
    np.testing.assert_allclose(output.v10, 7, atol=2e-3)
    assert output.v10.standard_name == "northward_wind"


def test_speed_is_that_of_the_components(tiny: dict[str, Path], era5: Write, tmp_path: Path) -> None:
    output = run(era5(range(1)), tmp_path / "out.nc", tiny["ldm"], variables=("u10", "v10", "ws10"), members=2)
    assert set(output.data_vars) >= {"u10", "v10", "ws10"} and "t2m" not in output
    np.testing.assert_allclose(output.ws10, np.hypot(output.u10, output.v10), rtol=1e-5)
    assert output.ws10.standard_name == "wind_speed"


def test_a_box_equals_the_whole(tiny: dict[str, Path], era5: Write, tmp_path: Path) -> None:
    """What surrounds a box is computed too, as far as the input covers it, with the noise of its place."""
    file = fresh(tiny["ldm"], tmp_path)
    whole = run(era5(range(1)), tmp_path / "whole.nc", file)
    part = run(era5(range(1)), tmp_path / "part.nc", file, bbox=(15.1, 41.9, 15.7, 42.4))
    assert 0 < part.y.size < 64 and part.y.size % 8 == 0 and part.x.size % 8 == 0
    np.testing.assert_allclose(part.u10, whole.u10.sel(y=part.y, x=part.x), atol=1e-3)


def test_a_window_grows_as_far_as_the_input_reaches() -> None:
    """By hand: on 8 x 8 coarse cells, an input that lacks the first row and all from the sixth column on."""
    mask = np.zeros((8, 8), bool)
    mask[1:, :5] = True
    fields: Any = SimpleNamespace(grid=SimpleNamespace(covers=lambda lat, lon: mask))
    grid = Grid("EPSG:3035", 4_700_000, 2_200_000, 64, 64, 2000.0)
    assert covered_margin(fields, grid, (3, 2, 2, 2), 0) == (3, 2, 2, 2)
    assert covered_margin(fields, grid, (3, 2, 2, 2), 1) == (2, 1, 4, 4)
    assert covered_margin(fields, grid, (3, 2, 2, 2), 4) == (1, 0, 7, 5)


def test_the_covered_part(tiny: dict[str, Path], era5: Write, tmp_path: Path) -> None:
    file = era5(range(1), east=15.25)
    with pytest.raises(LdmdownError, match="covers too little of the domain\n  found: 14.00 to 15.25 E"):
        run(file, tmp_path / "no.nc", tiny["ldm"])
    part = run(file, tmp_path / "part.nc", tiny["ldm"], region="covered")
    assert part.x.size < 64 and part.y.size == 64 and float(part.lon.max()) < 15.4
    assert list(tmp_path.glob("no*")) == []


def test_the_card_of_an_output(tiny: dict[str, Path], era5: Write, tmp_path: Path) -> None:
    file = era5(range(1))
    output = run(file, tmp_path / "out.nc", tiny["ldm"])
    expected = f"checkpoint tiny (stage ldm, sha256 {checkpoint.load(tiny['ldm']).sha256}), dpmpp 4 steps, seed 0"
    assert expected in output.source and file.name in output.source
    assert output.comment == "Untrained, for tests." and "ERA5" in output.acknowledgement
    assert "10.5194/gmd-18-2051-2025" in output.references and output.Conventions == "CF-1.11"


def test_the_mean_alone(tiny: dict[str, Path], era5: Write, tmp_path: Path) -> None:
    output = run(era5(range(2)), tmp_path / "out.nc", tiny["unet"])
    assert "conditional mean" in output.source and output.t2m.shape == (2, 64, 64)
    with pytest.raises(LdmdownError) as caught:
        run(era5(range(1)), tmp_path / "two.nc", tiny["unet"], members=2)
    assert str(caught.value) == (
        f"{tiny['unet']}: gives one field an hour, the conditional mean\n"
        "  found: --members 2\n  expected: a checkpoint of stage ldm\n"
        "  fix: leave out --members, or train the stage ldm"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variables": ("t2m", "tp")}, "--variables: asks for what the checkpoint does not make\n  found: tp"),
        ({"bbox": (30.0, 40.0, 31.0, 41.0)}, "--bbox: holds no cell of the domain\n  found: 30 40 31 41"),
        ({"start": "2022-01-01"}, "--start/--end: leave no hour\n  found: 2022-01-01 to the last"),
        ({"start": "yesterday"}, "--start/--end: is not a time"),
        ({"overwrite": True, "resume": True}, "--overwrite and --resume: exclude each other"),
        ({"bbox": (12, 40, 16, 43), "region": "covered"}, "--bbox and --region: exclude each other"),
        ({"members": 0}, "--members: is out of range\n  found: 0\n  expected: 1 to 10000"),
        ({"members": 1_000_000_000}, "--members: is out of range\n  found: 1000000000"),
        ({"steps": 100_000}, "--steps: is out of range\n  found: 100000"),
        ({"variables": ("t2m", "t2m")}, "--variables: names a variable twice\n  found: t2m, t2m"),
        (
            {"statistics": ("mean",)},
            "--statistics: needs several members\n  fix: give their number, such as --members 20",
        ),
        ({"members": 3, "statistics": ("p0",)}, "--statistics: asks for what is not a statistic\n  found: p0"),
        ({"members": 3, "statistics": ("p5", "p5")}, "--statistics: names a statistic twice\n  found: p5, p5"),
        ({"members": 3, "keep_members": True}, "--keep-members: goes with --statistics alone"),
        ({"device": "tpu"}, "--device: is not a device\n  found: tpu"),
    ],
)
def test_options_that_do_not_serve(
    tiny: dict[str, Path], era5: Write, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(LdmdownError) as caught:
        run(era5(range(1)), tmp_path / "out.nc", tiny["ldm"], **options)
    assert str(caught.value).startswith(message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_stopped_hours_are_kept_and_completed(
    tiny: dict[str, Path], era5: Write, tmp_path: Path, sign: signal.Signals
) -> None:
    """A signal that comes once two hours are written, while the third is."""
    file, output, part = era5(range(6)), tmp_path / "out.nc", tmp_path / "out.nc.part"
    program = (
        "import os, signal, sys\n"
        "from ldmdown.cli import main\n"
        "from ldmdown.data.writer import FieldWriter\n"
        "write = FieldWriter.write\n"
        "def stopped(writer, index, fields):\n"
        f"    os.kill(os.getpid(), {sign.value}) if index == 2 else index < 2 and write(writer, index, fields)\n"
        "FieldWriter.write = stopped\n"
        "main()\n"
    )
    command = [sys.executable, "-c", program, "downscale", str(file), "-o", str(output)]
    done = subprocess.run(
        [*command, "--checkpoint", str(tiny["ldm"])],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.returncode == (130 if sign == signal.SIGINT else -signal.SIGKILL)
    assert sign == signal.SIGKILL or "stopped; finished work is kept" in done.stderr
    kept = sorted(part.glob("*.npz"))
    assert len(kept) == 2 and not output.exists()
    before = [one.read_bytes() for one in kept]
    with pytest.raises(LdmdownError, match="holds 2 finished hours of a run that was stopped"):
        run(file, output, tiny["ldm"])
    with pytest.raises(LdmdownError, match="was begun with other options\n  found: seed 0\n  expected: seed 5"):
        run(file, output, tiny["ldm"], resume=True, seed=5)
    assert [one.read_bytes() for one in kept] == before
    made = run(file, output, tiny["ldm"], resume=True)
    assert made.time.size == 6 and not part.exists()
    xr.testing.assert_equal(made, run(file, tmp_path / "whole.nc", tiny["ldm"]))


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], AbstractContextManager[None]]]:
    """A context in which the n-th hour that is written stops the run."""

    @contextmanager
    def stop(count: int) -> Iterator[None]:
        write, written = FieldWriter.write, []

        def counted(writer: FieldWriter, index: int, fields: dict[str, np.ndarray]) -> None:
            if len(written) == count:
                raise KeyboardInterrupt
            written.append(index)
            write(writer, index, fields)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(FieldWriter, "write", counted)
            yield

    yield stop


def test_a_changed_input_is_not_mixed_with_finished_hours(
    tiny: dict[str, Path], era5: Write, tmp_path: Path, stop_at: Stop
) -> None:
    """Neither with the hours of a stopped run nor with a finished file."""
    file, output = tmp_path / "era5.nc", tmp_path / "out.nc"
    shutil.copy(era5(range(3)), file)
    with stop_at(2):
        run(file, output, tiny["unet"])
    shutil.copy(era5(range(3), t2m=295.0), file)
    os.utime(file, (1, 1))
    with pytest.raises(LdmdownError, match=r"out.nc.part: was begun with another input\n  found: input era5.nc"):
        run(file, output, tiny["unet"], resume=True)
    warm = run(file, output, tiny["unet"], overwrite=True)
    shutil.copy(era5(range(3)), file)
    with pytest.raises(LdmdownError, match=r"out.nc: was made with another input\n  found: input era5.nc"):
        run(file, output, tiny["unet"], resume=True)
    xr.testing.assert_identical(fields(output), warm)


def test_a_file_a_day(tiny: dict[str, Path], era5: Write, tmp_path: Path, stop_at: Stop) -> None:
    """27 hours of two days: the fields of one file; what is finished is kept, what is in the way stops it at once."""
    source, pattern = era5(range(27)), tmp_path / "{time:%Y}" / "{time:%m%d}.nc"
    whole = run(source, tmp_path / "whole.nc", tiny["unet"])
    command = partial(downscale, [str(source)], pattern, checkpoint=str(tiny["unet"]))
    command(DownscaleOptions())
    files = sorted((tmp_path / "2021").iterdir())
    assert [file.name for file in files] == ["0301.nc", "0302.nc"]
    first, second = map(fields, files)
    assert (first.time.size, second.time.size) == (24, 3)
    np.testing.assert_array_equal(np.concatenate([first.t2m, second.t2m]), whole.t2m)
    made = files[0].stat().st_mtime_ns
    lock = files[0].with_name("0301.nc.lock")  # of a process that was killed
    lock.touch()
    command(DownscaleOptions(), run=RunOptions(resume=True))  # all is finished
    assert not lock.exists()
    with locked(files[0]), pytest.raises(LdmdownError, match=r"0301.nc: is being written by another process"):
        command(DownscaleOptions(), run=RunOptions(overwrite=True))
    files[1].unlink()
    with pytest.raises(LdmdownError, match=r"0301.nc: exists already"):
        command(DownscaleOptions())
    assert [file.name for file in (tmp_path / "2021").iterdir()] == ["0301.nc"]
    for options, found in (({"members": 1}, "members None"), ({"variables": ["t2m"]}, "variables ")):
        with pytest.raises(LdmdownError, match=rf"0301.nc: was made with other options\n  found: {found}"):
            command(DownscaleOptions(**options), run=RunOptions(resume=True))
    command(DownscaleOptions(), run=RunOptions(resume=True))
    assert files[0].stat().st_mtime_ns == made
    with stop_at(0):
        command(DownscaleOptions(), run=RunOptions(overwrite=True))
    assert len(list((tmp_path / "2021").glob("*.nc.part"))) == 2  # neither counts as finished
    command(DownscaleOptions(), run=RunOptions(resume=True))
    assert files[0].stat().st_mtime_ns > made
    xr.testing.assert_identical(fields(files[1]).drop_attrs(), second.drop_attrs())


def test_half_a_day_is_not_a_day(tiny: dict[str, Path], era5: Write, tmp_path: Path) -> None:
    pattern, half = tmp_path / "{time:%m%d}.nc", DownscaleOptions(end="2021-03-01T11")
    command = partial(downscale, [str(era5(range(24)))], pattern, checkpoint=str(tiny["unet"]))
    command(half)
    found = r"found: hours 2021-03-01T00 to 2021-03-01T11 \(12\)\n  expected: hours .* \(24\)"
    with pytest.raises(LdmdownError, match=found):
        command(DownscaleOptions(), run=RunOptions(resume=True))


def test_an_input_file_is_never_replaced(tiny: dict[str, Path], era5: Write, tmp_path: Path) -> None:
    file = tmp_path / "era5.nc"
    shutil.copy(era5(range(1)), file)
    with pytest.raises(LdmdownError, match=r"era5.nc: is an input file"):
        run(file, file, tiny["unet"], overwrite=True)


@pytest.mark.parametrize("name", ["out.grib", "out_{month}.nc", "out_{time.nc", "out"])
def test_names_that_cannot_be_written(tiny: dict[str, Path], era5: Write, tmp_path: Path, name: str) -> None:
    with pytest.raises(LdmdownError) as caught:
        downscale([str(era5(range(1)))], tmp_path / name, DownscaleOptions(), checkpoint=str(tiny["unet"]))
    assert "is not a name that can be written\n  expected: out.nc, out.zarr, out.tif or 'out_{time:%Y%m}.nc'" in str(
        caught.value
    )


@pytest.mark.parametrize("name", ["out.nc", pytest.param("out.zarr", marks=pytest.mark.slow)])
def test_processes_of_this_machine_share_the_hours(
    tiny: dict[str, Path], era5: Write, tmp_path: Path, name: str
) -> None:
    source = era5(range(22, 27))
    alone = run(source, tmp_path / "alone.nc", tiny["ldm"])
    command = partial(downscale, [str(source)], tmp_path / name, DownscaleOptions(), checkpoint=str(tiny["ldm"]))
    command(run=RunOptions(processes=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.nc", name]
    with xr.open_dataset(tmp_path / name, engine="netcdf4" if name == "out.nc" else "zarr") as made:
        np.testing.assert_allclose(made.u10, alone.u10, atol=1e-3)


@pytest.mark.slow
def test_torchrun_shares_the_hours(tiny: dict[str, Path], era5: Write, tmp_path: Path) -> None:
    """Three over two files of two and of one hours, so that some have nothing to do."""
    source = era5(range(22, 25))
    alone = run(source, tmp_path / "alone.nc", tiny["ldm"])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    command = [*launcher, "-m", *COMMAND[2:], str(source), "-o", str(tmp_path / "{time:%d}.nc")]
    done = subprocess.run([*command, "--checkpoint", str(tiny["ldm"])], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("3 hours from 2021-03-01T22:00 to 2021-03-02T00:00, in 2 files") == 1
    both = [fields(tmp_path / name) for name in ("01.nc", "02.nc")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["01.nc", "02.nc", "alone.nc"]
    np.testing.assert_allclose(np.concatenate([one.u10 for one in both]), alone.u10, atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"members": 2, "seed": 3, "steps": 2, "sampler": "ddim", "temporal_correlation": 0.3},
        {"members": 3, "statistics": ("p90", "std"), "keep_members": True},
        {"start": "2021-03-01T01", "bbox": (15.1, 41.9, 15.7, 42.4), "variables": ("ws10", "t2m")},
    ],
)
def test_python_gives_what_the_command_writes(
    tiny: dict[str, Path], era5: Write, tmp_path: Path, options: dict[str, object]
) -> None:
    file = era5(range(2))
    with xr.open_dataset(file, engine="netcdf4") as dataset:
        made = ldmdown.load(str(tiny["ldm"]), device="cpu").downscale(dataset, **options)
    expected = run(file, tmp_path / "out.nc", tiny["ldm"], **options)
    del made.attrs["history"], expected.attrs["history"]
    xr.testing.assert_identical(made, expected)
    assert made.rio.crs.to_epsg() == 3035


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_device_does_not_matter(tiny: dict[str, Path], era5: Write, tmp_path: Path) -> None:
    cpu = run(era5(range(2)), tmp_path / "cpu.nc", tiny["ldm"], device="cpu")
    cuda = run(era5(range(2)), tmp_path / "cuda.nc", tiny["ldm"], device="cuda", precision="fp32")
    np.testing.assert_allclose(cuda.t2m, cpu.t2m, atol=1e-2)


@pytest.mark.skipif("LDMDOWN_TEST_DATA" not in os.environ, reason="LDMDOWN_TEST_DATA is not set")
def test_a_real_file_without_winds_is_refused(tmp_path: Path) -> None:
    file = Path(os.environ["LDMDOWN_TEST_DATA"]) / "data" / "era5" / "cdm_global_20170101T12_t2m.nc"
    done = ldmdown_command("downscale", str(file), "-o", str(tmp_path / "out.nc"))
    assert done.returncode == 1 and "u10, v10 are missing" in done.stderr


def split_system(tiny: dict[str, Path], folder: Path, **header: str) -> tuple[Path, Path]:
    """The untrained mean as two checkpoints, of temperature and of wind."""
    loaded = checkpoint.load(tiny["unet"])
    files = []
    for name, targets in (("t", ("t2m",)), ("uv", ("u10", "v10"))):
        config = loaded.config.model_copy(update={"targets": targets, "name": name})
        model = checkpoint.build(config, loaded.normalization, "unet")
        file = folder / f"{name}.safetensors"
        checkpoint.save(file, model, checkpoint.header_of(config, loaded.normalization, "unet", **header))
        files.append(file)
    return files[0], files[1]


def test_two_checkpoints_make_one_file(tiny: dict[str, Path], era5: Write, tmp_path: Path) -> None:
    first, second = split_system(tiny, tmp_path)
    joined = run(era5(range(2)), tmp_path / "joined.nc", Path(f"{first},{second}"))
    whole = run(era5(range(2)), tmp_path / "whole.nc", fresh(tiny["unet"], tmp_path))
    for name in ("t2m", "u10", "v10"):
        np.testing.assert_allclose(joined[name], whole[name], atol=1e-3)
    assert "checkpoint t (stage unet" in joined.source and "checkpoint uv (stage unet" in joined.source
    with pytest.raises(LdmdownError, match="make the same variable\n  found: t2m, t2m\n"):
        run(era5(range(1)), tmp_path / "same.nc", Path(f"{first},{first}"))


@pytest.mark.parametrize(
    ("wind", "proved"), [("unknown", False), ("earth", True), ("rotated-168", True), ("rotated-170", True)]
)
def test_no_direction_is_claimed_that_is_not_known(
    tiny: dict[str, Path], era5: Write, tmp_path: Path, wind: str, proved: bool
) -> None:
    _, file = split_system(tiny, tmp_path, wind=wind)
    output = run(era5(range(1), u10=3.0, v10=4.0), tmp_path / "out.nc", file)
    assert (output.u10.attrs.get("standard_name") == "eastward_wind") is proved
    assert ("taken as" in output.source) is (wind != "earth")
    np.testing.assert_allclose(np.hypot(output.u10, output.v10), 5, atol=1e-3)
    turned = np.degrees(np.arctan2(output.u10, output.v10) - np.arctan2(3, 4))[0]
    if not wind.startswith("rotated"):
        np.testing.assert_allclose(turned, 0, atol=0.01)
    else:  # from spherical trigonometry, east of the central meridian of 12 or 10 E
        east = np.radians(output.lon - 180 - float(wind.removeprefix("rotated")))
        angle = np.degrees(np.arcsin(np.sin(east) * np.cos(np.radians(47))))
        np.testing.assert_allclose(turned, angle, atol=0.15)


def test_statistics_are_numpys(tiny: dict[str, Path], era5: Write, tmp_path: Path) -> None:
    """Of the members that a run without them keeps; speeds are the members', not the mean wind's."""
    names, file = ("mean", "std", "min", "max", "p10", "p50", "p90"), era5(range(2))
    options = {"members": 5, "variables": ("t2m", "ws10")}
    members = run(file, tmp_path / "members.nc", tiny["ldm"], **options)
    both = run(file, tmp_path / "both.nc", tiny["ldm"], **options, statistics=names, keep_members=True)
    made = run(file, tmp_path / "out.nc", tiny["ldm"], **options, statistics=names)
    assert "realization" not in made.sizes and "t2m" not in made and both.sizes["realization"] == 5
    for name in ("t2m", "ws10"):
        np.testing.assert_array_equal(both[name], members[name])
        values = members[name].values
        expected = {"mean": values.mean(1, dtype=float), "std": values.std(1, dtype=float)}
        expected |= {"min": values.min(1), "max": values.max(1)}
        expected |= {one: np.quantile(values, int(one[1:]) / 100, axis=1) for one in names[4:]}
        for key, right in expected.items():
            np.testing.assert_array_max_ulp(made[f"{name}_{key}"].values, right.astype(np.float32), maxulp=1)
            np.testing.assert_array_equal(both[f"{name}_{key}"], made[f"{name}_{key}"])
    assert made.t2m_mean.cell_methods == "time: point realization: mean"
    assert made.t2m_std.cell_methods == "time: point realization: standard_deviation"
    assert made.t2m_std.units_metadata == "temperature: difference" and made.t2m_p50.units == "K"
    assert made.ws10_p50.cell_methods == "time: point realization: median"
    assert made.ws10_p90.cell_methods == "time: point"  # CF has no percentile
    assert made.ws10_p90.long_name == "10 metre wind speed, percentile 90 of the members"
