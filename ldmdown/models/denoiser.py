"""The denoiser: a U-Net on latents that looks at the context at each of its levels (section 3.4).

The network predicts v (diffusion.py); its input is the noisy latent (B, L, h, w) and the time (B,).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ldmdown.models.layers import MLP, Mixer, Norm, filter_of, normalisation


def time_features(t: Tensor, dim: int) -> Tensor:
    """[cos, sin](t x 10000^(-k / half)), k = 0 .. half - 1: (B,) -> (B, dim)."""
    half = dim // 2
    frequency = torch.exp(-math.log(10000) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angle = t.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class TimeResBlock(nn.Module):
    """A residual block that adds the embedded time between its convolutions."""

    def __init__(self, in_channels: int, embedding: int, out_channels: int, norm: Norm) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            normalisation(norm, in_channels), nn.SiLU(), nn.Conv2d(in_channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, out_channels))
        self.out_layers = nn.Sequential(
            normalisation(norm, out_channels),
            nn.SiLU(),
            nn.Identity(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        self.skip_connection = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, in, h, w), (B, E) -> (B, out, h, w)."""
        h = self.in_layers(x) + self.emb_layers(embedding)[..., None, None]
        return self.out_layers(h) + self.skip_connection(x)


class CrossBlock(nn.Module):
    """Mix the latent with the context of its level: project, filter, MLP, + the latent."""

    def __init__(self, dim: int, context: int, mixer: Mixer) -> None:
        super().__init__()
        self.pre_proj = nn.Linear(dim + context, dim + context)
        self.filter = filter_of(mixer, dim + context)
        self.mlp = MLP(dim + context, 2 * (dim + context), dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(B, dim, h, w), (B, context, h, w) -> (B, dim, h, w)."""
        joined = torch.cat([x, context], dim=1).permute(0, 2, 3, 1)  # (B, h, w, C)
        joined = self.pre_proj(joined) + joined
        joined = self.filter(joined) + joined
        return self.mlp(joined).permute(0, 3, 1, 2) + x


class Down(nn.Module):
    """Halve by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h/2, w/2)."""
        return self.op(x)


class Up(nn.Module):
    """Double by repetition and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, 2h, 2w)."""
        return self.conv(functional.interpolate(x, scale_factor=2, mode="nearest"))


class Denoiser(nn.Module):
    """Channels `channels` x `multipliers` over the levels, `blocks` residual blocks at each.

    Cross blocks stand at `cross_levels` and in the middle; `context` are the context's channels by level; `outputs`
    are as many as latent channels unless they are given.
    """

    def __init__(
        self,
        latent_channels: int,
        context: Sequence[int],
        *,
        channels: int,
        multipliers: Sequence[float],
        blocks: int,
        cross_levels: Sequence[int],
        mixer: Mixer,
        norm: Norm,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels
        widths = [int(channels * multiplier) for multiplier in multipliers]
        embedding = 4 * channels
        self.time_embed = nn.Sequential(nn.Linear(channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        width = channels
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(latent_channels, width, 3, padding=1)])])
        skips = [width]
        last = len(widths) - 1

        def stage(in_channels: int, out_channels: int, level: int) -> nn.ModuleList:
            stack = nn.ModuleList([TimeResBlock(in_channels, embedding, out_channels, norm)])
            if level in cross_levels:
                stack.append(CrossBlock(out_channels, context[level], mixer))
            return stack

        for level, out_channels in enumerate(widths):
            for _ in range(blocks):
                self.input_blocks.append(stage(width, out_channels, level))
                width = out_channels
                skips.append(width)
            if level != last:
                self.input_blocks.append(nn.ModuleList([Down(width)]))
                skips.append(width)
        self.middle_block = nn.ModuleList(
            [
                TimeResBlock(width, embedding, width, norm),
                CrossBlock(width, context[last], mixer),
                TimeResBlock(width, embedding, width, norm),
            ]
        )
        self.output_blocks = nn.ModuleList()
        for level in range(last, -1, -1):
            for block in range(blocks + 1):
                stack = stage(width + skips.pop(), widths[level], level)
                width = widths[level]
                if level and block == blocks:
                    stack.append(Up(width))
                self.output_blocks.append(stack)
        last_convolution = nn.Conv2d(width, outputs or latent_channels, 3, padding=1)
        for parameter in last_convolution.parameters():
            nn.init.zeros_(parameter)
        self.out = nn.Sequential(normalisation(norm, width), nn.SiLU(), last_convolution)

    def forward(self, z: Tensor, t: Tensor, context: Sequence[Tensor]) -> Tensor:
        """(B, L, h, w), (B,), contexts by level -> v (B, L, h, w)."""
        embedding = self.time_embed(time_features(t, self.channels))
        contexts = {part.shape[-2:]: part for part in context}

        def run(stack: nn.Module, h: Tensor) -> Tensor:
            for layer in stack.children():
                if isinstance(layer, TimeResBlock):
                    h = layer(h, embedding)
                elif isinstance(layer, CrossBlock):
                    h = layer(h, contexts[h.shape[-2:]])
                else:
                    h = layer(h)
            return h

        h, skips = z, []
        for stack in self.input_blocks.children():
            h = run(stack, h)
            skips.append(h)
        h = run(self.middle_block, h)
        for stack in self.output_blocks.children():
            h = run(stack, torch.cat([h, skips.pop()], dim=1))
        return self.out(h)
