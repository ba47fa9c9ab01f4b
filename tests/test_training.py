"""Preparing and training, on a twin so small that a whole system takes seconds; killed, gone on with, compared."""

from __future__ import annotations

import csv
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
import zarr

from ldmdown import checkpoint
from ldmdown.data.archive import Archive
from ldmdown.data.grid import Grid
from ldmdown.data.reference import ReferenceOnGrid, open_reference
from ldmdown.errors import LdmdownError
from ldmdown.prepare import prepare
from ldmdown.train import Average, train

CONDITIONER = {"statics_dim": 16, "predictors_dim": 16, "out_dim": 16, "depth": 1}
STAGE = {"batch": 4, "crop": 4, "validate_every": 5, "ema": 0.5}
SMALL = {
    "name": "small",
    "description": "Trained for a test.",
    "grid": {"west": 4_300_000, "north": 2_500_000, "rows": 64, "cols": 64},
    "data": {
        "split": {
            "train": [["2021-01-01", "2021-01-02"]],
            "validation": [["2021-01-05", "2021-01-05"]],
        }
    },
    "twin": {"periods": [["2021-01-01", "2021-01-02"], ["2021-01-05", "2021-01-05"]]},
    "statics": {"embedding": 4},
    "unet": {"features": [8], "bottleneck": 8},
    "autoencoder": {"multiplier": 2, "minimum": 4},
    "conditioner": CONDITIONER,
    "scale": {"conditioner": CONDITIONER},
    "denoiser": {"channels": 32, "multipliers": [1], "blocks": 1, "cross_levels": [0]},
    "sampler": {"steps": 4},
    "train": {
        "unet": STAGE | {"steps": 30, "rate": 0.01},
        "vae": STAGE | {"steps": 10, "rate": 0.001},
        "scale": STAGE | {"steps": 10, "rate": 0.001},
        "ldm": STAGE | {"steps": 20, "rate": 0.001},
    },
}


