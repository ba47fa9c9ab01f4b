"""What training data say of the ground under each fine cell, where no terrain is given: a closed form.

At each cell the residual y of the interpolation is regressed on the coarse state x: a slope of temperature is what a
mountain does, a gain of the wind what a ridge or the sea does, a std what a valley hides. The principal
components of these coefficients over all cells are the fields of the ground that the networks are given. Nothing
is learned by gradients, whose noise in a field of single cells is larger than the terrain's own small scales.
"""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 0.02  # of the regression, in units of the predictors' variance


class CellRegression:
    """Least squares of y (targets) on x (features) at every cell, one hour after another.

    The same sums as np.linalg.lstsq with a ridge, held as normal equations: (F, F, H, W), (F, T, H, W), (T, H, W).
    """

    def __init__(self, features: int, targets: int, rows: int, cols: int) -> None:
        self.xx = torch.zeros(features, features, rows, cols)
        self.xy = torch.zeros(features, targets, rows, cols)
        self.yy = torch.zeros(targets, rows, cols)
        self.hours = 0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take an hour: x (F, H, W), y (T, H, W)."""
        self.xx += x[:, None] * x
        self.xy += x[:, None] * y
        self.yy += y.square()
        self.hours += 1

    def solve(self) -> tuple[Tensor, Tensor]:
        """Coefficients (F, T, H, W), and the std (T, H, W) of what they leave."""
        xx = (self.xx / self.hours).permute(2, 3, 0, 1)
        xy = (self.xy / self.hours).permute(2, 3, 0, 1)
        b = torch.linalg.solve(xx + RIDGE * torch.eye(xx.shape[-1]), xy)
        explained = (2 * b * xy - b * (xx @ b)).sum(dim=-2).permute(2, 0, 1)
        std = (self.yy / self.hours - explained).clamp(min=1e-6).sqrt()
        return b.permute(2, 3, 0, 1), std

    def ground(self, fields: int) -> Tensor:
        """The leading principal components over all cells, each of unit standard deviation: (fields, H, W).

        Coefficients count by their effect for predictors of unit standard deviation; of the std counts its logarithm,
        as much as the std is on average. Components beyond those that exist are zero.
        """
        coefficients, std = self.solve()
        rows, cols = std.shape[-2:]
        spread = std.log() * std.mean(dim=(-2, -1), keepdim=True)
        effects = torch.cat([coefficients.flatten(0, 1), spread]).flatten(1)
        effects -= effects.mean(dim=1, keepdim=True)
        components = torch.linalg.svd(effects, full_matrices=False)[2][:fields]
        ground = torch.zeros(fields, rows * cols)
        ground[: len(components)] = components * (rows * cols) ** 0.5
        return ground.unflatten(1, (rows, cols))
