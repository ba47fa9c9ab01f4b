"""One downscaling: the parts of the domain that are computed, hour by hour, and the checks of what comes out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import scipy.sparse

from ldmdown.consistency import BoxConsistency
from ldmdown.console import say
from ldmdown.data.grid import Grid, Window, regrid
from ldmdown.data.reading.blocks import moment
from ldmdown.data.reading.fields import Fields
from ldmdown.data.template import OutputTemplate
from ldmdown.data.variables import variable
from ldmdown.errors import LdmdownError
from ldmdown.inference import Predictor, ahead
from ldmdown.typing import BoolArray, Float32Array

JUST_OUTSIDE, FEW_CELLS = 0.05, 1e-3  # of physical bounds, and of the cells of a field: told, not refused


@dataclass(frozen=True, eq=False)
class Part:
    """A window of the domain that is computed at once, by a predictor for each checkpoint.

    `consistency` corrects the fields of the predictors' window, which is larger than `window`, if they are to keep to
    ERA5.
    Where an output holds sites, `served` are those (sites,) that lie in it, `weights` those of its cells, and `warmer`
    what is added to temperatures [K], since the site lies below the ground of the model.
    """

    predictors: Sequence[Predictor]
    window: Window
    grid: Grid
    consistency: BoxConsistency | None = None
    served: BoolArray | None = None
    weights: scipy.sparse.csr_array | None = None
    warmer: Float32Array | None = None

    @property
    def inner(self) -> tuple[slice, slice]:
        """Where the window lies in that of the predictors, in fine cells."""
        (row, col, rows, cols), first = self.window, self.predictors[0]
        return first.checkpoint.grid.fine((row - first.window[0], col - first.window[1], rows, cols))


@dataclass(frozen=True)
class Job:
    """One downscaling: the parts that are computed, the hours of the input, and what the output looks like."""

    parts: Sequence[Part]
    era5: Fields
    targets: tuple[str, ...]
    template: OutputTemplate

    def fields(self, indices: Sequence[int], reader: Executor) -> Iterator[tuple[int, dict[str, Float32Array]]]:
        """(index, the fields of the output by name) of each of these hours.

        All that is read is read by `reader`, one hour ahead.
        """
        running = [self._members(part, indices, reader) for part in self.parts]
        for made in zip(*running, strict=True):
            index, members = made[0][0], [fields for _, fields in made]
            yield index, self.template.reduced(members[0] if self.template.sites is None else self._sampled(members))

    @property
    def predictors(self) -> Sequence[Predictor]:
        """Those of the first part: in all but their window they are like the others."""
        return self.parts[0].predictors

    def _members(self, part: Part, indices: Sequence[int], reader: Executor) -> Iterator[tuple[int, Float32Array]]:
        """(index, (member, variable, rows, cols)) of a part."""
        running = [one.run(one.predictors(self.era5), indices, reader) for one in part.predictors]
        boxes = part.consistency.era5(self.era5) if part.consistency is not None else []
        era5 = ahead(lambda index: np.stack([one.read(index) for one in boxes]), indices if boxes else (), reader)
        for made in zip(*running, strict=True):
            index, targets = made[0][0], np.concatenate([fields for _, fields in made], axis=1)
            if part.consistency is not None:
                part.consistency.agree(targets, next(era5))
                targets = targets[..., *part.inner]
            fields = np.stack([self._field(targets, name) for name in self.template.variables], axis=1)
            self._check_physical(fields, index, part.grid)
            yield index, fields

    def _sampled(self, members: Sequence[Float32Array]) -> Float32Array:
        """(member, variable, sites) from the fields of each part, bilinearly."""
        variables, sites = self.template.variables, self.template.place
        values = np.empty((len(members[0]), len(variables), *sites.shape), np.float32)
        for part, fields in zip(self.parts, members, strict=True):
            assert part.weights is not None and part.warmer is not None
            here = regrid(part.weights, fields, part.warmer.shape)
            if "t2m" in variables:
                here[:, variables.index("t2m")] += part.warmer
            values[..., part.served] = here
        return values

    def _check_physical(self, fields: Float32Array, index: int, grid: Grid) -> None:
        """Refuse values that are not finite or not physical; a few that are just outside are told."""
        hour = moment(self.era5.hours[index])
        for channel, name in enumerate(self.template.variables):
            values, (low, high) = fields[:, channel], variable(name).bounds
            outside = ~((values >= low) & (values <= high))
            if not outside.any():
                continue
            member, row, col = np.argwhere(outside)[0]
            worst = np.abs(values[outside] - (low + high) / 2).max() / (high - low) - 0.5
            found = f"{values[member, row, col]:g} {variable(name).units} in {np.count_nonzero(outside)} cells, one at "
            found += f"{grid.lat[row, col]:.2f} N, {grid.lon[row, col]:.2f} E, {hour}"
            if not worst <= JUST_OUTSIDE or outside.mean() > FEW_CELLS:
                raise LdmdownError(
                    ", ".join(str(one.checkpoint.path) for one in self.predictors),
                    f"{name} comes out as what is not physical; it was not written",
                    found=found,
                    expected=f"{low:g} to {high:g} {variable(name).units}",
                    fix="try --precision fp32; if that does not help, the checkpoint is broken",
                )
            say(f"note: {name} is just outside {low:g} to {high:g}: {found}")

    def _field(self, made: Float32Array, name: str) -> Float32Array:
        if name == "ws10":
            return np.hypot(self._field(made, "u10"), self._field(made, "v10"))
        return made[:, self.targets.index(name)]
