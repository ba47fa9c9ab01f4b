"""The whole system: mean, context, latent space, diffusion; normalised fields in, normalised fields out.

Shapes: predictors (B, P, h, w) on the coarse grid; statics (B, S, H, W), target, mean and residual (B, T, H, W) on
the fine one, H = factor x h; latents (B, L, h, w).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from ldmdown.models import sampling
from ldmdown.models.conditioner import Conditioner
from ldmdown.models.denoiser import Denoiser
from ldmdown.models.diffusion import Diffusion
from ldmdown.models.unet import UNet

WEIGHTS = (0.2, 5.0)  # bounds of a channel's weight in the denoiser's loss


class Autoencoder(Protocol):
    """A latent space: the paper's VAE, or the exact lapped transform."""

    latent_channels: int

    def encode(self, residual: Tensor) -> Tensor:
        """(B, T, H, W) -> (B, L, h, w)."""

    def decode(self, latent: Tensor) -> Tensor:
        """(B, L, h, w) -> (B, T, H, W)."""


class Baseline(NamedTuple):
    """What the U-Net's output is added to: for each target the predictor's channel, gain and offset.

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
        """Of these samples of the batch, as often as each is named."""
        log_scale = self.log_scale[index] if self.log_scale.ndim else self.log_scale
        return Condition([part[index] for part in self.context], log_scale)


class Scale(nn.Module):
    """The log-std of each latent channel: one for all cells, and what the context adds to it."""

    log_std: Tensor

    def __init__(self, conditioner: Conditioner, latent_channels: int) -> None:
        super().__init__()
        self.conditioner = conditioner
        self.head = nn.Conv2d(conditioner.channels[0], latent_channels, 1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)
        self.register_buffer("log_std", torch.zeros(latent_channels))

    def forward(self, predictors: Tensor, statics: Tensor) -> Tensor:
        """(B, L, h, w)."""
        (context,) = self.conditioner(predictors, statics)
        return self.log_std[:, None, None] + self.head(context).float().clamp(-4, 4)


class Downscaler(nn.Module):
    """A system that is complete from its U-Net on; the other parts come with later stages of training.

    Parameters
    ----------
    unet
        the mean, of predictors and statics on the fine grid.
    statics
        (S, rows, cols): fields of the ground, given or estimated from the training data (models/ground).
    factor
        fine cells in a coarse one, along each axis.
    baseline
        None: the U-Net predicts the target from repeated predictors, as the paper's. Otherwise it corrects
        the bilinear interpolation.
    residual
        whether latents are added to the mean; otherwise they are all of the target.
    """

    statics: Tensor

    def __init__(
        self,
        unet: UNet,
        statics: Tensor,
        *,
        factor: int,
        baseline: Baseline | None = None,
        residual: bool = True,
        autoencoder: Autoencoder | None = None,
        conditioner: Conditioner | None = None,
        denoiser: Denoiser | None = None,
        diffusion: Diffusion | None = None,
        scale: Scale | None = None,
    ) -> None:
        super().__init__()
        self.unet = unet
        self.factor = factor
        self.register_buffer("statics", statics)
        self.baseline = baseline
        self.residual = residual
        self.autoencoder = autoencoder
        self.conditioner = conditioner
        self.denoiser = denoiser
        self.diffusion = diffusion
        self.scale = scale
        if baseline is not None:
            for parameter in unet.outputs.parameters():
                nn.init.zeros_(parameter)

    @property
    def multiple(self) -> int:
        """What the sides of a window, in coarse cells, must divide by."""
        unet = self.unet.multiple // math.gcd(self.unet.multiple, self.factor)
        levels = len(self.conditioner.channels) if self.conditioner is not None else 1
        return math.lcm(unet, 2 ** (levels - 1))

    def statics_at(self, corners: Sequence[tuple[int, int]], h: int, w: int) -> Tensor:
        """The statics of windows of h x w coarse cells whose first (row, col) is given: (B, S, H, W)."""
        rows, cols = h * self.factor, w * self.factor
        return torch.stack(
            [self.statics[:, row * self.factor :, col * self.factor :][:, :rows, :cols] for row, col in corners]
        )

    def mean(self, predictors: Tensor, statics: Tensor) -> Tensor:
        """The conditional mean of the target."""
        if self.baseline is None:
            fine = predictors.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)
            return self.unet(torch.cat([fine, statics], dim=1)).float()
        fine = self.interpolate(predictors)
        return self.start(fine) + self.unet(torch.cat([fine, statics], dim=1)).float()

    def interpolate(self, predictors: Tensor) -> Tensor:
        """Predictors on the fine grid, bilinearly."""
        return functional.interpolate(predictors.float(), scale_factor=self.factor, mode="bilinear")

    def start(self, fine: Tensor) -> Tensor:
        """What the U-Net's output is added to: interpolated predictors in the targets' normalisation, or zero."""
        if self.baseline is None:
            targets = self.unet.outputs.out_channels
            return fine.new_zeros((len(fine), targets, *fine.shape[-2:]))
        gain, offset = (
            torch.tensor(part, dtype=fine.dtype, device=fine.device)[:, None, None]
            for part in (self.baseline.gain, self.baseline.offset)
        )
        return gain * fine[:, list(self.baseline.channel)] + offset

    def base(self, predictors: Tensor, statics: Tensor) -> Tensor:
        """What decoded latents are added to: the mean, or zero where they are all of the target."""
        if self.residual:
            return self.mean(predictors, statics)
        targets = self.unet.outputs.out_channels
        return statics.new_zeros((len(predictors), targets, *statics.shape[-2:]))

    def condition(self, predictors: Tensor, statics: Tensor) -> Condition:
        """Context and scale; once for an hour, whatever the number of members and steps."""
        assert self.conditioner is not None
        log_scale = self.scale(predictors, statics) if self.scale is not None else predictors.new_zeros(())
        return Condition(self.conditioner(predictors, statics), log_scale)

    def denoise(self, z: Tensor, t: Tensor, context: Sequence[Tensor]) -> Tensor:
        """z0 of a noisy latent: the contract of the samplers."""
        assert self.denoiser is not None and self.diffusion is not None
        return self.diffusion.z0_of_v(z, t, self.denoiser(z, t, context).float())

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

        Most channels are small and nearly white; without it they drown those in which structure lies.
        """
        if self.scale is None:
            return torch.ones((), device=self.statics.device)
        std = self.scale.log_std.exp()
        weight = (std / std.mean()).clamp(*WEIGHTS)
        return (weight / weight.mean())[:, None, None]

    def sample(
        self,
        base: Tensor,
        condition: Condition,
        noise: Tensor,
        *,
        sampler: Literal["dpmpp", "ddim"],
        steps: int,
        spacing: Literal["trailing", "logsnr"],
    ) -> Tensor:
        """Fields drawn from standard normal noise (B, L, h, w)."""
        assert self.diffusion is not None

        def denoise(z: Tensor, t: Tensor) -> Tensor:
            return self.denoise(z, t, condition.context)

        if sampler == "ddim":
            latent = sampling.ddim(denoise, noise, self.diffusion, steps)
        else:
            latent = sampling.dpmpp(denoise, noise, self.diffusion, steps, spacing)
        return self.decode(base, condition, latent)

    def decode(self, base: Tensor, condition: Condition, latent: Tensor) -> Tensor:
        """`base` plus the field of scaled latents. White noise as the latent gives the scaled-white-noise draw."""
        assert self.autoencoder is not None
        return base + self.autoencoder.decode(latent * condition.log_scale.exp()).float()
