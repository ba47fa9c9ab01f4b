"""The six stages of training as objects: what each trains, on what, from which start and by which loss.

A stage is compared by name nowhere else. Fields are normalised: predictors (B, P, h, w), statics (B, S, H, W), target
(B, T, H, W), latents (B, L, h, w).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional

from ldmdown import checkpoint
from ldmdown.checkpoint import Normalizations
from ldmdown.config import Config, StageConfig
from ldmdown.errors import LdmdownError
from ldmdown.models.downscaler import Downscaler, StaticInputs
from ldmdown.models.gan import PatchDiscriminator, adversarial_loss
from ldmdown.models.sampling import Sampler
from ldmdown.models.vae import VAE
from ldmdown.training.batches import Batch, CropSource, noise, stratified_timesteps
from ldmdown.training.closed_form import ClosedForm, CrossFit

STUDENT = Sampler("student", 1)
CRPS_MEMBERS = 2  # of a crop, which the student makes in training
CRPS_BOXES = (1, 2, 4, 8, 16, 32)  # fine cells across
CRPS_WAVELENGTHS = (4, 8, 16, 32, 64)  # fine cells, octaves around them

Command = Literal["all", "unet", "vae", "ldm", "distill", "gan"]


class Stage:
    """A part of a system in training. The subclasses below say what is their own.

    Args:
        config, normalization: of the system, whose section `train.NAME` has the stage's settings.
        model: the whole system, as far as it is trained.
        before: the stages that this one builds on, in their order.
    """

    name: ClassVar[str]
    command: ClassVar[str]  # the --stage that trains it
    trains: ClassVar[tuple[str, ...]]  # parts of the model
    depends_on: ClassVar[tuple[str, ...]] = ()  # stages that come before it, where the configuration has them
    sections: ClassVar[tuple[str, ...]]  # of the configuration that its weights depend on, beside those of these stages
    learns_from: ClassVar[Literal["target", "latents"]] = "target"
    checkpoint: ClassVar[checkpoint.Stage | None] = (
        None  # what the checkpoint written after it holds; None: no checkpoint
    )
    suffix: ClassVar[str] = ""  # of this checkpoint's name
    measures: ClassVar[tuple[str, ...]] = ("scores",)  # what is measured of it when it is finished
    keeps_last: ClassVar[bool] = False  # the weights of the last validation are kept, not those of the best
    partial_gradients: ClassVar[bool] = False  # at some steps some parameters have none
    to_have_it: ClassVar[str] = ""  # how a configuration gets this stage

    def __init__(
        self, config: Config, normalization: Normalizations, model: Downscaler, before: Sequence[Stage]
    ) -> None:
        self.config, self.normalization, self.model = config, normalization, model
        self.before = [stage for stage in before if stage.name in self.depends_on]
        self.settings: StageConfig = getattr(config.train, self.name)

    @staticmethod
    def belongs_to(config: Config) -> bool:
        """Whether a configuration has this stage."""
        return True

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The networks that learn by gradients."""
        return {part: module for part, module in self.model.named_children() if part in self.trains}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All that is trained, counted or estimated, by its name in the state."""
        held = self.model.state_dict(keep_vars=True)
        return {name: tensor for name, tensor in held.items() if name.split(".")[0] in self.trains}

    def begin(self, sources: Mapping[str, CropSource], progress: Progress) -> None:
        """Give the tensors their start before the first step."""

    def loss(self, batch: Batch) -> Tensor:
        """The loss (), or that of each crop (B,)."""
        raise NotImplementedError

    def noise_level(self, batch: Batch) -> Tensor | None:
        """The noise of each crop, in [0, 1), by which the validation loss is told apart."""
        return None

    def samples(self, batch: Batch, members: int) -> dict[str, Tensor]:
        """What the systems known after this stage make of a batch: (B, M, T, H, W)."""
        return {}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take the tensors of this stage when it was finished.

        Raises ValueError if one is missing or not the stage's.
        """
        own = self.tensors
        if own.keys() != tensors.keys():
            raise ValueError(f"{self.name}: tensors differ: {', '.join(sorted(own.keys() ^ tensors.keys()))}")
        copy(own, tensors)

    @property
    def cross_fit(self) -> CrossFit | None:
        """The closed forms without the days of each fold, if there are any."""
        return self.before[0].cross_fit

    def statics(self, batch: Batch) -> StaticInputs:
        """The static fields of the windows of a batch; of training hours those solved without their own days."""
        inputs = self.model.statics_at(batch["corners"], *batch["predictors"].shape[-2:])
        if self.cross_fit is not None and "folds" in batch:
            self.cross_fit.put_into(inputs, batch["folds"], batch["corners"])
        return inputs

    def mean(self, batch: Batch) -> Tensor:
        """The conditional mean (B, T, H, W)."""
        return self.model.mean(batch["predictors"], self.statics(batch))

    def mean_or_zero(self, batch: Batch) -> Tensor:
        """The field that decoded latents are added to: (B, T, H, W)."""
        return self.model.mean_or_zero(batch["predictors"], self.statics(batch))

    def drawn(self, batch: Batch, members: int, samplers: Mapping[str, Sampler | None]) -> dict[str, Tensor]:
        """The mean, and members of each sampler from the same noise; None is the scaled noise itself."""
        assert self.model.autoencoder is not None
        start = noise(batch, (members, self.model.autoencoder.latent_channels, *batch["predictors"].shape[-2:]))
        condition = self.model.condition(batch["predictors"], self.statics(batch))
        mean = self.mean_or_zero(batch)
        fields = {name: self.model.ensemble(mean, condition, start, one, len(mean)) for name, one in samplers.items()}
        return {"unet": self.mean(batch)[:, None], **fields}

    @property
    def config_without_later(self) -> Config:
        """The configuration of a system as it is after this stage."""
        sampler = self.config.sampler.model_copy(update={"name": self.diffusion_sampler.name})
        return self.config.model_copy(update={"student": None, "sampler": sampler})

    @property
    def diffusion_sampler(self) -> Sampler:
        """The sampler of the configuration, or the default one where this is the student."""
        sampler = self.config.sampler
        name = "dpmpp" if sampler.name == "student" else sampler.name
        return Sampler(name, sampler.steps, sampler.spacing)


