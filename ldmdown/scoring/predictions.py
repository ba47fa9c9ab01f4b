"""Files of predictions and of a reference, brought to one grid and read hour by hour.

The grid is the finest among the files; of grids that are nearly as fine the first prediction's, and a
prediction's before the reference's. What lies on another one is interpolated bilinearly, and noted.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.config
import numpy as np
from numpy.typing import NDArray

from ldmdown.data.grid import Array, SourceGrid, regrid
from ldmdown.data.reading.era5 import open_era5, source_grid
from ldmdown.data.reading.files import file_format, open_files
from ldmdown.data.reading.reference import Reference, open_parts, open_reference
from ldmdown.data.variables import variable
from ldmdown.errors import LdmdownError
from ldmdown.scoring.scorecard import System
from ldmdown.scoring.terrain import Terrain, read_heights

Fields = NDArray[np.float32]  # (member, variable, rows, cols)

KNOWN = ("t2m", "u10", "v10")
MEMBERS = ("realization", "number", "member")  # dimensions
SAME = 1.25  # times the finest spacing is nearly as fine


class Predictions:
    """Systems that are files.

    Parameters
    ----------
    predictions
        each a file, or a glob of files that follow each other in time.
    reference
        files, or globs of them, that count as true, all together.
    terrain
        a file of heights, or None.

    Attributes
    ----------
    names
        variables that all of them hold.
    grid, hours, systems
        what is compared where and when.
    reference, notes
        for the record.

    Raises
    ------
    LdmdownError
        if a file cannot be read or has other units, or no variable, place or hour is in all of them.
    """

    def __init__(self, predictions: Sequence[Path], reference: Sequence[Path], terrain: Path | None = None) -> None:
        groups = [_expand(path) for path in predictions]
        held = [file for path in reference for file in _expand(path)]
        contents = {file: _look(file) for files in [*groups, held] for file in files}
        self.names = tuple(_common_names([*groups, held], contents))
        opened = [_open(files, self.names, contents) for files in groups]
        truth = _open(held, self.names, contents)
        labels = _labels(predictions)
        self.reference: dict[str, Any] = {"name": Path(reference[0]).name, "files": [str(path) for path in held]}
        self.notes = _notes(contents.values())
        chosen = _finest([*opened, truth])
        whose = [*labels, self.reference["name"]][chosen]
        self.grid, rows, cols = _common_area([*opened, truth], chosen)
        lon, lat = self.grid.lonlat()
        self._truth = _on_grid(truth, [*opened, truth][chosen].source, (rows, cols), lat, lon)
        self._parts = {label: _on_grid(one, [*opened, truth][chosen].source, (rows, cols), lat, lon)
                       for label, one in zip(labels, opened, strict=True)}  # fmt: skip
        self.hours = sorted(set(self._truth.index).intersection(*(part.index for part in self._parts.values())))
        if not self.hours:
            raise LdmdownError(
                predictions[0],
                "and the reference have no hour in common",
                found=f"{_span(opened[0])}, reference {_span(truth)}",
                fix="give files of the same hours",
            )
        self.terrain = None if terrain is None else Terrain(read_heights(terrain, self.grid))
        if terrain is None:
            self.notes.append("no terrain is known (--terrain): no scores by kind of ground")
        first = self.hours[0]
        self.systems = [
            System(label, "prediction", len(part.read(first)), regridded=part.weights is not None)
            for label, part in self._parts.items()
        ]
        for label, part in {**self._parts, self.reference["name"]: self._truth}.items():
            if part.weights is not None:
                self.notes.append(f"{label} was regridded bilinearly to the grid of {whose}")

    def read(self, hour: int) -> tuple[NDArray[np.float32], dict[str, Fields]]:
        """(variable, rows, cols) of the reference, and the fields of each system."""
        with dask.config.set(scheduler="synchronous"):  # threads cost more than an hour's few chunks
            return self._truth.read(hour)[0], {label: part.read(hour) for label, part in self._parts.items()}


@dataclass(frozen=True)
class _Part:
    """Opened files, and the way from their grid to the grid of the scores."""

    fields: Reference
    index: dict[int, int]
    cut: tuple[slice, slice]  # where the files are on that grid
    weights: Any  # None: they are
    outside: NDArray[np.bool_]

    def read(self, hour: int) -> Fields:
        """(member, variable, rows, cols); a file without members has one."""
        values = self.fields.read(self.index[hour])
        values = np.moveaxis(values, 1, 0) if values.ndim == 4 else values[None]
        if self.weights is None:
            return values[..., *self.cut]
        values = regrid(self.weights, values, self.outside.shape).astype(np.float32)
        values[..., self.outside] = np.nan
        return values


def _expand(path: Path) -> list[Path]:
    if not any(sign in str(path) for sign in "*?["):
        return [path]
    found = sorted(glob.glob(str(path)))  # noqa: PTH207
    if not found:
        raise LdmdownError(path, "no such files", fix="check the pattern")
    return [Path(one) for one in found]


def _labels(paths: Sequence[Path]) -> list[str]:
    """File names, or whole paths where these are not enough."""
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


@dataclass(frozen=True)
class _Content:
    """What a file holds: its variables, the sizes of its dimensions, and the recipe of the twin that made it."""

    names: set[str]
    sizes: dict[str, int]
    recipes: set[str]


def _look(file: Path) -> _Content:
    """Once, whatever its grid, since to open a zip or GRIB takes time."""
    grib = file.is_file() and file_format(file) == "grib"
    parts = open_parts(file) if grib else [dataset for _, dataset in open_files([file])]
    content = _Content(
        {str(name) for part in parts for name in part.variables},
        {str(dim): size for part in parts for dim, size in part.sizes.items()},
        {str(part.attrs["twin_recipe"]) for part in parts if "twin_recipe" in part.attrs},
    )
    for part in parts:
        part.close()
    return content


def _common_names(groups: Sequence[Sequence[Path]], contents: Mapping[Path, _Content]) -> list[str]:
    """The variables that all groups of files hold."""
    held = []
    for files in groups:
        content = set[str]().union(*(contents[file].names for file in files))
        held.append({name for name in KNOWN if content & {name, *variable(name).aliases}})
    common = [name for name in KNOWN if all(name in one for one in held)]
    both = {"u10", "v10"} <= set(common)
    common = [name for name in common if name == "t2m" or both]  # one component cannot be turned
    if not common:
        found = [f"{files[0]}: {', '.join(sorted(one)) or 'none'}" for files, one in zip(groups, held, strict=True)]
        raise LdmdownError(groups[0][0], "and the other files have no variable in common", found="; ".join(found),
                           expected=f"one of {', '.join(KNOWN)}")  # fmt: skip
    return common


def _notes(contents: Iterable[_Content]) -> list[str]:
    """What must be said of the files wherever their scores appear."""
    recipes = set[str]().union(*(content.recipes for content in contents))
    return [f"twin, recipe {recipe}: a test world, not a regional model" for recipe in sorted(recipes)]


def _open(files: Sequence[Path], names: Sequence[str], contents: Mapping[Path, _Content]) -> Reference:
    sizes = contents[files[0]].sizes
    geographic = {"latitude", "longitude"} <= sizes.keys() or {"lat", "lon"} <= sizes.keys()
    if geographic and all(sizes.get(name, 1) == 1 for name in MEMBERS):
        era5 = open_era5(files, names)  # which converts units
        return Reference(era5, names, source_grid(era5), files[0])
    return open_reference(files, names)


def _finest(parts: Sequence[Reference]) -> int:
    """Which one's grid is that of the scores; the reference comes last."""
    spacing = [float(np.mean([np.mean(size) for size in part.source.cell_size()])) for part in parts]
    return next(place for place, one in enumerate(spacing) if one <= SAME * min(spacing))


