"""The loop over hours: predictors to members of fields, the same whatever the batch, the device, the start."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ldmdown.checkpoint import Checkpoint
from ldmdown.choices import MAX_CORRELATION, Precision
from ldmdown.data.grid import LONLAT, POLE_LATITUDE, Window, grid_north, rotate_to_earth, rotated_pole, transformer
from ldmdown.data.reading.fields import Fields
from ldmdown.data.reading.regridded import Regridded
from ldmdown.models.downscaler import Condition
from ldmdown.models.sampling import CoherentNoise, Sampler
from ldmdown.runtime import autocast
from ldmdown.typing import Float32Array, FloatArray

SINGLE_FIELD = {"unet": "the conditional mean", "gan": "the generator's field"}  # of stages that draw no members
INPUT_MEMBER = 2**32  # between the keys of the noise of two members of the input
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class SamplingOptions:
    """How members are drawn.

    Args:
        members: number of members for each hour.
        seed: random seed of the initial noise.
        sampler: its name, steps and spacing.
        correlation: correlation of the initial noise of an hour with that of the hour before, as of `CoherentNoise`.
    """

    members: int
    seed: int
    sampler: Sampler
    correlation: tuple[tuple[float, ...], ...]


def default_sampler(checkpoint: Checkpoint) -> Sampler:
    """The sampler that a checkpoint's configuration names."""
    return Sampler(**checkpoint.config.sampler.model_dump())


def measured_correlation(checkpoint: Checkpoint) -> tuple[tuple[float, ...], ...]:
    """The correlation of the noise of successive hours that was measured in training, as of `CoherentNoise`."""
    held = checkpoint.header.get("temporal_correlation", 0.0)
    measured = np.atleast_2d([held["land"], held["sea"]] if isinstance(held, dict) else held)
    return tuple(map(tuple, measured.clip(0, MAX_CORRELATION).tolist()))


