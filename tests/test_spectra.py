"""Spectra against closed forms and the pysteps library."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import ndimage

from ldmdown import metrics

RNG = np.random.default_rng(0)


def test_one_cosine_is_one_line() -> None:
    rows, cols, mode = 48, 40, 10
    field = np.cos(np.pi * mode * (np.arange(cols) + 0.5) / cols) * np.ones((rows, 1))
    wavelength, variance = metrics.power_spectrum(field, (2.0, 2.0))
    assert wavelength[variance.argmax()] == pytest.approx(2 * 2.0 * cols / mode)
    assert variance[np.arange(len(variance)) != variance.argmax()].max() < 1e-25


def test_cells_need_not_be_square() -> None:
    """The same wave along either side of cells of 2 by 3."""
    for axis, spacing in ((0, 2.0), (1, 3.0)):
        size = (60, 40)[axis]
        wave = np.cos(np.pi * 12 * (np.arange(size) + 0.5) / size)
        field = np.broadcast_to(wave[:, None] if axis == 0 else wave, (60, 40))
        wavelength, variance = metrics.power_spectrum(field, (2.0, 3.0))
        assert wavelength[variance.argmax()] == pytest.approx(2 * spacing * size / 12)
    assert wavelength[-1] > 6  # nothing beyond the coarser side's Nyquist wavelength


def test_white_noise_has_its_variance_at_every_wavelength() -> None:
    _, variance = metrics.power_spectrum(RNG.normal(size=(20, 64, 64)), (2.0, 2.0))
    assert_allclose(variance * 64 * 64, 1, atol=0.35)


def test_the_slope_is_that_of_the_pysteps_library() -> None:
    utils = pytest.importorskip("pysteps.utils.spectral")
    size = 128
    k = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    k[0, 0] = 1
    field = np.fft.irfft2(np.fft.rfft2(RNG.normal(size=(30, size, size))) * k**-1.5, s=(size, size))
    theirs = np.mean([utils.rapsd(one, fft_method=np.fft)[4:50] for one in field], axis=0)
    _, ours = metrics.power_spectrum(field, (1.0, 1.0))
    # ring n of the cosine transform has wavelength 2 size / n, ring n of the Fourier transform size / n
    slopes = [
        np.polyfit(np.log(n), np.log(p), 1)[0] for n, p in ((np.arange(4, 50), theirs), (np.arange(8, 100), ours[7:99]))
    ]
    assert_allclose(slopes, -3, atol=0.15)


def test_a_field_doubled_is_six_decibels_louder() -> None:
    field = RNG.normal(size=(64, 64))
    (_, ours), (_, theirs) = (metrics.power_spectrum(part, (2.0, 2.0)) for part in (2 * field, field))
    assert_allclose(metrics.decibels(ours, theirs), 20 * np.log10(2))
    assert np.isnan(metrics.decibels(np.ones(1), np.zeros(1))).all()


def test_effective_resolution_of_a_gaussian_filter() -> None:
    """Its power is exp(-(2 pi sigma / wavelength)^2): a decibel down at 2 pi sigma / sqrt(ln 10 / 10).

    Mirrored at the borders it multiplies each coefficient of the cosine transform alone.
    """
    field, sigma = RNG.normal(size=(8, 240, 200)), 2.0  # [cells]
    smooth = ndimage.gaussian_filter(field, (0, sigma, sigma), mode="reflect", truncate=8)
    wavelength, reference = metrics.power_spectrum(field, (2.0, 2.0))
    _, power = metrics.power_spectrum(smooth, (2.0, 2.0))
    expected = 2 * np.pi * 2.0 * sigma / np.sqrt(np.log(10) / 10)
    assert metrics.effective_resolution(wavelength, power, reference) == pytest.approx(expected, rel=0.04)


def test_effective_resolution_is_that_of_pysteps_spectra() -> None:
    utils = pytest.importorskip("pysteps.utils.spectral")
    field = RNG.normal(size=(8, 256, 256))
    smooth = ndimage.gaussian_filter(field, (0, 2, 2), mode="wrap", truncate=8)
    theirs = [np.mean([utils.rapsd(one, fft_method=np.fft)[1:] for one in part], axis=0) for part in (smooth, field)]
    wavelength, reference = metrics.power_spectrum(field, (1.0, 1.0))
    ours = metrics.effective_resolution(wavelength, metrics.power_spectrum(smooth, (1.0, 1.0))[1], reference)
    assert ours == pytest.approx(metrics.effective_resolution(256 / np.arange(1, 128), *theirs), rel=0.08)


def test_effective_resolution_at_its_ends() -> None:
    wavelength, power = 100 / np.arange(1.0, 50), np.ones(49)
    assert metrics.effective_resolution(wavelength, power, power) == wavelength[-1]
    assert np.isnan(metrics.effective_resolution(wavelength, 2 * power, power))


def test_independent_fields_are_resolved_within_their_sampling_error() -> None:
    """Spectra of two sets of draws differ as far as their error says, and by nothing that is claimed."""
    shape, spacing, fields = (64, 96), (2.0, 2.0), 6
    error = metrics.sampling_error(shape, spacing, fields)
    off, resolved = [], []
    for _ in range(60):
        (wavelength, ours), (_, theirs) = (
            metrics.power_spectrum(RNG.normal(size=(fields, *shape)), spacing) for _ in range(2)
        )
        near = metrics.third_octaves(wavelength)
        off.append(metrics.decibels(near @ ours, near @ theirs) / error)
        resolved.append(metrics.effective_resolution(wavelength, ours, theirs, error))
    assert np.sqrt(np.mean(np.square(off))) == pytest.approx(1, rel=0.15)
    assert np.mean(np.array(resolved) == wavelength[-1]) > 0.9
