"""The conditional mean: a U-Net with batch normalisation (the paper's section 3.2; arXiv 1505.04597)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ldmdown.models.layers import DoubleConv


class EncoderBlock(nn.Module):
    """A double convolution, and its result halved by max-pooling."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = DoubleConv(in_channels, out_channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in, H, W) -> the skip (B, out, H, W) and (B, out, H/2, W/2)."""
        x = self.conv(x)
        return x, functional.max_pool2d(x, 2)


class DecoderBlock(nn.Module):
    """Double by a transposed convolution, join the skip, convolve."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
        self.conv = DoubleConv(2 * out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, in, H/2, W/2), (B, out, H, W) -> (B, out, H, W)."""
        return self.conv(torch.cat([self.up(x), skip], dim=1))


class UNet(nn.Module):
    """Encoder blocks e1, e2, ...; bottleneck b; decoder blocks d1, d2, ...; a 1x1 output convolution.

    With `stem` 2 the network works on a grid twice as coarse: the input is unshuffled (space to channels)
    before the first level and the output shuffled back. Sides must divide by `multiple`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, features: Sequence[int], bottleneck: int, stem: int = 1
    ) -> None:
        super().__init__()
        self.stem = stem
        self.levels = len(features)
        self.multiple = stem * 2**self.levels
        widths = [in_channels * stem**2, *features]
        for level in range(1, self.levels + 1):
            self.add_module(f"e{level}", EncoderBlock(widths[level - 1], widths[level]))
        self.b = DoubleConv(features[-1], bottleneck)
        widths = [bottleneck, *reversed(features)]
        for level in range(1, self.levels + 1):
            self.add_module(f"d{level}", DecoderBlock(widths[level - 1], widths[level]))
        self.outputs = nn.Conv2d(features[0], out_channels * stem**2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        x = functional.pixel_unshuffle(x, self.stem)
        skips = []
        for level in range(1, self.levels + 1):
            skip, x = self.get_submodule(f"e{level}")(x)
            skips.append(skip)
        x = self.b(x)
        for level in range(1, self.levels + 1):
            x = self.get_submodule(f"d{level}")(x, skips.pop())
        return functional.pixel_shuffle(self.outputs(x), self.stem)
