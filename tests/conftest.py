"""A system too small to be of use and too random to be trained, and ERA5 for it."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import xarray as xr

from ldmdown import checkpoint
from ldmdown.cli import main
from ldmdown.config import Config
from ldmdown.data import parallel
from ldmdown.data.normalization import Normalization
from ldmdown.models.downscaler import Downscaler
from ldmdown.training import heldout

CONDITIONER = {"statics_dim": 16, "predictors_dim": 16, "out_dim": 16, "depth": 1}
CONFIG = Config.model_validate(
    {
        "name": "tiny",
        "description": "Untrained, for tests.",
        "grid": {"west": 4_700_000, "north": 2_200_000, "rows": 64, "cols": 64},  # 15 to 16 E: turned by 4 degrees
        "data": {"split": {"train": [["2021-01-01", "2021-01-02"]], "validation": []}},
        "statics": {"embedding": 2},
        "unet": {"features": [8], "bottleneck": 8},
        "conditioner": CONDITIONER,
        "scale": {"conditioner": CONDITIONER},
        "denoiser": {"channels": 32, "multipliers": [1, 1], "blocks": 1},
        "sampler": {"steps": 4},
    }
)
MEAN, DEVIATION = {"t2m": 285.0, "u10": 1.0, "v10": -1.0}, {"t2m": 8.0, "u10": 4.0, "v10": 3.0}
NORMALIZATION = {
    "predictors": Normalization(MEAN | {"cossza": 0.2}, DEVIATION | {"cossza": 0.5}),
    "target": Normalization({name: value + 0.5 for name, value in MEAN.items()}, DEVIATION),
}
FIRST = np.datetime64("2021-03-01T00", "ns")


def untrained(stage: checkpoint.Stage) -> Downscaler:
    """A model whose every part speaks: those that training starts from zero are random too."""
    torch.manual_seed(1)
    model = checkpoint.build(CONFIG, NORMALIZATION, stage)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def ldmdown(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line as users do, though in this process, which has imported everything already."""
    output, errors, code = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.chdir(folder or "."),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "argv", ["ldmdown", *arguments])
        patch.setenv("LDMDOWN_QUIET", "")
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    return subprocess.CompletedProcess(arguments, code, output.getvalue(), errors.getvalue())


@pytest.fixture(scope="session", autouse=True)
def the_same_on_every_machine() -> Iterator[None]:
    """Let --precision auto be fp32 on whatever CPU, for the tolerances of tests, and compute in one thread.

    Days are prepared in this process: others take longer to start than so little takes to do. The gain of the spread
    is measured on few crops.
    """
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
        patch.setattr(parallel, "workers", lambda: 1)
        patch.setattr(heldout, "CALIBRATION_CROPS", 4)
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints by stage."""
    folder = tmp_path_factory.mktemp("checkpoints")
    files = {}
    for stage in ("unet", "ldm"):
        files[stage] = folder / f"{stage}.safetensors"
        header = checkpoint.header_of(CONFIG, NORMALIZATION, stage, temporal_correlation=0.7)
        checkpoint.save(files[stage], untrained(stage), header)
    return files


@pytest.fixture(scope="session")
def era5(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write hours of weather that is the same at the same hour in every file, as the new CDS does."""
    folder = tmp_path_factory.mktemp("era5")

    def write(hours: range = range(24), west: float = 14.0, east: float = 17.5, **constant: float) -> Path:
        lat, lon = np.arange(43.25, 40.9, -0.25), np.arange(west, east + 0.1, 0.25)
        times = FIRST + np.array(hours, "timedelta64[h]")
        phase = np.array(hours)[:, None, None] / 4 + lat[:, None] + 2 * lon
        fields = {"t2m": 285 + 5 * np.sin(phase), "u10": 6 * np.cos(phase), "v10": 4 * np.sin(2 * phase)}
        fields |= {name: np.full_like(phase, value) for name, value in constant.items()}
        units = {"t2m": "K", "u10": "m s**-1", "v10": "m s**-1"}
        dims = ("valid_time", "latitude", "longitude")
        path = folder / f"{len(list(folder.iterdir()))}.nc"
        xr.Dataset(
            {name: (dims, field.astype(np.float32), {"units": units[name]}) for name, field in fields.items()},
            {"valid_time": times, "latitude": lat, "longitude": lon, "number": 0, "expver": "0001"},
        ).to_netcdf(path, engine="netcdf4")
        return path

    return write


# The archive that the paper's authors published, in miniature

THEIRS = ("2mT", "PMSL", "U10", "V10", "dp2mT", "SST", "SNDPT", "TP", "SSRadIn", "Q850", "T850", "U850", "V850", "W850")
OURS = ("t2m", "msl", "u10", "v10", "d2m", "sst", "sd", "tp", "ssrd", "q850", "t850", "u850", "v850", "w850")


def statistics() -> dict[str, Any]:
    """The published dict: every number its own."""
    era5 = {
        kind: {name: float(10 * at + i + 1) for i, name in enumerate(THEIRS)} for at, kind in enumerate(("mean", "std"))
    }
    cosmo = {kind: {name: float(100 + 10 * at + i) for i, name in enumerate(("2mT", "U10", "V10"))}
             for at, kind in enumerate(("mean", "std"))}  # fmt: skip
    return {"ERA5": era5, "CMCC": cosmo}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_published(tmp_path)


def write_published(above: Path) -> Path:
    """Write normalization_data.pkl, and static_var/ on 128 x 64 cells."""
    (above / "normalization_data.pkl").write_bytes(pickle.dumps(statistics()))
    folder = above / "static_var"
    folder.mkdir()
    random = np.random.default_rng(0)
    fields = {
        "dtm": random.gamma(2, 300, (1, 128, 64)),
        "land_cover_classes": (random.integers(16, size=(128, 64)) == np.arange(16)[:, None, None]),
        "lat": np.broadcast_to(np.linspace(47, 44, 128)[:, None], (1, 128, 64)),
    }
    transform = rasterio.Affine(2000, 0, 3_910_000, 0, -2000, 2_698_000)
    for name, values in fields.items():
        path = folder / f"{name}_2km_domain_trim_EPSG3035.tif"
        size = {"count": len(values), "height": 128, "width": 64}
        with rasterio.open(
            path, "w", driver="GTiff", dtype="float32", crs="EPSG:3035", transform=transform, **size
        ) as f:
            f.write(values.astype(np.float32))
    return above


class Attack:
    """Creates a file when a general unpickler loads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)
