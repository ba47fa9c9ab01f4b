"""Training on an archive so small that a whole system takes seconds: killed, resumed, compared."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
import yaml
from made_up import SHORT, SMALL, write_archive, write_small
from made_up import SMALL_STAGE as STAGE

from ldmdown import checkpoint
from ldmdown.commands.train import train
from ldmdown.config import BUNDLED, Config, parse_config
from ldmdown.data.archive.store import Archive
from ldmdown.errors import LdmdownError
from ldmdown.runtime import Processes
from ldmdown.training import report
from ldmdown.training.batches import Batch
from ldmdown.training.hours import HourSet, load_hour
from ldmdown.training.run import Run, State, load, on_disk, read_losses
from ldmdown.training.stages import UNetStage

ALONE = Processes(0, 1, 1, torch.device("cpu"))
GAN = {"widths": [4, 8, 8, 8], "start": 0.5}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration and a made-up archive of it."""
    folder = tmp_path_factory.mktemp("prepared")
    write_archive(folder / "archive.zarr", parse_config(write_small(folder)))
    return folder


@pytest.fixture
def drawn(prepared: Path, tmp_path: Path) -> Path:
    """The same, to train in."""
    return shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train without pictures and pages, which take as long as all the steps."""
    for name in ("picture", "write"):
        monkeypatch.setattr(report, name, lambda *_: None)


@pytest.fixture
def folder(drawn: Path, undrawn: None) -> Path:
    """A folder to train in without pictures."""
    return drawn


@pytest.fixture(scope="module")
def prepared_mean(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder once its first stage is trained."""
    folder = shutil.copytree(prepared, tmp_path_factory.mktemp("mean"), dirs_exist_ok=True)
    train(folder / "small.yaml", "unet")
    return folder


@pytest.fixture
def mean(prepared_mean: Path, folder: Path) -> Path:
    """The same, to go on in."""
    return shutil.copytree(prepared_mean, folder, dirs_exist_ok=True)


def losses(folder: Path, stage: str) -> list[tuple[str, str, str]]:
    with (folder / "run" / f"{stage}.csv").open() as file:
        return [(row["step"], row["loss"], row["validation"]) for row in csv.DictReader(file)]


