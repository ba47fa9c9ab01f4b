"""The regression at each cell against least squares of NumPy."""

from __future__ import annotations

import numpy as np

from ldmdown.scoring.baselines import ResidualRegression, features

ROWS, COLS, HOURS = 20, 3, 60
RNG = np.random.default_rng(0)
COARSE = {
    name: RNG.normal(mean, std, (HOURS, ROWS, COLS)).astype(np.float32)
    for name, mean, std in (("t2m", 285, 8), ("u10", 1, 4), ("v10", -1, 3))
}
X = np.stack([features({name: one[hour] for name, one in COARSE.items()}, hour) for hour in range(HOURS)])


def fitted(y: np.ndarray) -> ResidualRegression:
    regression = ResidualRegression(X.shape[1], y.shape[1], (ROWS, COLS))
    for hour in range(HOURS):
        regression.add(X[hour], y[hour].astype(np.float32))
    regression.solve()
    return regression


def test_features_by_hand() -> None:
    """280 K and a wind of (3, -4) at 6 UTC: scaled 0, 0.6 and -0.8, a speed of 1, one, and sine and cosine of 90."""
    one = np.ones((1, 1))
    found = features({"t2m": 280 * one, "u10": 3 * one, "v10": -4 * one}, 30)
    np.testing.assert_allclose(found[:, 0, 0], [0, 0.6, -0.8, 1, 1, 1, 0], atol=1e-6)
    assert len(features({"t2m": one}, 0)) == 4


def test_coefficients_are_those_of_least_squares() -> None:
    y = RNG.normal(size=(HOURS, 2, ROWS, COLS)) + 3 * X[:, :1] - 2
    regression = fitted(y)
    for row, col in ((0, 0), (19, 2)):
        expected = np.linalg.lstsq(X[:, :, row, col], y[:, :, row, col], rcond=None)[0]
        np.testing.assert_allclose(regression.coefficients[:, :, row, col], expected, atol=1e-3)
    expected = np.einsum("fij,ftij->tij", X[5], regression.coefficients)
    np.testing.assert_allclose(regression.predict(X[5]), expected)


def test_what_is_linear_is_predicted_also_where_hours_are_missing() -> None:
    """Cells without any reference stay unknown."""
    y = 4 + 0.5 * X[:, 1:2] - X[:, 5:6]
    holed = y.copy()
    holed[:20, :, 3] = np.nan
    holed[:, :, 7] = np.nan
    predicted = fitted(holed).predict(X[59])
    assert np.isnan(predicted[0, 7]).all()
    known = np.arange(ROWS) != 7
    np.testing.assert_allclose(predicted[:, known], y[59][:, known], atol=2e-3)


def test_a_feature_that_does_not_vary_is_no_error() -> None:
    """A whole training period at one hour of day."""
    x = X.copy()
    x[:, 5:] = 0
    regression = ResidualRegression(x.shape[1], 1, (ROWS, COLS))
    for hour in range(HOURS):
        regression.add(x[hour], np.full((1, ROWS, COLS), 2.0, np.float32))
    regression.solve()
    np.testing.assert_allclose(regression.predict(x[0]), 2, atol=1e-3)
