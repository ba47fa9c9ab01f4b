"""How often held-out hours of an archive raise the warning of `downscale`, as they are and altered.

usage: python tests/benchmarks/outside_training.py ARCHIVE [EVERY]
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

from ldmdown.data.archive.store import Archive
from ldmdown.data.variables import variable
from ldmdown.screening import distance_from_training
from ldmdown.typing import Float32Array

ONE_DEGREE = 2.6  # coarse cells of 16 km, the std of a Gaussian that takes what 1 degree does not show
ALTERED: dict[str, Callable[[Float32Array], Float32Array]] = {
    "held out": lambda fields: fields,
    "4 K warmer": lambda fields: fields + np.array([4, 0, 0], np.float32)[:, None, None],
    "12 K warmer": lambda fields: fields + np.array([12, 0, 0], np.float32)[:, None, None],
    "smoothed to 1 degree": lambda fields: gaussian_filter(fields, (0, ONE_DEGREE, ONE_DEGREE), mode="nearest"),
    "knots taken for m s-1": lambda fields: fields * np.array([1, 1.944, 1.944], np.float32)[:, None, None],
    "km h-1 taken for m s-1": lambda fields: fields * np.array([1, 3.6, 3.6], np.float32)[:, None, None],
    "upside down": lambda fields: fields[:, ::-1],
}


def main(path: str, every: int = 1) -> None:
    """Print for each alteration the share of hours with an alarm, and the distances over the limit."""
    archive = Archive(path)
    places = [archive.predictors.index(name) for name in ("t2m", "u10", "v10")]
    law = archive.normalization["predictors"]
    held_out = np.concatenate([archive.split("validation"), archive.split("test")])[::every]
    hours = archive.load_predictors(held_out)[:, places]
    print(f"{len(hours)} hours of {path}\n| hours | alarms | median distance | largest |\n|---|---|---|---|")
    for label, altered in ALTERED.items():
        distances = [
            max(
                distance_from_training(field, law.mean[name], law.std[name], variable(name))
                for name, field in zip(("t2m", "u10", "v10"), altered(fields), strict=True)
            )
            for fields in hours
        ]
        alarms = np.mean(np.array(distances) > 1)
        print(f"| {label} | {alarms:.1%} | {np.median(distances):.2f} | {max(distances):.2f} |")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
