"""Fields of files on the project's grid, hour by hour: states interpolated, amounts conservatively regridded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import scipy.sparse

from ldmdown.data.grid import EARTH_RADIUS, Grid, SourceGrid, Window, largest_rectangle, regrid
from ldmdown.data.reading.blocks import SKIP, moment
from ldmdown.data.reading.fields import Fields
from ldmdown.data.solar import LAGS, cos_zenith
from ldmdown.data.variables import Variable, variable
from ldmdown.errors import LdmdownError
from ldmdown.typing import BoolArray, Float32Array

Beyond = Literal["edge", "missing"]
Method = Literal["bilinear", "nearest", "conservative"]


class Regridded:
    """Fields on a grid, with the sun's height computed where it is asked for.

    Args:
        fields: of files.
        grid: whose cells are wanted; for predictors `grid.coarse.window(window)`.
        names: the variables in the order of the channels, those of the sun included.
        nearest: take the nearest value instead of interpolating.
        beyond: what cells take that lie beyond the fields: the value at the nearest edge, for a margin of the networks;
            or NaN, and then values may be missing inside too.
        member: the place of the member that is read; None: the fields must not be an ensemble.

    Raises LdmdownError if the fields are an ensemble of which no member is chosen.
    """

    def __init__(
        self,
        fields: Fields,
        grid: Grid,
        names: Sequence[str],
        *,
        nearest: bool = False,
        beyond: Beyond = "edge",
        member: int | None = None,
    ) -> None:
        if member is None and len(fields.members) > 1:
            raise LdmdownError(
                fields.label,
                "is an ensemble",
                found=f"{len(fields.members)} members",
                expected="one member",
                fix="select one, as with `cdo sellevidx`, `grib_copy -w number=1` or xarray",
            )
        self.variables = [variable(name) for name in names]
        self.grid, self.hours = grid, fields.hours
        self.notes: Sequence[str] = fields.notes
        self.member = member or 0
        self.number = fields.members[self.member]
        self._strict = beyond != "missing"
        self._method: dict[str, Method] = {
            known.name: "nearest" if nearest else known.regridding
            for known in self.variables
            if known.name in fields.names
        }
        self._way = _way(fields.grid, grid, tuple(sorted(set(self._method.values()))), beyond)
        self.fields = fields.crop(self._way.rows, self._way.cols)

    def read(self, index: int) -> Float32Array:
        """(variable, rows, cols) of one hour; NaN where a variable may be missing and is.

        Raises LdmdownError if a value is missing that must not be, or outside its physical bounds.
        """
        held = dict(zip(self.fields.names, self.fields.read(index, self.member), strict=True))
        result = np.empty((len(self.variables), *self.grid.shape), np.float32)
        for out, known in zip(result, self.variables, strict=True):
            if known.name in LAGS:
                out[:] = cos_zenith(int(self.hours[index]) - LAGS[known.name], self.grid.lat, self.grid.lon)
                continue
            if self._strict and known.fill is None:
                self._check_missing(known, held[known.name], index)
            out[:] = regrid(self._way.weights[self._method[known.name]], held[known.name], self.grid.shape)
        return result

    def _check_missing(self, known: Variable, field: Float32Array, index: int) -> None:
        missing = np.isnan(field)
        if not missing.any():
            return
        missing &= self._way.used[self._method[known.name]]
        if not missing.any():
            return
        row, col = np.argwhere(missing)[0]
        other = min(len(self.hours) - 1, 1) if index == 0 else index - 1
        always = (
            other != index and np.isnan(self.fields.read(other)[self.fields.names.index(known.name)])[missing].all()
        )
        raise LdmdownError(
            self.fields.label,
            f"{known.name} is missing",
            found=f"no value in {np.count_nonzero(missing)} of {missing.size} cells, such as "
            f"{self.fields.grid.place(row, col)}, at {moment(self.hours[index])}",
            expected="a value wherever it is needed",
            fix="give fields with values everywhere: other hours lack these too, as ERA5-Land lacks the sea"
            if always and not missing.all()
            else SKIP,
        )


def spacing_degrees(grid: SourceGrid) -> float:
    """The larger of a grid's spacings [degrees of a great circle]."""
    return max(grid.spacing) / (1 if grid.crs.is_geographic else np.radians(EARTH_RADIUS))


def covered_window(fields: Fields, grid: Grid) -> Window | None:
    """The largest window of coarse cells whose centres the fields enclose; None if there is none."""
    coarse = grid.coarse
    return largest_rectangle(fields.grid.covers(coarse.lat, coarse.lon))


def covered_margin(fields: Fields, grid: Grid, window: Window, margin: int) -> Window:
    """A window with up to `margin` more coarse cells on each side, as far as the fields enclose all their centres."""
    covered = fields.grid.covers(grid.coarse.lat, grid.coarse.lon)
    row, col, rows, cols = window
    first, last = [row, col], [row + rows, col + cols]
    for edges, step in ((first, -1), (last, 1)):
        for axis in (0, 1):
            for _ in range(margin):
                edges[axis] += step
                inside = min(first) >= 0 and last[0] <= covered.shape[0] and last[1] <= covered.shape[1]
                if not inside or not covered[first[0] : last[0], first[1] : last[1]].all():
                    edges[axis] -= step
                    break
    return first[0], first[1], last[0] - first[0], last[1] - first[1]


def check_coverage(fields: Fields, grid: Grid, window: Window) -> None:
    """Refuse fields that do not enclose every coarse cell of a window.

    Raises LdmdownError naming the two boxes and the fixes.
    """
    wanted = grid.coarse.window(window)
    if fields.grid.covers(wanted.lat, wanted.lon).all():
        return
    here = covered_window(fields, grid)
    download = "download a larger area"
    raise LdmdownError(
        fields.label,
        "covers too little of the domain" if here else "lies outside the domain",
        found=fields.grid.box,
        expected=f"at least {wanted.box}",
        fix=f"{download}, or downscale what is there with --region covered" if here else download,
    )


@dataclass(frozen=True)
class _Way:
    """The box of a source's cells that a grid is made from, and by method the weights (points, cells) of the box.

    `used` (rows, cols) tells which cells of the box have any weight.
    """

    rows: slice
    cols: slice
    weights: Mapping[Method, scipy.sparse.csr_array]
    used: Mapping[Method, BoolArray]


@lru_cache(maxsize=4)
def _way(source: SourceGrid, grid: Grid, methods: tuple[Method, ...], beyond: Beyond) -> _Way:
    whole = {method: _weights(source, grid, method, beyond) for method in methods}
    needed = np.unique(np.concatenate([weights.indices for weights in whole.values()]))
    rows, cols = (slice(int(one.min()), int(one.max()) + 1) for one in np.unravel_index(needed, source.shape))
    box = np.arange(source.shape[0] * source.shape[1]).reshape(source.shape)[rows, cols]
    weights = {method: one[:, box.ravel()] for method, one in whole.items()}
    used = {method: (one.sum(axis=0) > 0).reshape(box.shape) for method, one in weights.items()}
    return _Way(rows, cols, weights, used)


def _weights(source: SourceGrid, grid: Grid, method: Method, beyond: Beyond) -> scipy.sparse.csr_array:
    """Weights (points, cells) from all cells of the source."""
    to_edge = beyond == "edge"
    near = source.weights(grid.lat, grid.lon, nearest=method == "nearest", to_edge=to_edge)
    if method != "conservative":
        return near
    shares = source.conservative(grid)
    if to_edge:
        outside = np.diff(shares.indptr) == 0
        shares = (shares + scipy.sparse.diags_array(outside.astype(np.float32)) @ near).tocsr()
    return shares
