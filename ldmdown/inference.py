"""The loop over hours: predictors to members of fields, the same whatever the batch, the device, the start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyproj
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from ldmdown.checkpoint import Checkpoint
from ldmdown.config import Precision, SamplerConfig
from ldmdown.data.grid import LONLAT, Array, Window, grid_north, rotate_to_earth, rotated_pole
from ldmdown.data.reading.era5 import CoarsePredictors
from ldmdown.models.downscaler import Condition
from ldmdown.models.sampling import coherent_noise
from ldmdown.runtime import autocast

Fields = NDArray[np.float32]

POLE_LATITUDE = 47.0  # of VHR-REA_IT's rotated grid [degrees]
MOST_CORRELATED = 0.95


@dataclass(frozen=True)
class Draw:
    """How members are drawn.

    Parameters
    ----------
    members
        how many for each hour.
    seed
        of the noise.
    sampler
        name, steps and spacing.
    correlation
        of the noise of an hour with that of the hour before.
    """

    members: int
    seed: int
    sampler: SamplerConfig
    correlation: float


def measured_correlation(checkpoint: Checkpoint) -> float:
    """Of the noise of successive hours, as it was measured in training."""
    return min(max(checkpoint.header.get("temporal_correlation", 0.0), 0.0), MOST_CORRELATED)


class Runner:
    """A checkpoint at work on a window of the domain.

    The window is grown, inside the domain, to sides that the networks divide, and the result is cut back.
    Noise belongs to a place of the whole domain, so that a window has the noise of its place.

    Parameters
    ----------
    checkpoint
        on the device that computes.
    window
        (row, col, rows, cols) of coarse cells.
    draw
        how members are drawn; a checkpoint of stage unet gives its mean instead, one of stage gan its field.
    """

    def __init__(
        self, checkpoint: Checkpoint, window: Window, draw: Draw, precision: Precision, batch_size: int
    ) -> None:
        self.checkpoint, self.draw = checkpoint, draw
        self.precision, self.batch_size = precision, batch_size
        self.model = checkpoint.model
        self.asked = window
        self.window, self.inner = checkpoint.grid.grow(window, self.model.multiple)
        row, col, rows, cols = self.window
        self.device = self.model.statics.device
        self.turn = self._turn(checkpoint.header["wind"])
        with torch.no_grad():
            self.statics = self.model.statics_at([(row, col)], rows, cols)

    def predictors(self, dataset: xr.Dataset) -> CoarsePredictors:
        """What `run` reads, from a dataset of `open_era5`."""
        checkpoint = self.checkpoint
        nearest = checkpoint.header["regridding"] == "nearest"
        return CoarsePredictors(dataset, checkpoint.grid, self.window, checkpoint.config.predictors, nearest=nearest)

    def _turn(self, wind: str) -> Array | None:
        """Direction of the north of the rotated grid along which a checkpoint's wind points, if it does."""
        if not wind.startswith("rotated"):
            return None
        crs = rotated_pole(POLE_LATITUDE, float(wind.removeprefix("rotated")))
        cells = self.checkpoint.grid.window(self.asked)
        return grid_north(
            crs, *pyproj.Transformer.from_crs(LONLAT, crs, always_xy=True).transform(cells.lon, cells.lat)
        )

    @torch.inference_mode()
    def run(self, predictors: CoarsePredictors, indices: Sequence[int]) -> Iterator[tuple[int, Fields]]:
        """(index, fields (member, T, rows, cols) in physical units) of these hours of the predictors.

        At most `batch_size` members, of one hour or several, are computed at once.
        """
        together = max(1, self.batch_size // self.draw.members)  # hours
        for start in range(0, len(indices), together):
            block = indices[start : start + together]
            coarse = self.normalized(np.stack([predictors.read(index) for index in block]))
            hours = [int(predictors.hours[index]) for index in block]
            yield from zip(block, self.physical(self._fields(coarse, hours)), strict=True)

    def normalized(self, coarse: Fields) -> Tensor:
        """Predictors (..., P, h, w) as the networks take them."""
        config, normalization = self.checkpoint.config, self.checkpoint.normalization
        return torch.from_numpy(normalization["predictors"].normalize(coarse, config.predictors)).to(self.device)

    def physical(self, fields: Tensor) -> Fields:
        """Normalised fields (..., T, H, W) in physical units, winds towards east and north, cut to what was asked."""
        config, normalization = self.checkpoint.config, self.checkpoint.normalization
        rows, cols = (slice(part.start * config.grid.factor, part.stop * config.grid.factor) for part in self.inner)
        physical = normalization["target"].denormalize(fields[..., rows, cols].cpu().numpy(), config.targets)
        if self.turn is not None and {"u10", "v10"} <= set(config.targets):
            u, v = (config.targets.index(name) for name in ("u10", "v10"))
            east, north = rotate_to_earth(physical[..., u, :, :], physical[..., v, :, :], self.turn)
            physical[..., u, :, :], physical[..., v, :, :] = east, north
        return physical

    def _fields(self, predictors: Tensor, hours: Sequence[int]) -> Tensor:
        """Normalised fields (hour, member, T, H, W)."""
        with autocast(self.device, self.precision):
            statics = self.statics.expand(len(hours), -1, -1, -1)
            if self.checkpoint.stage != "ldm":
                return self.model.mean(predictors, statics)[:, None]
            base = self.model.base(predictors, statics)
            condition = self.model.condition(predictors, statics)
            pairs = [(index, member) for index in range(len(hours)) for member in range(self.draw.members)]
            draws = []
            for start in range(0, len(pairs), self.batch_size):
                batch = pairs[start : start + self.batch_size]
                noise = torch.stack([self.noise(hours[index], member) for index, member in batch])
                draws.append(self._sample(base, condition, [index for index, _ in batch], noise))
        return torch.cat(draws).unflatten(0, (len(hours), self.draw.members))

    def _sample(self, base: Tensor, condition: Condition, index: list[int], noise: Tensor) -> Tensor:
        sampler = self.draw.sampler
        return self.model.sample(
            base[index],
            condition.take(index),
            noise,
            sampler=sampler.name,
            steps=sampler.steps,
            spacing=sampler.spacing,
        )

    def noise(self, hour: int, member: int) -> Tensor:
        """What a member of an hour starts from, (L, h, w)."""
        assert self.model.autoencoder is not None
        row, col, rows, cols = self.window
        whole = self.checkpoint.grid.whole
        shape = (self.model.autoencoder.latent_channels, whole[2], whole[3])
        noise = coherent_noise(self.draw.seed, member, hour, shape, self.draw.correlation)
        return noise[:, row : row + rows, col : col + cols].to(self.device)
