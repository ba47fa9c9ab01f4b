"""The hours of an archive for one use: which they are, where they have values, and one of them as a whole.

An hour is known by its place in its set. An archive may hold several sources, which may cover a part of the grid, and
several realizations of an hour; each is an hour of its own here.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ldmdown.console import say
from ldmdown.data.archive.store import Archive
from ldmdown.data.grid import Window
from ldmdown.errors import LdmdownError
from ldmdown.typing import BoolArray, Float32Array, IntArray

MAX_UNREADABLE = 0.01  # fraction of the hours of a set that may be unreadable
FOLDS = 5  # parts of the training days, each of which is left out of a closed form in turn
NO_FOLD = FOLDS


class HourSet:
    """The hours of an archive for one use, without those that turn out to be unreadable.

    Args:
        use: "train", "validation" or "test".
        weights: how many crops come from each source of the archive, relative to the others; None: from all the same.

    Raises LdmdownError when more than a hundredth of the hours, and more than one, cannot be read.
    """

    def __init__(self, archive: Archive, use: str, weights: Sequence[float] | None = None) -> None:
        self.archive, self.use = archive, use
        self.indices = archive.split(use)
        self.unreadable: set[int] = set()
        self._lock = threading.Lock()
        self._source = archive.source[self.indices]
        self._present = present = np.unique(self._source)
        self.of_source = [np.flatnonzero(self._source == source) for source in present]
        share = np.ones(len(present)) if weights is None else np.asarray(weights, float)[present]
        self._share = share / share.sum()
        self._corners: dict[tuple[int, tuple[int, int], int], IntArray] = {}
        days = archive.hours[self.indices] // 24
        self._fold = np.full(len(days), NO_FOLD)
        for places in self.of_source:
            different, rank = np.unique(days[places], return_inverse=True)
            if len(different) > 1:
                self._fold[places] = rank % FOLDS

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, place: int) -> str:
        """The time of an hour."""
        return f"{np.datetime64(int(self.archive.hours[self.indices[place]]), 'h')}"

    def weight(self, place: int) -> float:
        """What an hour counts, so that all hours of a source count as its weight says; 1 on average."""
        source = int(np.searchsorted(self._present, self._source[place]))
        return float(self._share[source] * len(self) / len(self.of_source[source]))

    def fold(self, place: int) -> int:
        """The part of the set that an hour's day is in, below FOLDS; NO_FOLD if its source has this day only."""
        return int(self._fold[place])

    def choose(self, random: np.random.Generator, count: int) -> list[int]:
        """Places of `count` hours drawn at random, from each source as often as its weight says."""
        sources = random.choice(len(self.of_source), size=count, p=self._share)
        fractions = random.random(count)
        chosen = [self.of_source[source] for source in sources]
        return [int(places[int(f * len(places))]) for places, f in zip(chosen, fractions, strict=True)]

    def choose_like(self, random: np.random.Generator, place: int) -> int:
        """The place of an hour drawn at random that has values in the same cells as another."""
        return int(random.choice(np.flatnonzero(self._source == self._source[place])))

    def consecutive(self) -> list[int]:
        """Places of hours that the next hour of the same realization follows."""
        keys = np.stack([self._source, self.archive.realization[self.indices], self.archive.hours[self.indices]])
        return np.flatnonzero((np.diff(keys) == [[0], [0], [1]]).all(axis=0)).tolist()

    def valid(self, place: int, margin: int = 0) -> BoolArray:
        """The coarse cells in which an hour has values, at least `margin` cells from those where it has none."""
        valid = self.archive.sources[self._source[place]].valid
        square = np.ones((2 * margin + 1,) * 2, bool)
        return ndimage.binary_erosion(valid, square, border_value=1) if margin else valid

    def window(self, place: int, multiple: int) -> Window:
        """The smallest (row, col, h, w) around the coarse cells with values whose sides are multiples of a number."""
        valid, sides = self.valid(place), []
        for axis, whole in enumerate(valid.shape):
            first, last = np.flatnonzero(valid.any(axis=1 - axis))[[0, -1]].tolist()
            side = min(-(-(last + 1 - first) // multiple) * multiple, whole)
            sides.append((min(first, whole - side), side))
        (row, h), (col, w) = sides
        return row, col, h, w

    def corners(self, place: int, size: tuple[int, int], margin: int = 0) -> IntArray:
        """First (row, col) of all windows of this size in which an hour has values: (N, 2).

        Raises LdmdownError if there is none.
        """
        key = int(self._source[place]), size, margin
        if key not in self._corners:
            source = replace(self.archive.sources[key[0]], valid=self.valid(place, margin))
            self._corners[key] = source.corners(size)
            if not len(self._corners[key]):
                raise LdmdownError(
                    self.archive.path,
                    f"its source `{source.name}` has no window with values in all cells",
                    expected=f"{size[0]} x {size[1]} coarse cells",
                    fix="train on smaller crops (train.STAGE.crop)",
                )
        return self._corners[key]

    def fill(self, place: int, predictors: Float32Array) -> Float32Array:
        """Normalised predictors (P, h, w) with those of the nearest cell where the hour has no values.

        Raises ValueError if some are missing where it should have values.
        """
        valid = self.valid(place)
        if not np.isfinite(predictors[:, valid]).all():
            raise ValueError("predictors are missing")
        if valid.all():
            return predictors
        nearest = ndimage.distance_transform_edt(~valid, return_distances=False, return_indices=True)
        return predictors[:, *nearest]

    def leave_out(self, place: int, error: object) -> None:
        """Name an hour that cannot be read, once. Raises LdmdownError if too many are unreadable."""
        with self._lock:
            if place in self.unreadable:
                return
            self.unreadable.add(place)
            say(f"{self.archive.path}: {self.name(place)} cannot be read ({error}): left out")
            if len(self.unreadable) > max(1, MAX_UNREADABLE * len(self)):
                raise LdmdownError(
                    self.archive.path,
                    "too many hours cannot be read",
                    found=", ".join(self.name(one) for one in sorted(self.unreadable)),
                    expected=f"at most {MAX_UNREADABLE:.0%} of {len(self)} hours",
                    fix="restore the archive, or delete it and run `ldmdown prepare`",
                )


def load_hour(hours: HourSet, place: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Normalised predictors, and target with NaN where it has no values, of a whole hour: each a batch of one."""
    archive = hours.archive
    fields = archive.read(int(hours.indices[place]))
    predictors, target = (
        archive.normalization[kind].normalize(fields[kind], names)
        for kind, names in (("predictors", archive.predictors), ("target", archive.targets))
    )
    first, second = (torch.from_numpy(part)[None].to(device) for part in (hours.fill(place, predictors), target))
    return first, second
