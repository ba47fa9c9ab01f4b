from __future__ import annotations

import numpy as np

from ldmdown.data.normalization import Moments, Normalization


def test_by_hand() -> None:
    normalization = Normalization({"t2m": 280.0, "sst": 290.0}, {"t2m": 5.0, "sst": 2.0})
    fields = np.array([[[290.0]], [[np.nan]]])
    normalised = normalization.normalize(fields, ("t2m", "sst"))
    assert normalised.ravel().tolist() == [2.0, -10.0]  # a missing sea temperature is told by the fill value
    assert normalization.denormalize(normalised[:1], ("t2m",)).item() == 290


def test_moments_are_numpys_whatever_the_order_and_the_pieces() -> None:
    values = np.random.default_rng(0).normal(285, 8, (10, 50)).astype(np.float32)
    values[3, :7] = np.nan
    whole, merged = Moments(), Moments()
    whole.add("t2m", values)
    for part in (values[5:], values[:2], values[2:5]):
        piece = Moments()
        piece.add("t2m", part)
        merged.merge(piece)
    for moments in (whole, merged):
        normalization = moments.normalization()
        np.testing.assert_allclose(normalization.mean["t2m"], np.nanmean(values.astype(float)), rtol=1e-12)
        np.testing.assert_allclose(normalization.std["t2m"], np.nanstd(values.astype(float)), rtol=1e-12)


def test_a_constant_keeps_its_scale() -> None:
    moments = Moments()
    moments.add("sd", np.zeros(4))
    assert moments.normalization().std == {"sd": 1.0}
