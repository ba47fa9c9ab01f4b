"""What the networks are fed: crops of hours drawn at random and read ahead, and latents computed once and kept.

Shapes: predictors (B, P, h, w), target (B, T, H, W) and latents (B, L, h, w), all normalised. An hour is known by
its place in its split. One that cannot be read is named and another is drawn in its stead.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ldmdown.config import StageConfig
from ldmdown.data.archive.store import Archive
from ldmdown.errors import LdmdownError
from ldmdown.runtime import Processes, free_memory

Batch = dict[str, Any]
"""Tensors "predictors" and "target" or "latents"; for each crop its first (row, col) in "corners", the seed of its
noise in "seeds" and its place in the "whole" batch, of which a process or a part of a step has some; the "step"."""

AHEAD = 3  # batches made while the device works
UNREADABLE = 0.01  # of the hours of a split may be
READERS = 4  # threads
FAILURES = (OSError, ValueError, RuntimeError, ArithmeticError)  # of a chunk that is cut, garbled or gone

Read = Callable[[int, slice, slice], Tensor]
"""(place, rows, cols) -> (C, rows, cols)."""


class Split:
    """The hours for a use, and those of them that cannot be read.

    Raises
    ------
    LdmdownError
        when more than a hundredth of the hours, and more than one, cannot be read.
    """

    def __init__(self, archive: Archive, use: str) -> None:
        self.archive = archive
        self.indices = archive.split(use)
        self.unreadable: set[int] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, place: int) -> str:
        """Of an hour."""
        return f"{np.datetime64(int(self.archive.hours[self.indices[place]]), 'h')}"

    def leave_out(self, place: int, error: object) -> None:
        """Name an hour that cannot be read, once."""
        with self._lock:
            if place in self.unreadable:
                return
            self.unreadable.add(place)
            print(f"{self.archive.path}: {self.name(place)} cannot be read ({error}): left out", file=sys.stderr)
            if len(self.unreadable) > max(1, UNREADABLE * len(self)):
                raise LdmdownError(
                    self.archive.path,
                    "too many hours cannot be read",
                    found=", ".join(self.name(one) for one in sorted(self.unreadable)),
                    expected=f"at most {UNREADABLE:.0%} of {len(self)} hours",
                    fix="restore the archive, or delete it and run `ldmdown prepare`",
                )


@dataclass(frozen=True)
class Source:
    """Crops of the hours of a split, for the device that trains.

    `field` gives what is kept, `factor` cells to a coarse one; times `gain` plus `shift` it is normalised.
    """

    kind: Literal["target", "latents"]
    split: Split
    predictors: Read
    field: Read
    factor: int
    gain: Tensor
    shift: Tensor

    def crop(self, place: int, corner: tuple[int, int], size: tuple[int, int], seed: int) -> tuple[Tensor, Tensor]:
        """Predictors and field of an hour, or of another one if it cannot be read, at a window of coarse cells."""
        random = np.random.default_rng(seed)
        while True:
            if place not in self.split.unreadable:
                try:
                    return self._crop(place, corner, size)
                except FAILURES as error:
                    self.split.leave_out(place, error)
            place = int(random.integers(len(self.split)))

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
        return {"predictors": predictors, self.kind: field.float() * self.gain + self.shift}


def field_source(split: Split, processes: Processes, *, hold: bool = True) -> Source:
    """Predictors and targets, these as the archive's exact 16-bit numbers; with `hold` in memory where they fit."""
    archive = split.archive
    normalization = archive.normalization["target"]
    mean, std = (
        np.array([values[name] for name in archive.targets], np.float32)[:, None, None]
        for values in (normalization.mean, normalization.std)
    )
    offset = np.rint(mean)

    def read(place: int, rows: slice, cols: slice) -> Tensor:
        return torch.from_numpy(archive.read_target(int(split.indices[place]), offset, rows, cols))

    shape = (len(archive.targets), *archive.grid.shape)
    field = _held(read, split, shape, torch.int16, processes) if hold else read
    predictors = _predictors(split, processes, hold=hold)
    gain, shift = (
        torch.as_tensor(part, device=processes.device) for part in (1 / (archive.steps * std), (offset - mean) / std)
    )
    return Source("target", split, predictors, field, archive.grid.factor, gain, shift)