class UNetStage(Stage):
    """The conditional mean; before it the static fields, if they are estimated."""

    name = command = checkpoint = "unet"
    trains = ("unet", "statics", "regression")
    sections = ("statics", "unet")

    @cached_property
    def cross_fit(self) -> CrossFit | None:
        """The closed forms without the days of each fold, if the mean has a regression."""
        regression, given = self.model.regression, len(self.config.statics.fields)
        return None if regression is None else CrossFit(self.model, regression, given)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The model's own, and the closed forms of each fold."""
        return super().tensors | (self.cross_fit.tensors if self.cross_fit is not None else {})

    @torch.no_grad()
    def begin(self, sources: Mapping[str, CropSource], progress: Progress) -> None:
        """Solve what has a closed form, unless it comes from a checkpoint."""
        model, given = self.model, len(self.config.statics.fields)
        solved = [model.statics[given:], *(model.regression.buffers() if model.regression else ())]
        if not all(tensor.any() for tensor in solved if tensor.numel()):
            ClosedForm(self.config, model, sources, progress).solve(self.cross_fit)
        elif self.cross_fit is not None:
            self.cross_fit.take_model()

    def loss(self, batch: Batch) -> Tensor:
        """Mean squared error."""
        return functional.mse_loss(self.mean(batch), batch["target"])

    def samples(self, batch: Batch, members: int) -> dict[str, Tensor]:
        """The mean."""
        return {"unet": self.mean(batch)[:, None]}