def test_a_whole_system(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(folder / "small.yaml")
    written = folder / "checkpoints" / "small.safetensors"
    loaded = checkpoint.load(written)
    assert loaded.stage == "ldm" and loaded.header["training"]["hours"] == 48
    assert loaded.header["training"]["twin"] == "synthetic, recipe 0, seed 0"  # what the archive's manifest says
    (truth,) = loaded.header["training_truth"].values()  # the archive's manifest has none: measured by the training
    assert truth["hours"] == 48 and truth["numbers"]["change t2m everywhere"]["mean"] > 0
    correlation, gain = (np.array(loaded.header[key]) for key in ("temporal_correlation", "latent_gain"))
    assert correlation.shape == gain.shape == (192,) and 0 < correlation.mean() < 1
    np.testing.assert_allclose(loaded.model.latent_gain[:, 0, 0], gain, rtol=1e-6)
    assert loaded.header["training"]["ema"]["unet"] in (0.5, 0.9)
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


@pytest.mark.slow
def test_a_gan_learns_beside_and_goes_on_after_a_kill(mean: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its own U-Net, and a discriminator from half of the way; its checkpoint has a name of its own."""
    settings = SMALL["train"] | {"gan": STAGE | {"steps": 40, "learning_rate": 0.005}}
    write_small(folder := mean, gan=GAN, train=settings)
    other = shutil.copytree(folder, tmp_path_factory.mktemp("gan") / "copy")
    command = [sys.executable, "-m", "ldmdown", "train", "small.yaml", "--stage", "gan", "--resume"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    rows = [float(loss) for _, loss, _ in losses(folder, "gan")]
    assert max(rows[:20]) < min(rows[20:])  # the hinge loss, about 1, comes on top
    loaded = checkpoint.load(folder / "checkpoints" / "small-gan.safetensors")
    assert loaded.stage == "gan" and loaded.header["training"]["steps"]["gan"] == 40
    unet = checkpoint.load(folder / "checkpoints" / "small.safetensors")
    torch.testing.assert_close(loaded.model.statics, unet.model.statics)
    assert (loaded.model.unet.outputs.weight - unet.model.unet.outputs.weight).abs().max() > 1e-3
    process = subprocess.Popen([sys.executable, "-m", "ldmdown", "train", "small.yaml", "--stage", "gan"], cwd=other)
    wait_for_row(other, "gan", 25, process)
    subprocess.run(command, cwd=other, check=True, capture_output=True)
    assert losses(other, "gan") == losses(folder, "gan")


def test_the_mean_starts_from_closed_forms(folder: Path) -> None:
    """Without a step of the U-Net, the regression halves the error that interpolation has on a validation hour."""
    stage = SMALL["train"]["unet"] | {"steps": 0}
    path = write_small(folder, unet=SMALL["unet"] | {"skip": "regression"}, train=SMALL["train"] | {"unet": stage})
    train(path, "unet")
    model = checkpoint.load(folder / "checkpoints" / "small.safetensors").model
    assert model.regression is not None
    assert torch.isfinite(model.statics).all()
    torch.testing.assert_close(model.statics.std(dim=(1, 2)), torch.ones(4), atol=0.01, rtol=0)
    hours = HourSet(Archive(folder / "archive.zarr"), "validation")
    predictors, target = load_hour(hours, 12, torch.device("cpu"))
    error = (model.mean(predictors, model.statics_at([(0, 0)], 8, 8)) - target).square().mean()
    interpolated = (model.interpolated_targets(model.interpolate(predictors)) - target).square().mean()
    assert error < 0.5 * interpolated


@pytest.mark.slow
def test_latents_of_the_target_itself(mean: Path) -> None:
    """The paper's LDM without the residual, by one switch: its members do not need the mean."""
    folder = mean
    train(write_small(folder, residual=False))
    loaded = checkpoint.load(folder / "checkpoints" / "small.safetensors")
    model = loaded.model
    predictors, statics = torch.randn(1, 4, 8, 8), model.statics_at([(0, 0)], 8, 8)
    assert not model.residual and not model.mean_or_zero(predictors, statics).any()
    latents = np.load(next((folder / "run").glob("latents-*")))
    archive = Archive(folder / "archive.zarr")
    target = archive.normalization["target"].normalize(archive.read(5)["target"], archive.targets)
    decoded = model.autoencoder.decode(torch.from_numpy(latents[5:6]).float())
    np.testing.assert_allclose(decoded[0], target, atol=0.02)


def test_a_source_that_covers_a_part_of_the_grid(tmp_path: Path, undrawn: None) -> None:
    """Crops, latents and measurements are of the cells with values; whatever lies outside has no effect."""
    both = [{"name": name, "split": SMALL["data"]["split"]} for name in ("whole", "part")]
    path = write_small(tmp_path, data={"sources": both}, train=SHORT)
    part = np.zeros((8, 8), bool)
    part[:7, 1:8] = True
    part[0, 1] = False
    write_archive(tmp_path / "archive.zarr", parse_config(path), np.ones((8, 8), bool), part)
    train(path)
    for stage in ("unet", "scale", "ldm"):
        assert np.isfinite([float(loss) for _, loss, _ in losses(tmp_path, stage)]).all()
    loaded = checkpoint.load(tmp_path / "checkpoints" / "small.safetensors")
    assert all(tensor.isfinite().all() for tensor in loaded.model.state_dict().values())
    assert 0 < np.mean(loaded.header["temporal_correlation"]) < 1 and loaded.model.statics.any()


def test_bfloat16_where_it_is_asked_for(mean: Path) -> None:
    """Products in 8 bits of mantissa, seen once the last layer is not zero; weights stay in 32 bits of float."""
    other = mean / "bf16"
    write_below(other, mean)
    train(write_small(other, train=SMALL["train"] | {"precision": "bf16"}), "unet")
    found, expected = (np.array([float(loss) for _, loss, _ in losses(place, "unet")]) for place in (other, mean))
    assert (found[1:3] != expected[1:3]).all()
    np.testing.assert_allclose(found[:3], expected[:3], rtol=2**-6)
    tensors = load(other / "run" / "unet.state.pt")["tensors"]
    assert {tensor.dtype for tensor in tensors.values()} <= {torch.float32, torch.int64}


def test_a_closed_form_survives_a_kill_before_the_first_step(folder: Path) -> None:
    """The state that is written when it is solved; nothing else of the stage is on the disk when it goes on."""
    settings = SMALL["train"] | {"unet": STAGE | {"steps": 0, "learning_rate": 1}}
    regression = {"features": [8], "bottleneck": 8, "skip": "regression"}
    path = write_small(folder, unet=regression, train=settings)
    train(path, "unet")
    first = checkpoint.load(folder / "checkpoints" / "small.safetensors")
    assert first.model.regression is not None and first.model.regression.weight.any() and first.model.statics.any()
    best, state = (folder / "run" / f"unet.{kind}.pt" for kind in ("best", "state"))
    begun = asdict(State(load(state)["fingerprint"], 1)) | {"tensors": load(best)["tensors"]}
    torch.save(begun, state)
    best.unlink()
    train(path, "unet", resume=True)
    again = checkpoint.load(folder / "checkpoints" / "small.safetensors")
    for name, tensor in first.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], tensor, rtol=0, atol=0)


