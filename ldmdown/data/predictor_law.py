"""What predictors look like together, by season and hour of the day: how far an hour lies from those of training.

The domain is cut into tiles. The features of an hour are, for each tile, the means of temperature and wind and the
logarithms of their energy at two scales. They are regressed on the season and the hour of the day; what is left has a
std for each feature and a correlation matrix, shrunk towards the unit matrix since days of training are few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy.ndimage import uniform_filter

from ldmdown.data.variables import variable
from ldmdown.typing import BoolArray, FloatArray, IntArray

if TYPE_CHECKING:
    from ldmdown.data.archive.store import Archive  # by way of zarr, which takes its time

NAMES = ("t2m", "u10", "v10")
TILES = (("north", "middle", "south"), ("west", "east"))
SCALES = ((1, 3), (3, 9))  # widths [coarse cells] of means whose difference is at a scale
FEATURES = (
    *((f"mean {name}", variable(name).units) for name in NAMES),
    *((f"{kind} at scales of up to {wide} coarse cells", "") for _, wide in SCALES for kind in ("t2m", "wind")),
)
SILENT = 1e-6  # energy that counts as none [units2]
SHRINKAGE = 0.1
DAMPING = 1.0  # hours, of the regression
FOLDS = 5  # of the days, of which each is left out in turn to find the limits
TOLD = 3  # features that are named
MOST_HOURS = 4000  # of training that are looked at
ARRAYS = ("mean", "std", "seasonal", "correlation", "limits")


@dataclass(frozen=True, eq=False)
class PredictorLaw:
    """The law of the features F of all tiles of training.

    Args:
        tiles: the numbers of the tiles that the training fields cover.
        mean, std: of the features (F,), the std about the regression.
        seasonal: coefficients (terms, F) of the regression.
        correlation: of what the regression leaves, (F, F).
        limits: the largest distances of training days left out, by the number of tiles that were looked at, from 1 on.
    """

    tiles: tuple[int, ...]
    mean: FloatArray
    std: FloatArray
    seasonal: FloatArray
    correlation: FloatArray
    limits: FloatArray

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """The law that `as_json` has written."""
        arrays: dict[str, Any] = {name: np.array(content[name], np.float64) for name in ARRAYS}
        return cls(tuple(content["tiles"]), **arrays)

    def as_json(self) -> dict[str, Any]:
        """All of it, with five significant digits."""
        return asdict(self) | {name: _rounded(getattr(self, name)).tolist() for name in ARRAYS}

    @classmethod
    def fit(cls, tiles: Sequence[int], hours: IntArray, features: FloatArray) -> Self:
        """The law of hours since 1970-01-01T00 with these features (hour, tile, feature)."""
        law = cls._fit(tiles, hours, features)
        fold = np.unique(hours // 24, return_inverse=True)[1] % FOLDS
        limits = np.zeros(len(tiles))
        for one in np.unique(fold):
            apart = fold == one
            rest = cls._fit(tiles, hours[~apart], features[~apart])
            scores = rest.scores(hours[apart], features[apart])
            for count in range(1, len(tiles) + 1):
                for chosen in combinations(range(len(tiles)), count):
                    limits[count - 1] = max(limits[count - 1], rest._distances(scores, chosen).max())
        return replace(law, limits=limits)

    @classmethod
    def _fit(cls, tiles: Sequence[int], hours: IntArray, features: FloatArray) -> Self:
        values, terms = features.reshape(len(features), -1), _terms(hours)
        mean = values.mean(axis=0)
        damped = terms.T @ terms + DAMPING * np.eye(terms.shape[1])
        seasonal = np.linalg.solve(damped, terms.T @ (values - mean))
        left = values - mean - terms @ seasonal
        std = np.maximum(left.std(axis=0), np.sqrt(SILENT))
        correlation = (1 - SHRINKAGE) * (left / std).T @ (left / std) / len(left) + SHRINKAGE * np.eye(len(std))
        return cls(tuple(tiles), mean, std, seasonal, correlation, np.ones(len(tiles)))

    def scores(self, hours: IntArray, features: FloatArray) -> FloatArray:
        """How many stds features (hour, tile, feature) lie from what is usual; NaN in tiles that are not covered."""
        usual = self.mean + _terms(hours) @ self.seasonal
        return ((features.reshape(len(features), -1) - usual) / self.std).reshape(features.shape)

    def distances(self, scores: FloatArray) -> FloatArray:
        """The Mahalanobis distance of each hour in units of its limit: 1 is the largest of training days left out.

        Empty if no tile is covered in all hours.
        """
        covered = _in_all_hours(scores)
        return self._distances(scores, covered) / self.limits[len(covered) - 1] if covered.size else np.zeros(0)

    def mean_distances(self, scores: FloatArray) -> FloatArray:
        """The same of the means alone, in stds: what scores lose grows with it, whatever is unlike in the input."""
        return self._distances(scores, _in_all_hours(scores), len(NAMES))

    def _distances(self, scores: FloatArray, tiles: Sequence[int] | IntArray, first: int | None = None) -> FloatArray:
        """The root mean square of decorrelated scores in some of the tiles, of the first features or of all."""
        kept = np.arange(scores[0].size).reshape(scores.shape[1:])[np.asarray(tiles), :first].ravel()
        values = scores.reshape(len(scores), -1)[:, kept]
        solved = np.linalg.solve(self.correlation[np.ix_(kept, kept)], values.T)
        return np.sqrt(np.maximum((values.T * solved).mean(axis=0), 0))

    def farthest(self, scores: FloatArray) -> str:
        """In words those features (tile, feature) of an hour that lie farthest from what is usual."""
        off, said = scores * self.std.reshape(scores.shape), []
        for feature in np.argsort(-np.nanmax(np.abs(scores), axis=0))[:TOLD]:
            tile = int(np.nanargmax(np.abs(scores[:, feature])))
            row, col = divmod(self.tiles[tile], len(TILES[1]))
            (what, units), much = FEATURES[feature], off[tile, feature]
            much = f"is {much:+.3g} {units} from" if units else f"varies {np.exp(much / 2):.2g} times"
            stds = f"{np.abs(scores[tile, feature]):.2g} stds"
            said.append(f"{what} {much} what is usual in the {TILES[0][row]} {TILES[1][col]} ({stds})")
        return "; ".join(said)


def predictor_law(archive: Archive) -> dict[str, Any]:
    """The law of the training hours of an archive, as JSON holds it; empty if there is none.

    It is that of the sources that cover most tiles; fewer than five days have none.
    """
    covered = [tuple(covered_tiles(source.valid).tolist()) for source in archive.sources]
    tiles = max(covered, key=len)
    indices = archive.split("train")
    indices = indices[np.isin(archive.source[indices], [i for i, one in enumerate(covered) if one == tiles])]
    indices = indices[np.linspace(0, len(indices) - 1, min(len(indices), MOST_HOURS)).astype(int)]
    days = np.unique(archive.hours[indices] // 24)
    if not tiles or len(days) < FOLDS or not set(NAMES) <= set(archive.predictors):
        return {}
    channels = [archive.predictors.index(name) for name in NAMES]
    fields = (archive.load_predictors(indices[[place]])[0, channels] for place in range(len(indices)))
    features = np.stack([tile_features(one)[list(tiles)] for one in fields])
    return PredictorLaw.fit(tiles, archive.hours[indices], features).as_json()


def _in_all_hours(scores: FloatArray) -> IntArray:
    """The places of the tiles of scores (hour, tile, feature) that are known in all hours."""
    return np.flatnonzero(np.isfinite(scores).all(axis=(0, 2)))


def covered_tiles(covered: BoolArray) -> IntArray:
    """The numbers of the tiles whose cells (rows, cols) are all covered."""
    return np.flatnonzero([part.all() for part in _tiles(covered)])


def tile_features(fields: FloatArray) -> FloatArray:
    """Features (tile, feature) of fields (variable, rows, cols) of NAMES.

    Each is of one tile alone, and NaN where a value is missing there.
    """
    return np.array([_features(part.astype(np.float64)) for part in _tiles(fields)])


def _tiles(field: FloatArray | BoolArray) -> list[Any]:
    rows, cols = (
        np.array_split(np.arange(size), len(parts)) for size, parts in zip(field.shape[-2:], TILES, strict=True)
    )
    return [field[..., row[:, None], col] for row in rows for col in cols]


def _features(field: FloatArray) -> FloatArray:
    """Those of a tile, as FEATURES names them."""
    features = [*field.mean(axis=(1, 2))]
    for fine, wide in SCALES:
        one, other = (uniform_filter(field, (0, width, width), mode="nearest") for width in (fine, wide))
        temperature, *wind = np.square(one - other).mean(axis=(1, 2))
        features += [np.log(temperature + SILENT), np.log(sum(wind) + SILENT)]
    return np.array(features)


def _terms(hours: IntArray) -> FloatArray:
    """Harmonics (hour, term) of the season and of the hour of the day, and products of the first ones."""
    season, day = (2 * np.pi * hours / period for period in (24 * 365.2425, 24))
    first = [[wave(angle) for wave in (np.cos, np.sin)] for angle in (season, day)]
    second = [wave(2 * angle) for angle in (season, day) for wave in (np.cos, np.sin)]
    return np.stack([*first[0], *first[1], *second, *(one * other for one in first[0] for other in first[1])], axis=1)


def _rounded(values: FloatArray) -> FloatArray:
    return np.array([float(f"{value:.5g}") for value in values.ravel()]).reshape(values.shape)
