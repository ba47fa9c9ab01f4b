"""What a system in training is worth on hours that it did not learn from: samples, scores, coherence, reconstruction.

Fields are (..., T, H, W): normalised inside, and given out in physical units less the mean of each variable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldmdown import metrics
from ldmdown.data.archive.store import Archive
from ldmdown.data.grid import largest_rectangle
from ldmdown.models.downscaler import Downscaler
from ldmdown.models.sampling import Sampler
from ldmdown.runtime import Processes
from ldmdown.training.batches import Batch, CropSource, field_source, latent_source, micro_batches, noise, sample_batch
from ldmdown.training.hours import HourSet, load_hour
from ldmdown.training.stages import Stage
from ldmdown.typing import Float32Array

MEMBERS = 8
SCORED_CROPS = 8
MEASURED_HOURS = 200  # for the coherence in time, at most
CALIBRATION_CROPS = 32  # of a set, for the gain of the spread
GAINS = (0.5, 2.0)  # bounds of this gain
STRUCTURED = 2.0  # weight of the channels in which structure lies
COMPARED_HOURS = 24  # for the reconstruction, at most
FINEST, MAX_LOSS = 8.0, 0.5  # at longer wavelengths [km] a latent space may not lose more power than this [dB]

FIX = (
    "train the vae longer (train.vae.steps), weigh its KL term less (autoencoder.kl_weight), or set autoencoder.kind "
    "to lapped, which loses nothing"
)


@torch.no_grad()
def generate_samples(stage: Stage, batch: Batch, members: int = MEMBERS) -> dict[str, Float32Array]:
    """The truth and what the systems known after a stage make of a batch, by name: (member, B, T, H, W)."""
    made = stage.samples(batch, members)
    values = stage.normalization["target"].std
    std = np.array([values[name] for name in stage.config.targets], np.float32)[:, None, None]
    fields = {"truth": batch["target"][:, None], **made} if made else {}
    return {name: part.transpose(0, 1).cpu().numpy() * std for name, part in fields.items()}


def crop_scores(stage: Stage, archive: Archive, processes: Processes) -> dict[str, Any]:
    """Scores of a finished stage on crops of the test hours, or of the validation hours where there are none."""
    use = "test" if len(archive.split("test")) else "validation"
    alone = replace(processes, rank=0, size=1)
    source = field_source(HourSet(archive, use), alone, hold=False)
    settings = stage.settings.model_copy(update={"batch": SCORED_CROPS})
    batch = sample_batch(source, "scores", stage.config.train.seed, settings, 0, alone)
    crops = [generate_samples(stage, one) for one, _ in micro_batches(batch, 1)]
    fields = {system: np.concatenate([crop[system] for crop in crops], axis=1) for system in crops[0]}
    return {"on": f"{SCORED_CROPS} {use} crops, {MEMBERS} members"} | scores(fields, stage.config.targets)


def scores(fields: dict[str, Float32Array], targets: Sequence[str]) -> dict[str, dict[str, float]]:
    """By variable, root-mean-square error and bias of the mean and CRPS of each system; and of a single member.

    `fields` are those of `generate_samples`.
    """
    fields = dict(fields)
    truth = fields.pop("truth")[0]
    if "ldm" in fields:
        fields["member"] = fields["ldm"][:1]
    found: dict[str, dict[str, float]] = {name: {} for name in targets}
    for system, ensemble in fields.items():
        for channel, name in enumerate(targets):
            field, true = ensemble[..., channel, :, :], truth[..., channel, :, :]
            found[name] |= {
                f"rmse_{system}": metrics.rmse(field.mean(axis=0), true),
                f"bias_{system}": metrics.bias(field.mean(axis=0), true),
                f"crps_{system}": metrics.crps(field, true) if len(field) > 1 else metrics.mae(field[0], true),
            }
            if len(field) > 1:
                found[name][f"spread_skill_{system}"] = metrics.spread_skill(field, true)
    return found


@torch.no_grad()
def coherence(
    model: Downscaler, hours: HourSet, latents: Tensor, processes: Processes
) -> list[float] | dict[str, list[float]]:
    """Correlation of latents an hour apart, in the noise's own units, over some training hours: of each channel.

    Where the model knows its land they are two, over land and over sea.
    """
    source = latent_source(hours, latents, replace(processes, rank=0, size=1))
    places = hours.consecutive()[:: max(1, len(hours) // MEASURED_HOURS)]
    statics = model.statics_at([(0, 0)], *hours.archive.grid.coarse.shape)
    cells = {"everywhere": torch.tensor(True)} if model.terrain is None else {"land": model.land, "sea": ~model.land}
    sums = {kind: torch.zeros(3, latents.shape[1], dtype=torch.float64) for kind in cells}
    for place in places:
        pair = _consecutive(source, place)
        if model.scale is not None:
            pair["latents"] *= (-model.log_scale(pair["predictors"], statics)).exp()
        valid = torch.from_numpy(hours.valid(place, source.margin)).to(pair["latents"].device)
        for kind, of_kind in cells.items():
            now, later = pair["latents"].double() * (valid & of_kind.to(valid.device))
            sums[kind] += torch.stack([now * later, now.square(), later.square()]).sum(dim=(-2, -1)).cpu()
    found = {kind: (both / (now * later).sqrt()).nan_to_num().tolist() for kind, (both, now, later) in sums.items()}
    return found.get("everywhere", found)


@torch.no_grad()
def spread_gain(
    stage: Stage, sampler: Sampler, sets: Sequence[tuple[HourSet, Tensor]], processes: Processes
) -> list[float]:
    """The factor for the latents of each channel with which members spread as much as their mean errs.

    It is fitted on crops of each set of hours, given with their latents; see `matching_gain`. The student's is for its
    noise, so that its mean stays as it is, and only for channels in which structure lies: more of the others would be
    more power than the fields have. The model's own gain for this sampler becomes 1.
    """
    model = stage.model
    gain = (model.student_gain if sampler.name == "student" else model.latent_gain).fill_(1)
    settings, alone = stage.settings.model_copy(update={"batch": 1}), replace(processes, rank=0, size=1)
    sums = torch.zeros(4, len(gain), dtype=torch.float64)
    for hours, latents in sets:
        source = latent_source(hours, latents, alone)
        for step in range(CALIBRATION_CROPS):
            batch = sample_batch(source, "calibration", stage.config.train.seed, settings, step, alone)
            condition = model.condition(batch["predictors"], stage.statics(batch)).take([0] * MEMBERS)
            starts = noise(batch, (MEMBERS, *batch["latents"].shape[1:]))[0]
            members, truth = model.sample_latents(condition, starts, sampler).double(), batch["latents"][0].double()
            mean = members.mean(dim=0)
            sums += torch.stack([mean * mean, mean * truth, truth * truth, members.var(dim=0)]).sum(dim=(-2, -1)).cpu()
    mm, mz, zz, ss = sums
    if sampler.name == "student":
        error = mm - 2 * mz + zz
        structured = (model.channel_weight >= STRUCTURED).expand(len(gain), 1, 1).flatten().cpu()
        fitted = torch.where(structured, (error / ((1 + 1 / MEMBERS) * ss)).sqrt(), 1.0)
    else:
        fitted = matching_gain(mm, mz, zz, ss, MEMBERS)
    return fitted.nan_to_num(1.0).clamp(*GAINS).tolist()


def matching_gain(mm: Tensor, mz: Tensor, zz: Tensor, ss: Tensor, members: int) -> Tensor:
    """The factor g for members with which their spread matches the error of their mean.

    Of M members with the mean m and the variance s^2, and of the truth z, the sums of m^2, m z, z^2 and s^2 are given;
    g solves sum (g m - z)^2 = (1 + 1/M) g^2 sum s^2.
    """
    a = mm - (1 + 1 / members) * ss
    return zz / (mz + (mz.square() - a * zz).clamp(min=0).sqrt())


def _consecutive(source: CropSource, place: int) -> Batch:
    """An hour and the next one, whole."""
    whole = source.hours.archive.grid.coarse.shape
    crops = [source.crop(one, (0, 0), whole, seed=0) for one in (place, place + 1)]
    return source.batch(crops)


@torch.no_grad()
def reconstruction(model: Downscaler, hours: HourSet, device: torch.device) -> dict[str, dict[str, float]]:
    """Power that fields lose on their way into the latent space and back [dB], by variable and wavelength [km].

    Wavelengths are half octaves from `FINEST` on, named by their shortest; positive is power lost.
    """
    assert model.autoencoder is not None
    grid, true, again = hours.archive.grid, [], []
    places = range(0, len(hours), -(-len(hours) // COMPARED_HOURS))
    covered = largest_rectangle(np.logical_and.reduce([hours.valid(place) for place in places]))
    if covered is None:
        return {}
    row, col, *sides = covered
    rows, cols = (side - side % model.size_multiple for side in sides)
    statics = model.statics_at([(row, col)], rows, cols)
    for place in places:
        predictors, target = load_hour(hours, place, device)
        predictors, target = (
            predictors[..., row : row + rows, col : col + cols],
            target[..., *grid.fine((row, col, rows, cols))],
        )
        mean = model.mean_or_zero(predictors, statics)
        true.append(target[0].cpu().numpy())
        again.append((mean + model.autoencoder.decode(model.autoencoder.encode(target - mean)))[0].cpu().numpy())
    fields, reference = np.stack(again), np.stack(true)
    return {
        name: power_lost(fields[:, channel], reference[:, channel], grid.spacing / 1000)
        for channel, name in enumerate(hours.archive.targets)
    }


def warning(lost: dict[str, dict[str, float]]) -> str:
    """What to say of a latent space that loses power; empty if it does not."""
    worst = {name: max(bands.items(), key=lambda band: band[1]) for name, bands in lost.items()}
    losses = [f"{name} {loss:.1f} dB from {band} km" for name, (band, loss) in worst.items() if loss > MAX_LOSS]
    return f"warning: the latent space loses power: {', '.join(losses)}\n  fix: {FIX}" if losses else ""


def power_lost(fields: Float32Array, reference: Float32Array, spacing: float) -> dict[str, float]:
    """Power lost [dB] by half octaves of wavelength, from (hour, rows, cols) on cells of `spacing` km."""
    wavelength, power = metrics.power_spectrum(fields, (spacing, spacing))
    _, expected = metrics.power_spectrum(reference, (spacing, spacing))
    band = np.floor(2 * np.log2(wavelength / FINEST)).astype(int)
    sums = {number: (expected[band == number].sum(), power[band == number].sum()) for number in set(band[band >= 0])}
    return {f"{FINEST * 2 ** (number / 2):.3g}": float(10 * np.log10(a / b)) for number, (a, b) in sorted(sums.items())}
