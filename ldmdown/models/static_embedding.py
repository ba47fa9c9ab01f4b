"""Static fields that are estimated from training data: what they say of each fine cell, in closed form.

At each cell the residual y of the interpolation is regressed on the coarse state x: a slope of temperature is what a
mountain does, a gain of the wind what a ridge or the sea does, a std what a valley hides. The principal components
of these coefficients over all cells are static fields for the networks. Nothing is learned by gradients, whose noise
in a field of single cells is larger than the small scales of the terrain.
"""

from __future__ import annotations

import copy
from types import EllipsisType

import torch
from torch import Tensor

Cells = tuple[EllipsisType, slice, slice]
EVERYWHERE: Cells = (..., slice(None), slice(None))
RIDGE = 0.2  # of the regression, relative to each predictor's mean square over all cells


class CellRegression:
    """Least squares of y (targets) on x (features) at every cell, one hour after another.

    The same sums as np.linalg.lstsq with a ridge, held as normal equations: (F, F, H, W), (F, T, H, W), (T, H, W).
    Cells count only in the hours in which they have values.
    """

    def __init__(self, features: int, targets: int, rows: int, cols: int) -> None:
        self.xx = torch.zeros(features, features, rows, cols)
        self.xy = torch.zeros(features, targets, rows, cols)
        self.yy = torch.zeros(targets, rows, cols)
        self.hours = torch.zeros(rows, cols)

    def add(self, x: Tensor, y: Tensor, weight: float = 1, cells: Cells = EVERYWHERE) -> None:
        """Take hours with a weight at some cells: x (N, F, H, W), y (N, T, H, W), NaN where they are missing."""
        known = (x.isfinite().all(dim=1) & y.isfinite().all(dim=1))[:, None]
        x, y = torch.where(known, x, 0), torch.where(known, y, 0)
        self.xx[cells] += weight * torch.einsum("nfhw,nghw->fghw", x, x)
        self.xy[cells] += weight * torch.einsum("nfhw,nthw->fthw", x, y)
        self.yy[cells] += weight * y.square().sum(dim=0)
        self.hours[cells] += weight * known[:, 0].sum(dim=0)

    def plus(self, other: CellRegression, sign: int = 1) -> CellRegression:
        """The regression of the hours of both; with sign -1 that of these hours without the other's."""
        both = copy.copy(self)
        for name in ("xx", "xy", "yy", "hours"):
            setattr(both, name, getattr(self, name) + sign * getattr(other, name))
        return both

    def solve(self) -> tuple[Tensor, Tensor]:
        """Coefficients (F, T, H, W), and the std (T, H, W) of what they leave."""
        hours = torch.where(self.hours > 0, self.hours, 1)
        xx = (self.xx / hours).permute(2, 3, 0, 1)
        xy = (self.xy / hours).permute(2, 3, 0, 1)
        squares = xx.diagonal(dim1=-2, dim2=-1)[self.hours > 0].mean(dim=0)
        b = torch.linalg.solve(xx + torch.diag(RIDGE * squares + 1e-8), xy)
        explained = (2 * b * xy - b * (xx @ b)).sum(dim=-2).permute(2, 0, 1)
        std = (self.yy / hours - explained).clamp(min=1e-6).sqrt()
        return b.permute(2, 3, 0, 1), std

    def principal_components(self, fields: int) -> Tensor:
        """The leading principal components over all cells, each of unit standard deviation: (fields, H, W).

        Coefficients count by their effect for predictors of unit standard deviation; of the std counts its logarithm,
        as much as the std is on average. Components beyond those that exist are zero, as are cells without values.
        """
        coefficients, std = self.solve()
        rows, cols = std.shape[-2:]
        spread = std.log() * std.mean(dim=(-2, -1), keepdim=True)
        effects = torch.cat([coefficients.flatten(0, 1), spread]).flatten(1)
        known = self.hours.flatten() > 0
        effects = torch.where(known, effects - effects[:, known].mean(dim=1, keepdim=True), 0)
        components = torch.linalg.svd(effects, full_matrices=False)[2][:fields]
        result = torch.zeros(fields, rows * cols)
        result[: len(components)] = components * (rows * cols) ** 0.5
        return result.unflatten(1, (rows, cols))
