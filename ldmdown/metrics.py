"""Scores of fields and ensembles against a reference, and power spectra: lower is better unless said otherwise.

Shapes: fields (..., rows, cols); ensembles (member, ..., rows, cols). Missing values are not accepted:
cut them away first. Every score of an ensemble is fair, that is unbiased by its number of members
(Ferro 2014, doi:10.1002/qj.2270), so that ensembles of different size compare.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import scipy.fft

from ldmdown.typing import BoolArray, FloatArray, IntArray

TOLERANCE = 1.0  # [dB]
BAND = 1 / 6  # octaves on each side, over which power is averaged before it is compared


def rmse(prediction: FloatArray, reference: FloatArray) -> float:
    """Root-mean-square error, in the fields' units."""
    return float(np.sqrt(np.mean(np.square(prediction - reference, dtype=np.float64))))


def bias(prediction: FloatArray, reference: FloatArray) -> float:
    """Mean of prediction - reference, in the fields' units."""
    return float(np.mean(prediction - reference, dtype=np.float64))


def mae(prediction: FloatArray, reference: FloatArray) -> float:
    """Mean absolute error, in the fields' units."""
    return float(np.mean(np.abs(prediction - reference), dtype=np.float64))


def r2(prediction: FloatArray, reference: FloatArray) -> float:
    """Coefficient of determination, 1 - (mean squared error) / (variance of the reference); higher is better.

    NaN where the reference is constant.
    """
    if _constant(reference):
        return float("nan")
    return 1 - rmse(prediction, reference) ** 2 / float(np.var(reference, dtype=np.float64))


def pcc(prediction: FloatArray, reference: FloatArray) -> float:
    """Pearson's correlation over all cells; higher is better. NaN where one of the fields is constant."""
    if _constant(prediction) or _constant(reference):
        return float("nan")
    ours, theirs = (field - field.mean(dtype=np.float64) for field in (prediction, reference))
    return float(np.mean(ours * theirs) / np.sqrt(np.mean(ours**2) * np.mean(theirs**2)))


def crps(ensemble: FloatArray, reference: FloatArray) -> float:
    """Fair continuous ranked probability score, averaged over all cells, in the fields' units.

    E|X - y| - E|X - X'| / 2 (Gneiting and Raftery 2007, doi:10.1198/016214506000001437, eq. 21), with the
    second mean over pairs of different members. Of one member it is the mean absolute error.
    """
    return float(_fair(ensemble, reference, mae))


def crps_of_cells(ensemble: FloatArray, reference: FloatArray) -> FloatArray:
    """Fair continuous ranked probability score of each cell, in the fields' units."""
    return np.asarray(_fair(ensemble, reference, lambda one, other: np.abs(one - other)))


def spread_skill(ensemble: FloatArray, reference: FloatArray) -> float:
    """Spread over error of the ensemble mean; 1 is reliable (doi:10.1175/JHM-D-14-0008.1, eq. 15).

    NaN where the ensemble mean has no error.
    """
    members = len(ensemble)
    variance = np.mean(np.var(ensemble, axis=0, ddof=1, dtype=np.float64))
    error = rmse(ensemble.mean(axis=0), reference)
    return float(np.sqrt(variance * (members + 1) / members)) / error if error else float("nan")


def energy_score(ensemble: FloatArray, reference: FloatArray, patch: int | None = None) -> float:
    """Fair energy score of (member, channel, rows, cols), averaged over square patches of `patch` cells.

    E||X - y|| - E||X - X'|| / 2 with the Euclidean norm over all channels and cells of a patch, so give
    the channels comparable units first (doi:10.1198/016214506000001437, eq. 22). None: one patch. Of one
    member it is the mean distance.
    """

    def distance(one: FloatArray, other: FloatArray) -> float:
        return float(np.mean(np.linalg.norm(one - other, axis=-1)))

    return float(_fair(_patches(ensemble, patch), _patches(reference, patch), distance))  # (member, patch, values)


