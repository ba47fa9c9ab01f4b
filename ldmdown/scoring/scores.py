"""What the scores are, and their values with intervals from the sums over hours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ldmdown import metrics
from ldmdown.scoring.accuracy import Accuracy
from ldmdown.scoring.bootstrap import Blocks, Estimate, Statistic
from ldmdown.scoring.climatology import BINS, Climatology
from ldmdown.scoring.results import Best, Better, Score, ScoredSystem, ScoreInfo
from ldmdown.typing import FloatArray

Estimates = dict[str, dict[str, Estimate]]
"""By variable and score."""

STRONG_WIND = 15.0  # [m s-1]
OUT_OF_COMPETITION = ("reconstruction", "ideal")  # kinds that know what they predict, or the recipe of the truth

_TABLE: tuple[tuple[str, str, str, Better, str], ...] = (
    ("rmse", "RMSE", "root-mean-square error", "low", "field"),
    ("bias", "Bias", "mean error", "zero", "field"),
    ("mae", "MAE", "mean absolute error", "low", "field"),
    ("r2", "R²", "coefficient of determination, mean over hours", "high", "1"),
    ("pcc", "PCC", "Pearson's correlation, mean over hours", "high", "1"),
    ("crps", "CRPS", "fair continuous ranked probability score", "low", "field"),
    ("rmse_of_mean", "RMSE of the mean", "error of the mean of infinitely many members", "low", "field"),
    ("spread_skill", "Spread / error", "spread over error of the mean", "one", "1"),
    ("energy_score", "Energy score", "fair energy score of 24 x 24 cells, per root cell", "low", "field"),
    ("variogram_score", "Variogram score", "fair variogram score of order 0.5", "low", "field"),
    ("wasserstein", "Wasserstein", "Wasserstein distance of the distributions", "low", "field"),
    ("p1_error", "1st percentile", "error of the 1st percentile", "zero", "field"),
    ("p999_error", "99.9th percentile", "error of the 99.9th percentile", "zero", "field"),
    ("above_15", "Above 15 m s⁻¹", "frequency above 15 m s-1, over the reference's", "one", "1"),
    ("change_ratio", "Hourly change", "root-mean-square change from hour to hour, over the reference's", "one", "1"),
    ("lag1_error", "Lag-1 correlation", "correlation of successive hours in a cell, less the reference's", "zero", "1"),
)
_DOIS = {
    "crps": "10.1002/qj.2270",
    "rmse_of_mean": "10.1002/qj.2270",
    "spread_skill": "10.1175/JHM-D-14-0008.1",
    "energy_score": "10.1198/016214506000001437",
    "variogram_score": "10.1175/MWR-D-14-00269.1",
    "wasserstein": "10.3390/e19020047",
}
SCORES = {
    name: ScoreInfo(short_name=short, long_name=long, better=better, units=units, doi=_DOIS.get(name))
    for name, short, long, better, units in _TABLE
}
IDEAL_SCORES = {"rmse": "rmse_of_mean"} | {name: name for name in ("crps", "energy_score", "variogram_score")}
"""Scores that are compared with the ideal ensemble's, and which score of it."""


def estimates(
    accuracy: Accuracy, climatology: Climatology, reference: Climatology, members: int, blocks: Blocks
) -> Estimates:
    """Every score of one system."""
    found: Estimates = {}
    for key in {key: None for key, _ in accuracy.sums}:
        for score, (statistic, parts) in _formulas(members).items():
            if all((key, part) in accuracy.sums for part in parts):
                sums = [accuracy.sums[key, part] for part in parts]
                found.setdefault(key, {})[score] = blocks.estimate(statistic, *sums)
    for key in BINS:
        if reference.histogram[key].any():
            histograms = climatology.histogram[key], reference.histogram[key]
            for score, statistic in _of_distribution(key).items():
                found.setdefault(key, {})[score] = blocks.estimate(statistic, *histograms)
    for key in climatology.change_square:
        sums = [part.change_square[key][:, 0] for part in (climatology, reference)]
        found[key]["change_ratio"] = blocks.estimate(_root_ratio, *sums)
        found[key]["lag1_error"] = Estimate(climatology.lag1(key) - reference.lag1(key), np.zeros(0))
    return found


def _ratio(a: FloatArray, b: FloatArray) -> FloatArray:
    return a / b


def _root_ratio(a: FloatArray, b: FloatArray) -> FloatArray:
    return np.sqrt(a / b)


