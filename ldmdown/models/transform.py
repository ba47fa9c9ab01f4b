"""An exact latent space: the lapped orthogonal transform of 2^levels x 2^levels cells (LOT, Malvar 1990).

Written as an orthogonal filter across the borders of blocks, then a cosine transform of each block (time-domain
lapped transform; Tran, Liang and Tu 2003, doi:10.1109/TSP.2003.811222). Basis functions overlap by half a block,
so that errors in coefficients leave no block edges, and nothing wraps: at the field's edge there is no border
to filter. Orthonormal: it loses nothing, and white noise stays white.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def cosine_matrix(size: int, kind: int) -> Tensor:
    """Orthonormal discrete cosine transform of type 2 or 4: rows are basis functions, float64."""
    k = torch.arange(size, dtype=torch.float64)[:, None]
    n = torch.arange(size, dtype=torch.float64)[None, :]
    if kind == 4:
        return math.sqrt(2 / size) * torch.cos(math.pi / size * (k + 0.5) * (n + 0.5))
    matrix = math.sqrt(2 / size) * torch.cos(math.pi / size * k * (n + 0.5))
    matrix[0] /= math.sqrt(2)
    return matrix


def border_matrix(size: int) -> Tensor:
    """The filter F over `size` cells centred on a border: 1/2 W diag(I, V) W, W = [[I, J], [J, -I]].

    V = J C2' C4 J (Tran et al. 2003, eq. 32) makes filter and cosine transform together Malvar's LOT.
    """
    half = size // 2
    identity, flip = torch.eye(half, dtype=torch.float64), torch.eye(half, dtype=torch.float64).flip(0)
    butterfly = torch.cat([torch.cat([identity, flip], 1), torch.cat([flip, -identity], 1)])
    rotation = flip @ cosine_matrix(half, 2).T @ cosine_matrix(half, 4) @ flip
    return butterfly @ torch.block_diag(identity, rotation) @ butterfly / 2


class LappedTransform(nn.Module):
    """(B, T, H, W) <-> (B, T x size x size, H / size, W / size), size = 2^levels; always in float32."""

    border: Tensor
    block: Tensor

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.size = 2**levels
        self.latent_channels = channels * self.size**2
        self.fields_apart = channels
        self.register_buffer("border", border_matrix(self.size).float(), persistent=False)
        self.register_buffer("block", cosine_matrix(self.size, 2).float(), persistent=False)

    def encode(self, field: Tensor) -> Tensor:
        """Coefficients of a field; channels are (field, row frequency, column frequency)."""
        with torch.autocast(field.device.type, enabled=False):
            field = self._filter(field.float(), self.border.T)
            field = self._filter(field.mT.contiguous(), self.border.T).mT
            blocks = field.unflatten(-2, (-1, self.size)).unflatten(-1, (-1, self.size))
            return torch.einsum("kn,lm,bthnwm->btklhw", self.block, self.block, blocks).flatten(1, 3)

    def decode(self, latent: Tensor) -> Tensor:
        """The field of these coefficients."""
        with torch.autocast(latent.device.type, enabled=False):
            blocks = latent.float().unflatten(1, (-1, self.size, self.size))
            field = torch.einsum("kn,lm,btklhw->bthnwm", self.block, self.block, blocks)
            field = field.flatten(-2).flatten(-3, -2)
            field = self._filter(field.mT.contiguous(), self.border).mT.contiguous()
            return self._filter(field, self.border)

    def _filter(self, field: Tensor, matrix: Tensor) -> Tensor:
        """Multiply the cells around each inner border of the rows (axis -2) by a matrix."""
        half = self.size // 2
        inner = field[..., half:-half, :].unflatten(-2, (-1, self.size))
        inner = torch.einsum("mn,...mw->...nw", matrix, inner).flatten(-3, -2)
        return torch.cat([field[..., :half, :], inner, field[..., -half:, :]], dim=-2)