def variogram_score(ensemble: FloatArray, reference: FloatArray, lags: tuple[int, ...] = (1, 2, 4, 8)) -> float:
    """Variogram score of order 0.5 over pairs of cells `lags` apart along rows and columns, averaged.

    (|y_i - y_j|^0.5 - E|X_i - X_j|^0.5)^2 (Scheuerer and Hamill 2015, doi:10.1175/MWR-D-14-00269.1), less
    the variance of the mean over a finite ensemble. (member, ..., rows, cols); NaN where no lag fits in.
    """
    members = len(ensemble)
    terms = []
    for lag in lags:
        for axis in (axis for axis in (-2, -1) if lag < reference.shape[axis]):
            mean, squares = np.zeros(1, ensemble.dtype), 0.0
            for member in ensemble:
                root = _root_difference(member, lag, axis)
                mean = mean + root
                squares += np.mean(root * root, dtype=np.float64)
            mean /= members
            error = _root_difference(reference, lag, axis) - mean
            term = np.mean(error * error, dtype=np.float64)
            if members > 1:
                variance = squares / members - np.mean(mean * mean, dtype=np.float64)
                term -= variance / (members - 1)
            terms.append(term)
    return float(np.mean(terms)) if terms else float("nan")


def rank_histogram(ensemble: FloatArray, reference: FloatArray) -> FloatArray:
    """How often the reference has rank 0 to M among the members, (M + 1,); flat is reliable.

    A reference equal to members counts in equal parts for every rank that it may have
    (doi:10.1175/1520-0493(2001)129<0550:IORHFV>2.0.CO;2).
    """
    members = len(ensemble)
    below, equal = (np.zeros(reference.size, np.int32) for _ in range(2))
    for member in ensemble:
        below += (member < reference).ravel()
        equal += (member == reference).ravel()
    if not equal.any():
        return np.bincount(below, minlength=members + 1).astype(np.float64)
    share = 1 / (1 + equal)
    starts = np.bincount(below, share, minlength=members + 2)
    ends = np.bincount(below + equal + 1, share, minlength=members + 2)
    return np.cumsum(starts - ends)[: members + 1]


def reliability(forecast: BoolArray, observed: BoolArray) -> tuple[IntArray, IntArray]:
    """(forecasts, events), each (M + 1,): cells where k members say that an event happens, and where it then does.

    forecast (member, ...) and observed (...) say where the event is.
    """
    members = len(forecast)
    votes = forecast.sum(axis=0, dtype=np.int32).ravel()
    count = np.bincount(votes, minlength=members + 1)
    return count, np.bincount(votes[observed.ravel()], minlength=members + 1)


def wasserstein(counts: FloatArray, other: FloatArray, width: float) -> FloatArray:
    """Wasserstein-1 distance of two histograms (..., bins) with bins of equal `width`, in its units.

    The area between the two distribution functions (doi:10.3390/e19020047).
    """
    ours, theirs = (np.cumsum(part, axis=-1) for part in (counts, other))
    ours, theirs = (part / part[..., -1:] for part in (ours, theirs))
    return np.abs(ours - theirs).sum(axis=-1) * width


def percentile(counts: FloatArray, edges: FloatArray, share: float) -> FloatArray:
    """Value below which a `share` (0 to 1) of a histogram (..., bins) lies, linear within a bin."""
    total = np.cumsum(counts, axis=-1)
    wanted = share * total[..., -1:]
    place = np.minimum((total < wanted).sum(axis=-1, keepdims=True), counts.shape[-1] - 1)
    inside = np.take_along_axis(counts, place, -1)
    above = np.take_along_axis(total, place, -1) - wanted
    part = 1 - np.divide(above, inside, out=np.zeros_like(above, np.float64), where=inside > 0)
    return (edges[place] + part * np.diff(edges)[place])[..., 0]


