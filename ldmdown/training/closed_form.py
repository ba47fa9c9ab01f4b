"""What is solved before the first step of the U-Net: estimated static fields, and the regression on static fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from rich.progress import Progress
from torch import Tensor

from ldmdown.config import Config
from ldmdown.data.variables import variable
from ldmdown.models.downscaler import Downscaler
from ldmdown.models.regression import FlowRegression, LeastSquares, fit
from ldmdown.models.static_embedding import CellRegression
from ldmdown.training.batches import CropSource

MOST_HOURS = 1000  # about so many hours of a set are taken
CELLS = 1024  # at random in each hour, for the weights that all cells share


class ClosedForm:
    """The closed forms of a model and its training and validation hours."""

    def __init__(
        self, config: Config, model: Downscaler, sources: Mapping[str, CropSource], progress: Progress
    ) -> None:
        self.config, self.model, self.sources, self.progress = config, model, sources, progress
        self.given = len(config.statics.fields)  # the fields after these are estimated

    def solve(self) -> None:
        """Give the model its estimated static fields and its regression.

        The fields start as principal components of what each cell does with the residual that the regression leaves
        without them. Then weights and fields are solved in turn (alternating least squares).
        """
        regression = self.model.regression
        if regression is not None:
            self._solve_weights(regression)
        if self.config.statics.embedding:
            self._solve_components()
            if regression is not None:
                self._solve_weights(regression)
                self._solve_fields(regression)
        if regression is not None:
            self._solve_weights(regression)

    def _hours(self, use: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Predictors (1, P, h, w), interpolated ones (1, P, H, W), residual of the interpolation (1, T, H, W)."""
        source = self.sources[use]
        shape = source.hours.archive.grid.coarse.shape
        places = range(0, len(source.hours), max(1, len(source.hours) // MOST_HOURS))
        for place in self.progress.track(places, description=f"closed form, {use}"):
            batch = source.batch([source.crop(place, (0, 0), shape, seed=place)])
            fine = self.model.interpolate(batch["predictors"])
            yield batch["predictors"], fine, batch["target"] - self.model.interpolated_targets(fine)

    def _statics(self) -> Tensor:
        return self.model.statics_at([(0, 0)], *self.sources["train"].hours.archive.grid.coarse.shape).fields

    def _solve_weights(self, regression: FlowRegression) -> None:
        """The regression's weights, of all cells and hours together."""
        statics = self._statics()
        solvers = {use: LeastSquares(regression) for use in ("train", "validation")}
        random = torch.Generator().manual_seed(self.config.train.seed)
        for use, solver in solvers.items():
            for predictors, _, residual in self._hours(use):
                known = residual[0].isfinite().all(dim=0).flatten().nonzero()[:, 0]
                cells = torch.randint(len(known), (min(CELLS, len(known)),), generator=random)
                solver.add(predictors, statics, residual, known[cells.to(known.device)])
        regression.weight.copy_(fit(solvers["train"], solvers["validation"]))

    def _solve_components(self) -> None:
        """The estimated fields, as principal components of a regression at each cell."""
        config, statics = self.config, self._statics()
        names = [name for name in config.predictors if name in config.targets or variable(name).derived]
        channels = [config.predictors.index(name) for name in names]
        cells = CellRegression(1 + len(names), len(config.targets), *self.model.statics.shape[1:])
        for predictors, fine, residual in self._hours("train"):
            if self.model.regression is not None:
                residual = residual - self.model.regression(predictors, statics)
            cells.add(torch.cat([torch.ones_like(fine[0, :1]), fine[0, channels]]).cpu(), residual[0].cpu())
        self._set(cells.principal_components(config.statics.embedding))

    def _solve_fields(self, regression: FlowRegression) -> None:
        """The estimated fields, at each cell, given the regression's weights."""
        statics, size = self._statics(), self.config.statics.embedding
        statics[:, self.given : self.given + size] = 0
        cells = CellRegression(size, 1, *self.model.statics.shape[1:])
        for predictors, _, residual in self._hours("train"):
            left = residual - regression(predictors, statics)
            responses = regression.responses(predictors)[0, :, 1 + self.given : 1 + self.given + size]
            for response, target in zip(regression.interpolate(responses), left[0], strict=True):
                cells.add(response.cpu(), target[None].cpu())
        self._set(cells.solve()[0][:, 0])

    def _set(self, fields: Tensor) -> None:
        """Take estimated fields (S, H, W), each with unit std."""
        std = fields.std(dim=(1, 2), keepdim=True)
        self.model.statics[self.given :] = fields / torch.where(std > 0, std, 1)