def _common_area(parts: Sequence[Reference], chosen: int) -> tuple[SourceGrid, slice, slice]:
    """The chosen grid, cut to the box of its cells that all cover, and where it was cut."""
    grid = parts[chosen].source
    lon, lat = grid.lonlat()
    inside = np.ones(grid.shape, bool)
    for place, part in enumerate(parts):
        if place != chosen:
            inside &= part.source.covers(lat, lon)
            if not inside.any():
                raise LdmdownError(part.file, "covers nothing of the area of the others")
    rows, cols = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    if min(len(rows), len(cols)) < 2:
        raise LdmdownError(parts[0].file, "and the other files have less than two rows and columns in common")
    cut = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1)
    return SourceGrid(grid.y[cut[0]], grid.x[cut[1]], grid.crs), *cut


def _on_grid(fields: Reference, grid: SourceGrid, cut: tuple[slice, slice], lat: Array, lon: Array) -> _Part:
    hours = fields.times.astype("datetime64[h]").astype(np.int64).tolist()
    index = {hour: place for place, hour in enumerate(hours)}
    source = fields.source
    same = source.crs == grid.crs and source.shape == grid.shape
    if same and np.allclose(source.x, grid.x) and np.allclose(source.y, grid.y):
        return _Part(fields, index, cut, None, np.zeros(lat.shape, bool))
    return _Part(fields, index, cut, source.weights(lat, lon), ~source.covers(lat, lon))


def _span(fields: Reference) -> str:
    first, last = (np.datetime_as_string(fields.times[place], unit="h") for place in (0, -1))
    return f"{first} to {last}"
