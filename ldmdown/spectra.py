"""How much variance fields have at each wavelength, and down to which wavelength it is right."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy.fft
from numpy.typing import NDArray

Array = NDArray[np.floating]

TOLERANCE = 1.0  # [dB]
BAND = 1 / 6  # octaves on each side, over which power is averaged before it is compared


def power_spectrum(field: Array, spacing: tuple[float, float]) -> tuple[Array, Array]:
    """Variance by wavelength of (..., rows, cols), averaged over the leading axes.

    The discrete cosine transform needs no window at the borders of a limited area (Denis, Cote and
    Laprise 2002, doi:10.1175/1520-0493(2002)130<1812:SDOTDA>2.0.CO;2). `spacing` is that of rows and of
    columns. Returns the wavelengths, long to short [the units of spacing], and the mean variance of a
    coefficient in each ring of wavenumbers.
    """
    rows, cols = field.shape[-2:]
    wavelength, ring, count = _rings(rows, cols, *spacing)
    power = np.square(scipy.fft.dctn(field, axes=(-2, -1), norm="ortho")) / (rows * cols)
    power = power.reshape(-1, rows * cols).mean(axis=0)
    variance = np.bincount(ring, weights=power, minlength=len(count))
    return wavelength, variance[1 : len(wavelength) + 1] / count[1 : len(wavelength) + 1]


def decibels(power: Array, reference: Array) -> Array:
    """Ratio of two spectra [dB]; NaN where the reference has none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = 10 * np.log10(power / reference)
    return np.where(np.isfinite(ratio), ratio, np.nan)


def effective_resolution(wavelength: Array, power: Array, reference: Array, error: Array | float = 0.0) -> float:
    """The shortest wavelength down to which power stays within TOLERANCE of the reference's.

    Wavelengths fall. Powers are averaged over a third of an octave first, since a ring of few coefficients
    is uncertain; what remains uncertain, two standard errors [dB], is allowed for. NaN if not even the longest
    wavelength is right.
    """
    near = _near(wavelength)
    ratio = np.abs(decibels(near @ power, near @ reference))
    wrong = np.flatnonzero(~(ratio <= TOLERANCE + 2 * error))
    last = wrong[0] if len(wrong) else len(wavelength)
    return float(wavelength[last - 1]) if last else float("nan")


def sampling_error(shape: tuple[int, int], spacing: tuple[float, float], fields: int) -> Array:
    """Standard error of a ratio of two spectra [dB], of so many independent fields, as bands are averaged.

    A mean of n squares of Gaussian numbers has the relative error sqrt(2 / n).
    """
    wavelength, _, count = _rings(*shape, *spacing)
    numbers = fields * (_near(wavelength) @ count[1 : len(wavelength) + 1])
    return 10 / np.log(10) * np.sqrt(4 / numbers)


def _near(wavelength: Array) -> NDArray[np.float64]:
    """Which wavelengths (columns) lie in the band of each (rows)."""
    return (np.abs(np.log2(wavelength[:, None] / wavelength)) <= BAND).astype(np.float64)


@lru_cache(maxsize=4)
def _rings(rows: int, cols: int, dy: float, dx: float) -> tuple[Array, NDArray[np.int64], NDArray[np.int64]]:
    """(wavelengths of rings 1 and on, ring of each coefficient, coefficients in each ring).

    A ring is as wide as the smallest wavenumber of the shorter side; rings end at the Nyquist wavelength.
    """
    side = min(rows * dy, cols * dx)
    wavenumber = np.hypot(np.arange(rows)[:, None] / (rows * dy), np.arange(cols) / (cols * dx)) / 2
    ring = np.rint(wavenumber * 2 * side).astype(np.int64).ravel()
    rings = int(np.floor(side / max(dy, dx) + 1e-9))
    return 2 * side / np.arange(1, rings), ring, np.bincount(ring)
