from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from test_evaluate import FIELDS, written

from ldmdown.errors import LdmdownError
from ldmdown.quicklook import plot


def test_era5_beside_an_output(tmp_path: Path, era5: Callable[..., Path]) -> None:
    """Two columns and two rows; the picture of another hour is another picture."""
    ensemble = written(tmp_path / "out.nc", FIELDS, np.arange(448_488, 448_491))
    for name, time in (("a.png", "2021-03-01T01"), ("b.png", "2021-03-01T02")):
        plot([era5(range(3)), ensemble], tmp_path / name, time=time, arrows=True)
    first, second = (image.imread(tmp_path / name) for name in ("a.png", "b.png"))
    assert first.shape == second.shape and first.shape[1] > 600
    assert np.abs(first - second).mean() > 0.01
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "out.nc"]


def test_members_and_variables(tmp_path: Path) -> None:
    ensemble = written(tmp_path / "out.nc", FIELDS)
    plot([ensemble], tmp_path / "u.png", variables=("u10",), member=2, extent=(14.8, 42.4, 15.0, 42.5))
    assert (tmp_path / "u.png").stat().st_size > 5000
    with pytest.raises(LdmdownError, match="has no such member\n  found: 3 members\n  expected: 3"):
        plot([ensemble], tmp_path / "no.png", member=3)
    with pytest.raises(LdmdownError, match="does not hold this hour\n  found: 2021-03-06T00 to 2021-03-06T02"):
        plot([ensemble], tmp_path / "no.png", time="2020-01-01T00")
    with pytest.raises(LdmdownError, match="tp is missing\n  found: t2m, u10, v10"):
        plot([ensemble], tmp_path / "no.png", variables=("tp",))
    assert not (tmp_path / "no.png").exists()
