"""Scores of checkpoints on twin hours that they never saw, beside interpolation, noise and the ideal.

    python tests/benchmarks/twin_scores.py CONFIG CHECKPOINT [CHECKPOINT ...] -o scores.json

CONFIG names the twin and the test days; the archive is not needed. Every system predicts the same hours
over the full domain. The ideal ensemble is drawn from the twin's own p(fine | coarse) and regridded as the
reference is; the scaled white noise is what the first checkpoint's predicted scale gives without diffusion.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path

import numpy as np
import scipy.ndimage
import torch
from numpy.typing import NDArray

from ldmdown import metrics
from ldmdown.checkpoint import Checkpoint, load
from ldmdown.config import Config, load_config
from ldmdown.data.grid import Grid
from ldmdown.data.twin import TwinWorld

WAVELENGTHS = (32.0, 16.0, 10.0, 8.0, 6.0, 5.0, 4.2)  # [km]
PATCH = 24
VARIABLES = ("t2m", "u10", "v10")

Fields = NDArray[np.float32]  # (..., 3, rows, cols), t2m [K], u10 and v10 [m s-1]


def hours_of(config: Config, every: int) -> list[int]:
    """Absolute hours of the test days."""
    days = [first + timedelta(days=n) for first, last in config.data.split.test for n in range((last - first).days + 1)]
    hours = [(day - date(1970, 1, 1)).days * 24 + hour for day in days for hour in range(24)]
    return hours[::every]


@lru_cache(maxsize=1)
def world(path: Path) -> tuple[TwinWorld, Grid]:
    config, folder = load_config(path)
    grid = Grid(**config.grid.model_dump())
    twin = config.twin
    places = [folder / one if one else None for one in (twin.orography, twin.coarse_orography)]
    return TwinWorld(grid, seed=twin.seed, orography=places[0], coarse_orography=places[1]), grid


def draw(task: tuple[Path, int, int]) -> tuple[Fields, Fields]:
    """(members, 3, rows, cols) of the twin, member 0 the truth, and the coarse predictors (P, rows, cols)."""
    path, hour, members = task
    torch.set_num_threads(1)
    twin, grid = world(path)
    fine = np.stack([twin.on_grid(hour, member) for member in range(members + 1)])
    return fine, twin.predictors(hour, load_config(path)[0].predictors)
