"""How far a system's fields lie from the reference: sums over hours of errors, of one field and of ensembles.

One hour counts as much as another. Of an ensemble the first member is scored as a field, and all as a distribution.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from ldmdown import metrics
from ldmdown.scoring.geometry import Cells
from ldmdown.scoring.sums import add_sums, zeros
from ldmdown.typing import BoolArray, FloatArray

Truth = Mapping[str, FloatArray]
"""By name, each (rows, cols)."""
Ensemble = Mapping[str, FloatArray]
"""By name, each (member, rows, cols)."""

PATCH = 24  # cells along each side of what the energy score looks at together
WIND = ("u10", "v10")
HOURLY_SCORES = ("rmse", "bias", "r2", "pcc")
EVENTS = {  # variable, sign and threshold
    "ws10 above 5 m s-1": ("ws10", 1, 5.0),
    "ws10 above 10 m s-1": ("ws10", 1, 10.0),
    "ws10 above 15 m s-1": ("ws10", 1, 15.0),
    "t2m below 273.15 K": ("t2m", -1, 273.15),
}


class Accuracy:
    """Sums over the hours of one system on a grid, apart for each block of days.

    `surfaces` are masks (rows, cols) by the kinds of ground that are scored separately. Everything is by variable:
    `sums` (blocks,) of hourly means also by what is summed, with the number of hours under "hours" or "... hours";
    `hourly` also by score; `maps` (3, rows, cols) of count, error and squared error; `by_surface` (3, surfaces), the
    same over each surface; `ranks` (members + 1,), the rank histograms. `votes` (2, members + 1) are by event the
    forecasts and the events where so many members forecast it.
    """

    def __init__(self, shape: tuple[int, int], blocks: int, surfaces: Mapping[str, BoolArray]) -> None:
        self.sums: dict[tuple[str, str], FloatArray] = zeros(blocks)
        self.hourly: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.maps: dict[str, FloatArray] = zeros((3, *shape))
        self.ranks: dict[str, FloatArray] = {}
        self.votes: dict[str, FloatArray] = {}
        self.by_surface: dict[str, FloatArray] = zeros((3, len(surfaces)))
        masks = [mask.ravel() for mask in surfaces.values()]
        self._surfaces = np.array(masks, np.float32).reshape(len(masks), shape[0] * shape[1])

    def add(self, block: int, fields: Ensemble, truth: Truth, cells: Cells) -> None:
        """Take an hour."""
        for name, reference in truth.items():
            self._add_field(block, name, fields[name][0], reference, cells)
            self._add_members(block, name, cells.of(fields[name]), cells.of(reference))
        if set(WIND) <= set(truth):
            u, v = (cells.of(fields[name][0] - truth[name]) for name in WIND)
            square = u * u + v * v
            self._note(block, "wind", square=_mean(square), absolute=_mean(np.sqrt(square)))
        for event, (name, sign, threshold) in EVENTS.items():
            if name in truth and len(fields[name]) > 1:
                forecast, observed = (sign * cells.of(part[name]) > sign * threshold for part in (fields, truth))
                self.votes[event] = self.votes.get(event, 0.0) + np.stack(metrics.reliability(forecast, observed))
        if cells.complete is not None:
            whole = ({name: field[..., *cells.complete] for name, field in part.items()} for part in (fields, truth))
            self._add_structure(block, *whole)

    def join(self, later: Accuracy) -> None:
        """Take the hours of another one, which follow."""
        for name in ("sums", "hourly", "maps", "by_surface", "ranks", "votes"):
            add_sums(getattr(self, name), getattr(later, name))

    def _add_field(self, block: int, name: str, field: FloatArray, reference: FloatArray, cells: Cells) -> None:
        counts = np.ones(field.shape, np.float32) if cells.valid is None else cells.valid.astype(np.float32)
        error = field - reference if cells.valid is None else np.where(cells.valid, field - reference, 0)
        square = error * error
        for total, part in zip(self.maps[name], (counts, error, square), strict=True):
            total += part
        self.by_surface[name] += [self._surfaces @ part.ravel() for part in (counts, error, square)]
        field, reference, error, square = (cells.of(part) for part in (field, reference, error, square))
        self._note(block, name, square=_mean(square), error=_mean(error), absolute=_mean(np.abs(error)))
        hour: dict[str, float] = {
            "rmse": _mean(square) ** 0.5,
            "bias": _mean(error),
            "r2": metrics.r2(field, reference),
            "pcc": metrics.pcc(field, reference),
        }
        for score, value in hour.items():
            self.hourly[name, score].append(value)
        for score in ("r2", "pcc"):
            if np.isfinite(hour[score]):
                self.sums[name, score][block] += hour[score]
                self.sums[name, f"{score} hours"][block] += 1

    def _add_members(self, block: int, name: str, members: FloatArray, reference: FloatArray) -> None:
        self.sums[name, "crps"][block] += metrics.crps(members, reference)
        if len(members) == 1:
            return
        self.sums[name, "variance"][block] += _mean(np.var(members, axis=0, ddof=1))
        self.sums[name, "square of mean"][block] += _mean(np.square(members.mean(axis=0) - reference))
        self.ranks[name] = self.ranks.get(name, 0.0) + metrics.rank_histogram(members, reference)

    def _add_structure(self, block: int, fields: Ensemble, truth: Truth) -> None:
        """Add scores that look at several cells at once; the energy score is per root of a patch's cells."""
        rows, cols = next(iter(truth.values())).shape
        patch = PATCH if min(rows, cols) >= PATCH else None
        cells = PATCH**2 if patch else rows * cols
        variogram: dict[str, float] = {}
        for kind, names in (("t2m", ("t2m",)), ("wind", WIND), ("all", ("t2m", *WIND))):
            if set(names) <= set(truth):
                ensemble = np.stack([fields[name] for name in names], axis=1)
                reference = np.stack([truth[name] for name in names])
                energy = metrics.energy_score(ensemble, reference, patch) / cells**0.5
                self.sums[kind, "energy"][block] += energy
                if kind != "all":
                    variogram[kind] = metrics.variogram_score(ensemble, reference)
                else:  # a mean over variables
                    variogram[kind] = (variogram["t2m"] + 2 * variogram["wind"]) / 3
                self.sums[kind, "variogram"][block] += variogram[kind]
                self.sums[kind, "structure hours"][block] += 1

    def _note(self, block: int, name: str, **means: float) -> None:
        for what, value in means.items():
            self.sums[name, what][block] += value
        self.sums[name, "hours"][block] += 1


def _mean(values: FloatArray) -> float:
    return float(np.mean(values, dtype=np.float64))