def latent_source(split: Split, latents: Tensor, processes: Processes) -> Source:
    """Predictors, and the latents (N, L, h, w) of the split's hours as `write_latents` wrote them."""
    for place in torch.isnan(latents[:, 0, 0, 0]).nonzero().flatten().tolist():
        split.leave_out(place, "it has no latents")
    if processes.device.type == "cuda" and latents.nbytes < _room(processes.device, processes):
        latents = latents.to(processes.device)
    one, zero = torch.ones((), device=processes.device), torch.zeros((), device=processes.device)
    return Source("latents", split, _predictors(split, processes, hold=True), _cropper(latents), 1, one, zero)


def draw(source: Source, stream: str, seed: int, settings: StageConfig, step: int, processes: Processes) -> Batch:
    """This process's share of the batch of a step: hours and crops at random, from (seed, stream, step) alone."""
    bits = np.random.Philox(key=[seed, zlib.crc32(stream.encode())], counter=[0, 0, 0, step])
    random = np.random.Generator(bits)
    sides, count = source.split.archive.grid.coarse.shape, settings.batch
    size = min(settings.crop, sides[0]), min(settings.crop, sides[1])
    hours = random.integers(len(source.split), size=count).tolist()
    rows, cols = (random.integers(side - part + 1, size=count).tolist() for side, part in zip(sides, size, strict=True))
    seeds = random.integers(2**62, size=count).tolist()
    mine = range(count)[processes.share(count)]
    corners = [(rows[i], cols[i]) for i in mine]
    crops = [source.crop(hours[i], (rows[i], cols[i]), size, seeds[i]) for i in mine]
    labels = {"corners": corners, "seeds": [seeds[i] for i in mine], "places": list(mine), "whole": count, "step": step}
    return source.batch(crops) | labels


def parts(batch: Batch, size: int) -> Iterator[tuple[Batch, float]]:
    """A batch in parts of at most `size` crops, and the fraction that each is of it."""
    count = len(batch["seeds"])
    for first in range(0, count, size):
        part = {
            key: value[first : first + size] if isinstance(value, list | Tensor) else value
            for key, value in batch.items()
        }
        yield part, len(part["seeds"]) / count


