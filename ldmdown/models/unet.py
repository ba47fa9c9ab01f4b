"""The conditional mean: a U-Net with batch normalisation (the paper's section 3.2; arXiv 1505.04597)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ldmdown.models.layers import DoubleConv

REFINED = 8  # channels that a network with a stem brings back to the fine grid


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
    before the first level, and what comes back is shuffled and convolved 3x3 with the input, so that no
    pattern of 2 x 2 cells is left in the output. Sides must divide by `multiple`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, features: Sequence[int], bottleneck: int, stem: int = 1
    ) -> None:
        super().__init__()
        self.stem = stem
        self.levels = len(features)
        self.size_multiple = stem * 2**self.levels
        widths = [in_channels * stem**2, *features]
        for level in range(1, self.levels + 1):
            self.add_module(f"e{level}", EncoderBlock(widths[level - 1], widths[level]))
        self.b = DoubleConv(features[-1], bottleneck)
        widths = [bottleneck, *reversed(features)]
        for level in range(1, self.levels + 1):
            self.add_module(f"d{level}", DecoderBlock(widths[level - 1], widths[level]))
        if stem == 1:
            self.outputs = nn.Conv2d(features[0], out_channels, 1)
        else:
            self.refine = nn.Conv2d(features[0], REFINED * stem**2, 1)
            self.join = nn.Conv2d(REFINED + in_channels, REFINED, 3, padding=1)
            self.outputs = nn.Conv2d(REFINED, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        fine = x
        x = functional.pixel_unshuffle(x, self.stem)
        skips = []
        for level in range(1, self.levels + 1):
            skip, x = self.get_submodule(f"e{level}")(x)
            skips.append(skip)
        x = self.b(x)
        for level in range(1, self.levels + 1):
            x = self.get_submodule(f"d{level}")(x, skips.pop())
        if self.stem > 1:
            x = functional.pixel_shuffle(self.refine(x), self.stem)
            x = functional.relu(self.join(torch.cat([x, fine], dim=1)))
        return self.outputs(x)
