"""The whole system: mean, context, latent space, diffusion; normalised fields in, normalised fields out.

Shapes: predictors (B, P, h, w) on the coarse grid; statics (B, S, H, W), target, mean and residual (B, T, H, W) on
the fine one, H = factor x h; latents (B, L, h, w).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from ldmdown.models.conditioner import Conditioner
from ldmdown.models.denoiser import Denoiser
from ldmdown.models.diffusion import Diffusion
from ldmdown.models.regression import FlowRegression
from ldmdown.models.sampling import Sampler
from ldmdown.models.static_embedding import Cells
from ldmdown.models.terrain import FEATURES, terrain_features
from ldmdown.models.unet import UNet

GAINS = ("latent_gain", "student_gain")  # in headers and in what training measures, as here
ANY_LAND = 0.05  # share of a coarse cell, above which what is made of it lasts as over land
WEIGHTS = (0.2, 5.0)  # bounds of a channel's weight in the denoiser's loss


class Autoencoder(Protocol):
    """A latent space: the paper's VAE, or the exact lapped transform."""

    latent_channels: int
    fields_apart: int  # groups of channels, in order, that hold one field each; 1: channels hold all fields

    def encode(self, residual: Tensor) -> Tensor:
        """(B, T, H, W) -> (B, L, h, w)."""

    def decode(self, latent: Tensor) -> Tensor:
        """(B, L, h, w) -> (B, T, H, W)."""


class InterpolatedInput(NamedTuple):
    """The field that the U-Net corrects: for each target the predictor's channel, gain and offset.

    gain x (normalised predictor) + offset is the predictor in the target's normalisation.
    """

    channel: Sequence[int]
    gain: Sequence[float]
    offset: Sequence[float]


class Condition(NamedTuple):
    """What a sample is conditioned on: the context by level, and the log-std of the latents (or 0)."""

    context: list[Tensor]
    log_scale: Tensor

    def take(self, index: list[int]) -> Condition:
        """Select samples of the batch, each as often as it is named."""
        log_scale = self.log_scale[index] if self.log_scale.ndim else self.log_scale
        return Condition([part[index] for part in self.context], log_scale)


class LatentScale(nn.Module):
    """The log-std of each latent channel: one value for all cells, plus a correction that depends on the context."""

    log_std: Tensor

    def __init__(self, conditioner: Conditioner, latent_channels: int) -> None:
        super().__init__()
        self.conditioner = conditioner
        self.head = nn.Conv2d(conditioner.channels[0], latent_channels, 1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)
        self.register_buffer("log_std", torch.zeros(latent_channels))

    def forward(self, predictors: Tensor, statics: Tensor) -> Tensor:
        """(B, L, h, w), from the conditioner's static branch."""
        (context,) = self.conditioner(predictors, statics)
        return self.log_std[:, None, None] + self.head(context).float().clamp(-4, 4)


class StaticInputs:
    """Static fields (B, S, H, W) of windows, and what the networks make of them alone, which no hour changes.

    Each part is computed when it is first asked for, and kept. `weights` (B, T, 1 + S, F) stand for the regression's.
    """

    def __init__(self, model: Downscaler, fields: Tensor, weights: Tensor | None = None) -> None:
        self.fields, self.weights = fields, weights
        self._model = model

    @cached_property
    def context(self) -> Tensor:
        """The conditioner's static branch."""
        assert self._model.conditioner is not None
        return self._model.conditioner.static_branch(self.fields)

    @cached_property
    def scale(self) -> Tensor:
        """The static branch of the conditioner of the scale."""
        assert self._model.scale is not None
        return self._model.scale.conditioner.static_branch(self.fields)

    @cached_property
    def coefficients(self) -> Tensor:
        """The coefficients of the regression."""
        assert self._model.regression is not None
        return self._model.regression.coefficients(self.fields, self.weights)


