"""Samplers, as functions of `denoise(z, t) -> z0`, and the noise that they start from.

z is (B, L, h, w); t (B,) indexes the schedule. Both samplers are deterministic, so that coherence in time of
the noise becomes coherence of the fields.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from ldmdown.models.diffusion import Diffusion

Denoise = Callable[[Tensor, Tensor], Tensor]
STREAM = 2**63  # the counter's last word, which no other noise uses


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


@lru_cache(maxsize=64)
def white_noise(seed: int, member: int, hour: int, shape: tuple[int, int, int]) -> Tensor:
    """Standard normal (L, h, w) of a member at an absolute hour, by a counter: no other draw comes before it.

    Philox4x64 (Salmon et al. 2011, doi:10.1145/2063384.2063405) with key (seed, member) and the hour in the counter.
    `shape` is always that of the whole domain, so that the position decides the value.
    """
    bits = np.random.Philox(key=[seed, member], counter=[0, 0, hour % 2**64, STREAM])
    return torch.from_numpy(np.random.Generator(bits).standard_normal(shape, dtype=np.float32))


@lru_cache(maxsize=8)
def coherence_weights(correlation: float) -> tuple[float, ...]:
    """Weights of the hours t, t - 1, ...: falling geometrically, squares summing to one.

    The lag-1 correlation sum_k w_k w_(k+1) is `correlation`; so many terms that the last holds under 1 % of
    the variance.
    """
    if correlation == 0:
        return (1.0,)
    terms = 1 + math.ceil(math.log(0.01) / (2 * math.log(correlation)))

    def weights(base: float) -> np.ndarray:
        power = base ** np.arange(terms)
        return power / np.sqrt(np.sum(power**2))

    base = scipy.optimize.brentq(lambda b: weights(b)[1:] @ weights(b)[:-1] - correlation, 0, 1)
    return tuple(weights(base))


def coherent_noise(seed: int, member: int, hour: int, shape: tuple[int, int, int], correlation: float) -> Tensor:
    """Standard normal (L, h, w) whose correlation with the hour before is `correlation` (0 to 0.95)."""
    return sum(
        (
            weight * white_noise(seed, member, hour - lag, shape)
            for lag, weight in enumerate(coherence_weights(correlation))
        ),
        start=torch.zeros(shape),
    )