def write(folder: Path, **changes: object) -> Path:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL | changes))
    return path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration and its archive."""
    folder = tmp_path_factory.mktemp("prepared")
    prepare(write(folder))
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """The same, to train in."""
    shutil.copy(prepared / "small.yaml", tmp_path)
    shutil.copytree(prepared / "archive.zarr", tmp_path / "archive.zarr")
    return tmp_path


def losses(folder: Path, stage: str) -> list[tuple[str, str, str]]:
    with (folder / "run" / f"{stage}.csv").open() as file:
        return [(row["step"], row["loss"], row["validation"]) for row in csv.DictReader(file)]


# prepare


def test_the_archive_holds_what_the_files_hold(prepared: Path) -> None:
    archive = Archive(prepared / "archive.zarr")
    assert len(archive) == 72 and archive.grid == Grid(west=4_300_000, north=2_500_000, rows=64, cols=64)
    files = sorted((prepared / "reference").glob("*.nc"))
    reference = ReferenceOnGrid(open_reference(files, archive.targets), archive.grid)
    stored = archive.read(30)
    np.testing.assert_allclose(stored["target"], reference.read(30), atol=1 / 512 + 1e-4)
    window = archive.read(30, (2, 1, 3, 4))
    np.testing.assert_array_equal(window["target"], stored["target"][:, 16:40, 8:40])
    np.testing.assert_array_equal(window["predictors"], stored["predictors"][:, 2:5, 1:5])
    days = {"train": range(48), "validation": range(48, 72), "test": range(0)}
    assert {use: archive.split(use).tolist() for use in days} == {use: list(hours) for use, hours in days.items()}


def test_statistics_are_those_of_the_training_days(prepared: Path) -> None:
    archive = Archive(prepared / "archive.zarr")
    hours = [archive.read(index) for index in range(48)]
    for kind, names in (("predictors", archive.predictors), ("target", archive.targets)):
        values = np.stack([hour[kind] for hour in hours]).astype(float)
        np.testing.assert_allclose(
            [archive.normalization[kind].mean[name] for name in names], values.mean(axis=(0, 2, 3)), rtol=1e-6
        )
        np.testing.assert_allclose(
            [archive.normalization[kind].deviation[name] for name in names], values.std(axis=(0, 2, 3)), rtol=1e-6
        )


def test_a_pixel_of_the_compact_form_is_exact(prepared: Path) -> None:
    archive = Archive(prepared / "archive.zarr")
    offset = np.array([280, 0, 0], np.float32)[:, None, None]
    compact = archive.load_targets(np.array([3, 50]), offset)
    np.testing.assert_array_equal(compact[1] / np.float32(256) + offset, archive.read(50)["target"])


def test_prepared_again_it_is_left_alone(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(prepared / "small.yaml")
    assert "is there already, prepared with this configuration" in capsys.readouterr().err


def test_another_configuration_in_the_way(folder: Path) -> None:
    path = write(folder, targets=["t2m"])
    with pytest.raises(LdmdownError) as caught:
        prepare(path)
    assert str(caught.value) == (
        f"{folder / 'archive.zarr'}: was prepared with another configuration\n"
        "  cure: delete it to prepare it anew, or name another data.archive"
    )


def test_missing_files_and_days(tmp_path: Path, prepared: Path) -> None:
    bare = {key: value for key, value in SMALL.items() if key != "twin"}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(bare))
    with pytest.raises(
        LdmdownError, match=r"era5/\*.nc: no such files\n  cure: put the files there, or mend data.era5"
    ):
        prepare(path)
    for kind in ("era5", "reference"):
        shutil.copytree(prepared / kind, tmp_path / kind)
    (tmp_path / "reference" / "VHR-REA_IT_20210105.nc").unlink()
    with pytest.raises(
        LdmdownError, match="no hour from 2021-01-05 to 2021-01-05 is both in ERA5 and in the reference"
    ):
        prepare(path)


def test_killed_and_gone_on_with_it_is_the_same_archive(prepared: Path, tmp_path: Path) -> None:
    write(tmp_path)
    for kind in ("era5", "reference"):
        shutil.copytree(prepared / kind, tmp_path / kind)
    process = subprocess.Popen([sys.executable, "-m", "ldmdown", "prepare", "small.yaml"], cwd=tmp_path)
    records = tmp_path / "archive.zarr.part" / "records"
    for _ in range(1200):
        if list(records.glob("*.json")) or process.poll() is not None:
            break
        time.sleep(0.02)
    process.kill()
    process.wait()
    time.sleep(1)  # workers notice that nobody asks any more
    with pytest.raises(LdmdownError, match="the archive is unfinished\n  cure: run `ldmdown prepare` again"):
        Archive(tmp_path / "archive.zarr")
    prepare(tmp_path / "small.yaml")
    ours, theirs = (zarr.open_group(place / "archive.zarr", mode="r") for place in (tmp_path, prepared))
    for name in ("time", "predictors", "target"):
        np.testing.assert_array_equal(ours[name][:], theirs[name][:])
    assert ours.attrs["normalization"] == theirs.attrs["normalization"]


# train


def test_a_whole_system(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(folder / "small.yaml")
    written = folder / "checkpoints" / "small.safetensors"
    loaded = checkpoint.load(written)
    assert loaded.stage == "ldm" and loaded.header["training"]["hours"] == 48
    assert loaded.header["training"]["twin"] == "synthetic, recipe 2, seed 0"
    assert 0 < loaded.header["temporal_correlation"] < 1
    for name in ("t2m", "u10", "v10"):
        scores = loaded.header["scores"][name]
        assert 0 < scores["crps_ldm"] < 5 and 0 < scores["rmse_unet"] < 5
    for stage, steps in (("unet", 30), ("scale", 10), ("ldm", 20)):
        rows = losses(folder, stage)
        assert [int(step) for step, _, _ in rows] == list(range(1, steps + 1))
        assert [bool(validation) for _, _, validation in rows] == [step % 5 == 0 for step in range(1, steps + 1)]
    values = [float(validation) for _, _, validation in losses(folder, "unet") if validation]
    assert values[-1] < values[0]
    said = capsys.readouterr().err
    assert f"ldmdown downscale era5.nc -o out.nc --checkpoint {written}" in said
    train(folder / "small.yaml")
    assert "ldm: finished before, kept" in capsys.readouterr().err


def test_the_papers_latent_space(folder: Path) -> None:
    path = write(folder, autoencoder={"kind": "kl", "multiplier": 2, "minimum": 4}, scale=None)
    train(path)
    loaded = checkpoint.load(folder / "checkpoints" / "small.safetensors")
    assert loaded.config.autoencoder.kind == "kl" and loaded.model.scale is None
    assert (folder / "run" / "vae.csv").exists() and not (folder / "run" / "scale.csv").exists()


def test_a_gan_learns_beside_and_goes_on_after_a_kill(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its own U-Net, and a discriminator from half of the way; its checkpoint has a name of its own."""
    settings = SMALL["train"] | {"gan": STAGE | {"steps": 40, "rate": 0.005}}
    path = write(folder, gan={"widths": [4, 8, 8, 8], "start": 0.5}, train=settings)
    train(path, "unet")
    other = tmp_path_factory.mktemp("gan") / "copy"
    shutil.copytree(folder, other)
    train(path, "gan")
    rows = [float(loss) for _, loss, _ in losses(folder, "gan")]
    assert max(rows[:20]) < min(rows[20:])  # the hinge loss, about 1, comes on top
    loaded = checkpoint.load(folder / "checkpoints" / "small-gan.safetensors")
    assert loaded.stage == "gan" and loaded.header["training"]["steps"]["gan"] == 40
    mean = checkpoint.load(folder / "checkpoints" / "small.safetensors")
    torch.testing.assert_close(loaded.model.statics, mean.model.statics)
    assert (loaded.model.unet.outputs.weight - mean.model.unet.outputs.weight).abs().max() > 1e-3
    process = subprocess.Popen([sys.executable, "-m", "ldmdown", "train", "small.yaml", "--stage", "gan"], cwd=other)
    wait_for_row(other, "gan", 25, process)
    command = [sys.executable, "-m", "ldmdown", "train", "small.yaml", "--stage", "gan", "--resume"]
    subprocess.run(command, cwd=other, check=True, capture_output=True)
    assert losses(other, "gan") == losses(folder, "gan")