def corner(batch: Batch, multiple: int) -> tuple[Batch, float]:
    """About a quarter of the first crop, with sides in multiples of so many coarse cells, and its share of the crop."""
    one, _ = next(parts(batch, 1))
    rows, cols = one["predictors"].shape[-2:]
    sides = [max(multiple, side // 2 // multiple * multiple) for side in (rows, cols)]
    for name in {"predictors", "target", "latents"} & one.keys():
        factor = one[name].shape[-1] // cols
        one[name] = one[name][..., : factor * sides[0], : factor * sides[1]]
    return one, sides[0] * sides[1] / (rows * cols)


def noise(batch: Batch, shape: Sequence[int]) -> Tensor:
    """Standard normal (B, *shape); that of a crop is its own, whichever process and part of a step it is in."""
    device = batch["predictors"].device
    generator = torch.Generator(device)
    return torch.stack(
        [torch.randn(shape, generator=generator.manual_seed(seed), device=device) for seed in batch["seeds"]]
    )


def times(batch: Batch) -> Tensor:
    """(B,) in [0, 1): at random, and spread evenly over the whole batch."""
    jitter = [np.random.default_rng(seed).random() for seed in batch["seeds"]]
    even = (np.array(batch["places"]) + jitter) / batch["whole"]
    return torch.as_tensor(even, dtype=torch.float32, device=batch["predictors"].device)


def ahead(make: Callable[[int], Batch], steps: range) -> Iterator[tuple[int, Batch]]:
    """Batches in order, the next ones made in the background."""
    with ThreadPoolExecutor(AHEAD) as pool:
        waiting: deque[tuple[int, Future[Batch]]] = deque()
        for step in steps:
            waiting.append((step, pool.submit(make, step)))
            if len(waiting) > AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def hour(split: Split, place: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Normalised predictors and target of a whole hour, each a batch of one."""
    archive = split.archive
    fields = archive.read(int(split.indices[place]))
    first, second = (
        torch.from_numpy(archive.normalization[kind].normalize(fields[kind], names))[None].to(device)
        for kind, names in (("predictors", archive.predictors), ("target", archive.targets))
    )
    return first, second


def write_latents(
    path: Path,
    splits: Sequence[Split],
    encode: Callable[[Tensor, Tensor], Tensor],
    channels: int,
    processes: Processes,
    advance: Callable[[], object],
) -> None:
    """Latents of all hours of the splits, one split after the other, whole domain, float16, as a NumPy file.

    The processes share the hours. A run that was killed goes on where it was; an hour that cannot be read is NaN.
    """
    beside = path.with_suffix(".part")
    places = [(split, place) for split in splits for place in range(len(split))]
    shape = (len(places), channels, *splits[0].archive.grid.coarse.shape)
    if processes.first and not beside.exists():
        _allocate(beside, shape)
    processes.wait()
    latents = np.lib.format.open_memmap(beside, "r+")
    mine = range(len(places))[processes.rank :: processes.size]
    done = sum(bool(latents[index, 0, 0].any()) for index in mine)
    for count, index in enumerate(mine):
        if count >= done - 1:  # the last one may be half written
            split, place = places[index]
            try:
                latents[index] = encode(*hour(split, place, processes.device))[0].float().cpu().numpy()
            except FAILURES as error:
                split.leave_out(place, error)
                latents[index] = np.nan
        advance()
    latents.flush()
    processes.wait()
    if processes.first:
        beside.rename(path)
    processes.wait()


def _allocate(path: Path, shape: tuple[int, ...]) -> None:
    """A NumPy file of zeros that has its place on the disk, since a memory map that finds none is killed."""
    new = path.with_suffix(".new")
    np.lib.format.open_memmap(new, "w+", np.float16, shape)
    try:
        with new.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, new.stat().st_size)
    except OSError as error:
        new.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from None
    new.rename(path)


def _predictors(split: Split, processes: Processes, *, hold: bool) -> Read:
    """Normalised predictors."""
    archive = split.archive

    def read(place: int, rows: slice, cols: slice) -> Tensor:
        fields = archive.load_predictors(split.indices[place : place + 1])[0]
        fields = archive.normalization["predictors"].normalize(fields, archive.predictors)
        if not np.isfinite(fields).all():
            raise ValueError("predictors are missing")
        return torch.from_numpy(fields)[:, rows, cols]

    shape = (len(archive.predictors), *archive.grid.coarse.shape)
    return _held(read, split, shape, torch.float32, processes) if hold else read


def _held(read: Read, split: Split, shape: tuple[int, int, int], dtype: torch.dtype, processes: Processes) -> Read:
    """All hours in the memory of the device, or else of the machine; where they do not fit, `read` itself."""
    size = len(split) * math.prod(shape) * dtype.itemsize
    devices = dict.fromkeys((processes.device, torch.device("cpu")))
    place_for = next((device for device in devices if size < _room(device, processes)), None)
    if place_for is None:
        return read
    held = torch.zeros((len(split), *shape), dtype=dtype)

    def load(place: int) -> None:
        try:
            held[place] = read(place, slice(None), slice(None))
        except FAILURES as error:
            split.leave_out(place, error)

    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(load, range(len(split))))
    return _cropper(held.to(place_for))


def _room(device: torch.device, processes: Processes) -> int:
    """Bytes that fields may take: a third of what is free."""
    return free_memory(device) // (3 if device.type == "cuda" else 3 * processes.on_machine)


def _cropper(held: Tensor) -> Read:
    return lambda place, rows, cols: held[place, :, rows, cols]
