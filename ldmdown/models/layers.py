"""The blocks that all networks are built from.

Shapes: (B, C, H, W) unless said otherwise. The attribute names are those of the paper's published weights.
Two switches tell the paper's networks from the small ones: `mixer`, how a cell sees the others (spectral: all
of them at once, by Fourier modes; local: its neighbourhood, so that a crop and the whole domain agree), and
`norm`, over what a residual block normalises (group: the whole field; layer: the channels of a cell).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Mixer = Literal["spectral", "local"]
Norm = Literal["group", "layer", "none"]


class LayerNorm2d(nn.LayerNorm):
    """Normalise the channels of each cell."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        x = functional.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


def normalisation(kind: Norm, channels: int) -> nn.Module:
    """The normalisation of a residual block."""
    if kind == "group":
        return nn.GroupNorm(1, channels)
    return LayerNorm2d(channels) if kind == "layer" else nn.Identity()


class DoubleConv(nn.Module):
    """(convolution 3x3, batch normalisation, ReLU) twice."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        return self.conv(x)


class ResBlock2D(nn.Module):
    """x + two times (normalisation, SiLU, convolution 3x3); a 1x1 projection where the channels change."""

    def __init__(self, in_channels: int, out_channels: int, norm: Norm) -> None:
        super().__init__()
        self.norm1 = normalisation(norm, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = normalisation(norm, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.proj = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        h = self.conv1(functional.silu(self.norm1(x)))
        h = self.conv2(functional.silu(self.norm2(h)))
        return h + self.proj(x)


class SpectralFilter(nn.Module):
    """A two-layer complex MLP on every Fourier mode, plus the input (AFNO, arXiv 2111.13587, section 4).

    Channels are cut in `blocks`; the modes are shrunk softly by `SHRINK`. All modes are kept.
    """

    SHRINK = 0.01

    def __init__(self, dim: int, blocks: int = 8) -> None:
        super().__init__()
        size = dim // blocks
        self.w1 = nn.Parameter(0.02 * torch.randn(2, blocks, size, size))
        self.b1 = nn.Parameter(torch.zeros(2, blocks, size))
        self.w2 = nn.Parameter(0.02 * torch.randn(2, blocks, size, size))
        self.b2 = nn.Parameter(torch.zeros(2, blocks, size))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same, in float32."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            modes = torch.fft.rfft2(x, dim=(1, 2), norm="ortho")
            modes = modes.unflatten(-1, (self.w1.shape[1], -1))  # (B, H, W/2 + 1, blocks, size)
            real, imag = self._linear(modes.real, modes.imag, self.w1, self.b1)
            real, imag = self._linear(real.relu(), imag.relu(), self.w2, self.b2)
            modes = torch.complex(functional.softshrink(real, self.SHRINK), functional.softshrink(imag, self.SHRINK))
            return x + torch.fft.irfft2(modes.flatten(-2), s=x.shape[1:3], dim=(1, 2), norm="ortho")

    @staticmethod
    def _linear(real: Tensor, imag: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        def times(x: Tensor, w: Tensor) -> Tensor:
            return torch.einsum("...bi,bio->...bo", x, w)

        return (
            times(real, weight[0]) - times(imag, weight[1]) + bias[0],
            times(imag, weight[0]) + times(real, weight[1]) + bias[1],
        )


class LocalFilter(nn.Module):
    """A depthwise convolution 7x7, plus the input: the spectral filter's place in a network with a finite view."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same."""
        return x + self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def filter_of(mixer: Mixer, dim: int) -> nn.Module:
    """The part of a block by which cells see each other, on (B, H, W, C)."""
    return SpectralFilter(dim) if mixer == "spectral" else LocalFilter(dim)


class MLP(nn.Module):
    """Two linear layers with a GELU between, on the last axis."""

    def __init__(self, dim: int, hidden: int, out_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., out_dim)."""
        return self.fc2(functional.gelu(self.fc1(x)))


class MixingBlock(nn.Module):
    """x -> normalise -> filter -> + x -> normalise -> MLP -> + the sum; with the spectral filter, AFNO's block."""

    def __init__(self, dim: int, mixer: Mixer, ratio: int = 4) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.filter = filter_of(mixer, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, ratio * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) -> the same."""
        x = x + self.filter(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    """Three (or so) levels of a residual block and a halving convolution 2x2: the VAE's encoder."""

    def __init__(self, widths: tuple[int, ...], norm: Norm) -> None:
        super().__init__()
        self.net = nn.Sequential()
        for in_channels, out_channels in pairwise(widths):
            self.net.append(ResBlock2D(in_channels, out_channels, norm))
            self.net.append(nn.Conv2d(out_channels, out_channels, 2, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, widths[0], H, W) -> (B, widths[-1], H / 2^levels, W / 2^levels)."""
        return self.net(x)


def encoder_widths(channels: int, levels: int, multiplier: int, minimum: int = 16) -> tuple[int, ...]:
    """Channels before and after each level of an encoder: max(minimum, channels x multiplier^level)."""
    return channels, *(max(minimum, channels * multiplier**level) for level in range(1, levels + 1))
