"""Static fields estimated from training data, against numpy's least squares and against a terrain that was put in."""

from __future__ import annotations

import numpy as np
import torch

from ldmdown.models.static_embedding import RIDGE, CellRegression


def hours(count: int, terrain: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x = (1, a coarse state), y = a target that falls with the terrain, and one whose gain grows with it."""
    random = torch.Generator().manual_seed(0)
    state = torch.randn(count, 1, *terrain.shape, generator=random)
    x = torch.cat([torch.ones_like(state), state], dim=1)
    noise = 0.3 * torch.randn(count, 2, *terrain.shape, generator=random)
    y = torch.stack([-terrain.expand(count, -1, -1), terrain * state[:, 0]], dim=1) + noise
    return x, y


def test_coefficients_and_std_are_those_of_least_squares_at_each_cell() -> None:
    x, y = hours(50, torch.rand(3, 4, generator=torch.Generator().manual_seed(1)))
    cells = CellRegression(2, 2, 3, 4)
    cells.add(x[:30], y[:30])
    cells.add(x[30:], y[30:])
    coefficients, std = cells.solve()
    ridge = np.sqrt(RIDGE * x.square().sum(dim=0).mean(dim=(1, 2)).numpy()) * np.eye(2)
    for row, col in ((0, 0), (2, 3)):
        design = x[:, :, row, col].double().numpy()
        for target in range(2):
            values = y[:, target, row, col].double().numpy()
            expected = np.linalg.lstsq(np.vstack([design, ridge]), np.append(values, [0, 0]), rcond=None)[0]
            np.testing.assert_allclose(coefficients[:, target, row, col], expected, atol=1e-5)
            left = np.mean((values - design @ expected) ** 2)
            np.testing.assert_allclose(std[target, row, col] ** 2, left, rtol=1e-4)


def test_the_first_component_is_the_terrain() -> None:
    """Slope and gain of every cell hold the same terrain, so one field explains both."""
    terrain = torch.rand(24, 24, generator=torch.Generator().manual_seed(2))
    cells = CellRegression(2, 2, 24, 24)
    cells.add(*hours(400, terrain))
    fields = cells.principal_components(3)
    correlation = np.corrcoef(fields[0].ravel(), terrain.ravel())[0, 1]
    assert abs(correlation) > 0.99
    torch.testing.assert_close(fields.square().mean(dim=(1, 2)), torch.ones(3))


def test_components_that_do_not_exist_are_zero() -> None:
    cells = CellRegression(1, 1, 4, 4)
    cells.add(torch.ones(1, 1, 4, 4), torch.rand(1, 1, 4, 4))
    assert not cells.principal_components(5)[2:].any()


def test_missing_values_do_not_count_and_cells_without_any_are_zero() -> None:
    x, y = hours(20, torch.rand(3, 4, generator=torch.Generator().manual_seed(3)))
    some, all_ = CellRegression(2, 2, 3, 4), CellRegression(2, 2, 3, 4)
    for index, (given, target) in enumerate(zip(x, y, strict=True)):
        part = target.clone()
        part[:, 0] = torch.nan
        part[:, 1] = torch.nan if index >= 10 else part[:, 1]
        some.add(given[None], part[None])
        if index < 10:
            all_.add(given[None], target[None])
    assert some.hours.tolist() == [[0] * 4, [10] * 4, [20] * 4]
    torch.testing.assert_close(some.xy[..., 1, :], all_.xy[..., 1, :])
    assert not some.solve()[0][..., 0, :].any()
    assert some.principal_components(3)[:, 0].abs().max() < 1e-5


def test_hours_count_by_weight_and_can_be_taken_out_again() -> None:
    x, y = hours(6, torch.rand(3, 4, generator=torch.Generator().manual_seed(4)))
    thrice, weighted, without = (CellRegression(2, 2, 3, 4) for _ in range(3))
    for _ in range(3):
        thrice.add(x[:2], y[:2])
    weighted.add(x[:2], y[:2], weight=3)
    torch.testing.assert_close(weighted.xx, thrice.xx)
    assert weighted.hours.tolist() == thrice.hours.tolist()
    without.add(x[2:], y[2:])
    torch.testing.assert_close(thrice.plus(without).plus(thrice, -1).solve(), without.solve(), atol=1e-3, rtol=1e-3)
