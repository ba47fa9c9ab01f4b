"""Which hours and windows training draws from, by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ldmdown.data.archive.store import Archive, ArchiveSource
from ldmdown.errors import LdmdownError
from ldmdown.training.hours import NO_FOLD, HourSet

PART = np.zeros((8, 8), bool)
PART[2:6, 1:8] = True


def hours(weights: list[float] | None = None) -> HourSet:
    """Two days of a source that covers all, one hour missing, and two runs of a few hours of one that covers a part."""
    whole = ArchiveSource("whole", "", {}, np.ones((8, 8), bool))
    of_whole = [hour for hour in range(48) if hour != 5]
    archive = SimpleNamespace(
        path=Path("archive.zarr"),
        sources=(whole, ArchiveSource("part", "", {}, PART)),
        hours=np.array([*of_whole, 7, 8, 9, 9, 10]),
        source=np.array([0] * 47 + [1] * 5),
        realization=np.array([0] * 47 + [0, 0, 0, 1, 1]),
        split=lambda use: np.arange(52),
    )
    made: Archive = archive  # type: ignore[assignment]
    return HourSet(made, "train", weights)


def test_hours_come_from_sources_by_weight() -> None:
    random = np.random.default_rng(0)
    for weights, share in ((None, 1 / 2), ([1.0, 3.0], 3 / 4)):
        places = np.array(hours(weights).choose(random, 20_000))
        assert (places >= 47).mean() == pytest.approx(share, abs=0.01)
        assert set(places) == set(range(52))
    assert {hours().choose_like(random, 48) for _ in range(200)} == set(range(47, 52))


def test_windows_lie_where_the_source_has_values() -> None:
    some = hours()
    assert len(some.corners(0, (4, 4))) == 25
    assert some.corners(50, (4, 4)).tolist() == [[2, col] for col in range(1, 5)]
    assert some.corners(50, (2, 2), margin=1).tolist() == [[3, col] for col in range(2, 7)]  # the grid's edge is none
    assert some.valid(50, margin=1).sum() == 2 * 6 and some.valid(0, margin=1).all()
    with pytest.raises(LdmdownError, match="its source `part` has no window with values in all cells"):
        some.corners(50, (5, 5))


def test_hours_that_follow_each_other_in_one_realization() -> None:
    assert hours().consecutive() == [*range(4), *range(5, 46), 47, 48, 50]


def test_missing_predictors_are_those_of_the_nearest_cell() -> None:
    some, fields = hours(), np.random.default_rng(0).normal(size=(2, 8, 8)).astype(np.float32)
    partial = np.where(PART, fields, np.float32(np.nan))
    filled = some.fill(50, partial)
    np.testing.assert_array_equal(filled[:, PART], fields[:, PART])
    np.testing.assert_array_equal(filled[:, 0, 3], fields[:, 2, 3])
    np.testing.assert_array_equal(filled[:, 7, 0], fields[:, 5, 1])
    with pytest.raises(ValueError, match="predictors are missing"):
        some.fill(0, partial)


def test_days_of_a_source_are_shared_out_over_folds_and_hours_count_by_weight() -> None:
    """47 hours of two days and weight 1, five of one day and weight 3: 52 hours in all, a quarter and three of them."""
    some = hours([1.0, 3.0])
    assert [some.fold(place) for place in (0, 22, 23, 46)] == [0, 0, 1, 1]
    assert some.fold(47) == some.fold(51) == NO_FOLD
    assert some.weight(0) == pytest.approx(52 / 4 / 47) and some.weight(50) == pytest.approx(52 * 3 / 4 / 5)


def test_the_window_around_a_source_has_sides_of_a_multiple() -> None:
    some = hours()
    assert some.window(0, 4) == (0, 0, 8, 8)
    assert some.window(47, 1) == (2, 1, 4, 7)
    assert some.window(47, 4) == (2, 0, 4, 8)
