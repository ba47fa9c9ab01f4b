"""Checkpoints and their baselines, compared on the hours of an archive."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ldmdown.checkpoint import Checkpoint, load
from ldmdown.config import FROM_REFERENCE
from ldmdown.consistency import MEANING, BoxConsistency, usual
from ldmdown.data.archive.box_means import era5_boxes
from ldmdown.data.archive.store import Archive
from ldmdown.errors import LdmdownError
from ldmdown.options import CheckpointOptions
from ldmdown.runtime import choose_device
from ldmdown.scoring.baselines import Baselines, interpolate
from ldmdown.scoring.evaluator import CheckpointGroup
from ldmdown.scoring.ideal import Ideal, above
from ldmdown.scoring.results import ReferenceFiles, ScoredSystem, SystemKind
from ldmdown.scoring.terrain import Terrain, heights_on
from ldmdown.twin.recipe import RECIPE
from ldmdown.typing import Float32Array

LABELS: dict[SystemKind, str] = {  # in the order of the table
    "mean": "U-Net",
    "gan": "GAN",
    "white noise": "scaled white noise",
    "member": "LDM",
    "ensemble mean": "LDM mean",
    "reconstruction": "VAE",
}
IDEAL = "ideal"
SAME_TRUTH = 0.05  # [K, m s-1] that rounding in files may change


class Systems:
    """Checkpoints and their baselines on the hours of an archive.

    Args:
        checkpoints: files or names; a comma joins those that make different variables into one system.
        archive: an archive that `prepare` finished, on the grid of the checkpoints.
        terrain: a file of heights; None: the archive's own, where it knows one.

    Raises LdmdownError if a checkpoint does not fit the archive, or the archive has no such hours.
    """

    def __init__(
        self, checkpoints: Sequence[str], archive: Path, options: CheckpointOptions, terrain: Path | None = None
    ) -> None:
        self._arguments = tuple(checkpoints), archive, options, terrain
        self._archive = Archive(archive)
        self._source = _source(self._archive, options.source)
        indices = self._archive.split(options.period).tolist()
        indices = [index for index in indices if self._archive.source[index] == self._source]
        self._index = {int(self._archive.hours[index]): index for index in indices}
        self.hours = sorted(self._index)[:: options.every]
        if not self.hours:
            raise LdmdownError(archive, f"has no hours of the period {options.period}", fix="add days to data.split")
        where = choose_device(options.device)
        loaded = [[load(name, where) for name in text.split(",")] for text in checkpoints]
        for checkpoint in chain(*loaded):
            _check(checkpoint, self._archive)
        multiple = math.lcm(*(one.model.size_multiple for one in chain(*loaded)))
        self._window = self._archive.window(self._source, multiple)
        self._boxes = era5_boxes(self._archive.grid.window(self._window))
        self.notes = [note for one in chain(*loaded) for note in _assumed(one)]
        self._groups = [
            CheckpointGroup(one, options.members, options.seed, self._window, self._consistency(one, options))
            for one in loaded
        ]
        self.names = self._groups[0].names
        for one in self._groups:
            if one.names != self.names:
                found, expected = (", ".join(names) for names in (one.names, self.names))
                wrong = f"makes other variables than {self._groups[0].label}"
                raise LdmdownError(one.label, wrong, found=found, expected=expected)
        self._channels = [self._archive.targets.index(name) for name in self.names]
        self.grid = self._archive.grid.window(self._window).cells
        part = f"{archive.name}, {options.source}" if options.source else archive.name
        self.reference = ReferenceFiles(name=f"{part}, {options.period} period", files=[str(archive)])
        self._members = options.members
        self._twin = self._open_twin()
        consistency = self._groups[0].consistency
        perfect_model = self._archive.fingerprint["sources"][self._source]["era5"] == [FROM_REFERENCE]
        self._ideal_keeps_to_era5 = perfect_model and consistency is not None and consistency.exact
        if self._twin is not None and self._ideal_keeps_to_era5:
            self.notes.append("the ideal ensemble keeps to the box means of the truth")
        self.terrain = self._terrain(terrain)
        self._baselines = Baselines(self._archive, self._source, self._window, self.names, self.terrain)
        self.notes += self._baselines.notes
        self._named = _unique_names(self._groups)
        self.systems = self._list()

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_again, self._arguments

    def read(self, hour: int) -> tuple[Float32Array, dict[str, Float32Array]]:
        """Read the reference (variable, rows, cols) and make the fields of each system."""
        held = self._archive.read(self._index[hour], self._window)
        truth = held["target"][self._channels]
        fields = self._baselines.fields(held["predictors"], hour)
        predictors = dict(zip(self._archive.predictors, held["predictors"], strict=True))
        kept = any(one.consistency is not None for one in self._groups)
        era5 = self._archive.read_boxes(self._index[hour], self._boxes.centres) if kept else {}
        for number, one in enumerate(self._groups):
            for kind, made in one.make(predictors, truth, hour, era5).items():
                if (number, kind) in self._named:
                    fields[self._named[number, kind]] = made
        if self._twin is not None:
            fields[IDEAL] = self._twin.ensemble(hour, self.names, self._members)
            if self._ideal_keeps_to_era5:
                self._groups[0].keep(fields[IDEAL], era5)
        return truth, {one.name: fields[one.name] for one in self.systems}

    def _consistency(self, group: Sequence[Checkpoint], options: CheckpointOptions) -> BoxConsistency | None:
        """What corrects the fields of checkpoints, as in `downscale`; the notes tell of it."""
        way = options.consistency or usual(one.config.consistency for one in group)
        if way == "free":
            return None
        label = "+".join(one.path.stem for one in group)
        targets = [name for one in group for name in one.config.targets]
        known = [one.header.get("box_differences", {}) for one in group]
        try:
            era5 = self._archive.read_boxes(self._index[self.hours[0]], self._boxes.centres)
            covered = {name: np.isfinite(field) for name, field in era5.items()}
            consistency = BoxConsistency(self._boxes, targets, covered, known, exact=way == "exact")
        except LdmdownError as error:
            if options.consistency:
                raise
            self.notes.append(f"box means of {label} do not keep to ERA5: {error.args[0].splitlines()[0]}")
            return None
        self.notes.append(f"{label} keeps to ERA5, {MEANING[way]}")
        return consistency

    def _list(self) -> list[ScoredSystem]:
        order = list(LABELS)
        named = [(kind, name) for (_, kind), name in self._named.items()]
        named = sorted(named, key=lambda one: order.index(one[0])) + ([("ideal", IDEAL)] if self._twin else [])
        members = dict.fromkeys(("member", "white noise", "ideal"), self._members)
        made = [ScoredSystem(name=name, kind=kind, members=members.get(kind, 1)) for kind, name in named]
        return [*self._baselines.systems, *made]

    def _open_twin(self) -> Ideal | None:
        plan = self._archive.fingerprint.get("twin")
        names = [one.name for one in self._archive.sources]
        if plan is None or self._source != (names.index("twin") if "twin" in names else 0):
            return None
        self.notes.append(f"twin, recipe {RECIPE}: a test world, not a regional model")
        try:
            twin = Ideal(self._archive.grid, self._window, plan, self._archive.path)
        except FileNotFoundError as error:
            self.notes.append(f"the ideal ensemble is left out: {error} is not there")
            return None
        hour = self.hours[0]
        truth = self._archive.read(self._index[hour], self._window)["target"][self._channels]
        if np.nanmax(np.abs(twin.draw(hour, self.names, 0) - truth)) > SAME_TRUTH:
            self.notes.append("the ideal ensemble is left out: the archive is of another recipe or terrain")
            return None
        return twin

    def _heights_of_boxes(self) -> tuple[Path | None, Path | None]:
        """The files of heights between which the temperature of box means was moved, if it was."""
        path, boxes = self._archive.path, self._archive.fingerprint["sources"][self._source]["box_means"]
        try:
            return above(path, boxes["reference_heights"]), above(path, boxes["era5_heights"])
        except FileNotFoundError as error:
            self.notes.append(f"the coarse terrain is not known: {error} is not there")
            return None, None

    def _terrain(self, file: Path | None) -> Terrain | None:
        factor = self._archive.grid.factor
        ours, era5 = self._heights_of_boxes()
        file = file or ours
        if file is not None:
            fine = heights_on(self.grid, file)
            rows, cols = fine.shape
            coarse = fine.reshape(rows // factor, factor, cols // factor, factor).mean(axis=(1, 3))
            if era5 is not None:
                coarse = heights_on(self._archive.grid.coarse.window(self._window).cells, era5)
            self.notes.append(f"the coarse terrain is {'the mean of the fine one' if era5 is None else era5.name}")
        elif self._twin is not None:
            fine, coarse = self._twin.heights()
        else:
            self.notes.append("no terrain is known (--terrain): no lapse rate correction, no scores by kind of ground")
            return None
        return Terrain(fine, interpolate(coarse[None], factor, 1)[0])


@cache
def _opened_again(
    checkpoints: Sequence[str], archive: Path, options: CheckpointOptions, terrain: Path | None
) -> Systems:
    """Load in another process, once until it ends."""
    return Systems(checkpoints, archive, options, terrain)


def _source(archive: Archive, name: str | None) -> int:
    names = [one.name for one in archive.sources]
    if name is None and len(names) == 1:
        return 0
    if name not in names:
        raise LdmdownError(
            archive.path,
            "has several sources" if name is None else "has no such source",
            found=name,
            expected=", ".join(names),
            fix="name one of them with --source",
        )
    return names.index(name)


def _check(checkpoint: Checkpoint, archive: Archive) -> None:
    if checkpoint.grid != archive.grid:
        grids = {"found": str(checkpoint.grid), "expected": str(archive.grid)}
        wrong = f"is on another grid than {archive.path}"
        raise LdmdownError(checkpoint.path, wrong, **grids, fix="prepare an archive on its grid")
    for what, ours, theirs in (
        ("predictors", checkpoint.config.predictors, archive.predictors),
        ("targets", checkpoint.config.targets, archive.targets),
    ):
        missing = ", ".join(name for name in ours if name not in theirs)
        if missing:
            wrong = f"has {what} that {archive.path} lacks"
            raise LdmdownError(checkpoint.path, wrong, found=missing, expected=", ".join(theirs))


def _assumed(checkpoint: Checkpoint) -> list[str]:
    """What is not known of a converted checkpoint, and what its scores rest on."""
    wind, regridding = checkpoint.header["wind"], checkpoint.header["regridding"]
    if (wind, regridding) == ("earth", "bilinear"):
        return []
    return [f"{checkpoint.path.stem}: its wind is taken as {wind}, and its regridding was {regridding}"]


def _unique_names(groups: Sequence[CheckpointGroup]) -> dict[tuple[int, SystemKind], str]:
    """Names by checkpoint and kind; the same U-Net in several checkpoints is one system."""
    made = [
        (number, kind)
        for number, one in enumerate(groups)
        for kind in one.kinds
        if not (kind == "mean" and any("mean" in other.kinds and one.same_mean(other) for other in groups[:number]))
    ]
    kinds = [kind for _, kind in made]
    return {
        (number, kind): LABELS[kind] + (f" ({groups[number].label})" if kinds.count(kind) > 1 else "")
        for number, kind in made
    }
