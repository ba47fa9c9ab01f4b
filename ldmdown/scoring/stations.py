"""How far fields lie from measurements at stations, summed hour by hour, station by station."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ldmdown.data.grid import SourceGrid, regrid
from ldmdown.data.reading.stations import Stations
from ldmdown.errors import LdmdownError
from ldmdown.scoring.terrain import LAPSE_RATE, Terrain

Array = NDArray[np.floating]
Interpolation = Literal["bilinear", "nearest"]


class StationScores:
    """Sums over hours at the stations inside a grid.

    Parameters
    ----------
    interpolation
        of fields to a station: bilinear, or the nearest cell's value.
    terrain
        brings temperatures from the height of the cells to that of the station; None: they are left.

    Raises
    ------
    LdmdownError
        if no station lies in the grid.
    """

    def __init__(
        self, stations: Stations, grid: SourceGrid, interpolation: Interpolation, terrain: Terrain | None
    ) -> None:
        inside = grid.covers(stations.lat, stations.lon)
        if terrain is not None:
            inside &= np.isfinite(stations.height)
        if not inside.any():
            raise LdmdownError(
                stations.file,
                "has no station in the area of the scores" + (", with its height" if terrain else ""),
                found=f"{stations.lon.min():.2f} to {stations.lon.max():.2f} E, "
                f"{stations.lat.min():.2f} to {stations.lat.max():.2f} N",
            )
        self.stations, self.interpolation = stations.only(inside), interpolation
        self.weights = grid.weights(self.stations.lat, self.stations.lon, nearest=interpolation == "nearest")
        self._higher = None if terrain is None else self._sample(terrain.fine) - self.stations.height
        self._sums: dict[tuple[str, str], Array] = defaultdict(lambda: np.zeros((9, len(self.stations.names))))
        self.hours = 0

    def add(self, hour: int, fields: Mapping[str, Mapping[str, Array]]) -> None:
        """An hour's fields by system and variable, each (rows, cols)."""
        measured = self.stations.values.get(hour)
        if measured is None:
            return
        self.hours += 1
        for system, named in fields.items():
            for key in named.keys() & measured.keys():
                here = self._sample(named[key])
                if key == "t2m" and self._higher is not None:
                    here = here + LAPSE_RATE * self._higher
                self._note(self._sums[system, key], here, measured[key])

    def results(self) -> dict[str, Any]:
        """By system and variable, lists over the stations, and numbers for all together."""
        scores: dict[str, Any] = {}
        everywhere: dict[str, Any] = {}
        for (system, key), sums in self._sums.items():
            scores.setdefault(system, {})[key] = _scores(sums)
            together = _scores(sums[:4].sum(axis=1))
            found = {name: float(together[name]) for name in ("count", "rmse", "bias", "mae")}
            pcc = scores[system][key]["pcc"]
            found["pcc"] = float(np.nanmean(pcc)) if np.isfinite(pcc).any() else float("nan")
            everywhere.setdefault(system, {})[key] = found
        places = zip(self.stations.names, self.stations.lat, self.stations.lon, self.stations.height, strict=True)
        return {
            "file": str(self.stations.file),
            "interpolation": self.interpolation,
            "height_corrected": self._higher is not None,
            "hours": self.hours,
            "stations": [dict(zip(("name", "lat", "lon", "height"), place, strict=True)) for place in places],
            "scores": scores,
            "all": everywhere,
        }

    def _sample(self, field: Array) -> Array:
        return regrid(self.weights, field, (len(self.stations.names), 1))[..., 0].astype(np.float64)

    @staticmethod
    def _note(sums: Array, here: Array, measured: Array) -> None:
        known = np.isfinite(here) & np.isfinite(measured)
        origin = 280.0 if np.nanmax(np.abs(measured), initial=0) > 150 else 0.0  # keeps squares of kelvins exact
        x, y = np.where(known, here, origin) - origin, np.where(known, measured, origin) - origin
        error = x - y
        rows = (known.astype(float), error, error**2, np.abs(error), x, y, x * x, y * y, x * y)
        for total, part in zip(sums, rows, strict=True):
            total += part


def _scores(sums: Array) -> dict[str, Array]:
    """Of sums of count, error, square, absolute error, and for the correlation x, y, their squares and product."""
    count, error, square, absolute = sums[:4]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "count": count,
            "rmse": np.sqrt(square / count),
            "bias": error / count,
            "mae": absolute / count,
        }
        if len(sums) > 4:
            x, y, xx, yy, xy = sums[4:] / count
            spread = np.sqrt(np.maximum(xx - x * x, 0) * np.maximum(yy - y * y, 0))
            found["pcc"] = np.where(spread > 1e-9, (xy - x * y) / spread, np.nan)
    return found
