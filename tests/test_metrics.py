"""Scores against hand arithmetic, closed forms and independent libraries."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

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


def test_one_member_is_scored_by_its_distance() -> None:
    member, reference = np.array([[[1.0, 5.0], [2.0, 2.0]]]), np.array([[0.0, 1.0], [2.0, 5.0]])
    assert metrics.crps(member, reference) == pytest.approx((1 + 4 + 0 + 3) / 4)
    assert metrics.energy_score(member[:, None], reference[None]) == pytest.approx(np.sqrt(1 + 16 + 0 + 9))
    # across: |1 - 5|^.5 and 0 against 1 and 3^.5; down: 1 and 3^.5 against 2^.5 and 2
    terms = [(2 - 1) ** 2, (0 - np.sqrt(3)) ** 2, (1 - np.sqrt(2)) ** 2, (np.sqrt(3) - 2) ** 2]
    assert metrics.variogram_score(member, reference, lags=(1,)) == pytest.approx(np.mean(terms))


def test_fair_scores_do_not_depend_on_the_number_of_members() -> None:
    truths = RNG.normal(size=(300, 1, 8, 8))
    few, many = RNG.normal(size=(300, 2, 1, 8, 8)), RNG.normal(size=(300, 12, 1, 8, 8))
    for score in (metrics.energy_score, metrics.variogram_score, metrics.crps):
        means = [np.mean([score(x, y) for x, y in zip(kind, truths, strict=True)]) for kind in (few, many)]
        assert means[0] == pytest.approx(means[1], rel=0.05)


def test_a_constant_field_explains_nothing() -> None:
    constant, other = np.full((3, 3), 280.1, np.float32), RNG.normal(280, 1, (3, 3)).astype(np.float32)
    assert np.isnan(metrics.pcc(constant, other)) and np.isnan(metrics.pcc(other, constant))
    assert np.isnan(metrics.r2(other, constant)) and metrics.r2(constant, other) <= 0
    assert np.isnan(metrics.spread_skill(np.stack([constant] * 3), constant))


def test_errors_are_those_of_the_scores_library() -> None:
    xarray, continuous = pytest.importorskip("xarray"), pytest.importorskip("scores.continuous")
    one, other = RNG.normal(280, 5, (2, 9, 7)).astype(np.float32)
    first, second = xarray.DataArray(one), xarray.DataArray(other)
    for ours, theirs in (("rmse", "rmse"), ("bias", "additive_bias"), ("mae", "mae"), ("r2", "nse")):
        expected = float(getattr(continuous, theirs)(first, second))
        assert getattr(metrics, ours)(one, other) == pytest.approx(expected, rel=1e-5)
    expected = float(continuous.correlation.pearsonr(first, second))
    assert metrics.pcc(one, other) == pytest.approx(expected, rel=1e-5)


def test_rank_histogram_by_hand() -> None:
    members = np.stack([np.full(3, 1.0), np.full(3, 3.0)])
    assert metrics.rank_histogram(members, np.array([0.0, 2.0, 9.0])).tolist() == [1, 1, 1]
    # equal to the first member: rank 0 or 1; to both: any rank
    assert metrics.rank_histogram(members[:, :1], np.array([1.0])) == pytest.approx([0.5, 0.5, 0])
    assert metrics.rank_histogram(np.ones((2, 5)), np.ones(5)) == pytest.approx([5 / 3] * 3)


def test_rank_histogram_is_that_of_the_scores_library() -> None:
    xarray, probability = pytest.importorskip("xarray"), pytest.importorskip("scores.probability")
    ensemble, reference = RNG.integers(0, 6, (4, 60)).astype(float), RNG.integers(0, 6, 60).astype(float)
    expected = probability.rank_histogram(
        xarray.DataArray(ensemble, dims=("member", "x")), xarray.DataArray(reference, dims="x"), "member"
    )
    assert_allclose(metrics.rank_histogram(ensemble, reference) / 60, expected.values)


def test_reliability_by_hand() -> None:
    forecast = np.array([[True, True, False], [True, False, False]])
    count, events = metrics.reliability(forecast, np.array([True, False, False]))
    assert count.tolist() == [1, 1, 1] and events.tolist() == [0, 0, 1]


def test_wasserstein_distance_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    ours, theirs = RNG.integers(1, 50, (2, 40)).astype(float)
    centres = 3 + 0.25 * np.arange(40)
    expected = stats.wasserstein_distance(centres, centres, ours, theirs)
    assert metrics.wasserstein(ours, theirs, 0.25) == pytest.approx(expected)
    shifted = np.roll(np.pad(ours, 5), 3)
    assert metrics.wasserstein(np.pad(ours, 5), shifted, 0.25) == pytest.approx(3 * 0.25)


def test_percentiles_of_a_histogram() -> None:
    edges = np.arange(5.0)
    assert metrics.percentile(np.array([1.0, 1, 1, 1]), edges, 0.25) == pytest.approx(1)
    assert metrics.percentile(np.array([0.0, 4, 0, 0]), edges, 0.5) == pytest.approx(1.5)
    assert metrics.percentile(np.array([0.0, 1, 0, 1]), edges, 1.0) == pytest.approx(4)
    sample, edges = RNG.normal(size=100_000), np.linspace(-6, 6, 1201)
    counts = np.histogram(sample, edges)[0].astype(float)
    for share in (0.01, 0.5, 0.999):
        expected = np.quantile(sample, share)
        assert metrics.percentile(np.stack([counts, 2 * counts]), edges, share) == pytest.approx(expected, abs=0.01)