class Predictor:
    """A checkpoint at work on a window of the domain.

    What is computed is `around` it, inside the domain and with sides that the networks divide; the result is cropped.
    Noise belongs to a place of the whole domain, so that a window has the noise of its place.

    Args:
        checkpoint: a checkpoint on the device that computes.
        window: (row, col, rows, cols) of coarse cells.
        options: how members are drawn; a checkpoint of stage unet gives its mean instead, one of stage gan its field.
        precision: the precision of matrix products and convolutions.
        batch_size: number of members, of one hour or several, that are computed at once.
        around: a window that holds `window`, so that what lies outside of it is seen; None: `window` itself.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        window: Window,
        options: SamplingOptions,
        precision: Precision,
        batch_size: int,
        around: Window | None = None,
    ) -> None:
        self.checkpoint, self.options = checkpoint, options
        self.precision, self.batch_size = precision, batch_size
        self.model = checkpoint.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.window = window
        self.padded = checkpoint.grid.grow(around or window, self.model.size_multiple)
        row, col, rows, cols = self.padded
        self.crop = checkpoint.grid.fine((window[0] - row, window[1] - col, *window[2:]))
        self.device = self.model.statics.device
        self.grid_rotation = self._grid_rotation(checkpoint.header["wind"])
        with torch.no_grad():
            self.statics = self.model.statics_at([(row, col)], rows, cols)
        self._noise: CoherentNoise | None = None
        if checkpoint.stage == "ldm":
            assert self.model.autoencoder is not None
            shape = (self.model.autoencoder.latent_channels, *checkpoint.grid.coarse.shape)
            crop = slice(row, row + rows), slice(col, col + cols)
            land = self.model.land[crop].cpu().numpy() if len(options.correlation) == 2 else None
            self._noise = CoherentNoise(options.seed, shape, options.correlation, crop, land)

    @property
    def hours_at_once(self) -> int:
        """Number of hours, or of members of the input, whose members are computed together."""
        return max(1, self.batch_size // self.options.members)

    def predictors(self, fields: Fields) -> list[Regridded]:
        """The predictors that `run` reads, from fields of files, for each of their members."""
        nearest = self.checkpoint.header["regridding"] == "nearest"
        cells = self.checkpoint.grid.coarse.window(self.padded)
        names = self.checkpoint.config.predictors
        return [
            Regridded(fields, cells, names, nearest=nearest, beyond="edge", member=member)
            for member in range(len(fields.members))
        ]

    def _grid_rotation(self, wind: str) -> FloatArray | None:
        """Direction of the north of the rotated grid along which a checkpoint's wind points, if it does."""
        if not wind.startswith("rotated"):
            return None
        crs = rotated_pole(POLE_LATITUDE, float(wind.removeprefix("rotated")))
        cells = self.checkpoint.grid.window(self.window)
        return grid_north(crs, *transformer(LONLAT, crs).transform(cells.lon, cells.lat))

    @torch.inference_mode()
    def run(
        self, predictors: Sequence[Regridded], indices: Sequence[int], reader: Executor
    ) -> Iterator[tuple[int, Float32Array]]:
        """(index, fields (member, T, rows, cols) in physical units) of these hours of the predictors.

        Members of the input follow each other, each with all that are drawn from it. `reader` reads what is computed
        next, and draws its noise, while the last is computed.
        """
        size = self.hours_at_once
        states = [(index, one) for index in indices for one in predictors]
        blocks = [states[start : start + size] for start in range(0, len(states), size)]

        def prepare(block: Sequence[tuple[int, Regridded]]) -> tuple[Float32Array, Tensor | None]:
            coarse = np.stack([one.read(index) for index, one in block])
            return coarse, self.noise([(int(one.hours[index]), one.number) for index, one in block])

        members: list[Float32Array] = []
        for block, (coarse, noise) in zip(blocks, ahead(prepare, blocks, reader), strict=True):
            for (index, _), fields in zip(
                block, self.physical(self._fields(self.normalized(coarse), noise)), strict=True
            ):
                members.append(fields)
                if len(members) == len(predictors):
                    yield index, np.concatenate(members)
                    members = []

    def normalized(self, coarse: Float32Array) -> Tensor:
        """Predictors (..., P, h, w) as the networks take them."""
        config, normalization = self.checkpoint.config, self.checkpoint.normalization
        return torch.from_numpy(normalization["predictors"].normalize(coarse, config.predictors)).to(self.device)

    def physical(self, fields: Tensor) -> Float32Array:
        """Normalised fields (..., T, H, W) in physical units, winds towards east and north, cropped to the window."""
        config, normalization = self.checkpoint.config, self.checkpoint.normalization
        rows, cols = self.crop
        physical = normalization["target"].denormalize(fields[..., rows, cols].cpu().numpy(), config.targets)
        if self.grid_rotation is not None and {"u10", "v10"} <= set(config.targets):
            u, v = (config.targets.index(name) for name in ("u10", "v10"))
            east, north = rotate_to_earth(physical[..., u, :, :], physical[..., v, :, :], self.grid_rotation)
            physical[..., u, :, :], physical[..., v, :, :] = east, north
        return physical

    def _fields(self, predictors: Tensor, noise: Tensor | None) -> Tensor:
        """Normalised fields (hour, member, T, H, W)."""
        with autocast(self.device, self.precision):
            if noise is None:
                return self.model.mean(predictors, self.statics)[:, None]
            mean = self.model.mean_or_zero(predictors, self.statics)
            return self.members(mean, self.model.condition(predictors, self.statics), noise.to(self.device))

    def members(self, mean: Tensor, condition: Condition, noise: Tensor, *, scaled_noise: bool = False) -> Tensor:
        """Normalised members (hour, member, T, H, W) from the noise of `noise`.

        `scaled_noise`: what the noise itself gives as latents, without the diffusion.
        """
        sampler = None if scaled_noise else self.options.sampler
        return self.model.ensemble(mean, condition, noise, sampler, self.batch_size)

    def noise(self, states: Sequence[tuple[int, int]]) -> Tensor | None:
        """The initial noise (state, member, L, h, w); None without a diffusion.

        A state is an hour since 1970-01-01T00 and the number of a member of the input, each with noise of its own.
        """
        if self._noise is None:
            return None
        members = range(self.options.members)
        return torch.stack(
            [
                torch.stack([self._noise(hour, number * INPUT_MEMBER + member) for member in members])
                for hour, number in states
            ]
        )


def ahead(function: Callable[[Item], Result], items: Iterable[Item], executor: Executor) -> Iterator[Result]:
    """Results of a function in the order of the items; the executor computes one more than was asked for."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(executor.submit(function, item))
        if len(waiting) > 1:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
