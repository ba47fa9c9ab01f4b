"""What --consistency does to fields: distance of box means from ERA5 and, where the truth is known, scores.

    python tests/benchmarks/consistency.py CHECKPOINT ERA5 [EVERY MEMBERS ARCHIVE]

ERA5 is files or a glob. The members of each hour are drawn once and corrected in each way. ARCHIVE is one of
`ldmdown prepare` whose first source holds the truth of these hours.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ldmdown import metrics
from ldmdown.consistency import BoxConsistency
from ldmdown.data.archive.box_means import Boxes, era5_boxes
from ldmdown.data.archive.store import Archive
from ldmdown.data.reading.fields import open_fields
from ldmdown.options import DownscaleOptions
from ldmdown.system import System

WAVELENGTHS = (128, 64, 32, 16, 8, 5)  # [km]


def main(checkpoint: str, files: str, every: int, members: int, path: str | None) -> None:
    """Print a table for each way."""
    system, archive = System(checkpoint), Archive(path) if path else None
    known = [one.header.get("box_differences", {}) for one in system.checkpoints]
    found: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    with open_fields([files], system.inputs) as every_hour, ThreadPoolExecutor(1) as reader:
        era5 = every_hour.at(slice(None, None, every))
        job = system.job(era5, DownscaleOptions(members=members, region="covered", consistency="free"))
        part = job.parts[0]
        boxes = era5_boxes(part.grid)
        covered = dict.fromkeys(era5.names, era5.grid.covers(*boxes.latlon()))
        ways = {
            way: BoxConsistency(boxes, system.targets, covered, known, exact=way == "exact")
            for way in ("learned", "exact")
        }
        readers = ways["exact"].era5(era5)
        for index, by_name in job.fields(range(len(era5)), reader):
            free = np.stack([by_name[name] for name in system.targets], axis=1)
            coarse = np.stack([one.read(index) for one in readers])
            truth = None
            if archive is not None:
                sample = np.flatnonzero((archive.hours == era5.hours[index]) & (archive.source == 0))[0]
                truth = archive.read(int(sample), part.predictors[0].window)["target"]
            for way in ("free", *ways):
                fields = free.copy()
                if way in ways:
                    ways[way].agree(fields, coarse)
                for channel, name in enumerate(system.targets):
                    one = None if truth is None else truth[channel]
                    found[name, way].append(scores(fields[:, channel], coarse[0, channel], one, boxes))
            print(f"hour {index + 1} of {len(era5)}", file=sys.stderr)
    for (name, way), hours in found.items():
        print(name, way, {key: float(f"{np.mean([one[key] for one in hours]):.4g}") for key in hours[0]})


def scores(members: np.ndarray, era5: np.ndarray, truth: np.ndarray | None, boxes: Boxes) -> dict[str, float]:
    """Scores of members (member, rows, cols) of an hour."""
    means = np.stack([boxes.means(boxes.of_source, field) for field in members])
    held = np.isfinite(means[0] + era5)
    found = {"RMSE from ERA5 at 0.25 degrees": metrics.rmse(means[:, held], era5[held])}
    if truth is None:
        return found
    members = members.astype(np.float64)
    of_truth = boxes.means(boxes.of_source, truth)
    found["the truth's"] = metrics.rmse(of_truth[held], era5[held])
    found["fair CRPS"] = metrics.crps(members, truth)
    found["RMSE of the mean"] = metrics.rmse(members.mean(axis=0), truth)
    found["fair CRPS of box means"] = metrics.crps(means[:, None, held], of_truth[None, held])
    found["spread / skill of box means"] = metrics.spread_skill(means[:, None, held], of_truth[None, held])
    wavelength, power = metrics.power_spectrum(members, (2.0, 2.0))
    _, expected = metrics.power_spectrum(truth, (2.0, 2.0))
    for at in WAVELENGTHS:
        near = np.abs(np.log2(wavelength / at)) < 1 / 6
        found[f"power at {at} km [dB]"] = 10 * np.log10(power[near].sum() / expected[near].sum())
    return found


if __name__ == "__main__":
    arguments = [*sys.argv[1:], *["8", "8", None][len(sys.argv) - 3 :]]
    main(arguments[0], str(arguments[1]), int(arguments[2]), int(arguments[3]), arguments[4])
