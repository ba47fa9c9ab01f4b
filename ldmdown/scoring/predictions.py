"""Files of predictions and, if there is one, of a reference, brought to one grid and read hour by hour.

The grid is the finest among the files; of grids that are nearly as fine the first prediction's, and a
prediction's before the reference's. What lies on another one is interpolated bilinearly, and noted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ldmdown.data.grid import SourceGrid, regrid
from ldmdown.data.reading.fields import Fields, fields_of
from ldmdown.data.reading.files import GriddedFiles, few_open
from ldmdown.errors import LdmdownError
from ldmdown.scoring.geometry import Rectangle
from ldmdown.scoring.results import ReferenceFiles, ScoredSystem
from ldmdown.scoring.terrain import Terrain, heights_on
from ldmdown.typing import BoolArray, Float32Array

SCORED = ("t2m", "u10", "v10")
NEARLY_AS_FINE = 1.25  # times the finest spacing


class Predictions(AbstractContextManager["Predictions"]):
    """Systems that are files, until they are closed.

    Args:
        predictions: files, folders, or globs of files that follow each other in time; each is a system.
        reference: files, folders, or globs that count as true, all together; none where stations alone are scored
            against.
        terrain: a file of heights, or None.

    Attributes:
        names: the variables that all of them hold.
        grid, hours, systems: what is compared where and when.
        reference, notes: what the report says of the files.

    Raises LdmdownError if a file cannot be read or has other units, or no variable, place or hour is in all of them.
    """

    def __init__(self, predictions: Sequence[Path], reference: Sequence[Path], terrain: Path | None = None) -> None:
        self._arguments = tuple(predictions), tuple(reference), terrain
        with ExitStack() as stack:
            groups = [*([one] for one in predictions), *([reference] if reference else [])]
            files = [stack.enter_context(GriddedFiles(paths)) for paths in groups]
            self.names = tuple(_common_names(files))
            opened = [fields_of(one, self.names) for one in files]
            labels = [*_labels(predictions), *(Path(one).name for one in reference[:1])]
            self.reference = ReferenceFiles(name=labels[-1], files=files[-1].labels) if reference else None
            self.notes = _notes(files)
            self.terrain = self._open_grid(opened, labels, terrain)
            self.hours = sorted(set(self._parts[0].index).intersection(*(part.index for part in self._parts)))
            self._truth = self._parts.pop() if reference else None
            if not self.hours:
                last = "the reference" if reference else labels[-1]
                spans = f"{_span(opened[0])}, {last} {_span(opened[-1])}"
                wrong, fix = f"no common hours with {last}", "give files of the same hours"
                raise LdmdownError(predictions[0], wrong, found=spans, fix=fix)
            self._files = stack.pop_all()
        self.systems = [
            ScoredSystem(
                name=label, kind="prediction", members=len(part.fields.members), regridded=part.weights is not None
            )
            for label, part in zip(labels, self._parts, strict=False)
        ]

    def _open_grid(self, opened: Sequence[Fields], labels: Sequence[str], terrain: Path | None) -> Terrain | None:
        """Choose the grid of the scores, and find the way of every file to it."""
        spacing = [float(np.mean([np.mean(size) for size in one.grid.cell_size()])) for one in opened]
        chosen = next(place for place, one in enumerate(spacing) if one <= NEARLY_AS_FINE * min(spacing))
        cut = _common_area(opened, chosen)
        self.grid = opened[chosen].grid.part(*cut)
        self._parts = [_on_grid(one, opened[chosen].grid, cut, self.grid) for one in opened]
        for label, part in zip(labels, self._parts, strict=True):
            if part.weights is not None:
                self.notes.append(f"{label} was regridded bilinearly to the grid of {labels[chosen]}")
        if terrain is None and self.reference is not None:
            self.notes.append("no terrain is known (--terrain): no scores by kind of ground")
        if terrain is None:
            return None
        return Terrain(heights_on(self.grid, terrain))

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_again, self._arguments

    def read(self, hour: int) -> tuple[Float32Array | None, dict[str, Float32Array]]:
        """Read the reference (variable, rows, cols), or None, and each system (member, variable, rows, cols)."""
        return None if self._truth is None else self._truth.read(hour)[0], {
            one.name: part.read(hour) for one, part in zip(self.systems, self._parts, strict=True)
        }


@cache
def _opened_again(predictions: Sequence[Path], reference: Sequence[Path], terrain: Path | None) -> Predictions:
    """Open in another process, once until it ends."""
    few_open().__enter__()
    return Predictions(predictions, reference, terrain)


@dataclass(frozen=True)
class _Part:
    """Opened files, and the way from their grid to the grid of the scores."""

    fields: Fields
    index: dict[int, int]
    cut: Rectangle  # where the files are on that grid
    weights: Any = None  # None: they are
    outside: BoolArray = field(default_factory=lambda: np.zeros(0, bool))

    def read(self, hour: int) -> Float32Array:
        """Read (member, variable, rows, cols); a file without members has one."""
        values = np.stack([self.fields.read(self.index[hour], member) for member in range(len(self.fields.members))])
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
    held = [set(files.variables()) & set(SCORED) for files in groups]
    common = [name for name in SCORED if all(name in one for one in held)]
    both = {"u10", "v10"} <= set(common)
    common = [name for name in common if name == "t2m" or both]  # one component cannot be turned
    if not common:
        found = [f"{files.label}: {', '.join(sorted(one)) or 'none'}" for files, one in zip(groups, held, strict=True)]
        wrong, expected = "no common variables with the other files", f"one of {', '.join(SCORED)}"
        raise LdmdownError(groups[0].label, wrong, found="; ".join(found), expected=expected)
    return common


def _notes(groups: Iterable[GriddedFiles]) -> list[str]:
    """What must be said of the files wherever their scores appear."""
    sources = [source for files in groups for source in files.sources]
    recipes = {str(one.attributes["twin_recipe"]) for one in sources if "twin_recipe" in one.attributes}
    return [f"twin, recipe {recipe}: a test world, not a regional model" for recipe in sorted(recipes)]


def _common_area(parts: Sequence[Fields], chosen: int) -> Rectangle:
    """The box of the cells of the chosen grid that all cover."""
    lon, lat = parts[chosen].grid.lonlat()
    inside = np.ones(lon.shape, bool)
    for part in parts:
        inside &= part is parts[chosen] or part.grid.covers(lat, lon)
        if not inside.any():
            raise LdmdownError(part.label, "covers nothing of the area of the others")
    rows, cols = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    if min(len(rows), len(cols)) < 2:
        raise LdmdownError(parts[0].label, "fewer than two common rows and columns with the other files")
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1)


def _on_grid(fields: Fields, chosen: SourceGrid, cut: Rectangle, grid: SourceGrid) -> _Part:
    index = {hour: place for place, hour in enumerate(fields.hours.tolist())}
    if fields.grid.is_close(chosen):
        return _Part(fields, index, cut)
    lon, lat = grid.lonlat()
    return _Part(fields, index, cut, fields.grid.weights(lat, lon), ~fields.grid.covers(lat, lon))


def _span(fields: Fields) -> str:
    first, last = (np.datetime_as_string(fields.times[place], unit="h") for place in (0, -1))
    return f"{first} to {last}"
