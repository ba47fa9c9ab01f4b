"""Hours scored day by day, in this process or in several; each day has sums of its own, added up in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import groupby

from ldmdown.data import parallel
from ldmdown.scoring.scorecard import Scorecard
from ldmdown.scoring.stations import StationScores
from ldmdown.scoring.summaries import REFERENCE
from ldmdown.typing import FloatArray

Snapshots = dict[str, dict[str, FloatArray]]
"""Fields of an hour by system and variable."""
Read = Callable[[int], tuple[FloatArray | None, Mapping[str, FloatArray]]]
"""The truth (variable, rows, cols) of an hour, and by system its fields (member, variable, rows, cols)."""


@dataclass
class Sums:
    """What hours are added to."""

    card: Scorecard
    stations: StationScores | None
    snapshots: Snapshots = field(default_factory=dict)


@dataclass(frozen=True)
class Day:
    """A day to score."""

    read: Read
    empty: Sums
    hours: Sequence[int]
    continues: bool  # the hour before is there too, from which the first changes
    shown: int  # the hour whose fields are kept


def score_days(
    read: Read, empty: Sums, hours: Sequence[int], shown: int, processes: int | None, advance: Callable[[float], None]
) -> Iterator[Sums]:
    """Score hours, and give the sums of each day alone, which do not depend on the number of processes.

    Args:
        read: reads an hour; other processes can take it.
        shown: the hour whose fields are kept.
        processes: that score days side by side; None: one for each core.
        advance: is told of finished hours.
    """
    once = lru_cache(maxsize=1)(read)
    empty = deepcopy(empty)
    for hour in hours:
        truth, fields = once(hour)
        if truth is None or empty.card.choose_rectangle(truth, fields):
            break
    days = [
        Day(read, empty, day, day[0] - 1 in hours, shown)
        for day in (list(group) for _, group in groupby(hours, lambda hour: hour // 24))
    ]
    count = min(processes or parallel.workers(), len(days))
    if count == 1:
        yield from (_score_day(replace(day, read=once), advance) for day in days)
    else:
        yield from parallel.stream(
            _score_day,
            days,
            processes=count,
            threads=max(1, parallel.workers() // count),
            advance=lambda: advance(len(hours) / len(days)),
        )


def _score_day(day: Day, advance: Callable[[float], None] = lambda _: None) -> Sums:
    sums = deepcopy(day.empty)
    if day.continues:
        sums.card.begin(day.hours[0] - 1, *day.read(day.hours[0] - 1))
    for hour in day.hours:
        fields = sums.card.add(hour, *day.read(hour))
        if sums.stations is not None:
            sums.stations.add(hour, fields)
        if hour == day.shown and REFERENCE in fields:
            sums.snapshots |= {name: {key: one[0] for key, one in parts.items()} for name, parts in fields.items()}
        advance(1)
    return sums
