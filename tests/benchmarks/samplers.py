"""What each sampler, number of steps and spacing is worth.

    python tests/benchmarks/samplers.py CHECKPOINT ERA5.nc            against 100 steps of DDIM
    python tests/benchmarks/samplers.py CHECKPOINT ARCHIVE [CROPS]    on the validation hours of an archive

The first prints by variable how far fields lie from those of 100 steps of DDIM from the same noise, and then from those
of 200 steps of DPM-Solver++, which are near the exact solution: the rms difference in per cent of the rms difference of
two members, in a box of the first hour.

The second prints the fair CRPS and the ratio of spread to error by variable, means over random crops with 8 members,
which start from the same noise, and seconds; then the power of members relative to that of the fields [dB] by
wavelength [km], and the frequency of wind above 10 and 15 m/s relative to theirs. The first row is the mean alone. The
gain of the checkpoint's latents was fitted for the sampler of its configuration; it is left out here, so that all
compete alike. A student, where there is one, is the last row.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch

import ldmdown
from ldmdown import metrics
from ldmdown.checkpoint import load
from ldmdown.data.archive.store import Archive
from ldmdown.data.reading.fields import open_fields
from ldmdown.models.sampling import Sampler
from ldmdown.options import DownscaleOptions
from ldmdown.runtime import Processes
from ldmdown.training.batches import field_source, noise, sample_batch
from ldmdown.training.hours import HourSet

SAMPLERS = [
    Sampler("dpmpp", steps, spacing) for spacing in ("logsnr", "trailing") for steps in (2, 3, 4, 5, 6, 8, 10, 12, 20)
]
MEMBERS = 8
WAVELENGTHS = (64, 32, 16, 8, 5)  # [km]
SPEEDS = (10, 15)  # [m/s]
BOX = (10.0, 44.0, 12.0, 46.0)  # west, south, east, north


@torch.inference_mode()
def main(name: str, archive: Path, crops: int) -> None:
    """Print the table."""
    checkpoint = load(name)
    model, config = checkpoint.model, checkpoint.config
    assert model.autoencoder is not None
    for gain in (model.latent_gain, model.student_gain):
        gain.fill_(1)
    alone = Processes(0, 1, 1, torch.device("cpu"))
    source = field_source(HourSet(Archive(archive), "validation"), alone, hold=False)
    settings = config.train.ldm.model_copy(update={"batch": 1})
    batches = [sample_batch(source, "samplers", 0, settings, step, alone) for step in range(crops)]
    std = np.array([checkpoint.normalization["target"].std[target] for target in config.targets])[:, None, None]
    truth = np.concatenate([batch["target"].numpy() for batch in batches]) * std
    samplers = [*SAMPLERS, *([Sampler("student", 1)] if model.student is not None else [])]
    fields: dict[str, list[np.ndarray]] = {label: [] for label in ("mean", *map(_label, samplers))}
    seconds = dict.fromkeys(fields, 0.0)
    for batch in batches:
        statics = model.statics_at(batch["corners"], *batch["predictors"].shape[-2:])
        mean = model.mean_or_zero(batch["predictors"], statics)
        condition = model.condition(batch["predictors"], statics)
        start = noise(batch, (MEMBERS, model.autoencoder.latent_channels, *batch["predictors"].shape[-2:]))
        fields["mean"].append(mean[:, None].numpy() * std)
        for sampler in samplers:
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
    names = {"t2m": ["t2m"], "wind": ["u10", "v10"]}
    kinds = {kind: [config.targets.index(name) for name in part] for kind, part in names.items()}
    columns = [f"{kind} {at} km" for kind in kinds for at in WAVELENGTHS] + [f"> {speed} m/s" for speed in SPEEDS]
    print(f"\n{'':20}" + "".join(f"{column:>12}" for column in columns))
    offset = np.array([checkpoint.normalization["target"].mean[target] for target in config.targets])[:, None, None]
    for label, parts in fields.items():
        ensemble = np.concatenate(parts)  # (B, M, T, H, W)
        powers = [_power(ensemble[:, :, part]) - _power(truth[:, None, part]) for part in kinds.values()]
        windy = [
            [_windy(one[..., kinds["wind"], :, :] + offset[kinds["wind"]], speed) for one in (ensemble, truth)]
            for speed in SPEEDS
        ]
        values = [*np.concatenate(powers), *(ours / theirs for ours, theirs in windy)]
        print(f"{label:20}" + "".join(f"{value:12.2f}" for value in values))


def _power(fields: np.ndarray) -> np.ndarray:
    """In dB at the wavelengths, of fields (..., rows, cols)."""
    wavelength, power = metrics.power_spectrum(fields, (2.0, 2.0))
    return 10 * np.log10([power[np.abs(np.log2(wavelength / at)) < 1 / 6].sum() for at in WAVELENGTHS])


def _windy(wind: np.ndarray, speed: float) -> float:
    """The share of cells in which wind (..., 2, rows, cols) is above a speed."""
    return float((np.hypot(wind[..., 0, :, :], wind[..., 1, :, :]) > speed).mean())


@torch.inference_mode()
def distances(name: str, era5: Path) -> None:
    """Print the first table."""
    with open_fields([str(era5)], ldmdown.load(name).inputs) as fields:
        job = ldmdown.load(name).job(fields, DownscaleOptions(members=4, bbox=BOX, precision="fp32"))
        (predictor,) = job.predictors
        (inputs,) = predictor.predictors(fields)
        coarse, noise = predictor.normalized(inputs.read(0)[None]), predictor.noise([(int(inputs.hours[0]), 0)])
    model, targets = predictor.model, predictor.checkpoint.config.targets
    assert noise is not None
    mean, condition = model.mean_or_zero(coarse, predictor.statics), model.condition(coarse, predictor.statics)

    def drawn(sampler: Sampler) -> np.ndarray:
        return model.ensemble(mean, condition, noise, sampler, MEMBERS)[0].numpy()

    theirs, near = drawn(Sampler("ddim", 100)), drawn(Sampler("dpmpp", 200, "logsnr"))
    spread = _rms(theirs - np.roll(theirs, 1, axis=0))
    print(f"{'':20}" + 2 * "".join(f"{target:>10}" for target in targets) + f"{'s':>8}")
    for sampler in (*SAMPLERS, Sampler("ddim", 100)):
        began = time.process_time()
        fields = drawn(sampler)
        seconds = time.process_time() - began
        shares = [share for expected in (theirs, near) for share in 100 * _rms(fields - expected) / spread]
        print(f"{_label(sampler):20}" + "".join(f"{share:10.2f}" for share in shares) + f"{seconds:8.1f}", flush=True)


def _rms(differences: np.ndarray) -> np.ndarray:
    """By variable, of (member, variable, rows, cols)."""
    return np.sqrt(np.square(differences, dtype=np.float64).mean(axis=(0, 2, 3)))


def _scores(ensemble: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    if len(ensemble) == 1:
        return metrics.mae(ensemble[0], truth), 0.0
    return metrics.crps(ensemble, truth), metrics.spread_skill(ensemble, truth)


def _label(sampler: Sampler) -> str:
    return f"{sampler.name} {sampler.steps} {sampler.spacing if sampler.name == 'dpmpp' else ''}"


if __name__ == "__main__":
    if (Path(sys.argv[2]) / "zarr.json").exists():
        main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if sys.argv[3:] else 16)
    else:
        distances(sys.argv[1], Path(sys.argv[2]))