class VaeStage(Stage):
    """The paper's latent space."""

    name = command = "vae"
    trains = ("autoencoder",)
    depends_on = ("unet",)
    sections = ("autoencoder", "residual")
    measures = ("reconstruction",)
    to_have_it = "set autoencoder.kind to kl; the lapped transform needs no training"

    @staticmethod
    def belongs_to(config: Config) -> bool:
        """Whether the latent space is learned."""
        return config.autoencoder.kind == "kl"

    def loss(self, batch: Batch) -> Tensor:
        """Absolute error of the reconstruction and KL divergence."""
        vae = self.model.autoencoder
        assert isinstance(vae, VAE)
        with torch.no_grad():
            residual = batch["target"] - self.mean_or_zero(batch)
        shape = (vae.latent_channels, *batch["predictors"].shape[-2:])
        return vae.loss(residual, noise(batch, shape), self.config.autoencoder.kl_weight)

    def samples(self, batch: Batch, members: int) -> dict[str, Tensor]:
        """The mean, and the target through the latent space and back."""
        assert self.model.autoencoder is not None
        mean = self.mean_or_zero(batch)
        again = mean + self.model.autoencoder.decode(self.model.autoencoder.encode(batch["target"] - mean))
        return {"unet": self.mean(batch)[:, None], "vae": again[:, None]}


class ScaleStage(Stage):
    """The std of each latent channel, as the coarse state and the static fields tell it."""

    name = "scale"
    command = "ldm"
    trains = ("scale",)
    depends_on = ("unet", "vae")
    sections = ("autoencoder", "residual", "scale")
    learns_from = "latents"
    measures = ()

    @staticmethod
    def belongs_to(config: Config) -> bool:
        """Whether latents are scaled."""
        return config.scale is not None

    def begin(self, sources: Mapping[str, CropSource], progress: Progress) -> None:
        """Each channel's std over the training hours, unless it comes from a checkpoint."""
        assert self.model.scale is not None
        if self.model.scale.log_std.any():
            return
        source = sources["train"]
        squares, cells = torch.zeros(len(self.model.scale.log_std), dtype=torch.float64), 0.0
        for place in range(len(source.hours)):
            valid = torch.from_numpy(source.hours.valid(place, source.margin))
            values = source.whole(place)[1].cpu()[:, valid]
            if values.isfinite().all():
                squares, cells = squares + values.double().square().sum(dim=1), cells + values.shape[1]
        self.model.scale.log_std.copy_(0.5 * (squares / cells).log())

    def loss(self, batch: Batch) -> Tensor:
        """Negative log-likelihood of independent Gaussians, without its constant."""
        log_std = self.model.log_scale(batch["predictors"], self.statics(batch))
        return (0.5 * (batch["latents"] * (-log_std).exp()).square() + log_std).mean()


class LdmStage(Stage):
    """The denoiser of the latents and its conditioner."""

    name = command = checkpoint = "ldm"
    trains = ("conditioner", "denoiser")
    depends_on = ("unet", "vae", "scale")
    sections = ("autoencoder", "residual", "conditioner", "denoiser", "diffusion")
    learns_from = "latents"
    measures = ("temporal_correlation", "latent_gain", "scores")

    def loss(self, batch: Batch) -> Tensor:
        """Weighted squared error of v at a random time of the diffusion, of each crop."""
        condition = self.model.condition(batch["predictors"], self.statics(batch))
        z0 = batch["latents"] * (-condition.log_scale).exp()
        steps = self.config.diffusion.steps
        t = (stratified_timesteps(batch) * steps).long().clamp(max=steps - 1)
        return self.model.denoiser_loss(z0, condition.context, t, noise(batch, z0.shape[1:]))

    def noise_level(self, batch: Batch) -> Tensor:
        """The time of the diffusion."""
        return stratified_timesteps(batch)

    def samples(self, batch: Batch, members: int) -> dict[str, Tensor]:
        """The mean, members, and scaled white noise, which the members must beat."""
        return self.drawn(batch, members, {"ldm": self.diffusion_sampler, "scaled_noise": None})


