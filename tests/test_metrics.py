"""Scores against hand arithmetic, closed forms and independent libraries."""

from __future__ import annotations

import numpy as np
import pytest

from ldmdown import metrics

RNG = np.random.default_rng(0)


def test_rmse_and_bias_by_hand() -> None:
    prediction, reference = np.array([[1.0, 2.0]]), np.array([[4.0, -2.0]])
    assert metrics.rmse(prediction, reference) == pytest.approx(np.sqrt((9 + 16) / 2))
    assert metrics.bias(prediction, reference) == pytest.approx(0.5)


def test_crps_by_hand() -> None:
    # members 0 and 3, reference 1: E|X - y| = (1 + 2) / 2, E|X - X'| over different members = 3
    assert metrics.crps(np.array([[[0.0]], [[3.0]]]), np.array([[1.0]])) == pytest.approx(1.5 - 1.5)


def test_crps_is_that_of_the_scores_library() -> None:
    xarray = pytest.importorskip("xarray")
    probability = pytest.importorskip("scores.probability")
    ensemble, reference = RNG.normal(size=(7, 5, 6)), RNG.normal(size=(5, 6))
    expected = probability.crps_for_ensemble(
        xarray.DataArray(ensemble, dims=("member", "y", "x")),
        xarray.DataArray(reference, dims=("y", "x")),
        ensemble_member_dim="member",
        method="fair",
    )
    assert metrics.crps(ensemble, reference) == pytest.approx(float(expected))


def test_crps_of_a_gaussian_is_its_closed_form() -> None:
    # standard normal ensemble against 0: (sqrt 2 - 1) / sqrt pi
    ensemble = RNG.normal(size=(10, 200, 200))
    expected = (np.sqrt(2) - 1) / np.sqrt(np.pi)
    assert metrics.crps(ensemble, np.zeros((200, 200))) == pytest.approx(expected, rel=0.01)


def test_spread_skill_of_a_reliable_ensemble_is_one() -> None:
    assert metrics.spread_skill(RNG.normal(size=(8, 300, 300)), RNG.normal(size=(300, 300))) == pytest.approx(
        1, rel=0.01
    )


def test_energy_score_of_one_value_is_the_crps() -> None:
    ensemble, reference = RNG.normal(size=(6, 1, 8, 8)), RNG.normal(size=(1, 8, 8))
    assert metrics.energy_score(ensemble, reference, patch=1) == pytest.approx(metrics.crps(ensemble, reference))


def test_energy_score_by_hand() -> None:
    ensemble = np.array([[[[3.0, 4.0]]], [[[0.0, 0.0]]]])  # norms 5 and 0, distance 5
    assert metrics.energy_score(ensemble, np.zeros((1, 1, 2))) == pytest.approx(2.5 - 2.5)


def test_patches_keep_channels_and_neighbours_together() -> None:
    field = np.arange(2 * 4 * 4.0).reshape(2, 4, 4)
    reference = np.zeros_like(field)
    ensemble = np.stack([field, field])
    corners = [np.linalg.norm(field[:, i : i + 2, j : j + 2]) for i in (0, 2) for j in (0, 2)]
    assert metrics.energy_score(ensemble, reference, patch=2) == pytest.approx(np.mean(corners))


def test_variogram_score_by_hand() -> None:
    ensemble = np.array([[[0.0, 4.0], [0.0, 4.0]]] * 2)  # no spread; across: sqrt 4 = 2, down: 0
    assert metrics.variogram_score(ensemble, np.zeros((2, 2)), lags=(1,)) == pytest.approx((4 + 0) / 2)


def test_variogram_score_is_best_for_the_truth_and_worse_for_white_noise() -> None:
    smooth = np.cumsum(RNG.normal(size=(21, 64, 64)), axis=-1)
    white = RNG.normal(size=(20, 64, 64)) * smooth.std()
    assert metrics.variogram_score(white, smooth[0]) > 2 * metrics.variogram_score(smooth[1:], smooth[0])
