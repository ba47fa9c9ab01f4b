"""Scores of several systems over the same hours, added up hour by hour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldmdown.data.grid import largest_rectangle
from ldmdown.data.variables import variable
from ldmdown.scoring import scores, summaries
from ldmdown.scoring.accuracy import WIND, Accuracy
from ldmdown.scoring.bootstrap import Blocks
from ldmdown.scoring.climatology import Climatology
from ldmdown.scoring.geometry import WHOLE, Cells, GridGeometry, Rectangle
from ldmdown.scoring.results import GridSummary, HoursSummary, ScoredSystem, ScoredVariable
from ldmdown.scoring.summaries import REFERENCE
from ldmdown.typing import BoolArray, FloatArray

SPEED = "ws10"
SMALLEST_RECTANGLE = 16  # cells along a side, below which a part of the grid has no spectrum worth drawing
COMBINED = {
    "wind": ("10 metre wind vector", "m s-1"),
    "divergence": ("divergence of the 10 metre wind", "s-1"),
    "vorticity": ("vorticity of the 10 metre wind", "s-1"),
    "all": ("temperature and wind together, 1 K counting as 1 m s-1", "1"),
}


class Scorecard:
    """Scores of systems on one grid.

    Where cells are missing in the first hour, as outside the area of a file, spectra, derivatives of the wind, energy
    and variogram scores are those of the largest rectangle without missing cells, in every hour that has all of it.

    `names` are the variables of the fields; with both wind components the speed is scored too. `hours` are those that
    will be added, since 1970-01-01T00, rising; `surfaces` masks by kind of ground, none where it is not known.
    """

    def __init__(
        self,
        names: Sequence[str],
        systems: Sequence[ScoredSystem],
        geometry: GridGeometry,
        hours: Sequence[int],
        surfaces: Mapping[str, BoolArray],
    ) -> None:
        self.names, self.systems, self.geometry = tuple(names), tuple(systems), geometry
        self.blocks = Blocks(hours)
        self.surfaces = {name: mask for name, mask in surfaces.items() if mask.any()}
        labels = [one.name for one in systems]
        self.series = {name: Climatology(geometry, self.blocks.count) for name in (REFERENCE, *labels)}
        self.accuracy = {name: Accuracy(geometry.shape, self.blocks.count, self.surfaces) for name in labels}
        self.scored: list[int] = []
        self.incomplete = 0
        self.rectangle: Rectangle | None = None
        self._rectangle_chosen = False

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables of the fields, and the wind speed."""
        return (*self.names, SPEED) if set(WIND) <= set(self.names) else self.names

    def add(
        self, hour: int, truth: FloatArray | None, fields: Mapping[str, FloatArray]
    ) -> dict[str, dict[str, FloatArray]]:
        """Take an hour: truth (variable, rows, cols), and by system (member, variable, rows, cols).

        All systems are scored on the same cells, those where none is missing; without a truth nothing is scored.
        Returns the fields (member, rows, cols) by system, the reference among them, and variable, with the wind speed.
        """
        ensembles = {name: self._named(members) for name, members in fields.items()}
        if truth is None:
            self.scored.append(hour)
            return ensembles
        named = self._named(truth)
        given = {REFERENCE: self._named(truth[None]), **ensembles}
        valid = _valid(truth, fields)
        if not self._choose_rectangle(valid):
            return given
        self.scored.append(hour)
        complete = self.rectangle if self.rectangle is not None and valid[self.rectangle].all() else None
        self.incomplete += complete is None
        block, cells = self.blocks.of(hour), Cells(None if valid.all() else valid, complete)
        for name, parts in given.items():
            self.series[name].add(hour, block, {key: members[0] for key, members in parts.items()}, cells)
        for name, ensemble in ensembles.items():
            self.accuracy[name].add(block, ensemble, named, cells)
        return given

    def choose_rectangle(self, truth: FloatArray, fields: Mapping[str, FloatArray]) -> bool:
        """Choose the part that has spectra, unless it is chosen, by an hour's cells; return whether it has any."""
        return self._choose_rectangle(_valid(truth, fields))

    def _choose_rectangle(self, valid: BoolArray) -> bool:
        if valid.any() and not self._rectangle_chosen:
            self.rectangle, self._rectangle_chosen = complete_part(valid), True
        return bool(valid.any())

    def begin(self, hour: int, truth: FloatArray | None, fields: Mapping[str, FloatArray]) -> None:
        """Take the hour before the first, from which that changes."""
        if truth is not None and _valid(truth, fields).any():
            for name, members in {REFERENCE: truth[None], **fields}.items():
                self.series[name].begin(hour, self._named(members[0]))

    def join(self, later: Scorecard) -> None:
        """Take the hours of another one, which follow, and its part that has spectra."""
        for name, series in self.series.items():
            series.join(later.series[name])
        for name, accuracy in self.accuracy.items():
            accuracy.join(later.accuracy[name])
        self.rectangle, self._rectangle_chosen = later.rectangle, later._rectangle_chosen
        self.scored += later.scored
        self.incomplete += later.incomplete

    def notes(self) -> list[str]:
        """What a reader of the scores must know."""
        found = []
        partial = "spectra, derivatives of the wind, energy and variogram scores"
        rows, cols = self._rectangle_shape()
        if self.rectangle is not None and (rows, cols) != self.geometry.shape:
            found.append(f"cells are missing: {partial} are of the largest rectangle without, {rows} x {cols} cells")
        if self.incomplete:
            found.append(f"{self.incomplete} of {len(self.scored)} hours have missing cells: {partial} leave them out")
        if not self.blocks.enough:
            found.append(f"{self.blocks.days} days are too few for intervals: no difference is claimed")
        return found

    def results(self) -> dict[str, Any]:
        """The parts of `Results` that follow from the fields, by name."""
        found = {
            one.name: scores.estimates(
                self.accuracy[one.name], self.series[one.name], self.series[REFERENCE], one.members, self.blocks
            )
            for one in self.systems
        }
        rows, cols = self.geometry.shape
        spacing = round(sum(self.geometry.spacing_km) / 2, 3)
        first, last = (str(np.datetime64(self.scored[place], "h")) for place in (0, -1))
        return {
            "grid": GridSummary(rows=rows, cols=cols, spacing_km=spacing, crs=self.geometry.grid.crs.name),
            "hours": HoursSummary(
                first=first, last=last, count=len(self.scored), days=self.blocks.days, blocks=self.blocks.count
            ),
            "variables": self._described(),
            "systems": list(self.systems),
            "scores": {
                name: {
                    key: {score: scores.with_interval(one) for score, one in estimates.items()}
                    for key, estimates in parts.items()
                }
                for name, parts in found.items()
            },
            "score_info": scores.SCORES,
            "best": scores.best(self.systems, found),
            "ratio_to_ideal": scores.ratios_to_ideal(self.systems, found),
            "by_surface": summaries.by_surface(self.accuracy, list(self.surfaces)),
            "hourly": summaries.hourly(self.accuracy, self.scored),
            "distribution": summaries.distributions(self.series),
            "spectra": summaries.spectra(self.series, self._rectangle_shape(), self.blocks.days),
            "rank_histogram": {name: part.ranks for name, part in self.accuracy.items() if part.ranks},
            "reliability": summaries.reliability(self.accuracy),
            "diurnal": summaries.diurnal(self.series, self.variables),
            "hour_to_hour": summaries.hour_to_hour(self.series),
        }

    def _named(self, fields: FloatArray) -> dict[str, FloatArray]:
        """Fields (..., rows, cols) by variable, of (..., variable, rows, cols)."""
        named = {name: fields[..., place, :, :] for place, name in enumerate(self.names)}
        if set(WIND) <= set(self.names):
            named[SPEED] = np.hypot(named["u10"], named["v10"])
        return named

    def _described(self) -> dict[str, ScoredVariable]:
        described = {name: (variable(name).long_name, variable(name).units) for name in self.variables}
        if set(WIND) <= set(self.names):
            described |= {name: text for name, text in COMBINED.items() if name != "all" or "t2m" in self.names}
        return {name: ScoredVariable(long_name=long, units=units) for name, (long, units) in described.items()}

    def _rectangle_shape(self) -> tuple[int, int]:
        return self.geometry.lat[self.rectangle].shape if self.rectangle is not None else (0, 0)


def _valid(truth: FloatArray, fields: Mapping[str, FloatArray]) -> BoolArray:
    """The cells (rows, cols) that nothing lacks."""
    parts = (truth[None], *fields.values())
    return np.logical_and.reduce([np.isfinite(part).all(axis=(0, 1)) for part in parts])


def complete_part(valid: BoolArray) -> Rectangle | None:
    """The largest part of a grid (rows, cols) whose cells are all valid; None where it is too small."""
    if valid.all():
        return WHOLE
    window = largest_rectangle(valid)
    if window is None or min(window[2:]) < SMALLEST_RECTANGLE:
        return None
    row, col, rows, cols = window
    return slice(row, row + rows), slice(col, col + cols)
