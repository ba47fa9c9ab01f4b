"""All scores of several systems over the same hours, added up hour by hour, as one dict of stable names.

The dict is what `evaluate` writes as scores.json: numbers as floats, None where a score is not defined.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ldmdown import metrics
from ldmdown.data.variables import variable
from ldmdown.scoring.accuracy import HOURLY, WIND, Accuracy
from ldmdown.scoring.bootstrap import Blocks, Estimate
from ldmdown.scoring.climate import BINS, CHANGES, Bins, Climate, Place

Array = NDArray[np.floating]
Kind = Literal["prediction", "interpolation", "mean", "gan", "white noise", "member", "ensemble mean",
               "reconstruction", "ideal"]  # fmt: skip
Statistic = Callable[..., Array]

SPEED = "ws10"
STRONG = 15.0  # [m s-1]
REFERENCE = "reference"
MOST_HOURLY = 10_000  # hours that are listed one by one; of longer series every n-th
MOST_BINS = 400  # of a distribution as it is written
OUT_OF_COMPETITION = ("reconstruction", "ideal")  # kinds that know what they predict, or the recipe of the truth
EXTRA = {
    "wind": ("10 metre wind vector", "m s-1"),
    "divergence": ("divergence of the 10 metre wind", "s-1"),
    "vorticity": ("vorticity of the 10 metre wind", "s-1"),
    "all": ("temperature and wind together, 1 K counting as 1 m s-1", "1"),
}


@dataclass(frozen=True)
class System:
    """One of those that are compared."""

    name: str
    kind: Kind
    members: int = 1
    regridded: bool = False


@dataclass(frozen=True)
class Score:
    """What a score is; `better` says which value is best, `units` "field" that they are the variable's."""

    long_name: str
    better: Literal["low", "high", "zero", "one"]
    units: str = "field"
    doi: str | None = None

    def distance(self, value: Array) -> Array:
        """From the best value; of two systems the smaller one is better."""
        return {"low": value, "high": -value, "zero": np.abs(value), "one": np.abs(np.log(np.maximum(value, 1e-9)))}[
            self.better
        ]


SCORES = {
    "rmse": Score("root-mean-square error", "low"),
    "bias": Score("mean error", "zero"),
    "mae": Score("mean absolute error", "low"),
    "r2": Score("coefficient of determination, mean over hours", "high", "1"),
    "pcc": Score("Pearson's correlation, mean over hours", "high", "1"),
    "crps": Score("fair continuous ranked probability score", "low", doi="10.1002/qj.2270"),
    "rmse_of_mean": Score("error of the mean of infinitely many members", "low", doi="10.1002/qj.2270"),
    "spread_skill": Score("spread over error of the mean", "one", "1", "10.1175/JHM-D-14-0008.1"),
    "energy_score": Score("fair energy score of patches of 24 x 24 cells, per root cell", "low",
                          doi="10.1198/016214506000001437"),
    "variogram_score": Score("fair variogram score of order 0.5", "low", doi="10.1175/MWR-D-14-00269.1"),
    "wasserstein": Score("Wasserstein distance of the distributions", "low", doi="10.3390/e19020047"),
    "p1_error": Score("error of the 1st percentile", "zero"),
    "p999_error": Score("error of the 99.9th percentile", "zero"),
    "above_15": Score("frequency above 15 m s-1, over the reference's", "one", "1"),
    "change_ratio": Score("root-mean-square change from hour to hour, over the reference's", "one", "1"),
    "lag1_error": Score("correlation of an hour with the next in a cell, less the reference's", "zero", "1"),
}  # fmt: skip
RATIOS = {"rmse": "rmse_of_mean", "crps": "crps", "energy_score": "energy_score", "variogram_score": "variogram_score"}
"""Scores that are compared with the ideal ensemble's, and which score of it."""