def test_days_are_given_the_closed_form_of_other_days(folder: Path) -> None:
    """On its own days the regression with all of them errs less than the one without each day's fold."""
    settings = SMALL["train"] | {"unet": STAGE | {"steps": 0, "learning_rate": 1}}
    regression = {"features": [8], "bottleneck": 8, "skip": "regression"}
    config = parse_config(write_small(folder, unet=regression, train=settings))
    train(folder / "small.yaml", "unet")
    archive = Archive(folder / config.data.archive)
    model = checkpoint.build(config, archive.normalization, "ldm").eval()
    stage = UNetStage(config, archive.normalization, model, [])
    stage.load(load(folder / "run" / "unet.best.pt")["tensors"])
    hours, errors = HourSet(archive, "train"), []
    assert {hours.fold(place) for place in range(len(hours))} == {0, 1}
    for place in range(0, len(hours), 3):
        predictors, target = load_hour(hours, place, ALONE.device)
        batch: Batch = {"predictors": predictors, "corners": [(0, 0)]}
        fields = stage.mean(batch), stage.mean(batch | {"folds": [hours.fold(place)]})
        errors.append([float((field - target).square().mean()) for field in fields])
    everything, left_out = np.mean(errors, axis=0)
    assert everything < 0.98 * left_out


def test_weights_of_another_checkpoint_to_start_from(mean: Path) -> None:
    """Without a step the mean and its ground are kept as they are; what does not fit begins anew."""
    first = mean / "checkpoints" / "small.safetensors"
    shutil.copy(first, mean / "first.safetensors")
    kept = SMALL["train"] | {
        "init_from": "first.safetensors",
        "run": "again",
        "unet": STAGE | {"steps": 0, "learning_rate": 1},
    }
    train(write_small(mean, name="again", train=kept), "unet")
    ours, theirs = (checkpoint.load(mean / "checkpoints" / f"{name}.safetensors") for name in ("again", "small"))
    for name, tensor in ours.model.state_dict().items():
        torch.testing.assert_close(tensor, theirs.model.state_dict()[name], rtol=0, atol=0)
    assert ours.header["training"]["validation_loss"]["unet"] > 0
    wider = {"features": [16], "bottleneck": 16}
    train(write_small(mean, name="wider", unet=wider, train=kept | {"run": "wider"}), "unet")
    model = checkpoint.load(mean / "checkpoints" / "wider.safetensors").model
    torch.testing.assert_close(model.statics, theirs.model.statics)
    write_small(mean, statics={"embedding": 3}, unet=wider, train=kept | {"init_from": "small.yaml", "run": "none"})
    with pytest.raises(LdmdownError, match="is not a checkpoint"):
        train(mean / "small.yaml")


def test_stages_come_in_order(folder: Path, prepared_mean: Path) -> None:
    with pytest.raises(LdmdownError) as caught:
        train(folder / "small.yaml", "ldm")
    assert str(caught.value) == (
        f"{folder / 'run' / 'unet.state.pt'}: the unet stage comes first and is not finished\n"
        "  fix: run `ldmdown train --stage unet`, or without --stage"
    )
    shutil.copytree(prepared_mean, folder, dirs_exist_ok=True)
    assert checkpoint.load(folder / "checkpoints" / "small.safetensors").stage == "unet"
    with pytest.raises(
        LdmdownError,
        match="fix: leave --stage out, or set autoencoder.kind to kl; the lapped transform needs no training",
    ):
        train(folder / "small.yaml", "vae")
    changed = write_small(folder, unet={"features": [16], "bottleneck": 8})
    with pytest.raises(LdmdownError, match="the unet stage was begun with another configuration or archive"):
        train(changed)


