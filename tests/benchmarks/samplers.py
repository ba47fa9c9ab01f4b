"""What each sampler, number of steps and spacing is worth on the validation hours of an archive.

    python tests/benchmarks/samplers.py CHECKPOINT ARCHIVE [CROPS]

For each it prints the fair CRPS and the ratio of spread to error by variable, means over random crops with 8 members
that start from the same noise, and seconds. The first row is the mean alone. The gain of the checkpoint's latents was
fitted for the sampler of its configuration; it is left out here, so that all compete alike.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch

from ldmdown import metrics
from ldmdown.checkpoint import load
from ldmdown.data.archive.store import Archive
from ldmdown.models.sampling import Sampler
from ldmdown.runtime import Processes
from ldmdown.training.batches import field_source, noise, sample_batch
from ldmdown.training.hours import HourSet

SAMPLERS = [
    *(Sampler("dpmpp", steps, spacing) for spacing in ("trailing", "logsnr") for steps in (5, 10, 15, 20, 30)),
    Sampler("ddim", 100),
]
MEMBERS = 8


@torch.inference_mode()
def main(name: str, archive: Path, crops: int) -> None:
    """Print the table."""
    checkpoint = load(name)
    model, config = checkpoint.model, checkpoint.config
    assert model.autoencoder is not None
    model.latent_gain.fill_(1)
    alone = Processes(0, 1, 1, torch.device("cpu"))
    source = field_source(HourSet(Archive(archive), "validation"), alone, hold=False)
    settings = config.train.ldm.model_copy(update={"batch": 1})
    batches = [sample_batch(source, "samplers", 0, settings, step, alone) for step in range(crops)]
    std = np.array([checkpoint.normalization["target"].std[target] for target in config.targets])[:, None, None]
    truth = np.concatenate([batch["target"].numpy() for batch in batches]) * std
    fields: dict[str, list[np.ndarray]] = {"mean": []} | {_label(sampler): [] for sampler in SAMPLERS}
    seconds = dict.fromkeys(fields, 0.0)
    for batch in batches:
        statics = model.statics_at(batch["corners"], *batch["predictors"].shape[-2:])
        mean = model.mean_or_zero(batch["predictors"], statics)
        condition = model.condition(batch["predictors"], statics)
        start = noise(batch, (MEMBERS, model.autoencoder.latent_channels, *batch["predictors"].shape[-2:]))
        fields["mean"].append(mean[:, None].numpy() * std)
        for sampler in SAMPLERS:
            began = time.perf_counter()
            drawn = model.ensemble(mean, condition, start, sampler, MEMBERS)
            seconds[_label(sampler)] += time.perf_counter() - began
            fields[_label(sampler)].append(drawn.numpy() * std)
    columns = [f"{score} {target}" for score in ("crps", "spread") for target in config.targets]
    print(f"{'':20}" + "".join(f"{column:>12}" for column in columns) + f"{'s':>8}")
    for label, parts in fields.items():
        ensemble = np.concatenate(parts).swapaxes(0, 1)  # (M, B, T, H, W)
        scores = [_scores(ensemble[:, :, channel], truth[:, channel]) for channel in range(len(config.targets))]
        values = [part[score] for score in (0, 1) for part in scores]
        print(f"{label:20}" + "".join(f"{value:12.4f}" for value in values) + f"{seconds[label]:8.1f}")


def _scores(ensemble: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    if len(ensemble) == 1:
        return metrics.mae(ensemble[0], truth), 0.0
    return metrics.crps(ensemble, truth), metrics.spread_skill(ensemble, truth)


def _label(sampler: Sampler) -> str:
    return f"{sampler.name} {sampler.steps} {sampler.spacing if sampler.name == 'dpmpp' else ''}"


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if sys.argv[3:] else 16)
