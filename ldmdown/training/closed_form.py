"""What is solved before the first step of the U-Net: estimated static fields, and the regression on static fields.

What was solved on some days fits them better than others. So that later networks see the errors of days to come, it
is also solved without each fifth of the training days (cross-fitting): the hours of these days get that solution.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce

import torch
from rich.progress import Progress
from torch import Tensor

from ldmdown.config import LAPSE_RATE, Config
from ldmdown.data.grid import Window
from ldmdown.data.variables import variable
from ldmdown.models.downscaler import Downscaler, StaticInputs
from ldmdown.models.regression import FlowRegression, LeastSquares, best_ridges, flow_features, solve, total
from ldmdown.models.static_embedding import CellRegression, Cells
from ldmdown.training.batches import CropSource
from ldmdown.training.hours import FOLDS, NO_FOLD

MOST_HOURS = 500  # at most so many hours of a source are taken
AT_ONCE = 8  # hours
STRIPS = 4  # of the domain, each of which is left out of the others' weights in turn
CELLS = 1024  # at random in each hour, for the weights that all cells share


class CrossFit:
    """Estimated fields and the regression's weights, solved without each fold of the training days; last, with all.

    `fields` are (FOLDS + 1, E, rows, cols), `weights` (FOLDS + 1, T, 1 + S, F).
    """

    def __init__(self, model: Downscaler, regression: FlowRegression, given: int) -> None:
        self.model, self.regression, self.given = model, regression, given
        self.fields = torch.stack([model.statics[given:]] * (FOLDS + 1))
        self.weights = torch.stack([regression.weight] * (FOLDS + 1))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What is solved."""
        return {"cross_fit.fields": self.fields, "cross_fit.weights": self.weights}

    def take_model(self) -> None:
        """Take the model's fields and weights for every fold."""
        self.fields.copy_(self.model.statics[self.given :])
        self.weights.copy_(self.regression.weight)

    def put_into(self, inputs: StaticInputs, folds: Sequence[int], corners: Sequence[tuple[int, int]]) -> None:
        """Give each sample the fields and weights of its fold; `corners` are where the windows begin."""
        h, w = (side // self.model.factor for side in inputs.fields.shape[-2:])
        for sample, fold, corner in zip(inputs.fields, folds, corners, strict=True):
            sample[self.given : len(self.model.statics)] = self.fields[fold][self.model.fine_window(corner, h, w)]
        inputs.weights = self.weights[list(folds)]


class ClosedForm:
    """The closed forms of a model and its training hours."""

    def __init__(
        self, config: Config, model: Downscaler, sources: Mapping[str, CropSource], progress: Progress
    ) -> None:
        self.config, self.model, self.sources, self.progress = config, model, sources, progress
        self.given = len(config.statics.fields)  # the fields after these are estimated
        self.precision = torch.ones(len(config.targets))  # 1 / std of the error of each target, so that all count alike

    def solve(self, cross_fit: CrossFit | None) -> None:
        """Give the model its estimated static fields and its regression; fill in `cross_fit`.

        The fields start as principal components of what each cell does with the residual that the regression leaves
        without them. Then weights and fields are solved in turn (alternating least squares).
        """
        if cross_fit is not None:
            self._solve_weights(cross_fit)
        if self.config.statics.embedding:
            self._solve_components()
            if cross_fit is not None:
                cross_fit.take_model()
                self._solve_weights(cross_fit)
                self._solve_fields(cross_fit)
        if cross_fit is not None:
            self._solve_weights(cross_fit, [*range(FOLDS), NO_FOLD])

    def _hours(self) -> Iterator[tuple[int, float, Cells, Tensor, Tensor]]:
        """Some hours of one fold at once, where they have values.

        Given are the fold, the weight of each hour, the fine cells, predictors (N, P, h, w), and the residual of the
        interpolation (N, T, H, W).
        """
        source = self.sources["train"]
        hours = source.hours
        groups: dict[tuple[int, float, Window], list[int]] = {}
        for of_source in hours.of_source:
            every = -(-len(of_source) // MOST_HOURS)
            for place in of_source[::every].tolist():
                key = hours.fold(place), every * hours.weight(place), hours.window(place, 1)
                groups.setdefault(key, []).append(place)
        task = self.progress.add_task("closed form", total=sum(map(len, groups.values())))
        for (fold, weight, (row, col, h, w)), places in groups.items():
            cells = self.model.fine_window((row, col), h, w)
            for first in range(0, len(places), AT_ONCE):
                some = places[first : first + AT_ONCE]
                batch = source.batch([source.crop(place, (row, col), (h, w), seed=place) for place in some])
                fine = self.model.interpolate(batch["predictors"])
                yield fold, weight, cells, batch["predictors"], batch["target"] - self.model.interpolated_targets(fine)
                self.progress.advance(task, len(some))

    def _statics(self, fields: Tensor | None = None) -> Tensor:
        """All static fields of the whole grid (S, H, W); `fields` stand for the model's estimated ones."""
        whole = self.sources["train"].hours.archive.grid.coarse.shape
        statics = self.model.statics_at([(0, 0)], *whole).fields[0]
        if fields is not None:
            statics[self.given : len(self.model.statics)] = fields
        return statics

    def _lapse_rate(self, regression: FlowRegression) -> Tensor:
        """Weights (T, 1 + S, F) of a constant lapse rate between the two terrains; zero where one is not given."""
        weight = torch.zeros_like(regression.weight)
        archive, fields = self.sources["train"].hours.archive, self.config.statics.fields
        if "t2m" in archive.targets and {"z", "coarse_z"} <= set(fields):
            of_t2m = weight[archive.targets.index("t2m"), :, 0]
            per_metre = -LAPSE_RATE / archive.normalization["target"].std["t2m"]
            for name, sign in (("z", 1), ("coarse_z", -1)):
                scale = archive.statics_normalization[name]
                of_t2m[1 + fields.index(name)] = sign * per_metre * scale["std"]
                of_t2m[0] += sign * per_metre * scale["mean"]
        return weight

    def _solve_weights(self, cross_fit: CrossFit, left_out: Sequence[int] = (NO_FOLD,)) -> None:
        """The regression's weights, of all cells and hours together but without each of these folds.

        What cells share must hold for terrain not seen. So the ridge draws temperature to a constant lapse rate, and it
        is as strong as is best where the weights of other strips of the domain, west to east, are used for a strip.
        """
        regression, prior = cross_fit.regression, self._lapse_rate(cross_fit.regression)
        solvers = {fold: [LeastSquares(prior) for _ in range(STRIPS)] for fold in left_out}
        statics = {fold: self._statics(cross_fit.fields[fold]) for fold in left_out}
        rows, cols = self.model.statics.shape[1:]
        strips = (torch.arange(cols) * STRIPS // cols).expand(rows, cols)
        random = torch.Generator().manual_seed(self.config.train.seed)
        for fold, weight, window, predictors, residuals in self._hours():
            taking = [without for without in left_out if without == NO_FOLD or without != fold]
            fields = {without: statics[without][window].flatten(1) for without in taking}
            flows = regression.interpolate(flow_features(predictors, regression.channels))
            strip = strips[window].flatten()
            for flow, residual in zip(flows.flatten(2), residuals.flatten(2), strict=True):
                for number, cells in _cells_of_strips(residual, strip, random):
                    for without, static in fields.items():
                        added = flow[:, cells], static[:, cells], residual[:, cells], weight
                        solvers[without][number].add(*added)
        ridges = best_ridges(solvers[NO_FOLD])
        for without, of_strips in solvers.items():
            cross_fit.weights[without] = solve(total(of_strips), ridges)
        regression.weight.copy_(cross_fit.weights[NO_FOLD])
        self.precision = total(solvers[NO_FOLD]).error(regression.weight.cpu()).clamp(min=1e-8).rsqrt().float()

    def _solve_components(self) -> None:
        """The estimated fields, as principal components of a regression at each cell."""
        config, regression, statics = self.config, self.model.regression, self._statics()
        names = [name for name in config.predictors if name in config.targets or variable(name).derived]
        channels = [config.predictors.index(name) for name in names]
        cells = CellRegression(1 + len(names), len(config.targets), *self.model.statics.shape[1:])
        for _, weight, window, predictors, residual in self._hours():
            if regression is not None:
                residual = residual - regression(predictors, statics[window][None])
            fine = self.model.interpolate(predictors)
            residual = residual * self.precision.to(residual.device)[:, None, None]
            cells.add(
                torch.cat([torch.ones_like(fine[:, :1]), fine[:, channels]], 1).cpu(), residual.cpu(), weight, window
            )
        components = cells.principal_components(config.statics.embedding)
        self.model.statics[self.given :] = components / _std(components)

    def _solve_fields(self, cross_fit: CrossFit) -> None:
        """The estimated fields, at each cell, given the regression's weights; and without each fold.

        They are zero in cells that no hour has values in.
        """
        regression, size = cross_fit.regression, self.config.statics.embedding
        own = slice(1 + self.given, 1 + self.given + size)
        statics = self._statics(torch.zeros_like(cross_fit.fields[0]))
        folds = [CellRegression(size, 1, *self.model.statics.shape[1:]) for _ in range(FOLDS + 1)]
        for fold, weight, window, predictors, residual in self._hours():
            precision = self.precision.to(residual.device)[:, None, None]
            left = (residual - regression(predictors, statics[window][None])) * precision
            responses = (regression.responses(predictors)[:, :, own] * precision[:, None]).flatten(0, 1)
            folds[fold].add(regression.interpolate(responses).cpu(), left.flatten(0, 1)[:, None].cpu(), weight, window)
        everything = reduce(CellRegression.plus, folds)
        solved = [everything.plus(fold, -1).solve()[0][:, 0] for fold in folds[:NO_FOLD]]
        solved.append(everything.solve()[0][:, 0])
        cross_fit.fields.copy_(torch.stack(solved) / _std(solved[NO_FOLD]))
        self.model.statics[self.given :] = cross_fit.fields[NO_FOLD]


def _cells_of_strips(residual: Tensor, strip: Tensor, random: torch.Generator) -> Iterator[tuple[int, Tensor]]:
    """Random cells of an hour (T, cells) that have values, apart for each strip (cells,), with its number."""
    known = residual.isfinite().all(dim=0).nonzero()[:, 0].cpu()
    chosen = known[torch.randint(len(known), (min(CELLS, len(known)),), generator=random)]
    for number in strip[chosen].unique().tolist():
        yield number, chosen[strip[chosen] == number].to(residual.device)


def _std(fields: Tensor) -> Tensor:
    """The std of each field (S, H, W): (S, 1, 1), 1 where it is zero."""
    std = fields.std(dim=(1, 2), keepdim=True)
    return torch.where(std > 0, std, 1)
