"""Batches for the networks: crops of hours drawn at random and prefetched.

Shapes: predictors (B, P, h, w), target (B, T, H, W) and latents (B, L, h, w), all normalised. Crops lie where their
hour has values. An hour that cannot be read is named, and another one is drawn instead.
"""

from __future__ import annotations

import math
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ldmdown.config import StageConfig
from ldmdown.data.archive.packing import FILL_VALUE
from ldmdown.data.archive.store import READ_ERRORS
from ldmdown.runtime import Processes
from ldmdown.training.hours import HourSet, load_hour

Batch = dict[str, Any]
"""Tensors "predictors" and "target" or "latents"; for each crop its first (row, col) in "corners", the seed of its
noise in "seeds" and its place in the "whole" batch, of which a process or a micro-batch has some; the "step"; of
training hours the fold of the day in "folds"."""

PREFETCHED = 3  # batches made while the device works
READERS = 4  # threads
MAX_HELD = 4 * 2**30  # bytes of fields that are kept in the memory of a machine

Read = Callable[[int, slice, slice], Tensor]
"""(place, rows, cols) -> (C, rows, cols)."""


@dataclass(frozen=True)
class CropSource:
    """Crops of the hours of a set, for the device that trains.

    `field` gives stored numbers, `factor` cells for each coarse cell; times `gain` plus `shift` they are normalised.
    """

    kind: Literal["target", "latents"]
    hours: HourSet
    predictors: Read
    field: Read
    factor: int
    gain: Tensor
    shift: Tensor
    margin: int = 0  # coarse cells at the edge of a source that covers a part of the grid, where `field` is not exact

    def crop(self, place: int, corner: tuple[int, int], size: tuple[int, int], *, seed: int) -> tuple[Tensor, Tensor]:
        """Predictors and field of an hour, or of another one if it cannot be read, at a window of coarse cells."""
        random = np.random.default_rng(seed)
        while True:
            if place not in self.hours.unreadable:
                try:
                    return self._crop(place, corner, size)
                except READ_ERRORS as error:
                    self.hours.leave_out(place, error)
            place = self.hours.choose_like(random, place)

    def whole(self, place: int) -> tuple[Tensor, Tensor]:
        """Predictors and field of the whole domain."""
        return self._crop(place, (0, 0), self.hours.archive.grid.coarse.shape)

    def _crop(self, place: int, corner: tuple[int, int], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        coarse, fine = (
            tuple(slice(factor * start, factor * (start + side)) for start, side in zip(corner, size, strict=True))
            for factor in (1, self.factor)
        )
        return self.predictors(place, *coarse), self.field(place, *fine)

    def batch(self, crops: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Normalised tensors of crops, on the device."""
        device = self.gain.device
        predictors, field = (torch.stack(part) for part in zip(*crops, strict=True))
        if device.type == "cuda":
            predictors, field = (
                part if part.is_cuda else part.pin_memory().to(device, non_blocking=True)
                for part in (predictors, field)
            )
        values = field.float() * self.gain + self.shift
        if field.dtype == torch.int16:
            values = values.masked_fill(field == FILL_VALUE, math.nan)
        return {"predictors": predictors, self.kind: values}


def field_source(hours: HourSet, processes: Processes, *, hold: bool = True) -> CropSource:
    """Predictors and targets, these as the archive's exact 16-bit numbers; with `hold` in memory where they fit."""
    archive = hours.archive
    normalization = archive.normalization["target"]
    mean, std = (
        np.array([values[name] for name in archive.targets], np.float32)[:, None, None]
        for values in (normalization.mean, normalization.std)
    )

    def read(place: int, rows: slice, cols: slice) -> Tensor:
        return torch.from_numpy(archive.read_packed(int(hours.indices[place]), rows, cols))

    shape = (len(archive.targets), *archive.grid.shape)
    field = _held(read, hours, shape, torch.int16, processes) if hold else read
    predictors = _predictors(hours, processes, hold=hold)
    gain, shift = (
        torch.as_tensor(part, device=processes.device)
        for part in (archive.scale_factor / std, (archive.add_offset - mean) / std)
    )
    return CropSource("target", hours, predictors, field, archive.grid.factor, gain, shift)


def latent_source(hours: HourSet, latents: Tensor, processes: Processes) -> CropSource:
    """Predictors, and the latents (N, L, h, w) of the set's hours as `latents.load` gives them."""
    for place in torch.isnan(latents[:, 0, 0, 0]).nonzero().flatten().tolist():
        hours.leave_out(place, "it has no latents")
    if processes.device.type == "cuda" and latents.nbytes < _room(processes.device, processes):
        latents = latents.to(processes.device)
    one, zero = torch.ones((), device=processes.device), torch.zeros((), device=processes.device)
    predictors = _predictors(hours, processes, hold=True)
    return CropSource("latents", hours, predictors, _cropper(latents), 1, one, zero, margin=1)


def sample_batch(
    source: CropSource, stream: str, seed: int, settings: StageConfig, step: int, processes: Processes
) -> Batch:
    """This process's share of the batch of a step: hours and crops at random, from (seed, stream, step) alone."""
    bits = np.random.Philox(key=[seed, zlib.crc32(stream.encode())], counter=[0, 0, 0, step])
    random = np.random.Generator(bits)
    count, whole = settings.batch, source.hours.archive.grid.coarse.shape
    size = min(settings.crop, whole[0]), min(settings.crop, whole[1])
    places = source.hours.choose(random, count)
    possible = [source.hours.corners(place, size, source.margin) for place in places]
    fractions = random.random(count)
    corners = [tuple(some[int(f * len(some))].tolist()) for some, f in zip(possible, fractions, strict=True)]
    seeds = random.integers(2**62, size=count).tolist()
    mine = range(count)[processes.share(count)]
    crops = [source.crop(places[i], corners[i], size, seed=seeds[i]) for i in mine]
    labels = {"corners": corners, "seeds": seeds, "places": list(range(count))}
    if source.hours.use == "train":
        labels["folds"] = [source.hours.fold(place) for place in places]
    share = {key: [values[i] for i in mine] for key, values in labels.items()}
    return source.batch(crops) | share | {"whole": count, "step": step}


def micro_batches(batch: Batch, size: int) -> Iterator[tuple[Batch, float]]:
    """Micro-batches of at most `size` crops, and the fraction of the batch that each is."""
    count = len(batch["seeds"])
    for first in range(0, count, size):
        part = {
            key: value[first : first + size] if isinstance(value, list | Tensor) else value
            for key, value in batch.items()
        }
        yield part, len(part["seeds"]) / count


def noise(batch: Batch, shape: Sequence[int]) -> Tensor:
    """Standard normal (B, *shape), which belongs to a crop whatever process and micro-batch it is in."""
    device = batch["predictors"].device
    generator = torch.Generator(device)
    return torch.stack(
        [torch.randn(shape, generator=generator.manual_seed(seed), device=device) for seed in batch["seeds"]]
    )


def stratified_timesteps(batch: Batch) -> Tensor:
    """(B,) in [0, 1): random times, one in each of as many equal intervals as the whole batch has crops."""
    jitter = [np.random.default_rng(seed).random() for seed in batch["seeds"]]
    even = (np.array(batch["places"]) + jitter) / batch["whole"]
    return torch.as_tensor(even, dtype=torch.float32, device=batch["predictors"].device)


def prefetch(make: Callable[[int], Batch], steps: range) -> Iterator[tuple[int, Batch]]:
    """Batches in order, the next ones made in the background."""
    with ThreadPoolExecutor(PREFETCHED) as pool:
        waiting: deque[tuple[int, Future[Batch]]] = deque()
        for step in steps:
            waiting.append((step, pool.submit(make, step)))
            if len(waiting) > PREFETCHED:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def middle_crop(hours: HourSet, size: int, device: torch.device) -> Batch:
    """A crop in the middle of where the hour in the middle of a set has values."""
    place, whole = len(hours) // 2, hours.archive.grid.coarse.shape
    predictors, target = load_hour(hours, place, device)
    rows, cols = min(size, whole[0]), min(size, whole[1])
    corners = hours.corners(place, (rows, cols))
    row, col = corners[np.square(corners - corners.mean(axis=0)).sum(axis=1).argmin()].tolist()
    return {
        "predictors": predictors[..., row : row + rows, col : col + cols],
        "target": target[..., *hours.archive.grid.fine((row, col, rows, cols))],
        "corners": [(row, col)],
        "seeds": [0],
    }


def _predictors(hours: HourSet, processes: Processes, *, hold: bool) -> Read:
    """Normalised predictors."""
    archive = hours.archive

    def read(place: int, rows: slice, cols: slice) -> Tensor:
        fields = archive.load_predictors(hours.indices[place : place + 1])[0]
        fields = archive.normalization["predictors"].normalize(fields, archive.predictors)
        return torch.from_numpy(hours.fill(place, fields))[:, rows, cols]

    shape = (len(archive.predictors), *archive.grid.coarse.shape)
    return _held(read, hours, shape, torch.float32, processes) if hold else read


def _held(read: Read, hours: HourSet, shape: tuple[int, int, int], dtype: torch.dtype, processes: Processes) -> Read:
    """All hours in the memory of the device, or else of the machine; where they do not fit, `read` itself."""
    size = len(hours) * math.prod(shape) * dtype.itemsize
    devices = dict.fromkeys((processes.device, torch.device("cpu")))
    chosen = next((device for device in devices if size < _room(device, processes)), None)
    if chosen is None:
        return read
    held = torch.zeros((len(hours), *shape), dtype=dtype)

    def load(place: int) -> None:
        try:
            held[place] = read(place, slice(None), slice(None))
        except READ_ERRORS as error:
            hours.leave_out(place, error)

    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(load, range(len(hours))))
    return _cropper(held.to(chosen))


def _room(device: torch.device, processes: Processes) -> int:
    """Bytes that fields may take: a third of what is free on a GPU, a share of `MAX_HELD` on the machine."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0] // 3
    return MAX_HELD // processes.on_machine


def _cropper(held: Tensor) -> Read:
    return lambda place, rows, cols: held[place, :, rows, cols]
