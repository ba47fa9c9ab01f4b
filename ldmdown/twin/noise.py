"""The twin's noise: random fields with a spectrum and a memory, for any hour by itself."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from ldmdown.typing import FloatArray

PADDING = 150.0  # [km] by which noise is wider than the domain, so that it does not show its period


def wavenumbers(shape: tuple[int, int], step: float) -> tuple[NDArray, NDArray, NDArray]:
    """(ky, kx, k) in cycles per unit of `step`, as `rfft2` orders them; k is never zero."""
    ky = fft.fftfreq(shape[0], step)[:, None]
    kx = fft.rfftfreq(shape[1], step)[None]
    k = np.hypot(ky, kx)
    k[0, 0] = k[0, 1]
    return ky, kx, k


def shaped(white: NDArray, response: NDArray) -> NDArray:
    """White noise under a filter, with unit variance."""
    return fft.irfft2(fft.rfft2(white) * unit(response, white.shape), white.shape)


def unit(response: NDArray, shape: tuple[int, ...]) -> NDArray:
    """The filter scaled to leave unit variance."""
    weight = np.full(response.shape[1], 2.0)
    weight[0] = 1
    if shape[1] % 2 == 0:
        weight[-1] = 1
    response = response.copy()
    response[0, 0] = 0
    return response / np.sqrt((np.abs(response) ** 2 * weight).sum() / (shape[0] * shape[1]))


class Noise:
    """White fields with a memory, keyed by (seed, stream, member, hour), so that each hour can be had alone.

    The field of hour t is sum_k w_k white(t - k), w_k falling as `memory`^k over `LAGS` hours, their squares
    summing to one; its lag-1 correlation is a little less than `memory`.
    """

    LAGS = 8

    def __init__(self, seed: int, stream: int, shape: tuple[int, int], step: float, memory: float) -> None:
        self.seed, self.stream, self.shape = seed, stream, shape
        rows, cols = (fft.next_fast_len(size + round(PADDING / step), real=True) for size in shape)
        self.padded = rows, cols
        weights = memory ** np.arange(self.LAGS)
        self.weights = (weights / np.sqrt((weights**2).sum())).astype("f4")
        self.white = lru_cache(maxsize=self.LAGS + 1)(self._white)
        self.waves = wavenumbers(self.padded, step)

    def _white(self, member: int, hour: int) -> FloatArray:
        key = np.array([self.seed, member], np.uint64)
        counter = np.array([0, 0, hour % 2**64, self.stream], np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=counter)).standard_normal(
            self.padded, dtype=np.float32
        )

    def spectrum(self, member: int, hour: int) -> NDArray[np.complex64]:
        """The hour's white field, transformed."""
        white = sum(weight * self.white(member, hour - lag) for lag, weight in enumerate(self.weights))
        return fft.rfft2(white)

    def field(self, spectrum: NDArray) -> FloatArray:
        """Back to the grid."""
        return fft.irfft2(spectrum, self.padded)[: self.shape[0], : self.shape[1]]

    def response(self, values: NDArray) -> NDArray[np.float32]:
        """A filter of unit variance."""
        return unit(values, self.padded).astype("f4")


class SmoothNoise(Noise):
    """A smooth field of unit variance: a Gaussian spectrum of this correlation length [km]."""

    def __init__(
        self, seed: int, stream: int, shape: tuple[int, int], step: float, memory: float, length: float
    ) -> None:
        super().__init__(seed, stream, shape, step, memory)
        self.filter = self.response(np.exp(-((np.pi * length * self.waves[2]) ** 2) / 2))

    def draw(self, member: int, hour: int) -> FloatArray:
        """One field."""
        return self.field(self.spectrum(member, hour) * self.filter)


class Eddies(Noise):
    """Temperature and wind with the spectrum that is left of real fields when the terrain's response is taken away.

    Variance falls as k^-SLOPE below OUTER [km], and faster below the scale that the flow resolves [km].
    """

    SLOPE, OUTER, STEEPER, DIVERGENT = 2.0, 40.0, 2.5, 0.95

    def __init__(
        self, seed: int, stream: int, shape: tuple[int, int], step: float, memory: float, resolved: float
    ) -> None:
        super().__init__(seed, stream, shape, step, memory)
        self.warm, self.pull = (Noise(seed, stream + i, shape, step, memory) for i in (1, 2))
        ky, kx, k = self.waves
        power = (k**2 + self.OUTER**-2.0) ** (-(self.SLOPE + 1) / 2) / (1 + (k * resolved) ** 2) ** self.STEEPER
        self.filter = self.response(np.sqrt(power))
        scale = np.sqrt(2 / (1 + self.DIVERGENT**2)) * 1j / k
        self.x, self.y = ((scale * part).astype("c8") for part in (kx, ky))

    def draw(self, member: int, hour: int) -> tuple[FloatArray, FloatArray]:
        """Temperature (rows, cols) and wind (2, rows, cols), each of unit variance."""
        warm, spin, pull = (noise.spectrum(member, hour) * self.filter for noise in (self.warm, self, self.pull))
        pull = self.DIVERGENT * pull
        wind = [self.field(self.x * pull - self.y * spin), self.field(self.y * pull + self.x * spin)]
        return self.field(warm), np.stack(wind)


class Streaks(Noise):
    """Streaks along the wind, as behind islands and capes: noise whose filter is steered after the transform."""

    LENGTH = 12.0  # [km] across

    def __init__(self, seed: int, stream: int, shape: tuple[int, int], step: float, memory: float) -> None:
        super().__init__(seed, stream, shape, step, memory)
        ky, kx, k = self.waves
        self.filter = self.response(k**-0.5 * np.exp(-((k * self.LENGTH) ** 2)))
        self.cos, self.sin = ((part / k**2).astype("f4") for part in (kx**2 - ky**2, 2 * kx * ky))

    def draw(self, member: int, hour: int, u: FloatArray, v: FloatArray) -> FloatArray:
        """One field of unit variance, (rows, cols), stretched along the wind (u, v)."""
        base = self.spectrum(member, hour) * self.filter
        speed2 = u**2 + v**2 + 1
        along = (u**2 - v**2) / speed2 * self.field(base * self.cos) + 2 * u * v / speed2 * self.field(base * self.sin)
        return (self.field(base) - along) * 1.5**-0.5