class Downscaler(nn.Module):
    """A system that is complete from its U-Net on; the other parts come with later stages of training.

    Args:
        unet: the mean, of predictors and statics on the fine grid.
        statics: (S, rows, cols): static fields, given or estimated from the training data (models/static_embedding).
        factor: fine cells in a coarse one, along each axis.
        interpolated_input: None: the U-Net predicts the target from repeated predictors, as the paper's. Otherwise it
            corrects the bilinear interpolation.
        regression: what the U-Net corrects beside the interpolation, if there is one.
        terrain: the channels of height and land-sea mask among the statics; None: no features of the terrain are made.
        student: the network that makes latents from noise in one call, if there is one.
        residual: whether latents are added to the mean; otherwise they are all of the target.
    """

    statics: Tensor
    terrain_fields: Tensor
    latent_gain: Tensor  # (L, 1, 1), by which drawn latents are stretched so that their spread matches their error
    student_gain: Tensor  # (L, 1, 1), by which the student's noise is stretched for the same end

    def __init__(
        self,
        unet: UNet,
        statics: Tensor,
        *,
        factor: int,
        interpolated_input: InterpolatedInput | None = None,
        regression: FlowRegression | None = None,
        terrain: tuple[int, int] | None = None,
        residual: bool = True,
        autoencoder: Autoencoder | None = None,
        conditioner: Conditioner | None = None,
        denoiser: Denoiser | None = None,
        student: Denoiser | None = None,
        diffusion: Diffusion | None = None,
        scale: LatentScale | None = None,
    ) -> None:
        super().__init__()
        self.unet = unet
        self.factor = factor
        self.register_buffer("statics", statics)
        self.terrain = terrain
        made = FEATURES if terrain else 0
        terrain_fields = torch.zeros(made, *statics.shape[1:], device="cpu")  # not on "meta": no checkpoint holds it
        self.register_buffer("terrain_fields", terrain_fields, persistent=False)
        self.register_load_state_dict_post_hook(lambda model, _: model.make_terrain_fields())
        self.interpolated_input = interpolated_input
        self.regression = regression
        self.residual = residual
        self.autoencoder = autoencoder
        self.conditioner = conditioner
        self.denoiser = denoiser
        self.student = student
        self.diffusion = diffusion
        self.scale = scale
        if autoencoder is not None:
            for name in GAINS:  # not on "meta" either
                ones = torch.ones(autoencoder.latent_channels, 1, 1, device="cpu")
                self.register_buffer(name, ones, persistent=False)
        if interpolated_input is not None:
            for parameter in unet.outputs.parameters():
                nn.init.zeros_(parameter)

    @property
    def size_multiple(self) -> int:
        """The number that the sides of a window, in coarse cells, must be multiples of."""
        unet = self.unet.size_multiple // math.gcd(self.unet.size_multiple, self.factor)
        levels = len(self.conditioner.channels) if self.conditioner is not None else 1
        return math.lcm(unet, 2 ** (levels - 1))

    def make_terrain_fields(self) -> None:
        """Make the features of the terrain from height and land-sea mask, after these have changed."""
        if self.terrain is not None:
            height, land = self.statics[list(self.terrain)].cpu().numpy()
            self.terrain_fields.copy_(torch.from_numpy(terrain_features(height, land)))

    def take_gains(self, measured: Mapping[str, Any]) -> None:
        """Take the gains, a number for each latent channel, of those that were measured."""
        for name in GAINS:
            if self.autoencoder is not None and measured.get(name):
                getattr(self, name).copy_(torch.tensor(measured[name])[:, None, None])

    @property
    def land(self) -> Tensor:
        """Which coarse cells have land in them, (rows, cols); for systems with features of the terrain."""
        assert self.terrain is not None
        return functional.avg_pool2d(self.statics[self.terrain[1]][None], self.factor)[0] > ANY_LAND

    def statics_at(self, corners: Sequence[tuple[int, int]], h: int, w: int) -> StaticInputs:
        """Static fields, then features of the terrain, of windows of h x w coarse cells.

        `corners` are the first (row, col) of each window.
        """
        windows = [self.fine_window(corner, h, w) for corner in corners]
        fields = [torch.cat([self.statics[window], self.terrain_fields[window]]) for window in windows]
        return StaticInputs(self, torch.stack(fields))

    def fine_window(self, corner: tuple[int, int], h: int, w: int) -> Cells:
        """The fine cells of h x w coarse ones from `corner` on."""
        rows, cols = (
            slice(self.factor * first, self.factor * (first + side)) for first, side in zip(corner, (h, w), strict=True)
        )
        return ..., rows, cols

    def mean(self, predictors: Tensor, statics: StaticInputs) -> Tensor:
        """The conditional mean of the target; `statics` are those of each sample, or the same for all."""
        fields = statics.fields.expand(len(predictors), -1, -1, -1)
        if self.interpolated_input is None:
            fine = predictors.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)
            return self.unet(torch.cat([fine, fields], dim=1)).float()
        fine = self.interpolate(predictors)
        start = self.interpolated_targets(fine)
        if self.regression is not None:
            start = start + self.regression.combine(predictors, statics.coefficients)
        if not self.unet.training and not any(part.any() for part in self.unet.outputs.parameters()):
            return start  # the U-Net has learned nothing
        return start + self.unet(torch.cat([fine, fields], dim=1)).float()

    def interpolate(self, predictors: Tensor) -> Tensor:
        """Predictors on the fine grid, bilinearly."""
        return functional.interpolate(predictors.float(), scale_factor=self.factor, mode="bilinear")

    def interpolated_targets(self, fine: Tensor) -> Tensor:
        """The interpolated predictors in the targets' normalisation, or zero."""
        if self.interpolated_input is None:
            targets = self.unet.outputs.out_channels
            return fine.new_zeros((len(fine), targets, *fine.shape[-2:]))
        gain, offset = (
            torch.tensor(part, dtype=fine.dtype, device=fine.device)[:, None, None]
            for part in (self.interpolated_input.gain, self.interpolated_input.offset)
        )
        return gain * fine[:, list(self.interpolated_input.channel)] + offset

    def mean_or_zero(self, predictors: Tensor, statics: StaticInputs) -> Tensor:
        """The field that decoded latents are added to: the mean, or zero where they hold all of the target."""
        if self.residual:
            return self.mean(predictors, statics)
        targets = self.unet.outputs.out_channels
        return predictors.new_zeros((len(predictors), targets, *statics.fields.shape[-2:]))

    def condition(self, predictors: Tensor, statics: StaticInputs) -> Condition:
        """Context and scale; once for an hour, whatever the number of members and steps."""
        assert self.conditioner is not None
        return Condition(self.conditioner(predictors, statics.context), self.log_scale(predictors, statics))

    def log_scale(self, predictors: Tensor, statics: StaticInputs) -> Tensor:
        """The log-std of the latents (B, L, h, w); 0 without a scale."""
        return predictors.new_zeros(()) if self.scale is None else self.scale(predictors, statics.scale)

    def denoise(self, z: Tensor, t: Tensor, context: Sequence[Tensor]) -> Tensor:
        """z0 of a noisy latent: the contract of the samplers."""
        assert self.denoiser is not None and self.diffusion is not None
        return self.diffusion.z0_of_v(z, t, self.denoiser(z, t, context).float())

    def generate(self, noise: Tensor, context: Sequence[Tensor]) -> Tensor:
        """Scaled latents in one call of the student, which stretches and shifts the noise at each place."""
        assert self.student is not None and self.diffusion is not None
        last = torch.full((len(noise),), self.diffusion.steps - 1, device=noise.device)
        stretch, shift = self.student(noise, last, context).float().chunk(2, dim=1)
        return noise * (1 + stretch) + shift

    def denoiser_loss(self, z0: Tensor, context: Sequence[Tensor], t: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error of v, for each sample: (B,); channels count as in `channel_weight`."""
        assert self.denoiser is not None and self.diffusion is not None
        z = self.diffusion.q_sample(z0, t, noise)
        v = self.diffusion.v_target(z0, t, noise)
        error = (self.denoiser(z, t, context).float() - v).square()
        return (error * self.channel_weight).mean(dim=(1, 2, 3))

    @property
    def channel_weight(self) -> Tensor:
        """How much each latent channel counts, (L, 1, 1), 1 on average: as its std, since scaling made all alike.

        Most channels are small and nearly white; without it they drown those in which structure lies. Where the latents
        of each target are apart, all targets count alike.
        """
        if self.scale is None or self.autoencoder is None:
            return torch.ones((), device=self.statics.device)
        std = self.scale.log_std.exp().unflatten(0, (self.autoencoder.fields_apart, -1))
        weight = (std / std.mean(dim=1, keepdim=True)).clamp(*WEIGHTS)
        return (weight / weight.mean()).flatten()[:, None, None]

    def ensemble(
        self, mean: Tensor, condition: Condition, noise: Tensor, sampler: Sampler | None, batch_size: int
    ) -> Tensor:
        """Members (B, M, T, H, W) of B samples from standard normal noise (B, M, L, h, w), a few members at a time.

        `mean` is that of `mean_or_zero`, `condition` that of `condition`, both of the same B samples.
        """
        samples, members = noise.shape[:2]
        index = [sample for sample in range(samples) for _ in range(members)]
        fields = []
        for some, start in zip(
            torch.tensor(index).split(batch_size), noise.flatten(0, 1).split(batch_size), strict=True
        ):
            fields.append(self.sample(mean[some], condition.take(some.tolist()), start, sampler))
        return torch.cat(fields).unflatten(0, (samples, members))

    def sample(self, mean: Tensor, condition: Condition, noise: Tensor, sampler: Sampler | None) -> Tensor:
        """Fields drawn from standard normal noise (B, L, h, w); see `sample_latents`."""
        assert self.autoencoder is not None
        return mean + self.autoencoder.decode(self.sample_latents(condition, noise, sampler)).float()

    def sample_latents(self, condition: Condition, noise: Tensor, sampler: Sampler | None) -> Tensor:
        """Latents of the residual drawn from standard normal noise, both (B, L, h, w).

        Without a sampler they are the scaled noise itself: scaled white noise, which the diffusion must beat.
        """
        assert self.diffusion is not None
        if sampler is None:
            return noise * condition.log_scale.exp()
        if sampler.name == "student":
            return self.generate(noise * self.student_gain, condition.context) * condition.log_scale.exp()
        denoise = partial(self.denoise, context=condition.context)
        return sampler.run(denoise, noise, self.diffusion) * condition.log_scale.exp() * self.latent_gain
