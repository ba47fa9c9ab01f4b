"""Distributions, derivatives and changes in time against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from ldmdown import metrics
from ldmdown.data.grid import EARTH_RADIUS, Grid, SourceGrid, grid_rotation, rotate_to_earth
from ldmdown.scoring.climatology import Bins, Climatology
from ldmdown.scoring.geometry import Cells, GridGeometry

GRID = Grid(west=4_700_000, north=2_200_000, rows=16, cols=24)
GEOMETRY = GridGeometry(SourceGrid(GRID.y, GRID.x, GRID.projection))
RNG = np.random.default_rng(0)
INNER = (slice(1, -1), slice(1, -1))


def test_bins_count_every_value_once() -> None:
    bins = Bins(0, 2, 4)
    assert bins.count(np.array([0.1, 0.6, 0.7, 1.99])).tolist() == [1, 2, 0, 1]
    assert bins.count(np.array([-5.0, 7.0])).tolist() == [1, 0, 0, 1]
    assert bins.edges.tolist() == [0, 0.5, 1, 1.5, 2] and bins.width == 0.5


def test_divergence_and_vorticity_along_a_turned_grid() -> None:
    """u = a x + b y, v = c x + d y along the grid, whose north is 4 degrees off, as winds to east and north."""
    a, b, c, d = 3e-5, -2e-5, 5e-5, 1e-5
    x, y = np.meshgrid(GRID.x - GRID.x[0], GRID.y - GRID.y[0])
    east, north = rotate_to_earth(a * x + b * y, c * x + d * y, grid_rotation(GEOMETRY.grid))
    found = GEOMETRY.divergence_and_vorticity(east, north)
    np.testing.assert_allclose(found["divergence"], a + d, rtol=1e-4)
    np.testing.assert_allclose(found["vorticity"], c - b, rtol=1e-4)


@pytest.mark.parametrize("order", [1, -1])
def test_solid_rotation_on_the_sphere(order: int) -> None:
    """u = U cos(lat) has vorticity 2 U sin(lat) / a and no divergence, whichever way latitudes run."""
    lat, lon = np.arange(36.0, 48, 0.1)[::order], np.arange(6.0, 10, 0.1)
    geometry = GridGeometry(SourceGrid(lat, lon))
    u = np.broadcast_to(20 * np.cos(np.radians(lat))[:, None], geometry.shape)
    found = geometry.divergence_and_vorticity(u, np.zeros(geometry.shape))
    expected = np.broadcast_to(40 * np.sin(np.radians(lat))[:, None] / EARTH_RADIUS, geometry.shape)
    np.testing.assert_allclose(found["vorticity"][INNER], expected[INNER], rtol=1e-3)
    np.testing.assert_allclose(found["divergence"], 0, atol=1e-9)


def test_convergence_of_meridians() -> None:
    """v = V has divergence -V tan(lat) / a."""
    lat, lon = np.arange(48.0, 36, -0.1), np.arange(6.0, 10, 0.1)
    geometry = GridGeometry(SourceGrid(lat, lon))
    found = geometry.divergence_and_vorticity(np.zeros(geometry.shape), np.full(geometry.shape, 10.0))
    expected = np.broadcast_to(-10 * np.tan(np.radians(lat))[:, None] / EARTH_RADIUS, geometry.shape)
    np.testing.assert_allclose(found["divergence"][INNER], expected[INNER], rtol=1e-3)


def filled(series: dict[int, np.ndarray], name: str = "t2m") -> Climatology:
    climatology = Climatology(GEOMETRY, 1)
    for hour, field in series.items():
        climatology.add(hour, 0, {name: field}, Cells())
    return climatology


def test_changes_from_hour_to_hour() -> None:
    """Up by 1, up by 3, then a gap that is no change of an hour."""
    base = RNG.normal(280, 5, GRID.shape)
    climatology = filled({10: base, 11: base + 1, 12: base + 4, 14: base})
    assert climatology.change_square["t2m"][0] == pytest.approx([1 + 9, 2])
    assert climatology.change["t2m"].sum() == 2 * base.size
    assert climatology.diurnal["t2m"][[10, 12, 13, 14], 1].tolist() == [1, 1, 0, 1]
    assert climatology.diurnal["t2m"][12, 0] == pytest.approx(base.mean() + 4)


def test_correlation_of_successive_hours() -> None:
    """An autoregressive series in every cell has the correlation that makes it; a swing has -1, a constant none."""
    field, series = RNG.normal(size=GRID.shape), {}
    for hour in range(600):
        field = 0.8 * field + 0.6 * RNG.normal(size=GRID.shape)
        series[hour] = 280 + field
    assert filled(series).lag1("t2m") == pytest.approx(0.8, abs=0.02)
    assert filled({hour: np.full(GRID.shape, 280.0 + (-1) ** hour) for hour in range(9)}).lag1("t2m") == pytest.approx(
        -1
    )
    assert np.isnan(filled({hour: np.full(GRID.shape, 280.0) for hour in range(3)}).lag1("t2m"))
    assert np.isnan(filled({}).lag1("t2m"))


def test_missing_cells_are_left_out() -> None:
    field, valid = RNG.normal(280, 5, GRID.shape), np.ones(GRID.shape, bool)
    valid[:4] = False
    holed = np.where(valid, field, np.nan)
    climatology = Climatology(GEOMETRY, 1)
    for hour in (0, 1):
        climatology.add(hour, 0, {"t2m": holed + hour}, Cells(valid, None))
    assert climatology.histogram["t2m"].sum() == 2 * valid.sum() and not climatology.power
    assert climatology.change_square["t2m"][0] == pytest.approx([1, 1])
    assert climatology.diurnal["t2m"][0, 0] == pytest.approx(field[valid].mean())


def test_kinetic_energy_is_half_the_sum_of_the_winds_power() -> None:
    u, v = RNG.normal(size=(2, *GRID.shape))
    climatology = Climatology(GEOMETRY, 1)
    climatology.add(0, 0, {"u10": u, "v10": v}, Cells())
    (_, of_u), (_, of_v) = (metrics.power_spectrum(part, GEOMETRY.spacing_km) for part in (u, v))
    np.testing.assert_allclose(climatology.power["ke"], (of_u + of_v) / 2)
