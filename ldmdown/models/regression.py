"""What linear regression knows of the target, solved in closed form: where the U-Net starts from.

residual(x) = sum over static fields s and flow features f of  weight[t, s, f] s(x) f(coarse state around x)

A slope of the terrain times the wind that meets it, a height times the gradient of temperature: one least squares
over all cells and hours, so that what one valley shows holds for another with the same terrain. Static fields that
are estimated from the residuals (models/static_embedding) stand for what is a cell's own.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

CONTEXT = 7  # coarse cells across, over which the flow around is averaged
RIDGES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 0.3, 1.0)  # that are tried, relative to each product's variance


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

    def coefficients(self, statics: Tensor, weights: Tensor | None = None) -> Tensor:
        """What each flow feature counts at each cell, whatever the hour: (B, S, H, W) -> (B, T, F, H, W).

        `weights` (B, T, 1 + S, F) of each sample stand for the module's own.
        """
        with torch.autocast(statics.device.type, enabled=False):
            if weights is None:
                weights = self.weight[None]
            weighted = torch.einsum("btsf,bshw->btfhw", weights[:, :, 1:].expand(len(statics), -1, -1, -1), statics)
            return weighted.add_(weights[:, :, 0, :, None, None])

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
    """Normal equations of the weights that all cells share, taken hour by hour over some of the cells.

    `prior` (T, 1 + S, F) are the weights that a ridge draws to.
    """

    def __init__(self, prior: Tensor) -> None:
        self.shape = targets, statics, features = prior.shape
        self.prior = prior.flatten(1).T.double().cpu()
        self.xx = torch.zeros(statics * features, statics * features, dtype=torch.float64)
        self.xy = torch.zeros(statics * features, targets, dtype=torch.float64)
        self.yy = torch.zeros(targets, dtype=torch.float64)
        self.cells = 0.0

    def add(self, flow: Tensor, statics: Tensor, residual: Tensor, weight: float = 1) -> None:
        """Take some cells of an hour with a weight: flow features (F, C), static fields (S, C), residual (T, C)."""
        statics = torch.cat([torch.ones_like(statics[:1]), statics])
        products = (statics[:, None] * flow).flatten(0, 1)  # (S F, C)
        self.xx += weight * (products @ products.T).double().cpu()
        self.xy += weight * (products @ residual.T).double().cpu()
        self.yy += weight * residual.square().sum(dim=1).double().cpu()
        self.cells += weight * residual.shape[1]

    def solve(self, ridge: float) -> Tensor:
        """Weights (T, 1 + S, F) under a ridge penalty."""
        xx, xy = self.xx / self.cells, self.xy / self.cells
        penalty = ridge * xx.diagonal() + 1e-8
        weight = torch.linalg.solve(xx + torch.diag(penalty), xy + penalty[:, None] * self.prior)
        return weight.T.unflatten(1, self.shape[1:]).float()

    def error(self, weight: Tensor) -> Tensor:
        """Mean squared error of these weights on the hours that were added: (T,)."""
        b = weight.flatten(1).T.double()
        return (self.yy - 2 * (b * self.xy).sum(dim=0) + (b * (self.xx @ b)).sum(dim=0)) / self.cells


def total(parts: Sequence[LeastSquares]) -> LeastSquares:
    """The normal equations of several sets of cells together."""
    together = copy.copy(parts[0])
    for name in ("xx", "xy", "yy", "cells"):
        setattr(together, name, sum(getattr(part, name) for part in parts))
    return together


def best_ridges(parts: Sequence[LeastSquares]) -> list[float]:
    """The ridge of each target with which the weights of the other parts' cells are best at each part's."""
    parts = [part for part in parts if part.cells]
    if len(parts) < 2:
        return [RIDGES[0]] * parts[0].shape[0]
    errors = torch.zeros(len(RIDGES), parts[0].shape[0], dtype=torch.float64)
    for index, part in enumerate(parts):
        others = total([*parts[:index], *parts[index + 1 :]])
        errors += torch.stack([part.cells * part.error(others.solve(ridge)) for ridge in RIDGES])
    return [RIDGES[index] for index in errors.argmin(dim=0)]


def solve(train: LeastSquares, ridges: list[float]) -> Tensor:
    """The weights (T, 1 + S, F), each target's under its own ridge."""
    return torch.stack([train.solve(ridge)[target] for target, ridge in enumerate(ridges)])
