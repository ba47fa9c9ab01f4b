"""The student: latents from noise in one call, trained by a fair CRPS."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import CONFIG, NORMALIZATION, ldmdown
from made_up import SHORT, write_archive, write_small

from ldmdown import checkpoint, metrics
from ldmdown.commands.train import train
from ldmdown.config import Config, parse_config
from ldmdown.training.stages import DistillStage, UNetStage, fair_crps, spectral_crps

STUDENT = {"channels": 16, "multipliers": [1], "cross_levels": [0]}


@pytest.mark.parametrize("members", [2, 5])
def test_the_loss_is_the_fair_crps(members: int) -> None:
    random = np.random.default_rng(0)
    ensemble, truth = random.normal(size=(members, 40)), random.normal(size=40)
    found = fair_crps(torch.from_numpy(ensemble.T[:, :, None]), torch.from_numpy(truth[:, None]))
    np.testing.assert_allclose(found.mean(), metrics.crps(ensemble, truth), rtol=1e-12)


def test_white_noise_scores_alike_at_all_scales() -> None:
    """The CRPS is std / sqrt(pi) of members drawn as the truth, and std sqrt(2 / pi) of members that are 0."""
    random = torch.Generator().manual_seed(0)
    truth = 3 * torch.randn(30, 2, 64, 64, generator=random)
    members = 3 * torch.randn(30, 2, 2, 64, 64, generator=random)
    drawn, nothing = spectral_crps(members, truth), spectral_crps(torch.zeros_like(members), truth)
    torch.testing.assert_close(drawn.mean(dim=0), torch.full((5,), math.pi**-0.5), rtol=0.12, atol=0)
    torch.testing.assert_close(nothing.mean(dim=0), torch.full((5,), (2 / math.pi) ** 0.5), rtol=0.06, atol=0)
    wave = truth + 30 * torch.cos(2 * math.pi * torch.arange(64) / 16)  # it is wrong at 16 cells, and at its neighbours
    worse = (spectral_crps(wave[:, None].expand_as(members), truth) / nothing).mean(dim=0)
    assert worse.argmax() == 2 and worse[0] < 0.01


def test_it_learns_how_wide_the_truth_is() -> None:
    """The truth is 0.3 times white noise, whatever the context; the student starts from noise of std 1."""
    config = Config.model_validate(CONFIG.model_dump() | {"student": STUDENT, "scale": None})
    torch.manual_seed(0)
    model = checkpoint.build(config, NORMALIZATION, "ldm")
    stage = DistillStage(config, NORMALIZATION, model, [UNetStage(config, NORMALIZATION, model, [])])
    assert model.student is not None and model.autoencoder is not None
    optimizer = torch.optim.Adam(model.student.parameters(), lr=2e-2)
    predictors = torch.zeros(4, len(config.predictors), 4, 4)
    shape = (4, model.autoencoder.latent_channels, 4, 4)
    context = model.condition(predictors, model.statics_at([(0, 0)] * 4, 4, 4)).context
    context = [part.detach() for part in context]
    before = model.generate(torch.randn(shape), context).std().item()
    for step in range(60):
        batch = {
            "predictors": predictors,
            "latents": 0.3 * torch.randn(shape),
            "corners": [(0, 0)] * 4,
            "seeds": [4 * step + crop for crop in range(4)],
        }
        optimizer.zero_grad()
        stage.loss(batch).mean().backward()
        optimizer.step()
    after = model.generate(torch.randn(shape), context).std().item()
    assert before == pytest.approx(1, abs=0.05)
    assert after == pytest.approx(0.3, abs=0.06)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a system whose student is its sampler; `before` is its checkpoint of the stage ldm."""
    folder = tmp_path_factory.mktemp("student")
    grid = {"west": 4_700_000, "north": 2_200_000, "rows": 64, "cols": 64}
    sections = {"grid": grid, "student": STUDENT, "sampler": {"name": "student", "steps": 4}}
    path = write_small(folder, train=SHORT | {"distill": SHORT["ldm"]}, **sections)
    write_archive(folder / "archive.zarr", parse_config(path))
    train(path, "unet")
    train(path, "ldm")
    (folder / "checkpoints" / "small.safetensors").rename(folder / "before.safetensors")
    train(path, "distill")
    return folder


@pytest.mark.slow
def test_the_checkpoint_before_it_draws_with_the_diffusion(
    trained: Path, era5: Callable[..., Path], tmp_path: Path
) -> None:
    path = trained / "before.safetensors"
    before = checkpoint.load(path)
    assert before.config.student is None
    assert (before.config.sampler.name, before.config.sampler.steps) == ("dpmpp", 4)
    asked = ldmdown(
        "downscale",
        str(era5(range(1))),
        "-o",
        str(tmp_path / "out.nc"),
        "--checkpoint",
        str(path),
        "--sampler",
        "student",
    )
    assert asked.returncode == 1 and "has no student" in asked.stderr and "--stage distill" in asked.stderr


@pytest.mark.slow
def test_the_student_is_the_default_and_the_diffusion_an_option(
    trained: Path, era5: Callable[..., Path], tmp_path: Path
) -> None:
    path = trained / "checkpoints" / "small.safetensors"
    after = checkpoint.load(path)
    assert {"latent_gain", "temporal_correlation"} <= after.header.keys()
    gain = np.array(after.header["student_gain"])
    assert gain.shape == (192,) and gain.std() > 0.01
    np.testing.assert_allclose(after.model.student_gain[:, 0, 0], gain, rtol=1e-6)
    assert {"crps_student", "crps_ldm", "spread_skill_student"} <= after.header["scores"]["t2m"].keys()
    fields = {}
    for name, options in {"student": [], "again": ["--sampler", "student"], "dpmpp": ["--sampler", "dpmpp"]}.items():
        out = tmp_path / f"{name}.nc"
        done = ldmdown("downscale", str(era5(range(1))), "-o", str(out), "--checkpoint", str(path), *options)
        assert done.returncode == 0, done.stderr
        with xr.open_dataset(out) as written:
            fields[name], source = written["t2m"].values, written.attrs["source"]
        assert ("dpmpp 4 steps" if name == "dpmpp" else "student in one call") in source
    asked = ldmdown("downscale", str(era5(range(1))), "-o", str(out), "--checkpoint", str(path), "--steps", "3")
    assert asked.returncode == 1 and "one call" in asked.stderr and "--sampler dpmpp" in asked.stderr
    np.testing.assert_array_equal(fields["student"], fields["again"])
    difference = np.abs(fields["student"] - fields["dpmpp"])
    assert difference.max() > 1e-3