class DistillStage(Stage):
    """The student: from noise to latents in one call, by the fair CRPS of a few members.

    The CRPS of each latent, and of the fields, their means over larger and larger boxes and their Fourier coefficients,
    by which it learns how far fields hang together (Lang et al. 2024, arXiv 2412.15832, has the fair CRPS as a loss).
    """

    name = command = "distill"
    checkpoint = "ldm"
    trains = ("student",)
    depends_on = ("unet", "vae", "scale", "ldm")
    sections = ("student",)
    learns_from = "latents"
    measures = ("student_gain", "scores")
    to_have_it = "add `student: {}` to it"

    @staticmethod
    def belongs_to(config: Config) -> bool:
        """Whether there is a student."""
        return config.student is not None

    @property
    def config_without_later(self) -> Config:
        """The configuration, with the student."""
        return self.config

    def loss(self, batch: Batch) -> Tensor:
        """Fair CRPS of latents in units of their std, and of fields in units of the target's rms, for each crop."""
        model, latents = self.model, batch["latents"]
        assert model.autoencoder is not None
        with torch.no_grad():
            condition = model.condition(batch["predictors"], self.statics(batch))
        start = noise(batch, (CRPS_MEMBERS, *latents.shape[1:]))
        of_members = condition.take([sample for sample in range(len(latents)) for _ in range(CRPS_MEMBERS)])
        drawn = model.generate(start.flatten(0, 1), of_members.context)
        by_sample = start.shape[:2]
        error = fair_crps(drawn.unflatten(0, by_sample), latents * (-condition.log_scale).exp())
        loss = (error * model.channel_weight).mean(dim=(1, 2, 3))
        fields = model.autoencoder.decode(drawn * of_members.log_scale.exp()).float()
        target = model.autoencoder.decode(latents).float()
        unit = target.square().mean(dim=(0, 2, 3), keepdim=True).sqrt()
        fields, target = (fields / unit).unflatten(0, by_sample), target / unit
        for cells in CRPS_BOXES:
            if cells <= min(target.shape[-2:]):
                boxes = functional.avg_pool2d(fields.flatten(0, 1), cells).unflatten(0, by_sample)
                loss = loss + fair_crps(boxes, functional.avg_pool2d(target, cells)).mean(dim=(1, 2, 3))
        return loss + spectral_crps(fields, target).sum(dim=1)

    def samples(self, batch: Batch, members: int) -> dict[str, Tensor]:
        """The mean, and members of the student and of the diffusion, from the same noise."""
        return self.drawn(batch, members, {"ldm": self.diffusion_sampler, "student": STUDENT})


class GanStage(Stage):
    """A U-Net of its own, and a discriminator that is trained against it."""

    name = command = checkpoint = "gan"
    trains = ("unet",)
    depends_on = ("unet",)  # for the static fields
    sections = ("gan",)
    suffix = "-gan"
    keeps_last = True  # the absolute error grows as fields sharpen
    partial_gradients = True
    to_have_it = "add `gan: {}` to it"

    @cached_property
    def discriminator(self) -> PatchDiscriminator:
        """The network that tells made fields from true ones."""
        return self._discriminator()

    @staticmethod
    def belongs_to(config: Config) -> bool:
        """Whether there is a GAN."""
        return config.gan is not None

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Both networks."""
        return super().modules | {"discriminator": self.discriminator}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Those of both networks."""
        judge = self.discriminator.state_dict(keep_vars=True)
        return super().tensors | {f"discriminator.{name}": tensor for name, tensor in judge.items()}

    def begin(self, sources: Mapping[str, CropSource], progress: Progress) -> None:
        """A U-Net and a discriminator that have learned nothing."""
        torch.manual_seed(self.config.train.seed + 1)
        fresh = checkpoint.build(self.config, self.normalization, "gan").unet
        self.model.unet.load_state_dict(fresh.state_dict())
        self.discriminator = self._discriminator()

    def loss(self, batch: Batch) -> Tensor:
        """The absolute error, and from `gan.start` on the adversarial loss."""
        assert self.config.gan is not None
        field = self.mean(batch)
        begun = batch["step"] >= self.config.gan.start * self.settings.steps
        if not begun or not torch.is_grad_enabled():
            return (field - batch["target"]).abs().mean()
        last = self.model.unet.outputs.weight
        return adversarial_loss(self.discriminator, field, batch["target"], last, self.config.gan.weight)

    def samples(self, batch: Batch, members: int) -> dict[str, Tensor]:
        """The one sharp field."""
        return {"gan": self.mean(batch)[:, None]}

    def _discriminator(self) -> PatchDiscriminator:
        assert self.config.gan is not None
        discriminator = PatchDiscriminator(len(self.config.targets), self.config.gan.widths)
        discriminator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return discriminator.to(self.model.statics.device)


