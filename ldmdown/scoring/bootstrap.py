"""Intervals of scores by a block bootstrap: blocks of whole days are drawn again and again, with replacement.

Hours of a day, and days of a spell of weather, are no independent evidence; a day is the smallest block, and
long series have longer ones (Wilks 2019, Statistical Methods in the Atmospheric Sciences, 5.3.5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ldmdown.typing import FloatArray

Statistic = Callable[..., FloatArray]

DRAWS = 1000
MAX_BLOCKS = 60
MIN_BLOCKS = 5  # below which no interval is given
LEVEL = 95  # [%]


@dataclass(frozen=True)
class Estimate:
    """A score of all blocks, and of each draw of them (DRAWS,); there are no draws where there are too few blocks."""

    value: float
    draws: FloatArray

    @property
    def interval(self) -> tuple[float, float]:
        """Bounds that hold LEVEL per cent of the draws; NaN without draws."""
        finite = self.draws[np.isfinite(self.draws)]
        if not len(finite):
            return float("nan"), float("nan")
        low, high = np.percentile(finite, [50 - LEVEL / 2, 50 + LEVEL / 2])
        return float(low), float(high)

    def differs(self, other: Estimate) -> bool:
        """Whether the difference of two systems, on the same draws of blocks, keeps its sign."""
        low, high = Estimate(0, self.draws - other.draws).interval
        return bool(low > 0 or high < 0)


class Blocks:
    """Consecutive days of hours since 1970-01-01T00, joined to at most MAX_BLOCKS blocks, and the draws of them."""

    def __init__(self, hours: Sequence[int]) -> None:
        days = sorted({hour // 24 for hour in hours})
        self.days = len(days)
        length = -(-self.days // MAX_BLOCKS)
        self._of_day = {day: place // length for place, day in enumerate(days)}
        self.count = self._of_day[days[-1]] + 1
        random = np.random.default_rng(0)
        self.enough = self.count >= MIN_BLOCKS
        draws = DRAWS if self.enough else 0
        self.weights = random.multinomial(self.count, np.full(self.count, 1 / self.count), size=draws).astype(float)

    def of(self, hour: int) -> int:
        """The block of an hour."""
        return self._of_day[hour // 24]

    def estimate(self, statistic: Statistic, *sums: FloatArray) -> Estimate:
        """Estimate a statistic of sums over blocks, each (blocks, ...).

        It is given totals (draws, ...) and returns (draws,).
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            whole = statistic(*(part.sum(axis=0)[None] for part in sums))
            draws = statistic(*(np.tensordot(self.weights, part, 1) for part in sums))
        return Estimate(float(whole[0]), draws)
