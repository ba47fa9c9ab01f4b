"""Scores of fields and ensembles against a reference: lower is better unless said otherwise.

Shapes: fields (..., rows, cols); ensembles (member, ..., rows, cols). Missing values are not accepted:
cut them away first. Every score of an ensemble is fair, that is unbiased by its number of members
(Ferro 2014, doi:10.1002/qj.2270), so that ensembles of different size compare.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray

Array = NDArray[np.floating]


def rmse(prediction: Array, reference: Array) -> float:
    """Root-mean-square error, in the fields' units."""
    return float(np.sqrt(np.mean(np.square(prediction - reference, dtype=np.float64))))


def bias(prediction: Array, reference: Array) -> float:
    """Mean of prediction - reference, in the fields' units."""
    return float(np.mean(prediction - reference, dtype=np.float64))


def mae(prediction: Array, reference: Array) -> float:
    """Mean absolute error, in the fields' units."""
    return float(np.mean(np.abs(prediction - reference), dtype=np.float64))


def r2(prediction: Array, reference: Array) -> float:
    """Coefficient of determination, 1 - (mean squared error) / (variance of the reference); higher is better.

    NaN where the reference is constant.
    """
    variance = float(np.var(reference, dtype=np.float64))
    return 1 - rmse(prediction, reference) ** 2 / variance if variance else float("nan")


def pcc(prediction: Array, reference: Array) -> float:
    """Pearson's correlation over all cells; higher is better. NaN where one of the fields is constant."""
    ours, theirs = (field.astype(np.float64) - field.mean(dtype=np.float64) for field in (prediction, reference))
    scale = float(np.sqrt(np.mean(ours**2) * np.mean(theirs**2)))
    return float(np.mean(ours * theirs)) / scale if scale else float("nan")


def crps(ensemble: Array, reference: Array) -> float:
    """Fair continuous ranked probability score, averaged over all cells, in the fields' units.

    E|X - y| - E|X - X'| / 2 (Gneiting and Raftery 2007, doi:10.1198/016214506000001437, eq. 21), with the
    second mean over pairs of different members, computed from the sorted members.
    """
    members = len(ensemble)
    rank = np.arange(1, members + 1, dtype=np.float64).reshape(-1, *[1] * reference.ndim)
    ordered = np.sort(ensemble, axis=0)
    distance = np.mean(np.abs(ensemble - reference), dtype=np.float64)
    spread = np.mean((2 * rank - members - 1) * ordered) * members / (members * (members - 1))
    return float(distance - spread)


def spread_skill(ensemble: Array, reference: Array) -> float:
    """Spread over error of the ensemble mean; 1 is reliable (doi:10.1175/JHM-D-14-0008.1, eq. 15).

    NaN where the ensemble mean has no error.
    """
    members = len(ensemble)
    variance = np.mean(np.var(ensemble, axis=0, ddof=1, dtype=np.float64))
    error = rmse(ensemble.mean(axis=0), reference)
    return float(np.sqrt(variance * (members + 1) / members)) / error if error else float("nan")


def energy_score(ensemble: Array, reference: Array, patch: int | None = None) -> float:
    """Fair energy score of (member, channel, rows, cols), averaged over square patches of `patch` cells.

    E||X - y|| - E||X - X'|| / 2 with the Euclidean norm over all channels and cells of a patch, so give
    the channels comparable units first (doi:10.1198/016214506000001437, eq. 22). None: one patch.
    """
    ensemble, reference = _patches(ensemble, patch), _patches(reference, patch)  # (member, patch, values)
    members = len(ensemble)
    distance = np.mean(np.linalg.norm(ensemble - reference, axis=-1))
    pairs = [np.mean(np.linalg.norm(ensemble[i] - ensemble[j], axis=-1)) for i in range(members) for j in range(i)]
    return float(distance - np.mean(pairs) / 2)


def variogram_score(ensemble: Array, reference: Array, lags: tuple[int, ...] = (1, 2, 4, 8)) -> float:
    """Variogram score of order 0.5 over pairs of cells `lags` apart along rows and columns, averaged.

    (|y_i - y_j|^0.5 - E|X_i - X_j|^0.5)^2 (Scheuerer and Hamill 2015, doi:10.1175/MWR-D-14-00269.1), less
    the variance of the mean over a finite ensemble. (member, ..., rows, cols).
    """
    terms = []
    for lag in lags:
        for axis in (-2, -1):
            simulated = np.sqrt(np.abs(_difference(ensemble, lag, axis)))
            observed = np.sqrt(np.abs(_difference(reference, lag, axis)))
            sampling = simulated.var(axis=0, ddof=1) / len(simulated)
            terms.append(np.mean(np.square(observed - simulated.mean(axis=0)) - sampling))
    return float(np.mean(terms))


def power_spectrum(field: Array, spacing: float) -> tuple[Array, Array]:
    """Variance by wavelength of (..., rows, cols), averaged over the leading axes.

    The discrete cosine transform needs no window at the borders of a limited area (Denis, Cote and
    Laprise 2002, doi:10.1175/1520-0493(2002)130<1812:SDOTDA>2.0.CO;2). Returns the wavelengths, long to
    short [the units of spacing], and the mean variance of a coefficient in each ring of wavenumbers.
    """
    rows, cols = field.shape[-2:]
    power = np.square(scipy.fft.dctn(field, axes=(-2, -1), norm="ortho")) / (rows * cols)
    power = power.reshape(-1, rows, cols).mean(axis=0)
    wavenumber = np.hypot(np.arange(rows)[:, None] / rows, np.arange(cols)[None, :] / cols)  # Nyquist: 1
    rings = min(rows, cols)
    ring = np.rint(wavenumber * rings).astype(int).ravel()
    count = np.bincount(ring)[1:rings]
    variance = np.bincount(ring, weights=power.ravel())[1:rings] / count
    return 2 * spacing * rings / np.arange(1, rings), variance


def spectral_ratio(prediction: Array, reference: Array, spacing: float, wavelengths: tuple[float, ...]) -> list[float]:
    """Power of the prediction over the reference's at each wavelength [dB], within a tenth of it."""
    length, simulated = power_spectrum(prediction, spacing)
    _, observed = power_spectrum(reference, spacing)
    ratios = []
    for wavelength in wavelengths:
        near = np.abs(np.log(length / wavelength)) < 0.1
        ratios.append(float(10 * np.log10(simulated[near].mean() / observed[near].mean())))
    return ratios


def _patches(field: Array, patch: int | None) -> Array:
    *lead, channels, rows, cols = field.shape
    if patch is None:
        return field.reshape(*lead, 1, channels * rows * cols)
    down, across = rows // patch, cols // patch
    field = field[..., : down * patch, : across * patch]
    field = field.reshape(*lead, channels, down, patch, across, patch)
    field = np.moveaxis(field, (-4, -2), (-5, -4))  # (..., down, across, channels, patch, patch)
    return field.reshape(*lead, down * across, channels * patch * patch)


def _difference(field: Array, lag: int, axis: int) -> Array:
    size = field.shape[axis]
    return field.take(range(lag, size), axis) - field.take(range(size - lag), axis)
