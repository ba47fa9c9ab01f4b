"""The content of scores.json, typed: a number that is not defined is NaN here and null in the file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from ldmdown.typing import FloatArray

SystemKind = Literal[
    "prediction",
    "interpolation",
    "regression",
    "mean",
    "gan",
    "white noise",
    "member",
    "ensemble mean",
    "reconstruction",
    "ideal",
]
Better = Literal["low", "high", "zero", "one"]
Number = Annotated[float, BeforeValidator(lambda value: np.nan if value is None else float(value))]
Values = Annotated[
    FloatArray,
    BeforeValidator(lambda values: np.asarray(values, np.float64)),
    PlainSerializer(lambda values: [float(value) if np.isfinite(value) else None for value in values]),
]
"""One-dimensional."""


class Part(BaseModel):
    """What every part of the results is."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, ser_json_inf_nan="null")


class ReferenceFiles(Part):
    """The fields that count as true."""

    name: str
    files: list[str]


class GridSummary(Part):
    """The grid of the scores."""

    rows: int
    cols: int
    spacing_km: float
    crs: str


class HoursSummary(Part):
    """The hours that are scored, and how many blocks of days the intervals are drawn from."""

    first: str
    last: str
    count: int
    days: int
    blocks: int


class ScoredVariable(Part):
    """What is scored: a variable, or several together."""

    long_name: str
    units: str


class ScoredSystem(Part):
    """One of the systems that are compared."""

    name: str
    kind: SystemKind
    members: int = 1
    regridded: bool = False


class Score(Part):
    """A value with its 95 % interval, which is NaN where there are too few blocks of days."""

    value: Number
    low: Number
    high: Number


class ScoreInfo(Part):
    """What a score is: `better` says which value is best, `units` "field" that they are the variable's."""

    short_name: str
    long_name: str
    better: Better
    units: str
    doi: str | None


class Best(Part):
    """The system with the best score, and those that are not significantly different from it."""

    system: str
    not_significantly_different_from: list[str]


class HourlyScores(Part):
    """Scores of single hours."""

    time: list[str]
    rmse: Values
    bias: Values
    r2: Values
    pcc: Values


class Distribution(Part):
    """Densities between edges, by system."""

    edges: Values
    density: dict[str, Values]


class ChangeDistribution(Distribution):
    """Distribution of changes from hour to hour, and the correlation of an hour with the next in a cell."""

    lag1: dict[str, Number]


class Spectra(Part):
    """Power by wavelength and by system, its ratio to the reference's, and the standard error of such ratios."""

    wavelength_km: Values
    power: dict[str, Values]
    ratio_db: dict[str, Values]
    error_db: Values
    effective_resolution_km: dict[str, Number]


class Reliability(Part):
    """How often an event happens (`observed`) by the share of members that forecast it, and in how many cases."""

    forecast: Values
    observed: Values
    count: Values


class Station(Part):
    """Where a station is: degrees, and metres above the sea."""

    name: str
    lat: float
    lon: float
    height: Number


class StationResults(Part):
    """Scores by system, variable and score, at each station and over all (of correlations the mean)."""

    file: str
    interpolation: str
    height_corrected: bool
    hours: int
    stations: list[Station]
    scores: dict[str, dict[str, dict[str, Values]]]
    all: dict[str, dict[str, dict[str, Number]]]


class Results(Part):
    """Everything that `evaluate` writes to scores.json.

    `scores` and `ratio_to_ideal` are by system, variable and score; `best` by variable and score; `by_surface` by kind
    of ground, system, variable and score; `hourly` by system and variable; `distribution`, `hour_to_hour` and
    `diurnal` by variable; `spectra` by t2m or ke; `rank_histogram` by system and variable, `reliability` by system and
    event.
    """

    ldmdown: str
    title: str
    created: str
    reference: ReferenceFiles
    notes: list[str]
    grid: GridSummary
    hours: HoursSummary
    variables: dict[str, ScoredVariable]
    systems: list[ScoredSystem]
    scores: dict[str, dict[str, dict[str, Score]]]
    score_info: dict[str, ScoreInfo]
    best: dict[str, dict[str, Best]]
    ratio_to_ideal: dict[str, dict[str, dict[str, Score]]]
    by_surface: dict[str, dict[str, dict[str, dict[str, Number]]]]
    hourly: dict[str, dict[str, HourlyScores]]
    distribution: dict[str, Distribution]
    spectra: dict[str, Spectra]
    rank_histogram: dict[str, dict[str, Values]]
    reliability: dict[str, dict[str, Reliability]]
    diurnal: dict[str, dict[str, Values]]
    hour_to_hour: dict[str, ChangeDistribution]
    stations: StationResults | None = None

    def units(self, score: str, variable: str) -> str:
        """Units of a score of a variable."""
        units = self.score_info[score].units
        return self.variables[variable].units if units == "field" else units

    def long_name(self, variable: str) -> str:
        """Long name of a variable."""
        return self.variables[variable].long_name

    def ordered(self, held: Iterable[str]) -> list[str]:
        """Names of the systems that are held, in table order."""
        return [one.name for one in self.systems if one.name in set(held)]
