from __future__ import annotations

import numpy as np
import pytest

from ldmdown.scoring.bootstrap import DRAWS, MAX_BLOCKS, Blocks, Estimate

RNG = np.random.default_rng(0)


def days(number: int) -> list[int]:
    return [24 * day + hour for day in range(100, 100 + number) for hour in (0, 23)]


def mean(total: np.ndarray, hours: np.ndarray) -> np.ndarray:
    return total / hours


def test_hours_of_a_day_stay_together_and_long_series_have_long_blocks() -> None:
    week, year = Blocks(days(7)), Blocks(days(365))
    assert [week.of(hour) for hour in days(7)[:4]] == [0, 0, 1, 1] and week.count == 7
    assert year.count <= MAX_BLOCKS and year.of(days(365)[-1]) == year.count - 1 and year.days == 365
    assert (week.weights.sum(axis=1) == 7).all() and len(week.weights) == DRAWS


def test_the_interval_of_a_mean() -> None:
    blocks = Blocks(days(50))
    values = RNG.normal(3, 2, 50)
    estimate = blocks.estimate(mean, values, np.ones(50))
    low, high = estimate.interval
    assert estimate.value == pytest.approx(values.mean())
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / np.sqrt(50), rel=0.1)


def test_too_few_days_give_no_interval_and_no_difference() -> None:
    blocks = Blocks(days(4))
    one, other = (blocks.estimate(mean, np.full(4, value), np.ones(4)) for value in (1.0, 2.0))
    assert np.isnan(one.interval).all() and not one.differs(other) and one.value == 1


def test_paired_differences_stand_where_single_intervals_overlap() -> None:
    """Days differ by far more than systems, but one is always the better one."""
    blocks = Blocks(days(40))
    easy = RNG.normal(10, 3, 40)
    one, better, equal = (
        blocks.estimate(mean, values, np.ones(40))
        for values in (easy, easy - 0.2 + RNG.normal(0, 0.1, 40), easy + RNG.normal(0, 0.1, 40))
    )
    assert one.interval[0] < better.interval[1]
    assert one.differs(better) and not one.differs(equal) and not one.differs(one)


def test_a_score_that_is_not_defined_in_some_draws() -> None:
    estimate = Estimate(1.0, np.array([np.nan, 1.0, 2.0, 3.0]))
    assert estimate.interval == pytest.approx((1.05, 2.95))
