"""`ldmdown train`: one loop for the stages unet, vae, scale and ldm, each ending in its best averaged weights.

Step k of a stage draws its hours, crops and noise from (seed, stage, k) alone, so a run that was killed and
goes on from its last state repeats the losses of one that was not. Fields are normalised: predictors
(B, P, h, w), target (B, T, H, W), latents (B, L, h, w).
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import math
import os
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional

from ldmdown import checkpoint, metrics, runtime
from ldmdown.card import find, sha256
from ldmdown.config import Config, StageConfig, load_config
from ldmdown.data.archive import PRECISION, Archive
from ldmdown.data.twin import RECIPE
from ldmdown.data.variables import variable
from ldmdown.errors import LdmdownError
from ldmdown.models.downscaler import Downscaler
from ldmdown.models.gan import PatchDiscriminator, adversarial_loss
from ldmdown.models.ground import CellRegression
from ldmdown.models.vae import VAE

StageName = Literal["all", "unet", "vae", "ldm", "gan"]
Batch = dict[str, Any]
"""Tensors "predictors" and "target" or "latents"; "corners", the (row, col) of each crop; the "step" and the "seed"."""

COMMANDS = {"unet": "unet", "vae": "vae", "scale": "ldm", "ldm": "ldm", "gan": "gan"}  # the --stage that trains a stage
SECTIONS = {  # of the configuration, that a stage adds to what its weights depend on
    "unet": ("statics", "unet"),
    "vae": ("autoencoder", "residual"),
    "scale": ("autoencoder", "residual", "scale"),
    "ldm": ("autoencoder", "residual", "conditioner", "denoiser", "diffusion"),
    "gan": ("gan",),
}
AHEAD = 3  # batches made while the device works
LOG_EVERY = 20  # steps between readings of the losses, each of which waits for the device
VALIDATION_BATCHES = 8
MEASURED_HOURS = 200  # for the coherence in time
GROUND_HOURS = 1000  # at about this many training hours the ground is estimated
SCORED_CROPS, SCORED_MEMBERS = 8, 8


def train(config_path: Path | None = None, stage: StageName = "all", resume: bool = False) -> None:
    """Train the stages of a configuration that are not finished, and write the checkpoint.

    Raises
    ------
    LdmdownError
        if the archive is missing or another configuration's, a stage was stopped and `resume` is not given,
        or a stage before is missing.
    """
    config, root = load_config(config_path)
    training = Training(config, root, config_path or root)
    wanted = training.wanted(stage)
    with _progress() as progress:
        for name in training.up_to(wanted):
            if training.load_finished(name):
                _say(f"{name}: finished before, kept ({training.state_path(name)})")
            elif name in wanted:
                fit(training, training.stage(name, progress), resume, progress)
            else:
                raise LdmdownError(
                    training.state_path(name),
                    f"the {name} stage comes first and is not finished",
                    cure=f"run `ldmdown train --stage {COMMANDS[name]}`, or without --stage",
                )
            if name in ("unet", "ldm", "gan"):
                written = training.save(name, progress)
    _say(f"wrote {written}; use it so:")
    _say(f"ldmdown downscale era5.nc -o out.nc --checkpoint {written.stem if root == Path() else written}")


@dataclass(frozen=True)
class Source:
    """Crops of the hours of a split, on the device that trains.

    `crop(hour, rows, cols)` reads a field as it is kept, `factor` cells to a coarse one; times `gain` plus
    `shift` it is normalised.
    """

    kind: Literal["target", "latents"]
    predictors: Tensor  # (N, P, h, w)
    crop: Callable[[int, slice, slice], Tensor]
    factor: int
    gain: Tensor
    shift: Tensor

    def batch(self, hours: NDArray[np.int64], corners: NDArray[np.int64], size: tuple[int, int]) -> Batch:
        """The fields of these hours at windows of `size` coarse cells whose first cells are `corners`."""
        picks = [(int(hour), int(row), int(col)) for hour, (row, col) in zip(hours, corners, strict=True)]
        h, w = size
        f = self.factor
        device = self.predictors.device
        predictors = [self.predictors[hour, :, row : row + h, col : col + w] for hour, row, col in picks]
        fields = torch.stack(
            [self.crop(hour, slice(f * row, f * (row + h)), slice(f * col, f * (col + w))) for hour, row, col in picks]
        )
        if device.type == "cuda" and not fields.is_cuda:
            fields = fields.pin_memory().to(device, non_blocking=True)
        corner = [(row, col) for _, row, col in picks]
        normalised = fields.float() * self.gain + self.shift
        return {"predictors": torch.stack(predictors), self.kind: normalised, "corners": corner}


@dataclass(frozen=True)
class Stage:
    """What a stage trains, on what, and by which loss."""

    name: str
    settings: StageConfig
    parts: tuple[str, ...]  # of the Downscaler
    sources: dict[str, Source]  # "train" and "validation"
    loss: Callable[[Batch], Tensor]


class Training:
    """A configuration, its archive, the model as far as it is trained, and the folder of the run."""

    def __init__(self, config: Config, root: Path, label: Path) -> None:
        self.config = config
        self.device = runtime.choose_device("auto")
        self.archive = Archive(root / config.data.archive)
        self.folder = root / config.train.run
        self.checkpoints = root / "checkpoints"
        vae = ["vae"] if config.autoencoder.kind == "kl" else []
        scale = ["scale"] if config.scale is not None else []
        gan = ["gan"] if config.gan is not None else []
        self.order = ["unet", *vae, *scale, "ldm", *gan]
        torch.manual_seed(config.train.seed)
        model = checkpoint.build(config, self.archive.normalization, "ldm")
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.archive.statics:
            model.statics.data = torch.from_numpy(self.archive.load_statics())
        self._start(model)
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.discriminator = self._discriminator()
        self._check(label)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.indices = {use: self.archive.split(use) for use in ("train", "validation")}

    def _start(self, model: Downscaler) -> None:
        """Take what fits of the weights of the checkpoint `train.start`."""
        self.start_hash = None
        if self.config.train.start is None:
            return
        path = find(self.config.train.start)
        self.start_hash = sha256(path)
        taken = checkpoint.take_fitting(path, model)
        if not taken:
            raise LdmdownError(path, "has no weights that fit the networks of the configuration",
                               cure="leave out train.start, or give the networks the sizes that "
                               f"`ldmdown info {self.config.train.start}` prints")  # fmt: skip
        _say(f"{taken} of {len(model.state_dict())} tensors start from {path}")

    def _check(self, label: Path) -> None:
        plan = self.archive.plan
        content = self.config.model_dump(mode="json")
        ours = {**content, "split": content["data"]["split"], "statics": content["statics"]["given"]}
        for key, value in ours.items():
            if key in ("grid", "predictors", "targets", "split", "statics") and plan[key] != value:
                raise LdmdownError(
                    self.archive.path,
                    f"was prepared with another `{key}`",
                    found=str(plan[key]),
                    expected=str(value),
                    cure="delete it and run `ldmdown prepare`, or restore the configuration",
                )
        multiple = self.model.multiple
        sides: dict[str, tuple[int, ...]] = {"grid": self.archive.grid.coarse.shape}
        sides |= {f"train.{name}.crop": (self.settings(name).crop,) for name in self.order}
        for key, numbers in sides.items():
            if any(number % multiple for number in numbers):
                raise LdmdownError(
                    label,
                    f"{key}: these networks need coarse cells in multiples of {multiple}",
                    found=" x ".join(map(str, numbers)),
                    cure="change it, or give the networks fewer levels",
                )

    def settings(self, name: str) -> StageConfig:
        """Of a stage."""
        return getattr(self.config.train, name)

    def _discriminator(self) -> PatchDiscriminator | None:
        if self.config.gan is None:
            return None
        return PatchDiscriminator(len(self.config.targets), self.config.gan.widths).to(self.device)

    def before(self, name: str) -> list[str]:
        """The stages on which a stage builds: the GAN's U-Net takes only the ground from the first."""
        return self.order[: min(self.order.index(name), 1 if name == "gan" else len(self.order))]

    def up_to(self, wanted: Sequence[str]) -> list[str]:
        """Those wanted and those that they build on, in their order."""
        needed = {*wanted, *(one for name in wanted for one in self.before(name))}
        return [name for name in self.order if name in needed]

    def wanted(self, stage: StageName) -> list[str]:
        """The stages that a --stage asks for."""
        if stage == "all":
            return self.order
        wanted = [name for name in self.order if COMMANDS[name] == stage]
        if not wanted:
            why, cure = {
                "vae": ("the lapped transform needs no training", "set autoencoder.kind to kl"),
                "gan": ("the configuration has no GAN", "add `gan: {}` to it"),
            }[stage]
            raise LdmdownError("--stage", why, found=stage, cure=f"leave --stage out, or {cure}")
        return wanted

    def state_path(self, name: str) -> Path:
        """Where a stage keeps its state."""
        return self.folder / f"{name}.state.pt"

    def fingerprint(self, name: str) -> str:
        """Hash of all that a stage's weights depend on: the archive, its own settings, and the stages before."""
        content = self.config.model_dump(mode="json")
        parts: list[Any] = [
            self.archive.plan,
            {kind: asdict(values) for kind, values in self.archive.normalization.items()},
            content["train"]["seed"],
            self.start_hash,
        ]
        for before in [*self.before(name), name]:
            parts += [{key: content[key] for key in SECTIONS[before]}, content["train"][before]]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def load_finished(self, name: str) -> bool:
        """Take the weights of a finished stage into the model; False if it is not finished."""
        state = self.load_state(name)
        if state is None or not state["finished"]:
            return False
        self.model.load_state_dict(state["best"], strict=False)
        return True

    def load_state(self, name: str) -> dict[str, Any] | None:
        """What a stage last wrote; None if it has not begun.

        Raises
        ------
        LdmdownError
            if it is of another configuration.
        """
        path = self.state_path(name)
        if not path.exists():
            return None
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["fingerprint"] != self.fingerprint(name):
            raise LdmdownError(
                path,
                f"the {name} stage was begun with another configuration or archive",
                cure="delete it to train this stage anew, or restore the configuration",
            )
        return state

    def stage(self, name: str, progress: Progress) -> Stage:
        """A stage, ready to fit."""
        if name in ("unet", "vae", "gan"):
            sources = {use: self._fields(use) for use in self.indices}
        else:
            latents = self._latents(progress)
            sources = {use: self._latent_source(use, latents) for use in self.indices}
        parts = {
            "unet": ("unet", "statics"),
            "vae": ("autoencoder",),
            "scale": ("scale",),
            "ldm": ("conditioner", "denoiser"),
            "gan": ("unet", "discriminator"),
        }
        if name == "unet" and not self.config.statics.given:
            self._start_ground(sources["train"], progress)
        if name == "gan":
            self._start_gan()
        if name == "scale":
            self._start_scale(latents[: len(self.indices["train"])])
        return Stage(name, self.settings(name), parts[name], sources, getattr(self, f"_{name}_loss"))

    # Losses

    def _statics(self, batch: Batch) -> Tensor:
        return self.model.statics_at(batch["corners"], *batch["predictors"].shape[-2:])

    def _unet_loss(self, batch: Batch) -> Tensor:
        mean = self.model.mean(batch["predictors"], self._statics(batch))
        return functional.mse_loss(mean, batch["target"])

    def _vae_loss(self, batch: Batch) -> Tensor:
        vae = self.model.autoencoder
        assert isinstance(vae, VAE)
        with torch.no_grad():
            residual = batch["target"] - self.model.base(batch["predictors"], self._statics(batch))
        *_, h, w = batch["predictors"].shape
        noise = self._noise((len(residual), vae.latent_channels, h, w), batch)
        return vae.loss(residual, noise, self.config.autoencoder.kl_weight)

    def _gan_loss(self, batch: Batch) -> Tensor:
        """The absolute error, and in time the judgement of a discriminator that learns beside."""
        assert self.config.gan is not None and self.discriminator is not None
        field = self.model.mean(batch["predictors"], self._statics(batch))
        begun = batch["step"] >= self.config.gan.start * self.config.train.gan.steps
        if not begun or not torch.is_grad_enabled():
            return (field - batch["target"]).abs().mean()
        last = self.model.unet.outputs.weight
        return adversarial_loss(self.discriminator, field, batch["target"], last, self.config.gan.weight)

    def _scale_loss(self, batch: Batch) -> Tensor:
        """Negative log-likelihood of independent Gaussians, without its constant."""
        assert self.model.scale is not None
        log_deviation = self.model.scale(batch["predictors"], self._statics(batch))
        return (0.5 * (batch["latents"] * (-log_deviation).exp()).square() + log_deviation).mean()

    def _ldm_loss(self, batch: Batch) -> Tensor:
        condition = self.model.condition(batch["predictors"], self._statics(batch))
        z0 = batch["latents"] * (-condition.log_scale).exp()
        size = len(z0)
        generator = self._generator(batch)
        uniform = torch.rand(size, generator=generator, device=self.device)
        steps = self.config.diffusion.steps
        t = ((torch.arange(size, device=self.device) + uniform) / size * steps).long().clamp(max=steps - 1)
        noise = torch.randn(z0.shape, generator=generator, device=self.device)
        return self.model.denoiser_loss(z0, condition.context, t, noise).mean()

    def _log_scale(self, batch: Batch) -> Tensor:
        if self.model.scale is None:
            return batch["latents"].new_zeros(())
        return self.model.scale(batch["predictors"], self._statics(batch))

    def _generator(self, batch: Batch) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(batch["seed"])

    def _noise(self, shape: Sequence[int], batch: Batch) -> Tensor:
        return torch.randn(shape, generator=self._generator(batch), device=self.device)

    # Data

    def _fields(self, use: str) -> Source:
        """Predictors and targets of a split; held as the archive's exact 16-bit numbers if they fit."""
        archive, indices = self.archive, self.indices[use]
        normalization = archive.normalization["target"]
        mean, deviation = (
            np.array([values[name] for name in archive.targets], np.float32)[:, None, None]
            for values in (normalization.mean, normalization.deviation)
        )
        offset = np.rint(mean)

        def read(place: int, rows: slice, cols: slice) -> Tensor:
            return torch.from_numpy(archive.read_target(int(indices[place]), offset, rows, cols))

        crop: Callable[[int, slice, slice], Tensor] = read
        for device in dict.fromkeys((self.device, torch.device("cpu"))):
            if len(indices) * archive.target_bytes < _room(device):
                held = torch.from_numpy(archive.load_targets(indices, offset)).to(device)
                crop = _cropper(held)
                break
        gain = 1 / (PRECISION * deviation)
        return self._source("target", use, crop, archive.grid.factor, gain, (offset - mean) / deviation)

    def _latent_source(self, use: str, latents: Tensor) -> Source:
        train = len(self.indices["train"])
        part = latents[:train] if use == "train" else latents[train:]
        return self._source("latents", use, _cropper(part), 1, np.float32(1), np.float32(0))

    def _source(self, kind: Any, use: str, crop: Any, factor: int, gain: Any, shift: Any) -> Source:
        predictors = self.archive.load_predictors(self.indices[use])
        predictors = self.archive.normalization["predictors"].normalize(predictors, self.archive.predictors)
        tensors = (torch.as_tensor(part, device=self.device) for part in (predictors, gain, shift))
        return Source(kind, next(tensors), crop, factor, *tensors)

    @torch.no_grad()
    def _latents(self, progress: Progress) -> Tensor:
        """Latents of all training and then validation hours, full domain, float16, before any scaling.

        Computed once for a trained mean and autoencoder and kept in the run's folder.
        """
        before = [name for name in self.order if name in ("unet", "vae")][-1]
        path = self.folder / f"latents-{self.config.name}-{self.fingerprint(before)[:8]}.npy"
        if not path.exists():
            for stale in self.folder.glob(f"latents-{self.config.name}-*"):
                stale.unlink()
            self._write_latents(path, progress)
        latents = torch.from_numpy(np.load(path, mmap_mode="c"))
        if self.device.type == "cuda" and latents.nbytes < _room(self.device):
            latents = latents.to(self.device)
        return latents

    def _write_latents(self, path: Path, progress: Progress) -> None:
        autoencoder, archive = self.model.autoencoder, self.archive
        assert autoencoder is not None
        h, w = archive.grid.coarse.shape
        indices = np.concatenate([self.indices["train"], self.indices["validation"]])
        beside = path.with_suffix(".tmp")
        shape = (len(indices), autoencoder.latent_channels, h, w)
        latents = np.lib.format.open_memmap(beside, "w+", np.float16, shape)
        statics = self.model.statics_at([(0, 0)], h, w)
        task = progress.add_task("latents", total=len(indices), note="")
        for place in range(len(indices)):
            predictors, target = self._hour(int(indices[place]))
            with runtime.autocast(self.device, _precision(self.device)):
                latent = autoencoder.encode(target - self.model.base(predictors, statics))
            latents[place] = latent[0].float().cpu().numpy()
            progress.advance(task)
        latents.flush()
        beside.rename(path)

    def _hour(self, index: int) -> tuple[Tensor, Tensor]:
        """Normalised predictors and target of one hour, each a batch of one."""
        hour, kinds = self.archive.read(index), (self.archive.predictors, self.archive.targets)
        first, second = (
            torch.from_numpy(self.archive.normalization[kind].normalize(hour[kind], names))[None]
            for kind, names in zip(("predictors", "target"), kinds, strict=True)
        )
        return first.to(self.device), second.to(self.device)

    @torch.no_grad()
    def _start_ground(self, source: Source, progress: Progress) -> None:
        """Give the model the ground that the training hours tell of, unless it starts from another's."""
        model, config = self.model, self.config
        if model.statics.any():
            return
        names = [name for name in config.predictors if name in config.targets or variable(name).derived]
        channels = [config.predictors.index(name) for name in names]
        h, w = self.archive.grid.coarse.shape
        cells = CellRegression(1 + len(names), len(config.targets), *self.archive.grid.shape)
        hours = range(0, len(source.predictors), max(1, len(source.predictors) // GROUND_HOURS))
        task = progress.add_task("ground", total=len(hours), note="")
        for hour in hours:
            batch = source.batch(np.array([hour]), np.zeros((1, 2), int), (h, w))
            fine = model.interpolate(batch["predictors"])
            residual = (batch["target"] - model.start(fine))[0]
            x = torch.cat([torch.ones_like(fine[0, :1]), fine[0, channels]])
            cells.add(x.cpu(), residual.cpu())
            progress.advance(task)
        model.statics.copy_(cells.ground(len(model.statics)))

    def _start_scale(self, latents: Tensor) -> None:
        """Give a fresh scale each channel's deviation over the training hours, from which it learns to depart."""
        assert self.model.scale is not None
        if self.model.scale.log_deviation.any():
            return
        squares = sum(hour.float().square().mean((-2, -1)) for hour in latents)
        self.model.scale.log_deviation.copy_(0.5 * (squares / len(latents)).log())

    def _start_gan(self) -> None:
        """A U-Net and a discriminator that have learned nothing; the ground stays."""
        torch.manual_seed(self.config.train.seed + 1)
        fresh = checkpoint.build(self.config, self.archive.normalization, "gan").unet
        self.model.unet.load_state_dict(fresh.state_dict())
        discriminator = self._discriminator()
        assert self.discriminator is not None and discriminator is not None
        self.discriminator.load_state_dict(discriminator.state_dict())

    # Results

    def save(self, name: str, progress: Progress) -> Path:
        """Write the checkpoint of all that is trained up to a stage, and say where."""
        config, archive = self.config, self.archive
        stage: checkpoint.Stage = name if name in ("ldm", "gan") else "unet"  # type: ignore[assignment]
        model = checkpoint.build(config, archive.normalization, stage)
        weights = self.model.state_dict()
        model.load_state_dict({key: weights[key] for key in model.state_dict()})
        done = [*self.before(name), name]
        states = {stage: self.load_state(stage) or {} for stage in done}
        twin = {"twin": f"synthetic, recipe {RECIPE}, seed {config.twin.seed}"} if config.twin else {}
        training = {
            **twin,
            "periods": config.model_dump(mode="json")["data"]["split"]["train"],
            "hours": len(self.indices["train"]),
            "steps": {stage: state["best_step"] for stage, state in states.items()},
            "validation_loss": {stage: state["best_loss"] for stage, state in states.items()},
        }
        card = self._measured(progress) if stage == "ldm" else {}
        header = checkpoint.header_of(config, archive.normalization, stage, training=training, **card)
        path = self.checkpoints / f"{config.name}{'-gan' if stage == 'gan' else ''}.safetensors"
        checkpoint.save(path, model, header)
        return path

    def _measured(self, progress: Progress) -> dict[str, Any]:
        """Coherence in time and scores on validation crops; kept beside the state they belong to."""
        path = self.folder / f"ldm-{self.fingerprint('ldm')[:8]}.json"
        if not path.exists():
            latents = self._latents(progress)
            measured = {
                "temporal_correlation": self._temporal_correlation(latents),
                "scores": self._scores(self._fields("validation")),
            }
            path.write_text(json.dumps(measured, indent=2))
        return json.loads(path.read_text())

    @torch.no_grad()
    def _temporal_correlation(self, latents: Tensor) -> float:
        """Correlation of latents an hour apart over the training hours, in the noise's own units."""
        hours = self.archive.hours[self.indices["train"]]
        places = np.flatnonzero(np.diff(hours) == 1)[:: max(1, len(hours) // MEASURED_HOURS)].tolist()
        source = self._latent_source("train", latents)
        sums = torch.zeros(3, dtype=torch.float64)
        whole = self.archive.grid.coarse.shape
        for place in places:
            pair = source.batch(np.array([place, place + 1]), np.zeros((2, 2), int), whole)
            now, later = (pair["latents"] * (-self._log_scale(pair)).exp()).double()
            sums += torch.stack([(now * later).sum(), now.square().sum(), later.square().sum()]).cpu()
        return float(sums[0] / (sums[1] * sums[2]).sqrt()) if places else 0.0

    @torch.no_grad()
    def _scores(self, source: Source) -> dict[str, Any]:
        """Of a small ensemble on validation crops, in physical units, beside those of scaled white noise."""
        config, model = self.config, self.model
        settings = config.train.ldm.model_copy(update={"batch": SCORED_CROPS})
        batch = draw(self, "score ldm", source, settings, 0)
        statics = self._statics(batch)
        mean, base = model.mean(batch["predictors"], statics), model.base(batch["predictors"], statics)
        sampler: dict[str, Any] = config.sampler.model_dump()
        sampler["sampler"] = sampler.pop("name")
        assert model.autoencoder is not None
        members, noises = [], []
        for crop in range(SCORED_CROPS):
            part = slice(crop, crop + 1)
            condition = model.condition(batch["predictors"][part], statics[part]).take([0] * SCORED_MEMBERS)
            h, w = batch["predictors"].shape[-2:]
            shape = (SCORED_MEMBERS, model.autoencoder.latent_channels, h, w)
            noise = self._noise(shape, {"seed": batch["seed"] + crop})
            members.append(model.sample(base[part], condition, noise, **sampler))
            noises.append(model.decode(base[part], condition, noise))
        fields = [torch.stack(part, dim=1) for part in (members, noises)]  # (member, crop, T, H, W)
        deviation = self.archive.normalization["target"].deviation
        scores: dict[str, Any] = {"on": f"{SCORED_CROPS} validation crops, {SCORED_MEMBERS} members"}
        for channel, name in enumerate(config.targets):
            truth, ldm, white, unet = (
                part[..., channel, :, :].cpu().numpy() * deviation[name] for part in (batch["target"], *fields, mean)
            )
            scores[name] = {
                "rmse_unet": metrics.rmse(unet, truth),
                "crps_ldm": metrics.crps(ldm, truth),
                "crps_scaled_noise": metrics.crps(white, truth),
                "spread_skill_ldm": metrics.spread_skill(ldm, truth),
            }
        return scores


def fit(training: Training, stage: Stage, resume: bool, progress: Progress) -> None:
    """Train a stage to its end and leave its best averaged weights in the model."""
    settings, model = stage.settings, training.model
    modules = nn.ModuleDict()
    if stage.name == "gan" and training.discriminator is not None:
        modules["discriminator"] = training.discriminator
    held = {**model.state_dict(keep_vars=True), **modules.state_dict(keep_vars=True)}
    tensors = {name: tensor for name, tensor in held.items() if name.split(".")[0] in stage.parts}
    if not settings.steps:
        value, fingerprint = _validate(training, stage), training.fingerprint(stage.name)
        kept = {"step": 0, "best_step": 0, "best_loss": value, "best": tensors, "finished": True}
        _write(training.state_path(stage.name), kept | {"fingerprint": fingerprint})
        return
    optimizer = _optimizer(tensors, settings)
    average = Average(tensors, settings.ema)
    state = _begin(training, stage, resume)
    if state is None:
        state = {"step": 0, "best_step": 0, "best_loss": math.inf, "best": {}, "stale": 0}
    else:
        _copy(tensors, state["tensors"])
        _copy(average.tensors, state["average"])
        optimizer.load_state_dict(state["optimizer"])
    losses = Losses(training.folder / f"{stage.name}.csv", state["step"])
    task = progress.add_task(stage.name, total=settings.steps, completed=state["step"], note="")
    parts = [modules[part] if part in modules else getattr(model, part) for part in stage.parts if part != "statics"]
    steps = range(state["step"], settings.steps)
    for step, batch in ahead(lambda k: draw(training, stage.name, stage.sources["train"], settings, k), steps):
        for part in parts:
            part.train()
        rate = schedule(step, settings)
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * rate
        loss = _loss(training, stage, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_((p for p in tensors.values() if p.requires_grad), settings.clip)
        optimizer.step()
        average.update(step)
        done = step + 1
        losses.note(done, loss.detach(), settings.rate * rate)
        validate = done % settings.validate_every == 0 or done == settings.steps
        if not validate and done % LOG_EVERY:
            continue
        if not losses.read(settings.batch):
            raise LdmdownError(
                losses.path,
                f"the loss of the {stage.name} stage is no longer a number, before step {done}",
                cure=f"lower train.{stage.name}.rate and train the stage anew",
            )
        note = f"{losses.speed:.0f} crops/s, loss {losses.last:.4f}, best {state['best_loss']:.4f}"
        progress.update(task, completed=done, note=note)
        if not validate:
            losses.write()
            continue
        for part in parts:
            part.eval()
        with average.in_place(tensors):
            value = _validate(training, stage)
        losses.write(value)
        better = value < state["best_loss"] or stage.name == "gan"  # whose error grows as its fields sharpen
        if better:
            state |= {"best_step": done, "best_loss": value, "best": _clone(average.tensors)}
        state["stale"] = 0 if better else state["stale"] + 1
        state["finished"] = done == settings.steps or state["stale"] >= settings.patience
        state |= {"step": done, "tensors": _clone(tensors), "average": average.tensors}
        state |= {"optimizer": optimizer.state_dict(), "fingerprint": training.fingerprint(stage.name)}
        _write(training.state_path(stage.name), state)
        if state["finished"]:
            break
    _copy(tensors, state["best"])
    for tensor in tensors.values():
        tensor.requires_grad_(False)
    progress.update(task, total=state["step"], completed=state["step"])


def draw(training: Training, stream: str, source: Source, settings: StageConfig, step: int) -> Batch:
    """The batch of a step: hours and crops at random, from (seed, stream, step) alone."""
    bits = np.random.Philox(key=[training.config.train.seed, zlib.crc32(stream.encode())], counter=[0, 0, 0, step])
    random = np.random.Generator(bits)
    sides = training.archive.grid.coarse.shape
    size = min(settings.crop, sides[0]), min(settings.crop, sides[1])
    hours = random.integers(len(source.predictors), size=settings.batch)
    corners = [random.integers(side - part + 1, size=settings.batch) for side, part in zip(sides, size, strict=True)]
    batch = source.batch(hours, np.stack(corners, axis=1), size)
    return batch | {"seed": int(random.integers(2**62)), "step": step}


def ahead(make: Callable[[int], Batch], steps: range) -> Iterator[tuple[int, Batch]]:
    """Batches in order, the next ones made in the background."""
    with ThreadPoolExecutor(AHEAD) as pool:
        waiting: deque[tuple[int, Future[Batch]]] = deque()
        for step in steps:
            waiting.append((step, pool.submit(make, step)))
            if len(waiting) > AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def schedule(step: int, settings: StageConfig) -> float:
    """Fraction of the rate: a linear warm-up, then a cosine to zero."""
    warmup = max(1, round(settings.warmup * settings.steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (settings.steps - warmup))


class Average:
    """Exponential moving average of tensors, with the paper's warm-up: decay at most (1 + n) / (10 + n)."""

    def __init__(self, tensors: dict[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.tensors = _clone(tensors)
        self._followed = [(self.tensors[name], tensor) for name, tensor in tensors.items()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the tensors after a step (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        floats = [pair for pair in self._followed if pair[0].is_floating_point()]
        torch._foreach_lerp_([mine for mine, _ in floats], [theirs for _, theirs in floats], 1 - decay)

    @contextlib.contextmanager
    def in_place(self, tensors: dict[str, Tensor]) -> Iterator[None]:
        """The average in the model's own tensors for as long as the context lasts."""
        kept = _clone(tensors)
        _copy(tensors, self.tensors)
        try:
            yield
        finally:
            _copy(tensors, kept)


class Losses:
    """A stage's CSV: a row a step, cut back to the step from which it goes on."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.speed, self.last = path, 0.0, math.nan
        rows = path.read_text().splitlines(keepends=True)[1:] if step else []
        kept = [row for row in rows if int(row.split(",")[0]) <= step]
        path.write_text("".join(["step,loss,validation,rate,crops_per_second\n", *kept]))
        self._noted: list[tuple[int, Tensor, float]] = []
        self._started = time.perf_counter()

    def note(self, step: int, loss: Tensor, rate: float) -> None:
        """Keep the loss of a step, which stays on the device."""
        self._noted.append((step, loss, rate))

    def read(self, batch: int) -> bool:
        """Wait for the device; False if the mean of what was noted is no number."""
        values = torch.stack([loss for _, loss, _ in self._noted]).mean()
        self.last = float(values)
        self.speed = batch * len(self._noted) / (time.perf_counter() - self._started)
        return math.isfinite(self.last)

    def write(self, validation: float | None = None) -> None:
        """Append what was noted, with the validation loss of the last step."""
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            for step, loss, rate in self._noted:
                value = "" if validation is None or step < self._noted[-1][0] else f"{validation:.8g}"
                writer.writerow([step, f"{float(loss):.8g}", value, f"{rate:.4g}", f"{self.speed:.4g}"])
        self._noted.clear()
        self._started = time.perf_counter()


def _loss(training: Training, stage: Stage, batch: Batch) -> Tensor:
    with runtime.autocast(training.device, _precision(training.device)):
        return stage.loss(batch)


@torch.no_grad()
def _validate(training: Training, stage: Stage) -> float:
    """Mean loss over the same crops, times and noise at every call."""
    source, stream = stage.sources["validation"], f"validation {stage.name}"
    batches = ahead(lambda k: draw(training, stream, source, stage.settings, k), range(VALIDATION_BATCHES))
    return float(torch.stack([_loss(training, stage, batch) for _, batch in batches]).mean())


def _optimizer(tensors: dict[str, Tensor], settings: StageConfig) -> torch.optim.Optimizer:
    trained = [tensor for tensor in tensors.values() if isinstance(tensor, nn.Parameter)]
    for tensor in trained:
        tensor.requires_grad_()
    return torch.optim.AdamW(
        trained,
        lr=settings.rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        fused=trained[0].is_cuda,
    )


def _begin(training: Training, stage: Stage, resume: bool) -> dict[str, Any] | None:
    """The state of a stopped stage, if it is to be gone on with."""
    state = training.load_state(stage.name)
    if state is not None and not resume:
        path = training.state_path(stage.name)
        raise LdmdownError(
            path,
            f"the {stage.name} stage was stopped after {state['step']} of {stage.settings.steps} steps",
            cure=f"go on with `ldmdown train --resume`, or delete {path} to train it anew",
        )
    return state


def _write(path: Path, state: dict[str, Any]) -> None:
    """Beside and renamed, so that a kill leaves the last complete state."""
    beside = path.with_suffix(".tmp")
    torch.save(state, beside)
    beside.replace(path)


def _clone(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


@torch.no_grad()
def _copy(tensors: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        tensor.copy_(values[name])


def _cropper(held: Tensor) -> Callable[[int, slice, slice], Tensor]:
    return lambda place, rows, cols: held[place, :, rows, cols]


def _room(device: torch.device) -> int:
    """Bytes that fields may take: a third of what is free on a CUDA device, a quarter of a machine's memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 3
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


def _precision(device: torch.device) -> runtime.Precision:
    """Bfloat16 on CUDA; CPUs that have it are often slower in it, by 1.6 times where that was measured."""
    return "bf16" if device.type == "cuda" else "fp32"


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))


def _say(text: str) -> None:
    print(text, file=sys.stderr)