def _formulas(members: int) -> dict[str, tuple[Statistic, tuple[str, ...]]]:
    """The formula of each score and the sums that it takes, for an ensemble of so many members."""

    def spread_skill(variance: FloatArray, square: FloatArray) -> FloatArray:
        return np.sqrt(variance * (members + 1) / members / np.where(square > 0, square, np.nan))

    def rmse_of_mean(square: FloatArray, variance: FloatArray, hours: FloatArray) -> FloatArray:
        return np.sqrt(np.maximum(square - variance / members, 0) / hours)

    return {
        "rmse": (_root_ratio, ("square", "hours")),
        "bias": (_ratio, ("error", "hours")),
        "mae": (_ratio, ("absolute", "hours")),
        "r2": (_ratio, ("r2", "r2 hours")),
        "pcc": (_ratio, ("pcc", "pcc hours")),
        "crps": (_ratio, ("crps", "hours")),
        "rmse_of_mean": (rmse_of_mean, ("square of mean", "variance", "hours")),
        "spread_skill": (spread_skill, ("variance", "square of mean")),
        "energy_score": (_ratio, ("energy", "structure hours")),
        "variogram_score": (_ratio, ("variogram", "structure hours")),
    }


def _of_distribution(key: str) -> dict[str, Statistic]:
    """The formulas of the scores of a variable's histogram and the reference's."""
    bins = BINS[key]

    def tail(share: float) -> Statistic:
        return lambda a, b: metrics.percentile(a, bins.edges, share) - metrics.percentile(b, bins.edges, share)

    def strong_wind(ours: FloatArray, theirs: FloatArray) -> FloatArray:
        a, b = (part[:, bins.edges[:-1] >= STRONG_WIND - 1e-9].sum(axis=1) for part in (ours, theirs))
        return a / np.where(b > 0, b, np.nan)

    return {
        "wasserstein": lambda a, b: metrics.wasserstein(a, b, bins.width),
        "p1_error": tail(0.01),
        "p999_error": tail(0.999),
        **({"above_15": strong_wind} if key == "ws10" else {}),
    }


def best(systems: Sequence[ScoredSystem], found: Mapping[str, Estimates]) -> dict[str, dict[str, Best]]:
    """The best of the competing systems by variable and score, where there are at least two."""
    competing = [one.name for one in systems if one.kind not in OUT_OF_COMPETITION]
    result: dict[str, dict[str, Best]] = {}
    for key in {key: None for name in competing for key in found[name]}:
        for score in SCORES:
            held = {name: found[name][key][score] for name in competing if score in found[name].get(key, {})}
            distance = {name: _distance(score, one) for name, one in held.items() if math.isfinite(one.value)}
            if len(distance) > 1:
                first = min(distance, key=lambda name: distance[name].value)
                level = [name for name, one in distance.items() if name != first and not one.differs(distance[first])]
                result.setdefault(key, {})[score] = Best(system=first, not_significantly_different_from=level)
    return result


def _distance(score: str, estimate: Estimate) -> Estimate:
    """How far a score is from its best value: of two systems the smaller one is better."""

    def distance(value: FloatArray) -> FloatArray:
        return {
            "low": value,
            "high": -value,
            "zero": np.abs(value),
            "one": np.abs(np.log(np.maximum(value, 1e-9))),
        }[SCORES[score].better]

    return Estimate(float(distance(np.array(estimate.value))), distance(estimate.draws))


def ratios_to_ideal(
    systems: Sequence[ScoredSystem], found: Mapping[str, Estimates]
) -> dict[str, dict[str, dict[str, Score]]]:
    """Scores over those of the ideal ensemble, the RMSE over that of its mean; nothing without that ensemble."""
    ideal = next((found[one.name] for one in systems if one.kind == "ideal"), {})
    ratios: dict[str, dict[str, dict[str, Score]]] = {}
    for name, parts in found.items():
        for key, scores in parts.items():
            for score, theirs in IDEAL_SCORES.items():
                if score in scores and theirs in ideal.get(key, {}):
                    a, b = scores[score], ideal[key][theirs]
                    with np.errstate(divide="ignore", invalid="ignore"):
                        ratio = Estimate(float(np.divide(a.value, b.value)), a.draws / b.draws)
                    ratios.setdefault(name, {}).setdefault(key, {})[score] = with_interval(ratio)
    return ratios


def with_interval(estimate: Estimate) -> Score:
    """A score as it is written."""
    low, high = estimate.interval
    return Score(value=estimate.value, low=low, high=high)