STAGES: tuple[type[Stage], ...] = (UNetStage, VaeStage, ScaleStage, LdmStage, DistillStage, GanStage)  # in their order


def stages_of(config: Config, normalization: Normalizations, model: Downscaler) -> list[Stage]:
    """The stages of a configuration, in their order."""
    stages: list[Stage] = []
    for kind in STAGES:
        if kind.belongs_to(config):
            stages.append(kind(config, normalization, model, stages))
    return stages


def trained_by(stages: Sequence[Stage], command: Command) -> list[Stage]:
    """The stages that a --stage asks for. Raises LdmdownError if there is none."""
    wanted = [stage for stage in stages if command in ("all", stage.command)]
    if not wanted:
        fix = next(kind.to_have_it for kind in STAGES if kind.command == command)
        raise LdmdownError(
            "--stage",
            "the configuration has no such stage",
            found=command,
            expected=", ".join(dict.fromkeys(["all", *(stage.command for stage in stages)])),
            fix=f"leave --stage out, or {fix}",
        )
    return wanted


def fingerprint(stage: Stage, basis: Sequence[Any]) -> str:
    """Hash of all that a stage's weights depend on: the basis, its own settings, and the stages before."""
    content = stage.config.model_dump(mode="json")
    parts = list(basis)
    for one in (*stage.before, stage):
        parts += [{key: content[key] for key in one.sections}, content["train"][one.name]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def fair_crps(members: Tensor, truth: Tensor) -> Tensor:
    """The fair CRPS (B, ...) of members (B, M, ...) against the truth (B, ...) (Ferro 2014, doi:10.1002/qj.2270)."""
    error = (members - truth[:, None]).abs().mean(dim=1)
    pairs = torch.combinations(torch.arange(members.shape[1]))
    return error - (members[:, pairs[:, 0]] - members[:, pairs[:, 1]]).abs().mean(dim=1) / 2


def spectral_crps(members: Tensor, truth: Tensor) -> Tensor:
    """The fair CRPS of Fourier coefficients in units of their rms in the truth: (B, octaves of CRPS_WAVELENGTHS).

    Members are (B, M, T, H, W), the truth (B, T, H, W). A Hann window takes their edges away.
    """
    rows, cols = truth.shape[-2:]
    window = torch.hann_window(rows)[:, None] * torch.hann_window(cols)
    wave_number = torch.hypot(torch.fft.fftfreq(rows)[:, None], torch.fft.rfftfreq(cols))
    octave = (wave_number * torch.tensor(CRPS_WAVELENGTHS)[:, None, None]).log2().abs() < 0.5
    share = (octave / octave.sum(dim=(1, 2), keepdim=True).clamp(min=1)).flatten(1).T.to(truth.device)
    window = window.to(truth.device)
    of_members, of_truth = (torch.view_as_real(torch.fft.rfft2(field * window)) for field in (members, truth))
    error = fair_crps(of_members, of_truth).mean(dim=-1).flatten(2) @ share
    rms = (of_truth.square().mean(dim=(0, -1)).flatten(1) @ share).sqrt()
    return (error / rms.clamp(min=torch.finfo(rms.dtype).tiny)).mean(dim=1)


@torch.no_grad()
def copy(tensors: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    """Give tensors the values of the same names, in place."""
    for name, tensor in tensors.items():
        tensor.copy_(values[name])
