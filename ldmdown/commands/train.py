"""`ldmdown train`: the stages unet, vae, scale, ldm and gan in their order, each from the ones before.

What a stage learns from is in batches, the loop that fits it in loop, the folder of a run in run. Fields are
normalised: predictors (B, P, h, w), target (B, T, H, W), latents (B, L, h, w).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional

from ldmdown import checkpoint, runtime
from ldmdown.config import Config, StageConfig, load_config
from ldmdown.data.archive.store import Archive
from ldmdown.data.variables import variable
from ldmdown.errors import LdmdownError
from ldmdown.header import find, sha256
from ldmdown.models.downscaler import Downscaler
from ldmdown.models.gan import PatchDiscriminator, adversarial_loss
from ldmdown.models.ground import CellRegression
from ldmdown.models.vae import VAE
from ldmdown.training import heldout
from ldmdown.training import report as training_report
from ldmdown.training.batches import (
    Batch,
    Source,
    Split,
    draw,
    field_source,
    hour,
    latent_source,
    noise,
    parts,
    times,
    write_latents,
)
from ldmdown.training.loop import Stage, fit
from ldmdown.training.run import Run, load, on_disk
from ldmdown.twin.files import RECIPE

StageName = Literal["all", "unet", "vae", "ldm", "gan"]

COMMANDS = {"unet": "unet", "vae": "vae", "scale": "ldm", "ldm": "ldm", "gan": "gan"}  # the --stage that trains a stage
SECTIONS = {  # of the configuration, that a stage adds to what its weights depend on
    "unet": ("statics", "unet"),
    "vae": ("autoencoder", "residual"),
    "scale": ("autoencoder", "residual", "scale"),
    "ldm": ("autoencoder", "residual", "conditioner", "denoiser", "diffusion"),
    "gan": ("gan",),
}
MEASURED_HOURS = 200  # for the coherence in time
GROUND_HOURS = 1000  # at about this many training hours the ground is estimated
SCORED_CROPS = 8


def train(
    config_path: Path | None = None, stage: StageName = "all", resume: bool = False, batch_size: int | None = None
) -> None:
    """Train the stages of a configuration that are not finished, and write the checkpoint and the run's report.

    `batch_size` crops go through the networks at once in each process; None: as many as fit in memory. The
    configuration's batch is kept by adding up gradients.

    Raises
    ------
    LdmdownError
        if the archive is missing or another configuration's, a stage was stopped and `resume` is not given,
        or a stage before is missing; or as `loop.fit`.
    """
    config, root = load_config(config_path)
    with on_disk(root), runtime.processes() as processes, _progress(processes) as progress:
        training = Training(config, root, config_path or root, processes)
        run, wanted = training.run, training.wanted(stage)
        for name in training.up_to(wanted):
            if training.load_finished(name):
                run.say(f"{name}: finished before, kept ({run.state_path(name)})")
            elif name in wanted:
                fit(training.stage(name, progress), run, progress, resume=resume, crops=batch_size)
            else:
                raise LdmdownError(
                    run.state_path(name),
                    f"the {name} stage comes first and is not finished",
                    fix=f"run `ldmdown train --stage {COMMANDS[name]}`, or without --stage",
                )
            if name in ("unet", "ldm", "gan"):
                written = training.save(name, progress)
            training.report()
        run.say(f"the run's report: {run.folder / 'report.html'}")
        run.say(f"wrote {written}; use it so:")
        run.say(f"ldmdown downscale era5.nc -o out.nc --checkpoint {written.stem if root == Path() else written}")


class Training:
    """A configuration, its archive, the model as far as it is trained, and the folder of the run."""

    def __init__(self, config: Config, root: Path, label: Path, processes: runtime.Processes) -> None:
        self.config = config
        self.processes = processes
        self.device = processes.device
        self.archive = Archive(root / config.data.archive)
        self.checkpoints = root / "checkpoints"
        vae = ["vae"] if config.autoencoder.kind == "kl" else []
        scale = ["scale"] if config.scale is not None else []
        gan = ["gan"] if config.gan is not None else []
        self.order = ["unet", *vae, *scale, "ldm", *gan]
        torch.manual_seed(config.train.seed)
        model = checkpoint.build(config, self.archive.normalization, "ldm")
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.run = Run(root / config.train.run, config, processes)
        self._start(model, root)
        if self.archive.statics:
            model.statics.copy_(torch.from_numpy(self.archive.load_statics()))
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.discriminator = self._discriminator()
        self._check(label)
        self.splits = {use: Split(self.archive, use) for use in ("train", "validation")}

    def _start(self, model: Downscaler, root: Path) -> None:
        """Take what fits of the weights of the checkpoint `train.init_from`."""
        self.start_hash = None
        if self.config.train.init_from is None:
            return
        start = self.config.train.init_from
        path = root / start if (root / start).is_file() else find(start)
        self.start_hash = sha256(path)
        taken = checkpoint.take_fitting(path, model)
        if not taken:
            raise LdmdownError(path, "has no weights that fit the networks of the configuration",
                               fix="leave out train.init_from, or give the networks the sizes that "
                               f"`ldmdown info {start}` prints")  # fmt: skip
        self.run.say(f"{taken} of {len(model.state_dict())} tensors start from {path}")

    def _check(self, label: Path) -> None:
        plan = self.archive.plan
        content = self.config.model_dump(mode="json")
        ours = {**content, "split": content["data"]["split"], "statics": content["statics"]["fields"]}
        for key, value in ours.items():
            if key in ("grid", "predictors", "targets", "split", "statics") and plan[key] != value:
                raise LdmdownError(
                    self.archive.path,
                    f"was prepared with another `{key}`",
                    found=str(plan[key]),
                    expected=str(value),
                    fix="delete it and run `ldmdown prepare`, or restore the configuration",
                )
        multiple = self.model.size_multiple
        sides: dict[str, tuple[int, ...]] = {"grid": self.archive.grid.coarse.shape}
        sides |= {f"train.{name}.crop": (self.settings(name).crop,) for name in self.order}
        for key, numbers in sides.items():
            if any(number % multiple for number in numbers):
                raise LdmdownError(
                    label,
                    f"{key}: these networks need coarse cells in multiples of {multiple}",
                    found=" x ".join(map(str, numbers)),
                    fix="change it, or give the networks fewer levels",
                )

    def settings(self, name: str) -> StageConfig:
        """Of a stage."""
        return getattr(self.config.train, name)

    def _discriminator(self) -> PatchDiscriminator | None:
        if self.config.gan is None:
            return None
        discriminator = PatchDiscriminator(len(self.config.targets), self.config.gan.widths)
        discriminator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return discriminator.to(self.device)

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
            why, fix = {
                "vae": ("the lapped transform needs no training", "set autoencoder.kind to kl"),
                "gan": ("the configuration has no GAN", "add `gan: {}` to it"),
            }[stage]
            raise LdmdownError("--stage", why, found=stage, fix=f"leave --stage out, or {fix}")
        return wanted

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
        state = self.run.load_state(name, self.fingerprint(name))
        if state is None or not state["finished"]:
            return False
        self.model.load_state_dict(load(self.run.best_path(name))["tensors"], strict=False)
        return True

    def stage(self, name: str, progress: Progress) -> Stage:
        """A stage, ready to fit."""
        model = self.model
        if name in ("unet", "vae", "gan"):
            sources = {use: field_source(split, self.processes) for use, split in self.splits.items()}
        else:
            latents = self._latents(progress)
            sources = {use: latent_source(self.splits[use], part, self.processes) for use, part in latents.items()}
        trained = {
            "unet": ("unet", "statics"),
            "vae": ("autoencoder",),
            "scale": ("scale",),
            "ldm": ("conditioner", "denoiser"),
            "gan": ("unet", "discriminator"),
        }[name]
        modules = {part: getattr(model, part) for part in trained if part not in ("statics", "discriminator")}
        held = model.state_dict(keep_vars=True)
        if name == "unet" and not self.config.statics.fields:
            self._start_ground(sources["train"], progress)
        if name == "gan":
            assert self.discriminator is not None
            self._start_gan()
            modules["discriminator"] = self.discriminator
            own = self.discriminator.state_dict(keep_vars=True)
            held |= {f"discriminator.{key}": tensor for key, tensor in own.items()}
        if name == "scale":
            self._start_scale(latents["train"])
        if name == "ldm" and self.config.autoencoder.kind == "kl":
            self.reconstruction()
        self.processes.wait()  # what is on the disk decided what each has done
        return Stage(
            name=name,
            settings=self.settings(name),
            modules=modules,
            tensors={key: tensor for key, tensor in held.items() if key.split(".")[0] in trained},
            sources=sources,
            loss=getattr(self, f"_{name}_loss"),
            level=times if name == "ldm" else None,
            multiple=model.size_multiple,
            show=lambda step: self._show(name, step),
            fingerprint=self.fingerprint(name),
            seed=self.config.train.seed,
            precision=self.config.train.precision,
            compile=self.config.train.compile,
        )

    # Losses

    def _statics(self, batch: Batch) -> Tensor:
        return heldout.statics_of(self.model, batch)

    def _unet_loss(self, batch: Batch) -> Tensor:
        mean = self.model.mean(batch["predictors"], self._statics(batch))
        return functional.mse_loss(mean, batch["target"])

    def _vae_loss(self, batch: Batch) -> Tensor:
        vae = self.model.autoencoder
        assert isinstance(vae, VAE)
        with torch.no_grad():
            residual = batch["target"] - self.model.mean_or_zero(batch["predictors"], self._statics(batch))
        shape = (vae.latent_channels, *batch["predictors"].shape[-2:])
        return vae.loss(residual, noise(batch, shape), self.config.autoencoder.kl_weight)

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
        log_std = self.model.scale(batch["predictors"], self._statics(batch))
        return (0.5 * (batch["latents"] * (-log_std).exp()).square() + log_std).mean()

    def _ldm_loss(self, batch: Batch) -> Tensor:
        condition = self.model.condition(batch["predictors"], self._statics(batch))
        z0 = batch["latents"] * (-condition.log_scale).exp()
        steps = self.config.diffusion.steps
        t = (times(batch) * steps).long().clamp(max=steps - 1)
        return self.model.denoiser_loss(z0, condition.context, t, noise(batch, z0.shape[1:]))

    # What stages start from

    def _latents(self, progress: Progress) -> dict[str, Tensor]:
        """Latents (N, L, h, w) of the hours of each split, float16, before any scaling.

        Computed once for a trained mean and autoencoder and kept in the run's folder.
        """
        before = [name for name in self.order if name in ("unet", "vae")][-1]
        folder, count = self.run.folder, len(self.splits["train"])
        path = folder / f"latents-{self.config.name}-{self.fingerprint(before)[:8]}.npy"
        if not path.exists():
            if self.processes.first:
                for stale in set(folder.glob(f"latents-{self.config.name}-*")) - {path.with_suffix(".part")}:
                    stale.unlink()
            self._write_latents(path, progress)
        latents = torch.from_numpy(np.load(path, mmap_mode="c"))
        return {"train": latents[:count], "validation": latents[count:]}

    def _write_latents(self, path: Path, progress: Progress) -> None:
        model, autoencoder, splits = self.model, self.model.autoencoder, list(self.splits.values())
        assert autoencoder is not None
        statics = model.statics_at([(0, 0)], *self.archive.grid.coarse.shape)
        hours = -(-sum(map(len, splits)) // self.processes.size)
        task = progress.add_task("latents", total=hours, note="")

        @torch.no_grad()
        def encode(predictors: Tensor, target: Tensor) -> Tensor:
            with runtime.autocast(self.device, self.config.train.precision):
                return autoencoder.encode(target - model.mean_or_zero(predictors, statics))

        channels = autoencoder.latent_channels
        write_latents(path, splits, encode, channels, self.processes, lambda: progress.advance(task))

    @torch.no_grad()
    def _start_ground(self, source: Source, progress: Progress) -> None:
        """Give the model the ground that the training hours tell of, unless it has one from another or before."""
        model, config = self.model, self.config
        if model.statics.any() or self.run.known_state("unet", self.fingerprint("unet")):
            return
        names = [name for name in config.predictors if name in config.targets or variable(name).derived]
        channels = [config.predictors.index(name) for name in names]
        cells = CellRegression(1 + len(names), len(config.targets), *self.archive.grid.shape)
        hours = range(0, len(source.split), max(1, len(source.split) // GROUND_HOURS))
        task = progress.add_task("ground", total=len(hours), note="")
        for place in hours:
            batch = source.batch([source.crop(place, (0, 0), self.archive.grid.coarse.shape, place)])
            fine = model.interpolate(batch["predictors"])
            residual = (batch["target"] - model.interpolated_targets(fine))[0]
            cells.add(torch.cat([torch.ones_like(fine[0, :1]), fine[0, channels]]).cpu(), residual.cpu())
            progress.advance(task)
        model.statics.copy_(cells.ground(len(model.statics)))

    def _start_scale(self, latents: Tensor) -> None:
        """Give a fresh scale each channel's std over the training hours, from which it learns to depart."""
        assert self.model.scale is not None
        if self.model.scale.log_std.any():
            return
        squares = sum(one.float().square().mean((-2, -1)).nan_to_num() for one in latents)
        self.model.scale.log_std.copy_(0.5 * (squares / len(latents)).log())

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
        config = self.config
        path = self.checkpoints / f"{config.name}{'-gan' if name == 'gan' else ''}.safetensors"
        later = self.run.known_state("ldm", self.fingerprint("ldm")) if name == "unet" else None
        if self.processes.first and not (later and later["finished"]):
            self._save(name, path, progress)
        self.processes.wait()
        return path

    def _save(self, name: str, path: Path, progress: Progress) -> None:
        config, archive = self.config, self.archive
        stage: checkpoint.Stage = name  # type: ignore[assignment]
        model = checkpoint.build(config, archive.normalization, stage)
        weights = self.model.state_dict()
        model.load_state_dict({key: weights[key] for key in model.state_dict()})
        done = [*self.before(name), name]
        states = {stage: self.run.load_state(stage, self.fingerprint(stage)) or {} for stage in done}
        twin = {"twin": f"synthetic, recipe {RECIPE}, seed {config.twin.seed}"} if config.twin else {}
        training = {
            **twin,
            "periods": config.model_dump(mode="json")["data"]["split"]["train"],
            "hours": len(self.splits["train"]),
            "steps": {stage: state["best_step"] for stage, state in states.items()},
            "validation_loss": {stage: state["best_loss"] for stage, state in states.items()},
        }
        header = checkpoint.header_of(
            config, archive.normalization, stage, training=training, **self._measured(name, progress)
        )
        checkpoint.save(path, model, header)

    def _measured(self, name: str, progress: Progress) -> dict[str, Any]:
        """Scores on hours held out, and coherence in time; kept beside the state they belong to."""
        path = self._noted(name)
        if not path.exists():
            measured: dict[str, Any] = {"scores": self._scores(name)}
            if name == "ldm":
                source = latent_source(self.splits["train"], self._latents(progress)["train"], self._alone)
                hours = self.archive.hours[source.split.indices]
                places = np.flatnonzero(np.diff(hours) == 1)[:: max(1, len(hours) // MEASURED_HOURS)].tolist()
                measured = {"temporal_correlation": heldout.coherence(self.model, source, places)} | measured
            path.write_text(json.dumps(measured, indent=2))
        return json.loads(path.read_text())

    def _scores(self, name: str) -> dict[str, Any]:
        use = "test" if len(self.archive.split("test")) else "validation"
        source = field_source(Split(self.archive, use), self._alone, hold=False)
        settings = self.settings(name).model_copy(update={"batch": SCORED_CROPS})
        batch = draw(source, "scores", self.config.train.seed, settings, 0, self._alone)
        crops = [heldout.drawn(self.model, self.config, name, one, self._deviation) for one, _ in parts(batch, 1)]
        fields = {system: np.concatenate([crop[system] for crop in crops], axis=1) for system in crops[0]}
        on = f"{SCORED_CROPS} {use} crops, {heldout.MEMBERS} members"
        return {"on": on} | heldout.scores(fields, self.config.targets)

    def reconstruction(self) -> None:
        """Before the denoiser: whether the latent space keeps the power of fields at all scales that matter."""
        path = self._noted("vae")
        if self.processes.first and not path.exists():
            lost = heldout.reconstruction(self.model, self.splits["validation"], self.device)
            path.write_text(json.dumps(lost, indent=2))
            worst = {name: max(bands.items(), key=lambda band: band[1]) for name, bands in lost.items()}
            losses = [
                f"{name} {loss:.1f} dB from {band} km" for name, (band, loss) in worst.items() if loss > heldout.LOSS
            ]
            if losses:
                self.run.say(f"warning: the latent space loses power: {', '.join(losses)}\n  fix: {heldout.FIX}")
        self.processes.wait()

    def _show(self, name: str, step: int) -> None:
        """A picture of a validation hour in the middle of the domain, after a step of a stage."""
        if name == "scale":
            return
        predictors, target = hour(self.splits["validation"], len(self.splits["validation"]) // 2, self.device)
        rows, cols = (min(self.settings(name).crop, side) for side in self.archive.grid.coarse.shape)
        row, col = ((side - part) // 2 for side, part in zip(self.archive.grid.coarse.shape, (rows, cols), strict=True))
        f = self.archive.grid.factor
        batch = {
            "predictors": predictors[..., row : row + rows, col : col + cols],
            "target": target[..., f * row : f * (row + rows), f * col : f * (col + cols)],
            "corners": [(row, col)],
            "seeds": [0],
        }
        fields = heldout.drawn(self.model, self.config, name, batch, self._deviation, members=2)
        path = self.run.folder / "pictures" / f"{name}-{step:06d}.png"
        training_report.picture(path, fields, self.config.targets, f"{name}, step {step}")

    def report(self) -> None:
        """The page of the run so far."""
        if self.processes.first:
            states = {name: self.run.known_state(name, self.fingerprint(name)) for name in self.order}
            measured = {name: self._noted(name) for name in self.order}
            training_report.write(self.run.folder, self.config.name, states, measured)

    def _noted(self, name: str) -> Path:
        """Where is kept what was measured of a finished stage."""
        return self.run.folder / f"{name}-{self.fingerprint(name)[:8]}.json"

    @property
    def _alone(self) -> runtime.Processes:
        return replace(self.processes, rank=0, size=1)

    @property
    def _deviation(self) -> Any:
        values = self.archive.normalization["target"].std
        return np.array([values[name] for name in self.config.targets], np.float32)[:, None, None]


def _progress(processes: runtime.Processes) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), disable=not processes.first)
