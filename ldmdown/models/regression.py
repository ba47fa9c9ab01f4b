"""What linear regression knows of the target, solved in closed form: where the U-Net starts from.

residual(x) = sum over static fields s and flow features f of  weight[t, s, f] s(x) f(coarse state around x)

A slope of the terrain times the wind that meets it, a height times the gradient of temperature: one least squares
over all cells and hours, so that what one valley shows holds for another with the same terrain. Static fields that
are estimated from the residuals (models/ground) stand for what is a cell's own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

CONTEXT = 7  # coarse cells across, over which the flow around is averaged
RIDGES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 0.3)  # that are tried, relative to each product's variance


def flow_features(predictors: Tensor, channels: list[int]) -> Tensor:
    """What the flow is at a coarse cell: (B, P, h, w) -> (B, F, h, w).

    One, the predictors, and of `channels` (those of the targets) products of two, means around, and gradients.
    """
    fields = predictors[:, channels].float()
    half = CONTEXT // 2
    around = functional.avg_pool2d(functional.pad(fields, [half] * 4, mode="replicate"), CONTEXT, stride=1)
    south, east = torch.gradient(fields, dim=(-2, -1))
    pairs = torch.combinations(torch.arange(len(channels)), with_replacement=True)
    products = fields[:, pairs[:, 0]] * fields[:, pairs[:, 1]]
    return torch.cat([torch.ones_like(fields[:, :1]), predictors.float(), products, around, south, east], dim=1)


def number_of_features(predictors: int, channels: int) -> int:
    """How many `flow_features` makes."""
    return 1 + predictors + channels * (channels + 1) // 2 + 3 * channels


class FlowRegression(nn.Module):
    """Static fields (and one) times interpolated flow features, weighted and summed.

    `channels` are the predictors of the targets; `statics` counts the static fields.
    """

    weight: Tensor

    def __init__(self, predictors: int, channels: list[int], statics: int, factor: int) -> None:
        super().__init__()
        self.channels, self.factor = channels, factor
        features = number_of_features(predictors, len(channels))
        self.register_buffer("weight", torch.zeros(len(channels), 1 + statics, features))

    def forward(self, predictors: Tensor, statics: Tensor) -> Tensor:
        """(B, P, h, w), (B, S, H, W) -> (B, T, H, W)."""
        return self.combine(predictors, self.coefficients(statics))

    def coefficients(self, statics: Tensor) -> Tensor:
        """What each flow feature counts at each cell, whatever the hour: (B, S, H, W) -> (B, T, F, H, W)."""
        with torch.autocast(statics.device.type, enabled=False):
            weighted = torch.einsum("tsf,bshw->btfhw", self.weight[:, 1:], statics)
            return weighted.add_(self.weight[:, 0, :, None, None])

    def combine(self, predictors: Tensor, coefficients: Tensor) -> Tensor:
        """(B, P, h, w), (B or 1, T, F, H, W) -> (B, T, H, W)."""
        flow = self.interpolate(flow_features(predictors, self.channels))
        return torch.stack([(one * flow).sum(dim=1) for one in coefficients.unbind(1)], dim=1)

    def responses(self, predictors: Tensor) -> Tensor:
        """How each target answers to one and to each static field: (B, P, h, w) -> (B, T, 1 + S, h, w)."""
        return torch.einsum("tsf,bfhw->btshw", self.weight, flow_features(predictors, self.channels))

    def interpolate(self, coarse: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, H, W)."""
        return functional.interpolate(coarse, scale_factor=self.factor, mode="bilinear")


class LeastSquares:
    """Normal equations of the weights that all cells share, taken hour by hour over some of the cells."""

    def __init__(self, regression: FlowRegression) -> None:
        self.regression = regression
        targets, statics, features = regression.weight.shape
        self.xx = torch.zeros(statics * features, statics * features, dtype=torch.float64)
        self.xy = torch.zeros(statics * features, targets, dtype=torch.float64)
        self.yy = torch.zeros(targets, dtype=torch.float64)
        self.cells = 0

    def add(self, predictors: Tensor, statics: Tensor, residual: Tensor, cells: Tensor) -> None:
        """Take an hour: (1, P, h, w), (1, S, H, W), (1, T, H, W), at these cells of the flattened grid."""
        flow = self.regression.interpolate(flow_features(predictors, self.regression.channels))
        x, s, y = (field[0].flatten(1)[:, cells] for field in (flow, statics, residual))
        s = torch.cat([torch.ones_like(s[:1]), s])
        products = (s[:, None] * x).flatten(0, 1)  # (S F, cells)
        self.xx += (products @ products.T).double().cpu()
        self.xy += (products @ y.T).double().cpu()
        self.yy += y.square().sum(dim=1).double().cpu()
        self.cells += y.shape[1]

    def solve(self, ridge: float) -> Tensor:
        """Weights (T, 1 + S, F) under a ridge penalty."""
        xx, xy = self.xx / self.cells, self.xy / self.cells
        penalty = ridge * xx.diagonal() + 1e-8
        weight = torch.linalg.solve(xx + torch.diag(penalty), xy)
        return weight.T.unflatten(1, self.regression.weight.shape[1:]).float()

    def error(self, weight: Tensor) -> Tensor:
        """Mean squared error of these weights on the hours that were added: (T,)."""
        b = weight.flatten(1).T.double()
        return (self.yy - 2 * (b * self.xy).sum(dim=0) + (b * (self.xx @ b)).sum(dim=0)) / self.cells


def fit(train: LeastSquares, validation: LeastSquares) -> Tensor:
    """The weights (T, 1 + S, F) of the training hours, each target's under the ridge that validates best."""
    candidates = torch.stack([train.solve(ridge) for ridge in RIDGES])
    errors = torch.stack([validation.error(weight) for weight in candidates])
    best = errors.argmin(dim=0)
    return torch.stack([candidates[index, target] for target, index in enumerate(best.tolist())])
