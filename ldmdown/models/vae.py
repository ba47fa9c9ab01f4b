"""The paper's latent space: a variational autoencoder of the residual (section 3.4; arXiv 1312.6114)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from ldmdown.models.layers import Encoder, ResBlock2D, encoder_widths


class Decoder(nn.Module):
    """The encoder's mirror: a doubling convolution 2x2, then a residual block, at each level."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.net = nn.Sequential()
        for in_channels, out_channels in pairwise(widths):
            self.net.append(nn.ConvTranspose2d(in_channels, in_channels, 2, stride=2))
            self.net.append(ResBlock2D(in_channels, out_channels, "group"))

    def forward(self, x: Tensor) -> Tensor:
        """(B, widths[0], h, w) -> (B, widths[-1], h x 2^levels, w x 2^levels)."""
        return self.net(x)


class VAE(nn.Module):
    """A residual of `channels` fields to half as many numbers on a grid 2^levels coarser, and back."""

    def __init__(self, channels: int, levels: int, multiplier: int, minimum: int) -> None:
        super().__init__()
        widths = encoder_widths(channels, levels, multiplier, minimum)
        self.latent_channels = widths[-1] // 2
        self.fields_apart = 1
        self.encoder = Encoder(widths, "group")
        self.to_moments = nn.Conv2d(widths[-1], widths[-1], 1)
        self.to_decoder = nn.Conv2d(self.latent_channels, widths[-1], 1)
        self.decoder = Decoder(widths[::-1])

    def moments(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | residual): (B, T, H, W) -> twice (B, L, h, w)."""
        mean, log_variance = self.to_moments(self.encoder(residual)).chunk(2, dim=1)
        return mean, log_variance

    def encode(self, residual: Tensor) -> Tensor:
        """The mean of q(z | residual), which the diffusion takes as the latent."""
        return self.moments(residual)[0]

    def decode(self, latent: Tensor) -> Tensor:
        """(B, L, h, w) -> (B, T, H, W)."""
        return self.decoder(self.to_decoder(latent))

    def loss(self, residual: Tensor, noise: Tensor, kl_weight: float) -> Tensor:
        """mean |x - x_hat| + kl_weight KL(q || N(0, 1)), both averaged over all elements.

        `noise` (B, L, h, w) is standard normal and draws z from q.
        """
        mean, log_variance = self.moments(residual)
        latent = mean + (0.5 * log_variance).exp() * noise
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
        return torch.mean(torch.abs(residual - self.decode(latent))) + kl_weight * kl.mean()
