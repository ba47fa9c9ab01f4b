"""Samplers, as functions of `denoise(z, t) -> z0`, and the noise that they start from.

z is (B, L, h, w); t (B,) indexes the schedule. Both samplers are deterministic, so that coherence in time of
the noise becomes coherence of the fields.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ldmdown.models.diffusion import Diffusion
from ldmdown.typing import BoolArray, Float32Array

Denoise = Callable[[Tensor, Tensor], Tensor]
BISECTIONS = 50  # halvings of an interval, down to rounding
NOISE_STREAM = 2**63  # the counter's last word, which no other noise uses


@dataclass(frozen=True)
class Sampler:
    """A sampler, its number of steps and how they are spread over time."""

    name: Literal["dpmpp", "ddim", "student"]
    steps: int
    spacing: Literal["trailing", "logsnr"] = "trailing"  # of dpmpp

    def run(self, denoise: Denoise, noise: Tensor, diffusion: Diffusion) -> Tensor:
        """Latents (B, L, h, w) from standard normal noise of the same shape."""
        if self.name == "ddim":
            return ddim(denoise, noise, diffusion, self.steps)
        return dpmpp(denoise, noise, diffusion, self.steps, self.spacing)


def ddim(denoise: Denoise, noise: Tensor, diffusion: Diffusion, steps: int) -> Tensor:
    """DDIM with eta 0 (arXiv 2010.02502, eq. 12) at the paper's times 1, 1 + T/S, ..., the last one to time 0."""
    every = torch.arange(steps, device=noise.device) * diffusion.steps // steps + 1
    times = every.clamp(max=diffusion.steps - 1)
    previous = torch.cat([times.new_zeros(1), times[:-1]])
    z = noise
    for t, to in zip(times.flip(0), previous.flip(0), strict=True):
        z0 = denoise(z, t.expand(len(z)))
        signal, sigma = diffusion.coefficients(t[None])
        epsilon = (z - signal * z0) / sigma
        signal, sigma = diffusion.coefficients(to[None])
        z = signal * z0 + sigma * epsilon
    return z


def dpmpp(
    denoise: Denoise,
    noise: Tensor,
    diffusion: Diffusion,
    steps: int,
    spacing: Literal["trailing", "logsnr"] = "trailing",
) -> Tensor:
    """DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2): S times from the last one, then straight to z0.

    `spacing` spreads them evenly over time or over log-SNR.
    """
    curve = diffusion.log_snr  # falls with t
    if spacing == "trailing":
        times = torch.arange(steps, 0, -1, device=noise.device) * diffusion.steps / steps
        times = times.round().long() - 1
    else:
        even = np.linspace(float(curve[-1]), float(curve[0]), steps + 1)[:-1]
        exact = np.interp(even, curve.flip(0).cpu().numpy(), np.arange(diffusion.steps)[::-1])
        times = torch.from_numpy(exact).to(noise.device)
    z, last, step = noise, None, torch.zeros(())
    for t, to in pairwise(times):
        z0 = denoise(z, t.expand(len(z)))
        (signal, sigma), (next_signal, next_sigma) = (diffusion.coefficients(at[None]) for at in (t, to))
        h = ((next_signal / next_sigma) / (signal / sigma)).log()
        correction = 0 if last is None else (z0 - last) * h / (2 * step)
        z = next_sigma / sigma * z - next_signal * torch.expm1(-h) * (z0 + correction)
        last, step = z0, h
    return denoise(z, times[-1].expand(len(z)))


def white_noise(seed: int, member: int, hour: int, shape: tuple[int, int, int]) -> Tensor:
    """Standard normal (L, h, w) of a member at an absolute hour, by a counter: no other draw comes before it.

    Philox4x64 (Salmon et al. 2011, doi:10.1145/2063384.2063405) with key (seed, member) and the hour in the counter.
    `shape` is always that of the whole domain, so that the position decides the value.
    """
    key, counter = (np.array(words, np.uint64) for words in ([seed, member], [0, 0, hour % 2**64, NOISE_STREAM]))
    bits = np.random.Philox(key=key, counter=counter)
    return torch.from_numpy(np.random.Generator(bits).standard_normal(shape, dtype=np.float32))


def coherence_weights(correlation: float) -> tuple[float, ...]:
    """Weights of the hours t, t - 1, ...: falling geometrically, squares summing to one.

    The lag-1 correlation sum_k w_k w_(k+1) is `correlation`; so many terms that the last holds under 1 % of
    the variance.
    """
    if correlation == 0:
        return (1.0,)
    terms = 1 + math.ceil(math.log(0.01) / (2 * math.log(correlation)))

    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        ratio = (low + high) / 2
        lag1 = ratio * (1 - ratio ** (2 * terms - 2)) / (1 - ratio ** (2 * terms))  # of geometric series
        low, high = (ratio, high) if lag1 < correlation else (low, ratio)
    weights = ratio ** np.arange(terms)
    weights /= np.sqrt(np.sum(weights**2))
    return tuple(weights)


class CoherentNoise:
    """Standard normal noise (L, h, w) of any hour and member, correlated from hour to hour.

    The noise of an hour is a weighted sum of white fields of this hour and those before it, so that any hour can be
    drawn first. The white fields that the next hour needs again are kept, as many for each member as there are
    weights.

    Args:
        seed: random seed of the white fields.
        shape: (L, rows, cols) of the whole domain.
        correlation: correlation of the noise of an hour with that of the hour before, 0 to 0.95, (1 or 2, 1 or L): of
            all channels, or of each; everywhere, or over land and over sea.
        crop: rows and columns that are wanted of the domain; None: all.
        land: (rows, cols) of the crop, which cells are land, where there are two correlations.
    """

    def __init__(
        self,
        seed: int,
        shape: tuple[int, int, int],
        correlation: Sequence[Sequence[float]],
        crop: tuple[slice, slice] | None = None,
        land: BoolArray | None = None,
    ) -> None:
        self.seed, self.shape, self.crop, self.land = seed, shape, crop, land
        of_all = [torch.tensor(coherence_weights(one), dtype=torch.float32) for of_one in correlation for one in of_one]
        weights = pad_sequence(of_all).unflatten(1, (len(correlation), -1))  # 0 beyond a channel's own
        self.weights: Float32Array = weights[..., None, None].numpy()  # (lag, 1 or 2, L or 1, 1, 1)
        self._kept: dict[int, dict[int, Tensor]] = {}

    def __call__(self, hour: int, member: int) -> Tensor:
        """The noise of a member at an absolute hour."""
        kept = self._kept.get(member, {})
        hours = [hour - lag for lag in range(len(self.weights))]
        white = {one: kept[one] if one in kept else self._white(member, one) for one in hours}
        self._kept[member] = white
        totals = np.zeros((self.weights.shape[1], *white[hour].shape), np.float32)
        weighted = np.empty_like(totals[0])
        for weights, one in zip(self.weights, hours, strict=True):
            for total, weight in zip(totals, weights, strict=True):
                if weight.any():
                    total += np.multiply(weight, white[one].numpy(), out=weighted)  # torch would use other threads
        return torch.from_numpy(totals[0] if self.land is None else np.where(self.land, *totals))

    def _white(self, member: int, hour: int) -> Tensor:
        field = white_noise(self.seed, member, hour, self.shape)
        return field if self.crop is None else field[:, *self.crop].clone()  # a view would keep the whole domain
