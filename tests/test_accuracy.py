"""Errors of fields and ensembles by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ldmdown.scoring.accuracy import Accuracy
from ldmdown.scoring.geometry import WHOLE, Cells

TRUTH = {"t2m": np.array([[0.0, 2.0], [4.0, 6.0]], np.float32)}


def scored(fields: np.ndarray, truth: np.ndarray, name: str = "t2m", valid: np.ndarray | None = None) -> Accuracy:
    accuracy = Accuracy(truth.shape, 1, {"land": np.array([[True, True], [False, False]])})
    cells = Cells(valid, WHOLE if valid is None else None)
    accuracy.add(0, {name: fields.astype(np.float32)}, {name: truth.astype(np.float32)}, cells)
    return accuracy


def test_one_field_by_hand() -> None:
    """Against 0, 2, 4, 6: one too high everywhere, R2 = 1 - 1 / 5; the order is kept, so the correlation is 1."""
    accuracy = scored(TRUTH["t2m"][None] + 1, TRUTH["t2m"])
    hour = {score: values[0] for (_, score), values in accuracy.hourly.items()}
    assert hour == pytest.approx({"rmse": 1, "bias": 1, "r2": 0.8, "pcc": 1})
    sums = {what: value[0] for (_, what), value in accuracy.sums.items()}
    assert sums["absolute"] == sums["square"] == sums["crps"] == 1 and "variance" not in sums
    assert sums["energy"] == pytest.approx(1)  # the distance is 2, over the root of 4 cells
    assert not accuracy.ranks and not accuracy.votes


def test_two_members_by_hand() -> None:
    """One above and one below: the mean is right, the fair CRPS 1 - 2 / 2, the variance 2."""
    accuracy = scored(np.stack([TRUTH["t2m"] + 1, TRUTH["t2m"] - 1]), TRUTH["t2m"])
    sums = {what: value[0] for (_, what), value in accuracy.sums.items()}
    assert sums["crps"] == pytest.approx(0) and sums["variance"] == 2 and sums["square of mean"] == 0
    assert accuracy.ranks["t2m"].tolist() == [0, 4, 0]
    count, happened = accuracy.votes["t2m below 273.15 K"]
    assert count.tolist() == [0, 0, 4] and happened.tolist() == [0, 0, 4]


def test_wind_vectors_by_hand() -> None:
    """Errors of 3 along and 4 across are 5 long."""
    zero = np.zeros((2, 2), np.float32)
    accuracy = Accuracy((2, 2), 1, {})
    accuracy.add(0, {"u10": zero[None] + 3, "v10": zero[None] - 4}, {"u10": zero, "v10": zero}, Cells())
    assert accuracy.sums["wind", "square"][0] == 25 and accuracy.sums["wind", "absolute"][0] == 5
    assert accuracy.sums["wind", "energy"][0] == pytest.approx(5)


def test_maps_and_kinds_of_ground() -> None:
    error = np.array([[1.0, 3.0], [-2.0, 0.0]])
    accuracy = scored((TRUTH["t2m"] + error)[None], TRUTH["t2m"])
    accuracy.add(0, {"t2m": (TRUTH["t2m"] - error)[None].astype(np.float32)}, TRUTH, Cells())
    count, total, square = accuracy.maps["t2m"]
    assert (count == 2).all() and (total == 0).all() and square.tolist() == [[2, 18], [8, 0]]
    assert accuracy.by_surface["t2m"][:, 0].tolist() == [4, 0, 20]  # of the upper row


def test_missing_cells_and_constant_fields() -> None:
    truth = np.array([[np.nan, 1.0], [2.0, np.nan]])
    valid = np.isfinite(truth)
    accuracy = scored(truth[None] + 2, truth, valid=valid)
    assert accuracy.hourly["t2m", "bias"] == [2] and accuracy.maps["t2m"][0].tolist() == [[0, 1], [1, 0]]
    assert accuracy.by_surface["t2m"][:, 0].tolist() == [1, 2, 4] and ("t2m", "energy") not in accuracy.sums
    constant = scored(np.full((1, 2, 2), 3.0), np.full((2, 2), 3.0))
    assert constant.hourly["t2m", "rmse"] == [0] and np.isnan(constant.hourly["t2m", "r2"][0])
    assert ("t2m", "r2 hours") not in constant.sums


def test_events_are_counted_where_members_agree() -> None:
    speed = np.array([[3.0, 12.0], [16.0, 4.0]])
    accuracy = scored(np.stack([speed, speed + 2]), speed, "ws10")
    count, happened = accuracy.votes["ws10 above 5 m s-1"]
    assert count.tolist() == [1, 1, 2] and happened.tolist() == [0, 0, 2]
    assert accuracy.votes["ws10 above 15 m s-1"].tolist() == [[3, 0, 1], [0, 0, 1]]
