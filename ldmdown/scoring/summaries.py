"""What figures show of the sums over hours: by system, and of the reference beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ldmdown import metrics
from ldmdown.scoring.accuracy import HOURLY_SCORES, Accuracy
from ldmdown.scoring.climatology import BINS, CHANGES, Bins, Climatology
from ldmdown.scoring.results import ChangeDistribution, Distribution, HourlyScores, Reliability, Spectra
from ldmdown.typing import Float32Array, FloatArray

Accuracies = Mapping[str, Accuracy]
Series = Mapping[str, Climatology]
"""By system, and the reference under this name."""

REFERENCE = "reference"
MAX_LISTED_HOURS = 10_000  # of longer series every n-th hour is listed
MAX_BINS = 400  # of a distribution as it is written


def error_maps(accuracy: Accuracies) -> dict[str, dict[str, dict[str, Float32Array]]]:
    """Bias and RMSE of each cell (rows, cols), by score, variable and system; NaN where a cell never counts."""
    found: dict[str, dict[str, dict[str, Float32Array]]] = {"bias": {}, "rmse": {}}
    for name, part in accuracy.items():
        for key, (count, error, square) in part.maps.items():
            count = np.where(count > 0, count, np.nan)
            found["bias"].setdefault(key, {})[name] = (error / count).astype(np.float32)
            found["rmse"].setdefault(key, {})[name] = np.sqrt(square / count).astype(np.float32)
    return found


def by_surface(accuracy: Accuracies, surfaces: Sequence[str]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """RMSE and bias, by kind of ground, system and variable."""
    found: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for place, surface in enumerate(surfaces):
        for name, part in accuracy.items():
            for key, sums in part.by_surface.items():
                count, error, square = (float(total) for total in sums[:, place])
                if count:
                    errors = {"rmse": math.sqrt(square / count), "bias": error / count}
                    found.setdefault(surface, {}).setdefault(name, {})[key] = errors
    return found


def hourly(accuracy: Accuracies, hours: Sequence[int]) -> dict[str, dict[str, HourlyScores]]:
    """Scores of single hours, by system and variable."""
    step = -(-len(hours) // MAX_LISTED_HOURS) or 1
    time = [str(np.datetime64(hour, "h")) for hour in hours[::step]]
    return {
        name: {
            key: HourlyScores(time=time, **{score: rounded(part.hourly[key, score][::step]) for score in HOURLY_SCORES})
            for key in dict.fromkeys(key for key, _ in part.hourly)
        }
        for name, part in accuracy.items()
        if part.hourly
    }


def distributions(series: Series) -> dict[str, Distribution]:
    """Densities of values, by variable."""
    counts = {key: {name: part.histogram[key].sum(axis=0) for name, part in series.items()} for key in BINS}
    return {key: _density(BINS[key], one) for key, one in counts.items() if one[REFERENCE].any()}


def hour_to_hour(series: Series) -> dict[str, ChangeDistribution]:
    """Densities of changes from hour to hour, by variable."""
    counts = {key: {name: part.change[key] for name, part in series.items()} for key in CHANGES}
    return {
        key: ChangeDistribution(
            **dict(_density(CHANGES[key], one)), lag1={name: part.lag1(key) for name, part in series.items()}
        )
        for key, one in counts.items()
        if one[REFERENCE].any()
    }


def spectra(series: Series, shape: tuple[int, int], days: int) -> dict[str, Spectra]:
    """Power spectra of temperature and kinetic energy, of so many days on a part of the grid of this shape."""
    found = {}
    reference = series[REFERENCE]
    for kind in reference.power:
        length = reference.wavelength_km
        error = metrics.sampling_error(shape, reference.geometry.spacing_km, days)
        power = {name: part.power[kind] / part.spectra for name, part in series.items()}
        systems = {name: values for name, values in power.items() if name != REFERENCE}
        found[kind] = Spectra(
            wavelength_km=rounded(length),
            power={name: rounded(values) for name, values in power.items()},
            ratio_db={name: rounded(metrics.decibels(values, power[REFERENCE])) for name, values in systems.items()},
            error_db=rounded(error),
            effective_resolution_km={
                name: metrics.effective_resolution(length, values, power[REFERENCE], error)
                for name, values in systems.items()
            },
        )
    return found


def reliability(accuracy: Accuracies) -> dict[str, dict[str, Reliability]]:
    """How often events happen that members forecast, by system and event."""
    return {
        name: {
            event: Reliability(
                forecast=np.linspace(0, 1, len(count)),
                observed=happened / np.where(count > 0, count, np.nan),
                count=count,
            )
            for event, (count, happened) in part.votes.items()
        }
        for name, part in accuracy.items()
        if part.votes
    }


def diurnal(series: Series, names: Sequence[str]) -> dict[str, dict[str, FloatArray]]:
    """The mean of each hour of the day (24,), by variable and system; NaN where no day has the hour."""

    def means(sums: FloatArray) -> FloatArray:
        return sums[:, 0] / np.where(sums[:, 1] > 0, sums[:, 1], np.nan)

    known = [key for key in names if key in series[REFERENCE].diurnal]
    return {key: {name: means(part.diurnal[key]) for name, part in series.items()} for key in known}


def rounded(values: FloatArray | Sequence[float]) -> FloatArray:
    """Values with six significant digits, which is more than any of them means."""
    return np.array([float(f"{value:.6g}") for value in values])


def _density(bins: Bins, counts: Mapping[str, FloatArray]) -> Distribution:
    """Edges and densities of the bins that are used, at most MAX_BINS of them."""
    used = np.flatnonzero(sum(counts.values()) > 0)
    first, last = int(used[0]), int(used[-1]) + 1
    step = -(-(last - first) // MAX_BINS)
    starts = np.arange(first, last, step)
    edges = bins.low + bins.width * np.append(starts, min(starts[-1] + step, bins.number))
    density = {
        name: rounded(np.add.reduceat(count[:last], starts) / (count.sum() * np.diff(edges)))
        for name, count in counts.items()
    }
    return Distribution(edges=rounded(edges), density=density)
