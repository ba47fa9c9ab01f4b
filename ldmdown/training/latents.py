"""Latents of all hours for a trained mean and autoencoder: computed once, and kept on the disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ldmdown import runtime
from ldmdown.atomic import replacing
from ldmdown.data.archive.store import READ_ERRORS
from ldmdown.data.grid import Window
from ldmdown.runtime import Processes
from ldmdown.training.batches import Batch
from ldmdown.training.hours import HourSet, load_hour
from ldmdown.training.stages import Stage


def load(path: Path, hours: Mapping[str, HourSet]) -> dict[str, Tensor]:
    """Latents (N, L, h, w) of the hours of each set, float16, before any scaling, as `write` wrote them."""
    latents = torch.from_numpy(np.load(path, mmap_mode="c"))
    return dict(zip(hours, latents.split([len(one) for one in hours.values()]), strict=True))


@torch.no_grad()
def write(
    path: Path, hours: Mapping[str, HourSet], stage: Stage, processes: Processes, advance: Callable[[], object]
) -> None:
    """Write the latents of all hours, one set after the other, whole domain, float16, as a NumPy file.

    The processes share the hours. A run that was killed resumes where it was; an hour that cannot be read is NaN.
    Only the window of an hour that has values is computed; where it has none its residual is taken as zero.
    """
    model, precision = stage.model, stage.config.train.precision
    assert model.autoencoder is not None
    part = path.with_suffix(".part")
    everything = [(one, place) for one in hours.values() for place in range(len(one))]
    grid = everything[0][0].archive.grid.coarse
    if processes.first and not part.exists():
        _allocate(part, (len(everything), model.autoencoder.latent_channels, *grid.shape))
    processes.wait()
    latents = np.lib.format.open_memmap(part, "r+")
    mine = range(len(everything))[processes.rank :: processes.size]
    done = sum(bool(latents[index, 0].any()) for index in mine)
    last: tuple[Window, list[int] | None] | None = None
    for count, index in enumerate(mine):
        if count >= done - 1:  # the last one may be half written
            one, place = everything[index]
            try:
                row, col, h, w = window = one.window(place, model.size_multiple)
                coarse = ..., slice(row, row + h), slice(col, col + w)
                predictors, target = load_hour(one, place, processes.device)
                batch: Batch = {"predictors": predictors[coarse], "corners": [(row, col)]}
                if one.use == "train":
                    batch["folds"] = [one.fold(place)]
                if (key := (window, batch.get("folds"))) != last:
                    statics, last = stage.statics(batch), key
                with runtime.autocast(processes.device, precision):
                    mean = model.mean_or_zero(batch["predictors"], statics)
                    residual = target[..., *one.archive.grid.fine(window)] - mean
                    encoded = model.autoencoder.encode(residual.nan_to_num())
                latents[index][coarse] = encoded[0].float().cpu().numpy()
            except READ_ERRORS as error:
                one.leave_out(place, error)
                latents[index] = np.nan
        advance()
    latents.flush()
    processes.wait()
    if processes.first:
        part.rename(path)
    processes.wait()


def _allocate(path: Path, shape: tuple[int, ...]) -> None:
    """Make a NumPy file of zeros that has its place on the disk: a process whose memory map finds none is killed."""
    with replacing(path) as new:
        np.lib.format.open_memmap(new, "w+", np.float16, shape)
        with new.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, new.stat().st_size)
