"""Files of predictions and of a reference, brought to one grid and read hour by hour.

The grid is the finest among the files; of grids that are nearly as fine the first prediction's, and a
prediction's before the reference's. What lies on another one is interpolated bilinearly, and noted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldmdown.data.grid import Array, SourceGrid, regrid
from ldmdown.data.reading.fields import Fields as FileFields
from ldmdown.data.reading.fields import fields_of
from ldmdown.data.reading.files import GriddedFiles
from ldmdown.errors import LdmdownError
from ldmdown.scoring.scorecard import System
from ldmdown.scoring.terrain import Terrain, read_heights

Fields = NDArray[np.float32]  # (member, variable, rows, cols)

KNOWN = ("t2m", "u10", "v10")
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
        groups = [GriddedFiles([path]) for path in predictions]
        held = GriddedFiles(reference)
        self.names = tuple(_common_names([*groups, held]))
        opened = [fields_of(files, self.names) for files in groups]
        truth = fields_of(held, self.names)
        labels = _labels(predictions)
        self.reference: dict[str, Any] = {"name": Path(reference[0]).name, "files": held.labels}
        self.notes = _notes([*groups, held])
        chosen = _finest([*opened, truth])
        whose = [*labels, self.reference["name"]][chosen]
        self.grid, rows, cols = _common_area([*opened, truth], chosen)
        lon, lat = self.grid.lonlat()
        self._truth = _on_grid(truth, [*opened, truth][chosen].grid, (rows, cols), lat, lon)
        self._parts = {label: _on_grid(one, [*opened, truth][chosen].grid, (rows, cols), lat, lon)
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
        return self._truth.read(hour)[0], {label: part.read(hour) for label, part in self._parts.items()}


@dataclass(frozen=True)
class _Part:
    """Opened files, and the way from their grid to the grid of the scores."""

    fields: FileFields
    index: dict[int, int]
    cut: tuple[slice, slice]  # where the files are on that grid
    weights: Any  # None: they are
    outside: NDArray[np.bool_]

    def read(self, hour: int) -> Fields:
        """(member, variable, rows, cols); a file without members has one."""
        values = np.stack([self.fields.read(self.index[hour], member) for member in range(self.fields.members)])
        if self.weights is None:
            return values[..., *self.cut]
        values = regrid(self.weights, values, self.outside.shape).astype(np.float32)
        values[..., self.outside] = np.nan
        return values


def _labels(paths: Sequence[Path]) -> list[str]:
    """File names, or whole paths where these are not enough."""
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _common_names(groups: Sequence[GriddedFiles]) -> list[str]:
    """The variables that all groups of files hold."""
    held = [set(files.variables()) & set(KNOWN) for files in groups]
    common = [name for name in KNOWN if all(name in one for one in held)]
    both = {"u10", "v10"} <= set(common)
    common = [name for name in common if name == "t2m" or both]  # one component cannot be turned
    if not common:
        found = [f"{files.label}: {', '.join(sorted(one)) or 'none'}" for files, one in zip(groups, held, strict=True)]
        raise LdmdownError(
            groups[0].label,
            "and the other files have no variable in common",
            found="; ".join(found),
            expected=f"one of {', '.join(KNOWN)}",
        )
    return common


def _notes(groups: Iterable[GriddedFiles]) -> list[str]:
    """What must be said of the files wherever their scores appear."""
    sources = [source for files in groups for source in files.sources]
    recipes = {str(one.attributes["twin_recipe"]) for one in sources if "twin_recipe" in one.attributes}
    return [f"twin, recipe {recipe}: a test world, not a regional model" for recipe in sorted(recipes)]


def _finest(parts: Sequence[FileFields]) -> int:
    """Which one's grid is that of the scores; the reference comes last."""
    spacing = [float(np.mean([np.mean(size) for size in part.grid.cell_size()])) for part in parts]
    return next(place for place, one in enumerate(spacing) if one <= SAME * min(spacing))


def _common_area(parts: Sequence[FileFields], chosen: int) -> tuple[SourceGrid, slice, slice]:
    """The chosen grid, cut to the box of its cells that all cover, and where it was cut."""
    grid = parts[chosen].grid
    lon, lat = grid.lonlat()
    inside = np.ones(grid.shape, bool)
    for place, part in enumerate(parts):
        if place != chosen:
            inside &= part.grid.covers(lat, lon)
            if not inside.any():
                raise LdmdownError(part.label, "covers nothing of the area of the others")
    rows, cols = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    if min(len(rows), len(cols)) < 2:
        raise LdmdownError(parts[0].label, "and the other files have less than two rows and columns in common")
    cut = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1)
    return SourceGrid(grid.y[cut[0]], grid.x[cut[1]], grid.crs), *cut


def _on_grid(fields: FileFields, grid: SourceGrid, cut: tuple[slice, slice], lat: Array, lon: Array) -> _Part:
    index = {hour: place for place, hour in enumerate(fields.hours.tolist())}
    source = fields.grid
    if source.is_close(grid):
        return _Part(fields, index, cut, None, np.zeros(lat.shape, bool))
    return _Part(fields, index, cut, source.weights(lat, lon), ~source.covers(lat, lon))


def _span(fields: FileFields) -> str:
    first, last = (np.datetime_as_string(fields.times[place], unit="h") for place in (0, -1))
    return f"{first} to {last}"
