"""Two made-up days in the published layout: prepared, and trained on at the paper's structure cut down."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
import zstandard
from conftest import THEIRS, Attack, ldmdown, statistics

from ldmdown import checkpoint
from ldmdown.commands.prepare import prepare
from ldmdown.commands.train import train
from ldmdown.data.archive.store import Archive
from ldmdown.errors import LdmdownError

DAYS = ("2001-07-01", "2001-07-05")
STAGE = {"steps": 2, "batch": 2, "crop": 8, "validate_every": 2, "ema": 0}


def pack(path: Path, content: Any) -> None:
    """As they were saved."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(zstandard.compress(buffer.getvalue()))


@pytest.fixture
def published(archive: Path) -> Path:
    """The archive of 128 x 64 cells with two days of fields."""
    torch.manual_seed(0)
    with (archive / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ref_time", "files_path_low", "files_path_high", "hour"])
        for day in DAYS:
            low = [{name: torch.randn(16, 8) for name in THEIRS} for _ in range(24)]
            for hour in low:
                hour["SST"][:, :4] = -10
            high = [{"2mT": 1.7 + 0.1 * torch.randn(128, 64)} for _ in range(24)]  # times 110 and 100 more: kelvins
            pack(archive / day[:4] / f"{day}_low.pt.zst", low)
            pack(archive / day[:4] / f"{day}_high_2mT.pt.zst", high)
            for hour in range(24):
                if (day, hour) != (DAYS[0], 3):
                    writer.writerow([day, f"{day}_low.pt.zst", f"{day}_high_2mT.pt.zst", hour])
    return archive


def configuration(folder: Path, **changes: Any) -> Path:
    settings = {
        "preset": "paper-t2m",
        "name": "cut",
        "grid": {"rows": 128, "cols": 64},
        "data": {
            "published": ".",
            "split": {"train": [[DAYS[0], DAYS[0]]], "validation": [[DAYS[1], DAYS[1]]], "test": []},
        },
        "unet": {"features": [4, 4, 4, 4], "bottleneck": 8},
        "conditioner": {"statics_dim": 16, "predictors_dim": 8, "out_dim": 8, "depth": 1},
        "denoiser": {"channels": 8},
        "gan": {"widths": [4, 4, 4, 4], "start": 0.5},
        "sampler": {"steps": 5},
        "train": dict.fromkeys(("unet", "vae", "ldm", "gan"), STAGE),
    }
    path = folder / "cut.yaml"
    path.write_text(yaml.safe_dump(settings | changes))
    return path


def test_fields_come_back_in_physical_units(published: Path) -> None:
    prepare(configuration(published))
    archive = Archive(published / "archive.zarr")
    assert len(archive) == 47  # the hour that metadata.csv does not list is left out
    packed = (published / "2001" / f"{DAYS[0]}_low.pt.zst").read_bytes()
    hours = torch.load(io.BytesIO(zstandard.decompress(packed)), weights_only=True)
    hour = archive.read(3)
    era5 = statistics()["ERA5"]
    for channel, name in enumerate(THEIRS):
        expected = hours[4][name].numpy() * era5["std"][name] + era5["mean"][name]
        if name == "SST":
            assert np.isnan(hour["predictors"][channel][:, :4]).all()
            expected[:, :4] = np.nan
        np.testing.assert_allclose(hour["predictors"][channel], expected, rtol=1e-5, atol=1e-4)
    assert archive.statics[0] == "z" and archive.load_statics().shape == (18, 128, 64)
    assert archive.normalization["predictors"].mean["t2m"] == pytest.approx(1, abs=1)


@pytest.mark.slow
def test_all_systems_of_the_paper_are_trained(published: Path) -> None:
    path = configuration(published)
    prepare(path)
    ground = Archive(published / "archive.zarr").load_statics()
    train(path)
    for name, stage in (("cut", "ldm"), ("cut-gan", "gan")):
        loaded = checkpoint.load(published / "checkpoints" / f"{name}.safetensors")
        assert loaded.stage == stage
        np.testing.assert_allclose(loaded.model.statics, ground, atol=2e-3)  # given, and not learned
    for file in (published / "run").glob("[lv]*"):  # of the LDM, its latents and the VAE
        file.unlink()
    train(configuration(published, residual=False))
    assert not checkpoint.load(published / "checkpoints" / "cut.safetensors").model.residual


def test_errors_name_the_file(published: Path) -> None:
    with pytest.raises(
        LdmdownError, match="holds no such group of targets\n  found: t2m, u10\n  expected: t2m or u10, v10"
    ):
        prepare(configuration(published, targets=["t2m", "u10"]))
    with pytest.raises(LdmdownError, match=r"no such files\n  found: no YYYY/YYYY-MM-DD_high_UV.pt.zst"):
        prepare(configuration(published, targets=["u10", "v10"]))
    with pytest.raises(LdmdownError, match="static_var: does not hold what the configuration names"):
        prepare(configuration(published, statics={"fields": ["z"]}))


def test_a_day_that_runs_a_command_is_refused(published: Path) -> None:
    pack(published / "2001" / f"{DAYS[0]}_low.pt.zst", [Attack(published / "owned")] * 24)
    done = ldmdown("prepare", str(configuration(published)))
    assert done.returncode == 1
    assert "2001-07-01_low.pt.zst: its pickle asks for posix.system; refused, nothing was executed" in done.stderr
    assert not (published / "owned").exists()
