"""What a system in training is worth on hours that it did not learn from: samples, scores, reconstruction.

Fields are (..., T, H, W): normalised inside, and given out in physical units less the mean of each variable.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldmdown import metrics
from ldmdown.config import Config
from ldmdown.models.downscaler import Downscaler
from ldmdown.models.sampling import Sampler
from ldmdown.training.batches import Batch, Source, Split, hour, noise

MEMBERS = 8
COMPARED = 24  # hours of reconstruction, at most
FINEST, LOSS = 8.0, 0.5  # at longer wavelengths [km] a latent space may not lose more power than this [dB]

FIX = (
    "train the vae longer (train.vae.steps), weigh its KL term less (autoencoder.kl_weight), or set autoencoder.kind "
    "to lapped, which loses nothing"
)

Fields = NDArray[np.float32]


def statics_of(model: Downscaler, batch: Batch) -> Tensor:
    """Of the windows of a batch: (B, S, H, W)."""
    return model.statics_at(batch["corners"], *batch["predictors"].shape[-2:])


@torch.no_grad()
def drawn(
    model: Downscaler, config: Config, stage: str, batch: Batch, std: Fields, members: int = MEMBERS
) -> dict[str, Fields]:
    """The truth and what the systems known after a stage make of a batch, by name: (member, B, T, H, W).

    Beside the denoiser's members stand those of scaled white noise, which they must beat.
    """
    statics = statics_of(model, batch)
    mean = model.mean(batch["predictors"], statics)
    fields = {"truth": [batch["target"]], "gan" if stage == "gan" else "unet": [mean]}
    base = model.mean_or_zero(batch["predictors"], statics)
    if stage == "vae":
        assert model.autoencoder is not None
        fields["vae"] = [base + model.autoencoder.decode(model.autoencoder.encode(batch["target"] - base))]
    if stage == "ldm":
        assert model.autoencoder is not None
        condition = model.condition(batch["predictors"], statics)
        shape = (members, model.autoencoder.latent_channels, *batch["predictors"].shape[-2:])
        starts = noise(batch, shape)
        for name, sampler in (("ldm", Sampler(**config.sampler.model_dump())), ("scaled_noise", None)):
            fields[name] = list(model.ensemble(base, condition, starts, sampler, len(base)).unbind(1))
    return {name: torch.stack(part).cpu().numpy() * std for name, part in fields.items()}


def scores(fields: dict[str, Fields], targets: Sequence[str]) -> dict[str, dict[str, float]]:
    """Of what `drawn` gave, by variable: root-mean-square error and bias of the mean, CRPS; and of a single member."""
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
            if system == "ldm":
                found[name]["spread_skill_ldm"] = metrics.spread_skill(field, true)
    return found


@torch.no_grad()
def coherence(model: Downscaler, source: Source, places: Sequence[int]) -> float:
    """Correlation of latents an hour apart, in the noise's own units, from these hours to the next."""
    sums = torch.zeros(3, dtype=torch.float64)
    whole = source.split.archive.grid.coarse.shape
    for place in places:
        crops = [source.crop(one, (0, 0), whole, 0) for one in (place, place + 1)]
        pair: Batch = {**source.batch(crops), "corners": [(0, 0), (0, 0)]}
        if model.scale is not None:
            pair["latents"] *= (-model.scale(pair["predictors"], statics_of(model, pair))).exp()
        now, later = pair["latents"].double()
        sums += torch.stack([(now * later).sum(), now.square().sum(), later.square().sum()]).cpu()
    return float(sums[0] / (sums[1] * sums[2]).sqrt()) if places else 0.0


@torch.no_grad()
def reconstruction(model: Downscaler, split: Split, device: torch.device) -> dict[str, dict[str, float]]:
    """Power that fields lose on their way into the latent space and back [dB], by variable and wavelength [km].

    Wavelengths are half octaves from `FINEST` on, named by their shortest; positive is power lost.
    """
    assert model.autoencoder is not None
    grid, true, again = split.archive.grid, [], []
    for place in range(0, len(split), -(-len(split) // COMPARED)):
        predictors, target = hour(split, place, device)
        statics = model.statics_at([(0, 0)], *grid.coarse.shape)
        base = model.mean_or_zero(predictors, statics)
        true.append(target[0].cpu().numpy())
        again.append((base + model.autoencoder.decode(model.autoencoder.encode(target - base)))[0].cpu().numpy())
    return {
        name: lost(np.stack([field[channel] for field in again]), np.stack([field[channel] for field in true]),
                   grid.spacing / 1000)
        for channel, name in enumerate(split.archive.targets)
    }  # fmt: skip


def lost(fields: Fields, reference: Fields, spacing: float) -> dict[str, float]:
    """Power lost [dB] by half octaves of wavelength, from (hour, rows, cols) on cells of `spacing` km."""
    wavelength, power = metrics.power_spectrum(fields, (spacing, spacing))
    _, expected = metrics.power_spectrum(reference, (spacing, spacing))
    band = np.floor(2 * np.log2(wavelength / FINEST)).astype(int)
    sums = {number: (expected[band == number].sum(), power[band == number].sum()) for number in set(band[band >= 0])}
    return {f"{FINEST * 2 ** (number / 2):.3g}": float(10 * np.log10(a / b)) for number, (a, b) in sorted(sums.items())}
