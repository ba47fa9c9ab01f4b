"""The closed-form start of the mean: known weights are found again, the terrain's features have known values."""

from __future__ import annotations

import numpy as np
import torch

from ldmdown.models.regression import (
    RIDGES,
    FlowRegression,
    LeastSquares,
    best_ridges,
    flow_features,
    number_of_features,
    solve,
    total,
)
from ldmdown.models.terrain import FEATURES, terrain_features

NO_PRIOR = torch.zeros(2, 3, number_of_features(3, 2))  # of two targets, for two static fields


def hours(count: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Predictors (1, 3, 4, 4) and the statics (1, 2, 8, 8) of a small grid."""
    random = torch.Generator().manual_seed(seed)
    statics = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    return [(torch.randn(1, 3, 4, 4, generator=random), statics) for _ in range(count)]


def add(solver: LeastSquares, regression: FlowRegression, *hour: torch.Tensor, weight: float = 1) -> None:
    """Take all cells of an hour: predictors, statics and residual, each a batch of one."""
    predictors, statics, residual = hour
    flow = regression.interpolate(flow_features(predictors, regression.channels))
    solver.add(*(field[0].flatten(1) for field in (flow, statics, residual)), weight)


def test_flow_features_of_a_linear_field() -> None:
    """Gradients are those that were put in, the mean around an inner cell is its value, products are products."""
    row, col = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
    predictors = torch.stack([2 * row, -col, torch.full_like(row, 5)])[None]
    features = flow_features(predictors, [0, 1])[0, :, 4, 4]
    one, given, products, around, south, east = features.split([1, 3, 3, 2, 2, 2])
    assert one == 1
    torch.testing.assert_close(given, torch.tensor([8.0, -4.0, 5.0]))
    torch.testing.assert_close(products, torch.tensor([64.0, -32.0, 16.0]))
    torch.testing.assert_close(around, torch.tensor([8.0, -4.0]))
    torch.testing.assert_close(south, torch.tensor([2.0, 0.0]))
    torch.testing.assert_close(east, torch.tensor([0.0, -1.0]))
    assert len(features) == number_of_features(3, 2)


def test_weights_that_made_the_residual_are_found_again() -> None:
    truth = FlowRegression(3, [0, 1], 2, factor=2)
    truth.weight.normal_(generator=torch.Generator().manual_seed(1))
    parts = LeastSquares(NO_PRIOR), LeastSquares(NO_PRIOR)
    for part, seed in zip(parts, (2, 3), strict=True):
        for predictors, statics in hours(40, seed):
            add(part, truth, predictors, statics, truth(predictors, statics))
    torch.testing.assert_close(parts[0].solve(0.0), truth.weight, atol=1e-3, rtol=1e-3)
    found = FlowRegression(3, [0, 1], 2, factor=2)
    assert best_ridges(parts) == [RIDGES[0]] * 2
    found.weight.copy_(solve(total(parts), best_ridges(parts)))
    for predictors, statics in hours(3, 4):
        torch.testing.assert_close(found(predictors, statics), truth(predictors, statics), atol=0.05, rtol=0.05)
    assert (total(parts).error(truth.weight) < 1e-6).all()


def test_a_target_without_relation_is_left_to_the_largest_ridge() -> None:
    """White noise has nothing to be learned, and its error is its variance."""
    regression = FlowRegression(3, [0, 1], 2, factor=2)
    parts = [LeastSquares(NO_PRIOR) for _ in range(3)]
    random = torch.Generator().manual_seed(5)
    for part in parts:
        for predictors, statics in hours(3, 6):
            add(part, regression, predictors, statics, torch.randn(1, 2, 8, 8, generator=random))
    assert best_ridges(parts) == [RIDGES[-1]] * 2
    torch.testing.assert_close(total(parts).error(NO_PRIOR), torch.ones(2, dtype=torch.float64), atol=0.15, rtol=0)


def test_a_ridge_draws_to_the_prior() -> None:
    """A very strong one leaves nothing of what the hours say, none nothing of the prior."""
    truth = FlowRegression(3, [0, 1], 2, factor=2)
    truth.weight.normal_(generator=torch.Generator().manual_seed(1))
    prior = torch.randn(truth.weight.shape, generator=torch.Generator().manual_seed(2))
    solver = LeastSquares(prior)
    for predictors, statics in hours(40, 3):
        add(solver, truth, predictors, statics, truth(predictors, statics))
    torch.testing.assert_close(solver.solve(1e9), prior, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(solver.solve(0.0), truth.weight, atol=1e-3, rtol=1e-3)


def test_an_hour_of_weight_three_counts_as_three() -> None:
    regression = FlowRegression(3, [0, 1], 2, factor=2)
    thrice, weighted = LeastSquares(NO_PRIOR), LeastSquares(NO_PRIOR)
    for index, (predictors, statics) in enumerate(hours(20, 9)):
        residual = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(index))
        for _ in range(3 if index == 0 else 1):
            add(thrice, regression, predictors, statics, residual)
        add(weighted, regression, predictors, statics, residual, weight=3 if index == 0 else 1)
    torch.testing.assert_close(weighted.solve(0.01), thrice.solve(0.01), atol=1e-5, rtol=1e-4)


def test_each_sample_may_have_weights_of_its_own() -> None:
    regression = FlowRegression(3, [0, 1], 2, factor=2)
    random = torch.Generator().manual_seed(10)
    weights = torch.randn(2, *regression.weight.shape, generator=random)
    predictors, statics = torch.randn(2, 3, 4, 4, generator=random), torch.randn(2, 2, 8, 8, generator=random)
    both = regression.combine(predictors, regression.coefficients(statics, weights))
    for index in range(2):
        regression.weight.copy_(weights[index])
        torch.testing.assert_close(both[index], regression(predictors, statics)[index])


def test_a_window_equals_the_whole_away_from_its_edge() -> None:
    """Only the mean around (7 coarse cells) and the interpolation see past a cell."""
    regression = FlowRegression(3, [0, 1], 2, factor=2)
    random = torch.Generator().manual_seed(8)
    regression.weight.normal_(generator=random)
    predictors, statics = torch.randn(1, 3, 20, 20, generator=random), torch.randn(1, 2, 40, 40, generator=random)
    whole = regression(predictors, statics)[..., 16:24, 16:24]
    window = regression(predictors[..., 4:16, 4:16], statics[..., 8:32, 8:32])[..., 8:16, 8:16]
    torch.testing.assert_close(window, whole)


def test_features_of_a_slope_and_a_straight_coast() -> None:
    """A plane has one slope and no relief inside; the coast's distance changes sign on it."""
    row, col = np.mgrid[:64, :64].astype(np.float32)
    features = terrain_features(2 * row, (col >= 32).astype(np.float32))
    assert features.shape == (FEATURES, 64, 64)
    assert np.isfinite(features).all()
    relief, south, east = features[:3]
    inner = slice(10, -10), slice(10, -10)
    assert np.ptp(relief[inner]) < 1e-3
    assert np.ptp(south[inner]) < 1e-3
    assert not east.any()
    coast = features[-1]
    assert (np.diff(coast, axis=1) >= 0).all()
    assert coast[0, 31] < coast[0].mean() + 1e-6 < coast[0, 32]


def test_terrain_shelters_on_its_side() -> None:
    """East of a ridge a cell is sheltered from the west, not from the east; angles turn from east to south."""
    col = np.arange(40)
    ridge = np.tile(np.where(col == 20, 1000.0, 0.0), (40, 1)).astype(np.float32)
    east, west = (terrain_features(ridge, np.ones_like(ridge))[12 + index] for index in (0, 4))
    assert west[20, 22] > west[20, 30] + 1
    assert east[20, 18] > east[20, 10] + 1
    assert east[20, 22] == east[20, 30]


def test_without_a_coast_its_distance_is_zero() -> None:
    features = terrain_features(np.zeros((16, 16), np.float32), np.ones((16, 16), np.float32))
    assert not features.any()