def test_latents_of_the_target_itself(folder: Path) -> None:
    """The paper's LDM without the residual, by one switch: its members do not need the mean."""
    train(write(folder, residual=False))
    loaded = checkpoint.load(folder / "checkpoints" / "small.safetensors")
    model = loaded.model
    predictors, statics = torch.randn(1, 4, 8, 8), model.statics_at([(0, 0)], 8, 8)
    assert not model.residual and not model.base(predictors, statics).any()
    latents = np.load(next((folder / "run").glob("latents-*")))
    archive = Archive(folder / "archive.zarr")
    target = archive.normalization["target"].normalize(archive.read(5)["target"], archive.targets)
    decoded = model.autoencoder.decode(torch.from_numpy(latents[5:6]).float())
    np.testing.assert_allclose(decoded[0], target, atol=0.02)


def test_stages_come_in_order(folder: Path) -> None:
    with pytest.raises(LdmdownError) as caught:
        train(folder / "small.yaml", "ldm")
    assert str(caught.value) == (
        f"{folder / 'run' / 'unet.state.pt'}: the unet stage comes first and is not finished\n"
        "  cure: run `ldmdown train --stage unet`, or without --stage"
    )
    train(folder / "small.yaml", "unet")
    assert checkpoint.load(folder / "checkpoints" / "small.safetensors").stage == "unet"
    with pytest.raises(LdmdownError, match="the lapped transform needs no training"):
        train(folder / "small.yaml", "vae")
    changed = write(folder, unet={"features": [16], "bottleneck": 8})
    with pytest.raises(LdmdownError, match="the unet stage was begun with another configuration or archive"):
        train(changed)


def kill_when(folder: Path, stage: str, step: int) -> None:
    """Train in a process of its own, and kill it when a stage has reached a step."""
    process = subprocess.Popen([sys.executable, "-m", "ldmdown", "train", "small.yaml", "--resume"], cwd=folder)
    wait_for_row(folder, stage, step, process)


