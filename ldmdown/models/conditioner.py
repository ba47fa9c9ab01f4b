"""What the denoiser is told: predictors and ground, fused on the coarse grid and below (section 3.4).

Predictors and statics run through branches of mixing blocks (AFNO in the paper), are joined, and
handed on as a pyramid of contexts, one for each level of the denoiser.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ldmdown.models.layers import Encoder, Mixer, MixingBlock, Norm, ResBlock2D, encoder_widths


class StaticEncoder(nn.Module):
    """The VAE's encoder on the statics, and the first half of its moments."""

    def __init__(self, statics: int, levels: int, multiplier: int, norm: Norm) -> None:
        super().__init__()
        widths = encoder_widths(statics, levels, multiplier)
        self.out_channels = widths[-1] // 2
        self.encoder = Encoder(widths, norm)
        self.to_moments = nn.Conv2d(widths[-1], widths[-1], 1)

    def forward(self, statics: Tensor) -> Tensor:
        """(B, S, H, W) -> (B, out_channels, h, w)."""
        return self.to_moments(self.encoder(statics))[:, : self.out_channels]


class Unshuffle(nn.Module):
    """The statics under each coarse cell as its channels; enough for fields of the ground, and cheap."""

    def __init__(self, statics: int, levels: int) -> None:
        super().__init__()
        self.factor = 2**levels
        self.out_channels = statics * self.factor**2

    def forward(self, statics: Tensor) -> Tensor:
        """(B, S, H, W) -> (B, out_channels, h, w)."""
        return functional.pixel_unshuffle(statics, self.factor)


class Fusion(nn.Module):
    """Joined branches, cell by cell and across cells: linear, mixing block, linear."""

    def __init__(self, dim: int, out_dim: int, mixer: Mixer) -> None:
        super().__init__()
        self.fusion = nn.Sequential(nn.Linear(dim, dim), MixingBlock(dim, mixer, ratio=2), nn.Linear(dim, out_dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, dim) -> (B, h, w, out_dim)."""
        return self.fusion(x)


class Conditioner(nn.Module):
    """Predictors (B, P, h, w) and statics (B, S, 8h, 8w) -> contexts at 1, 1/2, ... of the coarse grid.

    The channels are `out_dim`, doubled at each level. `static_levels` halvings lie between the grids.
    """

    def __init__(
        self,
        predictors: int,
        statics: int,
        *,
        levels: int,
        static_levels: int,
        static_encoder: Literal["convolutional", "unshuffled"],
        multiplier: int,
        statics_dim: int,
        predictors_dim: int,
        out_dim: int,
        depth: int,
        mixer: Mixer,
        norm: Norm,
    ) -> None:
        super().__init__()
        encoder: StaticEncoder | Unshuffle
        if static_encoder == "convolutional":
            encoder = StaticEncoder(statics, static_levels, multiplier, norm)
        else:
            encoder = Unshuffle(statics, static_levels)
        self.autoencoder = nn.ModuleList([encoder, nn.Identity()])
        self.proj = nn.ModuleList(
            [nn.Conv2d(encoder.out_channels, statics_dim, 1), nn.Conv2d(predictors, predictors_dim, 1)]
        )
        self.analysis = nn.ModuleList(
            nn.Sequential(*(MixingBlock(dim, mixer) for _ in range(depth))) for dim in (statics_dim, predictors_dim)
        )
        self.fusion = Fusion(statics_dim + predictors_dim, out_dim, mixer)
        self.channels = tuple(out_dim * 2**level for level in range(levels))
        self.resnet = nn.ModuleList(
            ResBlock2D(fine, coarse, "none") for fine, coarse in zip(self.channels, self.channels[1:], strict=False)
        )

    def forward(self, predictors: Tensor, statics: Tensor) -> list[Tensor]:
        """One context (B, channels[k], h / 2^k, w / 2^k) for each level k, from the static branch (B or 1, h, w, C)."""
        branches = [statics.expand(len(predictors), -1, -1, -1), self._branch(1, predictors)]
        contexts = [self.fusion(torch.cat(branches, dim=-1)).permute(0, 3, 1, 2)]
        for block in self.resnet:
            contexts.append(block(functional.avg_pool2d(contexts[-1], 2)))
        return contexts

    def static_branch(self, statics: Tensor) -> Tensor:
        """What the contexts take from the static fields alone: (B, S, 8h, 8w) -> (B, h, w, C)."""
        return self._branch(0, statics)

    def _branch(self, number: int, fields: Tensor) -> Tensor:
        projected = self.proj[number](self.autoencoder[number](fields))
        return self.analysis[number](projected.permute(0, 2, 3, 1))