def kill_when(folder: Path, stage: str, step: int) -> None:
    """Train in a process of its own, and kill it when a stage has reached a step."""
    process = subprocess.Popen([sys.executable, "-m", "ldmdown", "train", "small.yaml", "--resume"], cwd=folder)
    wait_for_row(folder, stage, step, process)


def wait_for_row(folder: Path, stage: str, step: int, process: subprocess.Popen[bytes]) -> None:
    path = folder / "run" / f"{stage}.csv"
    for _ in range(30000):
        if (path.exists() and path.read_text().count("\n") > step) or process.poll() is not None:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_killed_and_gone_on_with_it_learns_the_same(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """In mid-stage, of the mean and of the denoiser: the same losses and the same weights."""
    other = tmp_path_factory.mktemp("killed")
    train_settings = SMALL["train"] | {
        "unet": STAGE | {"steps": 40, "learning_rate": 0.002},
        "ldm": STAGE | {"steps": 40, "learning_rate": 0.001},
    }
    for place in (folder, other):
        write_small(place, train=train_settings)
    shutil.copytree(folder / "archive.zarr", other / "archive.zarr")
    kill_when(other, "unet", 10)
    with pytest.raises(LdmdownError, match=r"the unet stage was stopped after \d+ of 40 steps\n  fix: resume with"):
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


def rates(folder: Path, stage: str) -> dict[int, float]:
    with (folder / "run" / f"{stage}.csv").open() as file:
        return {int(row["step"]): float(row["learning_rate"]) for row in csv.DictReader(file)}


def test_a_loss_that_diverges_once(
    drawn: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Back to the last state, with half the rate and other crops to come; the page says so."""
    settings = SMALL["train"] | {
        "unet": STAGE | {"steps": 20, "learning_rate": 0.01, "schedule": "plateau", "patience": 99}
    }
    path = write_small(drawn, train=settings)
    once, honest = [torch.tensor(float("nan"))], UNetStage.loss
    seen: dict[int, list[int]] = {}

    def diverge(stage: UNetStage, batch: Batch) -> torch.Tensor:
        if torch.is_grad_enabled():
            seen.setdefault(batch["step"], []).append(batch["seeds"][0])
        bad = batch["step"] == 12 and torch.is_grad_enabled() and once
        return honest(stage, batch) * (once.pop() if bad else 1)

    monkeypatch.setattr(UNetStage, "loss", diverge)
    train(path, "unet")
    event = r"the loss diverged \(nan, [\d.]+ at first\) before step 15: back to step 10, with half the learning rate"
    told = re.search(f"unet: ({event})\n", capsys.readouterr().err)
    assert told and told[1] in (drawn / "run" / "report.html").read_text()
    assert rates(drawn, "unet") == {step: 0.01 if step <= 10 else 0.005 for step in range(1, 21)}
    assert all(np.isfinite(float(loss)) for _, loss, _ in losses(drawn, "unet"))
    assert len(seen[5]) == 1 and len(set(seen[11])) == 2


def test_a_loss_that_diverges_again_and_again(folder: Path) -> None:
    settings = {"steps": 30, "learning_rate": 1e30, "grad_clip": 1e30, "warmup": 0.0}
    path = write_small(folder, train=SMALL["train"] | {"unet": STAGE | settings})
    with pytest.raises(LdmdownError, match=r"the unet stage diverges again after 3 rollbacks"):
        train(path)


def test_hours_that_cannot_be_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of 48 is named and left out, its latents too; of three that is too many."""
    bad, honest, whole = {7}, Archive.read_packed, Archive.read

    def read_packed(archive: Archive, index: int, *window: object) -> object:
        if index in bad:
            raise RuntimeError("error during blosc decompression: -1")
        return honest(archive, index, *window)

    def read(archive: Archive, index: int, window: object = None) -> object:
        fields = whole(archive, index, window)
        return fields | {"target": np.full_like(fields["target"], np.nan)} if index in bad else fields

    monkeypatch.setattr(Archive, "read_packed", read_packed)
    monkeypatch.setattr(Archive, "read", read)
    train(write_small(folder, train=SHORT))
    said = capsys.readouterr().err
    name = f"{folder / 'archive.zarr'}: 2021-01-01T07 cannot be read (error during blosc decompression: -1): left out"
    assert said.count(name) == 1
    for stage in ("unet", "ldm"):
        assert all(np.isfinite(float(loss)) for _, loss, _ in losses(folder, stage))
    shutil.rmtree(folder / "run")
    bad |= {3, 40}
    with pytest.raises(LdmdownError) as caught:
        train(folder / "small.yaml", "unet")
    assert "too many hours cannot be read\n  found: 2021-01-01T" in str(caught.value)
    assert "expected: at most 1% of 48 hours" in str(caught.value)


@pytest.mark.slow
def test_micro_batches_add_up(mean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One crop at a time: the losses of the whole batch."""
    folder, other = mean, mean / "parts"
    train(folder / "small.yaml")
    write_below(other, folder)
    for name in ("unet", "scale"):
        for file in (folder / "run").glob(f"{name}.*"):
            shutil.copy(file, other / "run")
    train(other / "small.yaml", "ldm", batch_size=1)
    assert "ldm: micro-batches of 1 of 4 crops, whose gradients add up\n" in capsys.readouterr().err
    expected = [float(loss) for _, loss, _ in losses(folder, "ldm")]
    np.testing.assert_allclose([float(loss) for _, loss, _ in losses(other, "ldm")], expected, atol=1e-5)


def write_below(place: Path, folder: Path) -> None:
    """A folder with the same configuration and archive, and no run."""
    (place / "run").mkdir(parents=True)
    shutil.copy(folder / "small.yaml", place)
    (place / "archive.zarr").symlink_to(folder / "archive.zarr")


def test_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there stays; the message says what to do."""
    run = Run(folder / "run", Config.model_validate(SMALL), ALONE, {"unet": "a"})
    path, honest = run.state_path("unet"), torch.save
    run.write(path, asdict(State("a", 1, step=5)))
    with monkeypatch.context() as patch, pytest.raises(LdmdownError) as caught, on_disk(folder):
        patch.setattr(torch, "save", lambda content, file: honest(content, "/dev/full"))
        run.write(path, asdict(State("a", 1, step=10)) | {"tensors": {"w": torch.zeros(1000)}})
    assert "the disk is full; what was written before is intact\n  found: " in str(caught.value)
    assert "fix: make room, then resume with `ldmdown train --resume`" in str(caught.value)
    state = run.load_state("unet")
    assert state is not None and state.step == 5
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(LdmdownError, match=r"unet.state.pt: is damaged\n"):
        run.load_state("unet")
    with pytest.raises(FileNotFoundError), on_disk(folder):  # is another matter
        (folder / "missing").read_text()


class Board:
    """TensorBoard's writer, which only remembers."""

    scalars: ClassVar[list[tuple[str, float, int]]] = []

    def __init__(self, folder: str, purge_step: int) -> None: ...

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def flush(self) -> None: ...


@pytest.mark.slow
def test_the_papers_latent_space_and_the_folder_of_a_run(
    prepared_mean: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Configuration, environment, validation by noise, pictures, best and last weights, TensorBoard and the page."""
    monkeypatch.setitem(sys.modules, "tensorboard", ModuleType("tensorboard"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Board))
    sys.modules["tensorboard"].__spec__ = ModuleSpec("tensorboard", None)
    shutil.copytree(prepared_mean, drawn, dirs_exist_ok=True)
    path = write_small(drawn, autoencoder={"kind": "kl", "multiplier": 2, "minimum": 4}, scale=None)
    train(path)
    loaded = checkpoint.load(drawn / "checkpoints" / "small.safetensors")
    assert loaded.config.autoencoder.kind == "kl" and loaded.model.scale is None
    assert "warning: the latent space loses power: t2m" in capsys.readouterr().err
    run = drawn / "run"
    assert (run / "vae.csv").exists() and not (run / "scale.csv").exists()
    assert Config.model_validate(yaml.safe_load((run / "config.yaml").read_text())) == parse_config(path)
    environment = json.loads((run / "environment.json").read_text())
    assert environment["processes"] == 1 and environment["versions"]["torch"] == torch.__version__
    levels = read_losses(run / "ldm-noise.csv")
    assert levels.pop("step").tolist() == [5, 10, 15, 20]
    assert list(levels) == ["0-0.2", "0.2-0.4", "0.4-0.6", "0.6-0.8", "0.8-1"]
    assert all((values > 0).all() for values in levels.values())
    assert sorted(file.stem for file in (run / "pictures").iterdir()) == [
        "ldm-000020",
        "unet-000025",
        "unet-000030",
        "vae-000010",
    ]
    best, last = (load(run / f"unet.{which}.pt")["tensors"] for which in ("best", "state"))
    assert best.keys() == last.keys() and not torch.equal(best["unet.b.conv.0.weight"], last["unet.b.conv.0.weight"])
    assert [step for name, _, step in Board.scalars if name == "vae/loss"] == list(range(1, 11))
    lost = json.loads(next(run.glob("vae-*.json")).read_text())["reconstruction"]
    assert list(lost) == ["t2m", "u10", "v10"] and max(lost["u10"].values()) > 0.5
    page = (run / "report.html").read_text()
    for text in (
        "Training of small",
        "validation loss",
        "LDM, one member",
        "set autoencoder.kind to lapped",
        "t2m CRPS",
    ):
        assert text in page
    assert page.count("<img") == 3 + 1 + 3  # curves, validation by noise, samples
    assert "http" not in page.replace("http-equiv", "")


def test_a_crop_that_the_networks_do_not_divide(folder: Path) -> None:
    path = write_small(folder, denoiser={"channels": 32, "multipliers": [1, 1, 1], "blocks": 1, "cross_levels": []})
    settings = yaml.safe_load(path.read_text())
    settings["train"]["ldm"]["crop"] = 6
    path.write_text(yaml.safe_dump(settings))
    with pytest.raises(
        LdmdownError, match="train.ldm.crop: these networks need coarse cells in multiples of 4\n  found: 6"
    ):
        train(path)


@pytest.mark.slow
def test_the_three_commands_in_an_empty_folder(tmp_path: Path) -> None:
    """The bundled twin, a day for each use and its training cut short."""
    settings = yaml.safe_load(BUNDLED.read_text())
    days = dict(zip(("train", "validation", "test"), ("2021-01-11", "2021-01-18", "2021-07-23"), strict=True))
    settings["data"]["split"] = {use: [[day, day]] for use, day in days.items()}
    settings["twin"]["periods"] = [[day, day] for day in days.values()]
    for stage in ("unet", "scale", "ldm"):
        settings["train"][stage] |= {"steps": 20, "validate_every": 20}
    settings["grid"] |= {"rows": 64, "cols": 64}
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


LATE = """\
import os, time
from ldmdown.cli import main
from ldmdown.training.run import Run

known = Run.known_state

def late(*arguments):
    time.sleep(0.3 * int(os.environ["RANK"]))
    return known(*arguments)

Run.known_state = late
main()
"""  # the second process always finds what the first has had time to write


def torchrun(folder: Path, processes: int, program: str, *options: str) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*launcher, *program.split(), "train", "small.yaml", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_processes_learn_what_one_does(mean: Path) -> None:
    """Each takes a half of a batch, crop by crop: 50 steps of vae and ldm in float32; unet and gan at least run."""
    stages = {name: STAGE | {"steps": 50, "validate_every": 25, "learning_rate": 1e-4} for name in ("vae", "ldm")}
    latent_space = {"kind": "kl", "multiplier": 2, "minimum": 4}
    stages["gan"] = STAGE | {"steps": 10, "learning_rate": 0.001}
    folder, other = mean, mean / "two"
    train(write_small(folder, autoencoder=latent_space, scale=None, gan=GAN, train=SMALL["train"] | stages))
    write_below(other, folder)
    for file in (folder / "run").glob("unet.*"):
        shutil.copy(file, other / "run")
    (other / "late.py").write_text(LATE)
    torchrun(other, 2, "late.py", "--batch-size", "1")
    for stage in ("vae", "ldm"):
        ours, theirs = (read_losses(place / "run" / f"{stage}.csv") for place in (other, folder))
        np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(ours["validation"], theirs["validation"], rtol=0, atol=1e-5)
    ours, theirs = (checkpoint.load(place / "checkpoints" / "small.safetensors") for place in (other, folder))
    assert ours.header["training"]["steps"] == theirs.header["training"]["steps"]
    assert np.isfinite(read_losses(other / "run" / "gan.csv")["loss"]).all()
    (other / "run" / "unet.state.pt").unlink()
    torchrun(other, 2, "-m ldmdown", "--stage", "unet")
    assert len(read_losses(other / "run" / "unet.csv")["loss"]) == 30