def wait_for_row(folder: Path, stage: str, step: int, process: subprocess.Popen[bytes]) -> None:
    path = folder / "run" / f"{stage}.csv"
    for _ in range(3000):
        if path.exists() and path.read_text().count("\n") > step:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_killed_and_gone_on_with_it_learns_the_same(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """In mid-stage, of the mean and of the denoiser: the same losses and the same weights."""
    other = tmp_path_factory.mktemp("killed")
    train_settings = SMALL["train"] | {
        "unet": STAGE | {"steps": 60, "rate": 0.002},
        "ldm": STAGE | {"steps": 60, "rate": 0.001},
    }
    for place in (folder, other):
        write(place, train=train_settings)
    shutil.copytree(folder / "archive.zarr", other / "archive.zarr")
    kill_when(other, "unet", 10)
    with pytest.raises(LdmdownError, match=r"the unet stage was stopped after \d+ of 60 steps\n  cure: go on with"):
        train(other / "small.yaml")
    kill_when(other, "ldm", 10)
    for place in (folder, other):
        command = [sys.executable, "-m", "ldmdown", "train", "small.yaml", "--resume"]
        subprocess.run(command, cwd=place, check=True, capture_output=True)
    for stage in ("unet", "scale", "ldm"):
        assert losses(other, stage) == losses(folder, stage)
    ours, theirs = (checkpoint.load(place / "checkpoints" / "small.safetensors").model for place in (folder, other))
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, theirs.state_dict()[name], rtol=0, atol=0)


def test_a_loss_that_is_no_number_ends_the_stage(folder: Path) -> None:
    changed = SMALL["train"] | {"unet": STAGE | {"steps": 30, "rate": 1e30, "clip": 1e30, "warmup": 0.0}}
    with pytest.raises(LdmdownError, match="the loss of the unet stage is no longer a number"):
        train(write(folder, train=changed))


def test_a_crop_that_the_networks_do_not_divide(folder: Path) -> None:
    path = write(folder, denoiser={"channels": 32, "multipliers": [1, 1, 1], "blocks": 1, "cross_levels": []})
    settings = yaml.safe_load(path.read_text())
    settings["train"]["ldm"]["crop"] = 6
    path.write_text(yaml.safe_dump(settings))
    with pytest.raises(
        LdmdownError, match="train.ldm.crop: these networks need coarse cells in multiples of 4\n  found: 6"
    ):
        train(path)


def test_the_average_by_hand() -> None:
    """Decay min(0.5, (1 + n) / (10 + n)): 0.1 after the first step, 2/11 after the second."""
    weight = torch.zeros(1)
    average = Average({"w": weight}, 0.5)
    weight += 1
    average.update(0)
    assert average.tensors["w"].item() == pytest.approx(0.9)
    weight += 1
    average.update(1)
    assert average.tensors["w"].item() == pytest.approx(0.9 * 2 / 11 + 2 * 9 / 11)
    with average.in_place({"w": weight}):
        assert weight.item() == average.tensors["w"].item()
    assert weight.item() == 2


@pytest.mark.slow
def test_the_three_commands_in_an_empty_folder(tmp_path: Path) -> None:
    """The bundled twin, its training cut short."""
    from ldmdown.config import BUNDLED

    settings = yaml.safe_load(BUNDLED.read_text())
    for stage in ("unet", "scale", "ldm"):
        settings["train"][stage] |= {"steps": 20, "validate_every": 20}
    settings["grid"] |= {"rows": 128, "cols": 128}
    bundled = tmp_path / "twin.yaml"
    bundled.write_text(yaml.safe_dump(settings))
    program = (
        "import sys, ldmdown.config\nfrom pathlib import Path\n"
        f"ldmdown.config.BUNDLED = Path({str(bundled)!r})\n"
        "from ldmdown.cli import main\nmain()\n"
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    for command in ("prepare", "train", "downscale era5.nc -o out.nc --checkpoint twin"):
        done = subprocess.run(
            [sys.executable, "-c", program, *command.split()], cwd=empty, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert (empty / "out.nc").stat().st_size > 1e5
    assert {path.name for path in empty.iterdir()} >= {"era5.nc", "archive.zarr", "run", "checkpoints", "out.nc"}
