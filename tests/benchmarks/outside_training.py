"""How often held-out hours of an archive raise the warning of `downscale`, as they are and altered.

    python tests/benchmarks/outside_training.py ARCHIVE [EVERY CHECKPOINT HOURS]

Every n-th held-out hour of the first source is looked at; the law is that of its training hours. With a checkpoint it
also downscales some of these hours in the middle of the domain, and compares what scores lose with the warning.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from ldmdown import metrics
from ldmdown.checkpoint import load
from ldmdown.data.archive.store import Archive
from ldmdown.data.predictor_law import NAMES, PredictorLaw, predictor_law, tile_features
from ldmdown.scoring.evaluator import CheckpointGroup
from ldmdown.typing import Float32Array

ONE_DEGREE = 2.6  # coarse cells of 16 km, the std of a Gaussian that takes what 1 degree does not show
HALF_A_YEAR = 24 * 182
WINDOW = (30, 24, 24, 24)  # of coarse cells, that is downscaled
MEMBERS = 2


def times(t2m: float, wind: float, more: float = 0.0) -> Callable[[Float32Array], Float32Array]:
    """Multiply temperature and wind, and add to temperature."""
    factor, term = (np.array(one, np.float32)[:, None, None] for one in ((t2m, wind, wind), (more, 0, 0)))
    return lambda fields: fields * factor + term


ALTERED: dict[str, Callable[[Float32Array], Float32Array]] = {
    "held out": lambda fields: fields,
    "2 K warmer": times(1, 1, 2),
    "4 K warmer": times(1, 1, 4),
    "8 K warmer": times(1, 1, 8),
    "smoothed to 0.5 degrees": lambda fields: gaussian_filter(fields, (0, ONE_DEGREE / 2, ONE_DEGREE / 2)),
    "smoothed to 1 degree": lambda fields: gaussian_filter(fields, (0, ONE_DEGREE, ONE_DEGREE)),
    "knots taken for m s-1": times(1, 1.944),
    "km h-1 taken for m s-1": times(1, 3.6),
    "of the other hemisphere": lambda fields: times(1, 1)(fields)[:, ::-1] * np.float32([[[1]], [[1]], [[-1]]]),
}


def main(path: str, every: int, checkpoint: str | None, hours: int) -> None:
    """Print for each alteration the share of hours with an alarm, and distances over the limit."""
    archive = Archive(path)
    channels = [archive.predictors.index(name) for name in NAMES]
    law = PredictorLaw.of(predictor_law(archive))
    held_out = np.concatenate([archive.split("validation"), archive.split("test")])
    held_out = held_out[archive.source[held_out] == 0][::every]
    fields = archive.load_predictors(held_out)[:, channels]
    inputs = {label: np.stack([altered(one) for one in fields]) for label, altered in ALTERED.items()}
    inputs["of 0.1 degrees"] = np.stack([tenth_of_a_degree(archive, index) for index in held_out.tolist()])
    distances, of_means = {}, {}
    for label, altered in inputs.items():
        when = archive.hours[held_out] + (HALF_A_YEAR if "hemisphere" in label else 0)
        scores = law.scores(when, np.stack([tile_features(one) for one in altered]))
        distances[label], of_means[label] = law.distances(scores), law.mean_distances(scores)
    print(f"{len(fields)} hours of {path}; limit {law.limits[-1]:.3g}\n| hours | alarms | median | largest | AUC |")
    for label, found in distances.items():
        area = (found[:, None] > distances["held out"]).mean()
        print(f"| {label} | {(found > 1).mean():.1%} | {np.median(found):.2f} | {found.max():.2f} | {area:.3f} |")
    if checkpoint is not None:
        losses(archive, held_out, inputs, (distances, of_means), checkpoint, hours)


def tenth_of_a_degree(archive: Archive, index: int) -> Float32Array:
    """What fields of 8 km give on the coarse grid: means over the middle of each coarse cell."""
    factor, (rows, cols) = archive.grid.factor, archive.grid.coarse.shape
    target = archive.read(index)["target"].reshape(-1, rows, factor, cols, factor)
    middle = slice(factor // 4, -(factor // 4))
    return target[:, :, middle, :, middle].mean(axis=(2, 4)).astype(np.float32)


def losses(archive: Archive, held_out, inputs: dict, distances: tuple, checkpoint: str, hours: int) -> None:
    """Print by alteration the fair CRPS over that of the input as it is, and its rank correlation with distances."""
    group = CheckpointGroup([load(checkpoint)], MEMBERS, 0, WINDOW)
    cut = tuple(slice(first, first + size) for first, size in zip(WINDOW[:2], WINDOW[2:], strict=True))
    chosen = np.linspace(0, len(held_out) - 1, hours).astype(int)
    found: dict[str, list[float]] = {label: [] for label in inputs}
    for place in chosen.tolist():
        sample = archive.read(int(held_out[place]), WINDOW)
        for label, altered in inputs.items():
            predictors = dict(zip(archive.predictors, sample["predictors"], strict=True))
            predictors |= dict(zip(NAMES, altered[place][:, *cut], strict=True))
            members = group.make(predictors, sample["target"], int(archive.hours[held_out[place]]), {})["member"]
            scores = [metrics.crps(members[:, i].astype(np.float64), sample["target"][i]) for i in range(len(NAMES))]
            found[label].append(float(np.mean(scores)))
        print(f"hour {place}", file=sys.stderr)
    usual = np.array(found["held out"])
    ratios = {label: np.array(values) / usual for label, values in found.items()}
    print(f"{hours} hours, {MEMBERS} members\n| input | CRPS / that of the input as it is | distance | of the means |")
    for label, ratio in ratios.items():
        print(
            f"| {label} | {ratio.mean():.2f} | {' | '.join(f'{one[label][chosen].mean():.2f}' for one in distances)} |"
        )
    lost = np.stack([*ratios.values()])
    for what, found_distances in zip(("all features", "the means"), distances, strict=True):
        far = np.stack([found_distances[label][chosen] for label in ratios])
        pairs = (lost.ravel(), far.ravel()), (lost.mean(1), far.mean(1))
        single, mean = (spearmanr(*pair).statistic for pair in pairs)
        print(f"rank correlation with the distance of {what}: inputs and hours {single:.2f}, inputs' means {mean:.2f}")


if __name__ == "__main__":
    given = [*sys.argv[1:], *["1", None, "4"][len(sys.argv) - 2 :]]
    main(given[0], int(given[1]), given[2], int(given[3]))
