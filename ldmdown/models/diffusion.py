"""The noise schedule and its algebra: what z, z0, noise and v are to each other, in this file only.

    z = sqrt(abar) z0 + sqrt(1 - abar) noise        (DDPM, arXiv 2006.11239, eq. 4)
    v = sqrt(abar) noise - sqrt(1 - abar) z0        (arXiv 2202.00512, section 4)

Letters: abar, the product of 1 - beta up to time t; t (B,) indexes it and may lie between two integers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Diffusion(nn.Module):
    """beta = linspace(sqrt(beta_first), sqrt(beta_last), steps)^2, computed in float64, kept in float32."""

    alphas_cumprod: Tensor

    def __init__(self, steps: int, beta_first: float, beta_last: float) -> None:
        super().__init__()
        beta = torch.linspace(beta_first**0.5, beta_last**0.5, steps, dtype=torch.float64) ** 2
        self.register_buffer("alphas_cumprod", torch.cumprod(1 - beta, 0).float(), persistent=False)

    @property
    def steps(self) -> int:
        """Number of times."""
        return len(self.alphas_cumprod)

    @property
    def log_snr(self) -> Tensor:
        """Half the logarithm of the signal-to-noise ratio, log(sqrt(abar) / sqrt(1 - abar)): (steps,)."""
        abar = self.alphas_cumprod.double()
        return 0.5 * (abar / (1 - abar)).log()

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar) and sqrt(1 - abar) at times (B,), shaped (B, 1, 1, 1); log-SNR is linear between integers."""
        if t.is_floating_point():
            low = t.long().clamp(max=self.steps - 2)
            curve = self.log_snr
            abar = torch.sigmoid(2 * torch.lerp(curve[low], curve[low + 1], (t - low).double()))
        else:
            abar = self.alphas_cumprod[t]
        signal, noise = abar.sqrt().float(), (1 - abar).sqrt().float()
        return signal[:, None, None, None], noise[:, None, None, None]

    def q_sample(self, z0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """z of z0 and noise."""
        signal, sigma = self.coefficients(t)
        return signal * z0 + sigma * noise

    def v_target(self, z0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """v of z0 and noise."""
        signal, sigma = self.coefficients(t)
        return signal * noise - sigma * z0

    def z0_of_v(self, z: Tensor, t: Tensor, v: Tensor) -> Tensor:
        """z0 of z and v: sqrt(abar) z - sqrt(1 - abar) v."""
        signal, sigma = self.coefficients(t)
        return signal * z - sigma * v