class Scorecard:
    """Scores of systems on one grid.

    Parameters
    ----------
    names
        the variables of the fields, in their order; with both wind components the speed is scored too.
    place
        the grid.
    hours
        that will be added, since 1970-01-01T00, rising.
    surfaces
        masks by kind of ground; empty where the ground is not known.
    """

    def __init__(
        self,
        names: Sequence[str],
        systems: Sequence[System],
        place: Place,
        hours: Sequence[int],
        surfaces: Mapping[str, NDArray[np.bool_]],
    ) -> None:
        self.names, self.systems, self.place, self.hours = tuple(names), tuple(systems), place, list(hours)
        self.blocks = Blocks(hours)
        self.surfaces = {name: mask for name, mask in surfaces.items() if mask.any()}
        self.reference = Climate(place, self.blocks.count)
        self.climate = {one.name: Climate(place, self.blocks.count) for one in systems}
        self.accuracy = {one.name: Accuracy(place.shape, self.blocks.count, self.surfaces) for one in systems}
        self.scored: list[int] = []
        self.incomplete = 0

    @property
    def variables(self) -> tuple[str, ...]:
        """Of the fields, with the wind speed."""
        return (*self.names, SPEED) if set(WIND) <= set(self.names) else self.names

    def add(self, hour: int, truth: Array, fields: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
        """An hour: truth (variable, rows, cols), and by system (member, variable, rows, cols).

        All systems are scored on the same cells, those where none is missing. Returns the fields by system (the
        reference among them, of an ensemble the first member) and variable, with the wind speed.
        """
        named = self._named(truth)
        ensembles = {name: self._named(members) for name, members in fields.items()}
        valid = np.ones(truth.shape[-2:], bool)
        for part in (truth[None], *fields.values()):
            valid &= np.isfinite(part).all(axis=(0, 1))
        mask = None if valid.all() else valid
        first = {name: {key: members[0] for key, members in parts.items()} for name, parts in ensembles.items()}
        if not valid.any():
            return {REFERENCE: named, **first}
        self.incomplete += mask is not None
        self.scored.append(hour)
        block = self.blocks.of(hour)
        self.reference.add(hour, block, named, mask)
        for name, ensemble in ensembles.items():
            self.climate[name].add(hour, block, first[name], mask)
            self.accuracy[name].add(block, ensemble, named, mask)
        return {REFERENCE: named, **first}

    def notes(self) -> list[str]:
        """What must be said of the scores."""
        found = []
        if self.incomplete:
            found.append(f"{self.incomplete} of {len(self.scored)} hours have missing cells: spectra, derivatives of "
                         "the wind, energy and variogram scores leave them out")  # fmt: skip
        if not self.blocks.certain:
            found.append(f"{self.blocks.days} days are too few for intervals: no difference is claimed")
        return found

    def _named(self, fields: Array) -> dict[str, Array]:
        """By variable, (..., rows, cols) of (..., variable, rows, cols)."""
        named = {name: fields[..., place, :, :] for place, name in enumerate(self.names)}
        if set(WIND) <= set(self.names):
            named[SPEED] = np.hypot(named["u10"], named["v10"])
        return named

    # What is reported

    def results(self) -> dict[str, Any]:
        """Everything but title, files and notes, which the caller knows."""
        estimates = {one.name: self._estimates(one) for one in self.systems}
        described = {name: (variable(name).long_name, variable(name).units) for name in self.variables}
        if set(WIND) <= set(self.names):
            described |= {name: text for name, text in EXTRA.items() if name != "all" or "t2m" in self.names}
        return plain({
            "grid": self._grid(),
            "hours": self._hours(),
            "variables": {name: {"long_name": long, "units": units} for name, (long, units) in described.items()},
            "systems": [vars(one) for one in self.systems],
            "scores": {name: {key: {score: _shown(one) for score, one in scores.items()}
                              for key, scores in parts.items()} for name, parts in estimates.items()},
            "score_info": {name: {"long_name": one.long_name, "units": one.units, "better": one.better, "doi": one.doi}
                           for name, one in SCORES.items()},
            "best": self._best(estimates),
            "ratio_to_ideal": self._ratios(estimates),
            "by_surface": self._by_surface(),
            "hourly": self._hourly(),
            "distribution": self._distributions(),
            "spectra": self._spectra(),
            "rank_histogram": {name: part.ranks for name, part in self.accuracy.items() if part.ranks},
            "reliability": self._reliability(),
            "diurnal": self._diurnal(),
            "hour_to_hour": self._changes(),
        })  # fmt: skip

    def maps(self) -> dict[str, dict[str, dict[str, Array]]]:
        """Of bias and RMSE in each cell: by score, variable and system (rows, cols) float32; NaN where never valid."""
        found: dict[str, dict[str, dict[str, Array]]] = {"bias": {}, "rmse": {}}
        for name, part in self.accuracy.items():
            for key, (count, error, square) in part.maps.items():
                count = np.where(count > 0, count, np.nan)
                found["bias"].setdefault(key, {})[name] = (error / count).astype(np.float32)
                found["rmse"].setdefault(key, {})[name] = np.sqrt(square / count).astype(np.float32)
        return found

    def _estimates(self, system: System) -> dict[str, dict[str, Estimate]]:
        accuracy, climate, members = self.accuracy[system.name], self.climate[system.name], system.members
        found: dict[str, dict[str, Estimate]] = {}
        for key, scores in self._statistics(members).items():
            for score, (statistic, parts) in scores.items():
                if all((key, part) in accuracy.sums for part in parts):
                    sums = [accuracy.sums[key, part] for part in parts]
                    found.setdefault(key, {})[score] = self.blocks.estimate(statistic, *sums)
        for key, bins in BINS.items():
            ours, theirs = climate.histogram[key], self.reference.histogram[key]
            if theirs.any():
                found.setdefault(key, {}).update(self._of_distribution(key, bins, ours, theirs))
        for key in self.variables:
            if key in climate.change_square:
                sums = [part.change_square[key][:, 0] for part in (climate, self.reference)]
                found[key]["change_ratio"] = self.blocks.estimate(lambda a, b: np.sqrt(a / b), *sums)
                error = climate.lag1(key) - self.reference.lag1(key)
                found[key]["lag1_error"] = Estimate(error, np.zeros(0))
        return found

    def _statistics(self, members: int) -> dict[str, dict[str, tuple[Statistic, tuple[str, ...]]]]:
        """By variable and score, the formula and the sums that it takes."""

        def ratio(a: Array, b: Array) -> Array:
            return a / b

        def root(a: Array, b: Array) -> Array:
            return np.sqrt(a / b)

        def spread_skill(variance: Array, square: Array) -> Array:
            return np.sqrt(variance * (members + 1) / members / np.where(square > 0, square, np.nan))

        def of_mean(square: Array, variance: Array, hours: Array) -> Array:
            return np.sqrt(np.maximum(square - variance / members, 0) / hours)

        field: dict[str, tuple[Statistic, tuple[str, ...]]] = {
            "rmse": (root, ("square", "hours")),
            "bias": (ratio, ("error", "hours")),
            "mae": (ratio, ("absolute", "hours")),
            "r2": (ratio, ("r2", "r2 hours")),
            "pcc": (ratio, ("pcc", "pcc hours")),
            "crps": (ratio, ("crps", "hours")),
            "rmse_of_mean": (of_mean, ("square of mean", "variance", "hours")),
            "spread_skill": (spread_skill, ("variance", "square of mean")),
            "energy_score": (ratio, ("energy", "structure hours")),
            "variogram_score": (ratio, ("variogram", "structure hours")),
        }
        return dict.fromkeys((*self.variables, "wind", "all"), field)

    def _of_distribution(self, key: str, bins: Bins, ours: Array, theirs: Array) -> dict[str, Estimate]:
        def tail(share: float) -> Statistic:
            return lambda a, b: metrics.percentile(a, bins.edges, share) - metrics.percentile(b, bins.edges, share)

        found = {
            "wasserstein": self.blocks.estimate(lambda a, b: metrics.wasserstein(a, b, bins.width), ours, theirs),
            "p1_error": self.blocks.estimate(tail(0.01), ours, theirs),
            "p999_error": self.blocks.estimate(tail(0.999), ours, theirs),
        }
        if key == SPEED:
            above = bins.edges[:-1] >= STRONG - 1e-9
            strong = [part[:, above].sum(axis=1) for part in (ours, theirs)]
            found["above_15"] = self.blocks.estimate(lambda a, b: a / np.where(b > 0, b, np.nan), *strong)
        return found

    def _best(self, estimates: dict[str, dict[str, dict[str, Estimate]]]) -> dict[str, dict[str, Any]]:
        """By variable and score the best system, and those from which its difference does not stand."""
        competing = [one.name for one in self.systems if one.kind not in OUT_OF_COMPETITION]
        found: dict[str, dict[str, Any]] = {}
        for key in {key: None for name in competing for key in estimates[name]}:
            for score, info in SCORES.items():
                held = {
                    name: estimates[name][key][score] for name in competing if score in estimates[name].get(key, {})
                }
                held = {name: one for name, one in held.items() if math.isfinite(one.value)}
                if len(held) < 2:
                    continue
                rated = {name: Estimate(float(info.distance(np.array(one.value))), info.distance(one.draws))
                         for name, one in held.items()}  # fmt: skip
                best = min(rated, key=lambda name: rated[name].value)
                level = [name for name, one in rated.items() if name != best and not one.differs(rated[best])]
                found.setdefault(key, {})[score] = {"system": best, "level_with": level}
        return found

    def _ratios(self, estimates: dict[str, dict[str, dict[str, Estimate]]]) -> dict[str, Any]:
        """Scores over those of the ideal ensemble, the error over that of its mean."""
        ideal = next((estimates[one.name] for one in self.systems if one.kind == "ideal"), None)
        if ideal is None:
            return {}
        found: dict[str, Any] = {}
        for name, parts in estimates.items():
            for key, scores in parts.items():
                for score, theirs in RATIOS.items():
                    if score in scores and theirs in ideal.get(key, {}):
                        a, b = scores[score], ideal[key][theirs]
                        with np.errstate(divide="ignore", invalid="ignore"):
                            ratio = Estimate(float(np.divide(a.value, b.value)), a.draws / b.draws)
                        found.setdefault(name, {}).setdefault(key, {})[score] = _shown(ratio)
        return found

    def _by_surface(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for place, surface in enumerate(self.surfaces):
            for name, part in self.accuracy.items():
                for key, (count, error, square) in part.by_surface.items():
                    if count[place]:
                        found.setdefault(surface, {}).setdefault(name, {})[key] = {
                            "rmse": math.sqrt(square[place] / count[place]),
                            "bias": error[place] / count[place],
                        }
        return found

    def _hourly(self) -> dict[str, Any]:
        step = -(-len(self.scored) // MOST_HOURLY) or 1
        time = [str(np.datetime64(hour, "h")) for hour in self.scored[::step]]
        return {
            name: {key: {"time": time} | {score: rounded(values[score][::step]) for score in HOURLY}
                   for key, values in part.hourly.items()}
            for name, part in self.accuracy.items()
        }  # fmt: skip

    def _series(self) -> dict[str, Climate]:
        return {REFERENCE: self.reference, **self.climate}

    def _distributions(self) -> dict[str, Any]:
        found = {}
        for key, bins in BINS.items():
            counts = {name: part.histogram[key].sum(axis=0) for name, part in self._series().items()}
            if counts[REFERENCE].any():
                found[key] = _density(bins, counts)
        return found

    def _changes(self) -> dict[str, Any]:
        found = {}
        for key, bins in CHANGES.items():
            counts = {name: part.change[key] for name, part in self._series().items()}
            if counts[REFERENCE].any():
                found[key] = _density(bins, counts)
                found[key]["lag1"] = {name: part.lag1(key) for name, part in self._series().items()}
        return found

    def _spectra(self) -> dict[str, Any]:
        found = {}
        error = metrics.sampling_error(self.place.shape, self.place.spacing_km, self.blocks.days)
        for kind, reference in self.reference.power.items():
            length = self.reference.wavelength_km
            power = {name: part.power[kind] / len(self.scored) for name, part in self._series().items()}
            found[kind] = {
                "wavelength_km": rounded(length),
                "power": {name: rounded(values) for name, values in power.items()},
                "ratio_db": {name: rounded(metrics.decibels(values, power[REFERENCE]))
                             for name, values in power.items() if name != REFERENCE},
                "error_db": rounded(error),
                "effective_resolution_km": {
                    name: metrics.effective_resolution(length, part.power[kind], reference, error)
                    for name, part in self.climate.items()
                },
            }  # fmt: skip
        return found

    def _reliability(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, part in self.accuracy.items():
            for event, (count, happened) in part.votes.items():
                found.setdefault(name, {})[event] = {
                    "forecast": np.linspace(0, 1, len(count)),
                    "observed": happened / np.where(count > 0, count, np.nan),
                    "count": count,
                }
        return found

    def _diurnal(self) -> dict[str, Any]:
        return {
            key: {name: part.diurnal[key][:, 0] / np.where(part.diurnal[key][:, 1] > 0, part.diurnal[key][:, 1], np.nan)
                  for name, part in self._series().items()}
            for key in self.variables
        }  # fmt: skip

    def _grid(self) -> dict[str, Any]:
        rows, cols = self.place.shape
        spacing = sum(self.place.spacing_km) / 2
        return {"rows": rows, "cols": cols, "spacing_km": round(spacing, 3), "crs": self.place.grid.crs.name}

    def _hours(self) -> dict[str, Any]:
        first, last = (str(np.datetime64(self.scored[place], "h")) for place in (0, -1))
        return {"first": first, "last": last, "count": len(self.scored), "days": self.blocks.days,
                "blocks": self.blocks.count}  # fmt: skip


def plain(content: Any) -> Any:
    """Content as JSON knows it: arrays as lists, None for what is no finite number."""
    if isinstance(content, Mapping):
        return {str(key): plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple | np.ndarray):
        return [plain(value) for value in content]
    if isinstance(content, float | np.floating):
        return float(content) if math.isfinite(content) else None
    return int(content) if isinstance(content, np.integer) else content


def rounded(values: Array | Sequence[float]) -> list[float]:
    """To six significant digits, which is more than any of them means."""
    return [float(f"{value:.6g}") for value in values]


def _shown(estimate: Estimate) -> dict[str, float]:
    low, high = estimate.interval
    return {"value": estimate.value, "low": low, "high": high}


def _density(bins: Bins, counts: Mapping[str, Array]) -> dict[str, Any]:
    """Densities over the bins that are used, at most MOST_BINS of them."""
    used = np.flatnonzero(sum(counts.values()) > 0)
    first, last = int(used[0]), int(used[-1]) + 1
    step = -(-(last - first) // MOST_BINS)
    starts = np.arange(first, last, step)
    edges = bins.low + bins.width * np.append(starts, min(starts[-1] + step, bins.number))
    density = {}
    for name, count in counts.items():
        joined = np.add.reduceat(count[:last], starts)
        density[name] = rounded(joined / (count.sum() * np.diff(edges)))
    return {"edges": rounded(edges), "density": density}
