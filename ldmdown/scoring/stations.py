"""How far fields lie from measurements at stations, summed hour by hour, station by station."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from ldmdown import metrics
from ldmdown.config import LAPSE_RATE
from ldmdown.data.grid import SourceGrid, box_of, regrid
from ldmdown.data.reading.stations import Stations
from ldmdown.errors import LdmdownError
from ldmdown.scoring.results import Station, StationResults
from ldmdown.scoring.sums import add_sums, zeros
from ldmdown.scoring.terrain import Terrain
from ldmdown.typing import FloatArray

Interpolation = Literal["bilinear", "nearest"]


class StationScores:
    """Sums over hours at the stations inside a grid.

    Fields are interpolated bilinearly to a station, or its nearest cell is taken. Temperatures are brought from the
    heights of a terrain to that of the station; without one they are left. Of an ensemble the first member is scored
    as a field, and all as a distribution.

    Raises LdmdownError if no station lies in the grid.
    """

    def __init__(
        self, stations: Stations, grid: SourceGrid, interpolation: Interpolation, terrain: Terrain | None
    ) -> None:
        inside = grid.covers(stations.lat, stations.lon)
        if terrain is not None:
            inside &= np.isfinite(stations.height)
        if not inside.any():
            wrong = "has no station in the area of the scores" + (", with its height" if terrain else "")
            raise LdmdownError(stations.file, wrong, found=box_of(stations.lon, stations.lat))
        self.stations, self.interpolation = stations.only(inside), interpolation
        self.weights = grid.weights(self.stations.lat, self.stations.lon, nearest=interpolation == "nearest")
        self._higher = None if terrain is None else self._sample(terrain.fine) - self.stations.height
        self._sums: dict[tuple[str, str], FloatArray] = zeros((12, len(self.stations.names)))
        self._members: dict[str, int] = {}
        self.hours = 0

    def add(self, hour: int, fields: Mapping[str, Mapping[str, FloatArray]]) -> None:
        """An hour's fields by system and variable, each (member, rows, cols)."""
        measured = self.stations.values.get(hour)
        if measured is None:
            return
        self.hours += 1
        for system, named in fields.items():
            for key in (name for name in named if name in measured):
                here = self._sample(named[key])
                self._members[system] = len(here)
                if key == "t2m" and self._higher is not None:
                    here = here + LAPSE_RATE * self._higher
                self._note(self._sums[system, key], here, measured[key])

    def join(self, later: StationScores) -> None:
        """Take the hours of another one, which follow."""
        add_sums(self._sums, later._sums)
        self._members |= later._members
        self.hours += later.hours

    def results(self) -> StationResults:
        """Scores by system and variable, at each station and for all together."""
        scores: dict[str, dict[str, dict[str, FloatArray]]] = {}
        together: dict[str, dict[str, dict[str, float]]] = {}
        for (system, key), sums in self._sums.items():
            series = scores.setdefault(system, {})[key] = _scores(sums, self._members[system])
            known = series["pcc"][np.isfinite(series["pcc"])]
            means = _scores(sums.sum(axis=1), self._members[system]) | {"pcc": known.mean() if known.size else np.nan}
            together.setdefault(system, {})[key] = {score: float(value) for score, value in means.items()}
        places = zip(self.stations.names, self.stations.lat, self.stations.lon, self.stations.height, strict=True)
        return StationResults(
            file=str(self.stations.file),
            interpolation=self.interpolation,
            height_corrected=self._higher is not None,
            hours=self.hours,
            stations=[Station(name=name, lat=lat, lon=lon, height=height) for name, lat, lon, height in places],
            scores=scores,
            all=together,
        )

    def _sample(self, field: FloatArray) -> FloatArray:
        return regrid(self.weights, field, (len(self.stations.names), 1))[..., 0].astype(np.float64)

    @staticmethod
    def _note(sums: FloatArray, here: FloatArray, measured: FloatArray) -> None:
        """Add an hour to sums (12, stations): fields (member, stations) and what was measured (stations,)."""
        known = np.isfinite(here).all(axis=0) & np.isfinite(measured)
        origin = 280.0 if np.nanmax(np.abs(measured), initial=0) > 150 else 0.0  # keeps squares of kelvins exact
        members, y = (np.where(known, values, origin) - origin for values in (here, measured))
        x, crps = members[0], metrics.crps_of_cells(members, y)
        error, error_of_mean = x - y, members.mean(axis=0) - y
        variance = members.var(axis=0, ddof=1) if len(members) > 1 else np.zeros_like(y)
        rows = (known, error, error**2, np.abs(error), x, y, x * x, y * y, x * y, crps, variance, error_of_mean**2)
        for total, part in zip(sums, rows, strict=True):
            total += part


def _scores(sums: FloatArray, members: int) -> dict[str, FloatArray]:
    """Scores (...) of sums (12, ...), in the order of `_note`, of so many members."""
    count = sums[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        error, square, absolute, x, y, xx, yy, xy, crps, variance, square_of_mean = sums[1:] / count
        spread = np.sqrt(np.maximum(xx - x * x, 0) * np.maximum(yy - y * y, 0))
        pcc = np.where(spread > 1e-9, (xy - x * y) / spread, np.nan)
        ratio = np.sqrt(variance * (members + 1) / members / np.where(square_of_mean > 0, square_of_mean, np.nan))
    scores = {"count": count, "rmse": np.sqrt(square), "bias": error, "mae": absolute, "pcc": pcc, "crps": crps}
    return scores | ({"spread_skill": ratio} if members > 1 else {})