def _fair(ensemble: FloatArray, reference: FloatArray, distance: Callable[[FloatArray, FloatArray], Any]) -> Any:
    """Mean distance of members to the reference, less half of that between different members."""
    error = np.mean([distance(member, reference) for member in ensemble], axis=0)
    pairs = [distance(one, other) for one, other in combinations(ensemble, 2)]
    return error - np.mean(pairs, axis=0) / 2 if pairs else error


def _constant(field: FloatArray) -> bool:
    return bool(field.min() == field.max())


def _patches(field: FloatArray, patch: int | None) -> FloatArray:
    *lead, channels, rows, cols = field.shape
    if patch is None:
        return field.reshape(*lead, 1, channels * rows * cols)
    down, across = rows // patch, cols // patch
    field = field[..., : down * patch, : across * patch]
    field = field.reshape(*lead, channels, down, patch, across, patch)
    field = np.moveaxis(field, (-4, -2), (-5, -4))  # (..., down, across, channels, patch, patch)
    return field.reshape(*lead, down * across, channels * patch * patch)


def _root_difference(field: FloatArray, lag: int, axis: int) -> FloatArray:
    later, earlier = (
        (field[..., lag:, :], field[..., :-lag, :]) if axis == -2 else (field[..., lag:], field[..., :-lag])
    )
    difference = np.subtract(later, earlier)
    np.abs(difference, out=difference)
    return np.sqrt(difference, out=difference)


def power_spectrum(field: FloatArray, spacing: tuple[float, float]) -> tuple[FloatArray, FloatArray]:
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


def decibels(power: FloatArray, reference: FloatArray) -> FloatArray:
    """Ratio of two spectra [dB]; NaN where the reference has none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = 10 * np.log10(power / reference)
    return np.where(np.isfinite(ratio), ratio, np.nan)


def effective_resolution(
    wavelength: FloatArray, power: FloatArray, reference: FloatArray, error: FloatArray | float = 0.0
) -> float:
    """The shortest wavelength down to which power stays within TOLERANCE of the reference's.

    Wavelengths fall. Powers are averaged over a third of an octave first, since a ring of few coefficients
    is uncertain; what remains uncertain, two standard errors [dB], is allowed for. NaN if not even the longest
    wavelength is right.
    """
    near = third_octaves(wavelength)
    ratio = np.abs(decibels(near @ power, near @ reference))
    wrong = np.flatnonzero(~(ratio <= TOLERANCE + 2 * error))
    last = wrong[0] if len(wrong) else len(wavelength)
    return float(wavelength[last - 1]) if last else float("nan")


def sampling_error(shape: tuple[int, int], spacing: tuple[float, float], fields: int) -> FloatArray:
    """Standard error of a ratio of two spectra [dB], of so many independent fields, as bands are averaged.

    A mean of n squares of Gaussian numbers has the relative error sqrt(2 / n).
    """
    wavelength, _, count = _rings(*shape, *spacing)
    numbers = fields * (third_octaves(wavelength) @ count[1 : len(wavelength) + 1])
    return 10 / np.log(10) * np.sqrt(4 / numbers)


def third_octaves(wavelength: FloatArray) -> FloatArray:
    """Which wavelengths (columns) lie in the band of each (rows)."""
    return (np.abs(np.log2(wavelength[:, None] / wavelength)) <= BAND).astype(np.float64)


@lru_cache(maxsize=4)
def _rings(rows: int, cols: int, dy: float, dx: float) -> tuple[FloatArray, IntArray, IntArray]:
    """(wavelengths of rings 1 and on, ring of each coefficient, coefficients in each ring).

    A ring is as wide as the smallest wavenumber of the shorter side; rings end at the Nyquist wavelength.
    """
    side = min(rows * dy, cols * dx)
    wavenumber = np.hypot(np.arange(rows)[:, None] / (rows * dy), np.arange(cols) / (cols * dx)) / 2
    ring = np.rint(wavenumber * 2 * side).astype(np.int64).ravel()
    rings = int(np.floor(side / max(dy, dx) + 1e-9))
    return 2 * side / np.arange(1, rings), ring, np.bincount(ring)
