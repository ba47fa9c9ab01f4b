from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.fft
import torch

from ldmdown.models.transform import LappedTransform, border_matrix, cosine_matrix


def test_cosine_matrices_are_those_of_scipy() -> None:
    for kind in (2, 4):
        expected = scipy.fft.dct(np.eye(8), kind, axis=0, norm="ortho")
        np.testing.assert_allclose(cosine_matrix(8, kind).numpy(), expected, atol=1e-15)


def test_border_filter_is_orthogonal() -> None:
    border = border_matrix(8)
    torch.testing.assert_close(border @ border.T, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-14)


def test_nothing_is_lost_and_lengths_are_kept() -> None:
    field = torch.randn(2, 3, 48, 32)
    transform = LappedTransform(3, 3)
    latent = transform.encode(field)
    assert latent.shape == (2, 192, 6, 4)
    torch.testing.assert_close(transform.decode(latent), field, rtol=0, atol=4e-6)
    assert float(latent.square().sum()) == pytest.approx(float(field.square().sum()), rel=1e-5)


def test_whole_matrix_is_orthonormal() -> None:
    transform = LappedTransform(1, 2)
    basis = torch.eye(16 * 16).reshape(256, 1, 16, 16)
    matrix = transform.encode(basis).flatten(1)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(256), rtol=0, atol=2e-6)


def test_a_constant_is_one_coefficient_away_from_the_edges() -> None:
    latent = LappedTransform(1, 3).encode(torch.ones(1, 1, 48, 48))[0, :, 2, 2]
    assert latent[0] == pytest.approx(8, rel=1e-5)
    assert latent[1:].abs().max() < 1e-5


def test_coding_gain_is_that_of_malvars_lot() -> None:
    """9.22 dB on a first-order process with correlation 0.95 (Malvar 1990; the cosine transform has 8.83)."""
    size, blocks = 8, 7
    transform = LappedTransform(1, 3)
    impulses = torch.eye(size * blocks)[:, None, :, None].expand(-1, 1, -1, size)
    rows = transform.encode(impulses)[:, 0::8, :, 0].flatten(1).double() / math.sqrt(size)  # constant along columns
    covariance = 0.95 ** torch.cdist(torch.arange(56.0)[:, None], torch.arange(56.0)[:, None], p=1).double()
    variance = torch.diagonal(rows.T @ covariance @ rows).reshape(size, blocks)[:, blocks // 2]
    gain = 10 * math.log10(float(variance.mean() / variance.log().mean().exp()))
    assert gain == pytest.approx(9.22, abs=0.01)


def test_white_latents_leave_no_block_edges() -> None:
    """Scaled white latents: steps across block borders are as large as those within."""
    torch.manual_seed(0)
    scale = 1 / (1 + torch.arange(8.0)[:, None] ** 2 + torch.arange(8.0) ** 2).reshape(1, 64, 1, 1)
    latent = torch.randn(16, 64, 16, 16) * scale
    field = LappedTransform(1, 3).decode(latent)[:, 0, 8:-8, 8:-8]
    steps = field.diff(dim=-1).square().mean(dim=(0, 1)).sqrt()
    border = torch.arange(1, len(steps) + 1) % 8 == 0
    assert steps[border].mean() / steps[~border].mean() == pytest.approx(1, abs=0.35)
    block = torch.einsum("kn,lm,bklhw->bhnwm", *[cosine_matrix(8, 2).float()] * 2, latent.unflatten(1, (8, 8)))
    cosine = block.flatten(3).flatten(1, 2)[:, 8:-8, 8:-8].diff(dim=-1).square().mean(dim=(0, 1)).sqrt()
    assert cosine[border].mean() / cosine[~border].mean() > 2
