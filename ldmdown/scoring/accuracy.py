"""How far a system's fields lie from the reference: sums over hours of errors, of one field and of ensembles.

One hour counts as much as another. Of an ensemble the first member is scored as a field, and all as a distribution.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from ldmdown import metrics
from ldmdown.scoring.geometry import Rectangle
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
    """Sums over the hours of one system.

    Parameters
    ----------
    shape
        (rows, cols).
    blocks
        number of blocks of days whose sums are kept apart.
    surfaces
        masks (rows, cols), by the names of the kinds of ground that are scored separately.

    Attributes
    ----------
    sums
        sums of hourly means (blocks,) by (variable, what); the number of hours under "hours" or "... hours".
    hourly
        one value an hour, by variable and score.
    maps
        count, error and squared error (3, rows, cols), by variable.
    by_surface
        the same sums over each surface (3, surfaces), by variable.
    ranks
        rank histograms (members + 1,), by variable.
    votes
        forecasts and events where k members forecast the event (2, members + 1), by event.
    """

    def __init__(self, shape: tuple[int, int], blocks: int, surfaces: Mapping[str, BoolArray]) -> None:
        self.sums: dict[tuple[str, str], FloatArray] = defaultdict(lambda: np.zeros(blocks))
        self.hourly: dict[str, dict[str, list[float]]] = {}
        self.maps: dict[str, FloatArray] = defaultdict(lambda: np.zeros((3, *shape)))
        self.ranks: dict[str, FloatArray] = {}
        self.votes: dict[str, FloatArray] = {}
        self.by_surface: dict[str, FloatArray] = defaultdict(lambda: np.zeros((3, len(surfaces))))
        self._surfaces = np.stack([mask.ravel() for mask in surfaces.values()]).astype(np.float32) if surfaces else None

    def add(
        self, block: int, fields: Ensemble, truth: Truth, valid: BoolArray | None, complete: Rectangle | None
    ) -> None:
        """Take an hour.

        Parameters
        ----------
        valid
            the cells that count; None: all.
        complete
            a part of the grid without missing cells, on which patches and pairs of cells are scored; None: nowhere.
        """
        for name, reference in truth.items():
            self._add_field(block, name, fields[name][0], reference, valid)
            self._add_members(block, name, _cells(fields[name], valid), _cells(reference, valid))
        if set(WIND) <= set(truth):
            u, v = (_cells(fields[name][0] - truth[name], valid) for name in WIND)
            square = u * u + v * v
            self._note(block, "wind", square=_mean(square), absolute=_mean(np.sqrt(square)))
        for event, (name, sign, threshold) in EVENTS.items():
            if name in truth:
                forecast, observed = (sign * _cells(part[name], valid) > sign * threshold for part in (fields, truth))
                self._vote(event, forecast, observed)
        if complete is not None:
            whole = ({name: field[..., *complete] for name, field in part.items()} for part in (fields, truth))
            self._add_structure(block, *whole)

    def _add_field(
        self, block: int, name: str, field: FloatArray, reference: FloatArray, valid: BoolArray | None
    ) -> None:
        error = field - reference if valid is None else np.where(valid, field - reference, 0)
        square = error * error
        for total, part in zip(self.maps[name], (1 if valid is None else valid, error, square), strict=True):
            total += part
        if self._surfaces is not None:
            held = np.ones(error.size, np.float32) if valid is None else valid.ravel().astype(np.float32)
            self.by_surface[name] += [self._surfaces @ part.ravel() for part in (held, error, square)]
        error, square = (_cells(part, valid) for part in (error, square))
        self._note(block, name, square=_mean(square), error=_mean(error), absolute=_mean(np.abs(error)))
        field, reference = (_cells(part, valid) for part in (field, reference))
        hour = {
            "rmse": _mean(square) ** 0.5,
            "bias": _mean(error),
            "r2": metrics.r2(field, reference),
            "pcc": metrics.pcc(field, reference),
        }
        hourly = self.hourly.setdefault(name, {score: [] for score in HOURLY_SCORES})
        for score, value in hour.items():
            hourly[score].append(value)
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

    def _vote(self, event: str, forecast: BoolArray, observed: BoolArray) -> None:
        if len(forecast) > 1:
            self.votes[event] = self.votes.get(event, 0.0) + np.stack(metrics.reliability(forecast, observed))

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


def _cells(fields: FloatArray, valid: BoolArray | None) -> FloatArray:
    """Flatten (..., rows, cols) to (..., cells)."""
    return fields.reshape(*fields.shape[:-2], -1) if valid is None else fields[..., valid]


def _mean(values: FloatArray) -> float:
    return float(np.mean(values, dtype=np.float64))
