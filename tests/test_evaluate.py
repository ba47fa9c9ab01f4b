from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scores.continuous
import xarray as xr

from ldmdown import metrics
from ldmdown.data.grid import Grid
from ldmdown.data.netcdf import FieldWriter
from ldmdown.errors import LdmdownError
from ldmdown.evaluate import evaluate, score, summarize

GRID = Grid(west=4_700_000, north=2_200_000, rows=16, cols=24)
HOURS = np.arange(448_608, 448_611)  # 2021-03-06T00 and on
CARD = {"title": "A test", "history": "made", "source": "numbers", "references": "none"}
FIELDS = np.random.default_rng(0).normal(280, 5, (3, 3, 3, *GRID.shape)).astype(np.float32)
FIELDS[:, :, 1:] -= 280


def written(path: Path, fields: np.ndarray, hours: np.ndarray = HOURS) -> Path:
    """(hour, member, variable, rows, cols) as `downscale` writes them."""
    members = fields.shape[1] if fields.shape[1] > 1 else None
    writer = FieldWriter(path, GRID, ("t2m", "u10", "v10"), hours, members, CARD, {})
    for index in range(len(hours)):
        writer.write(index, fields[index])
    writer.close()
    return path


def test_metrics_are_those_of_the_scores_library() -> None:
    one, other = FIELDS[0, 0, 0], FIELDS[1, 0, 0]
    first, second = xr.DataArray(one), xr.DataArray(other)
    assert metrics.mae(one, other) == pytest.approx(float(scores.continuous.mae(first, second)), rel=1e-5)
    assert metrics.pcc(one, other) == pytest.approx(np.corrcoef(one.ravel(), other.ravel())[0, 1], rel=1e-5)
    nse = float(scores.continuous.nse(first, second))
    assert metrics.r2(one, other) == pytest.approx(nse, rel=1e-5)


def test_by_hand() -> None:
    """Against 0, 2, 4, 6: one too high everywhere, R2 = 1 - 1 / 5; the order is kept, so the correlation is 1."""
    target = np.array([[0.0, 2.0], [4.0, 6.0]], np.float32)
    result = score((target + 1)[None], target)
    assert result == pytest.approx({"rmse": 1, "bias": 1, "mae": 1, "r2": 0.8, "pcc": 1})
    both = score(np.stack([target + 1, target - 1]), target)
    assert both["rmse_of_mean"] == 0 and both["crps"] == pytest.approx(0)  # |+-1| - |2| / 2, fair


def test_degenerate_fields() -> None:
    constant = np.full((2, 2), 3.0, np.float32)
    result = score(constant[None], constant)
    assert result["rmse"] == 0 and np.isnan(result["r2"]) and np.isnan(result["pcc"])
    holes = np.array([[np.nan, 1.0], [2.0, np.nan]], np.float32)
    assert score(holes[None] + 2, holes)["bias"] == 2
    assert score(np.full((1, 2, 2), np.nan, np.float32), constant) == {}


def test_hours_are_joined_by_their_squares() -> None:
    rows = [{"prediction": "p", "time": str(t), "variable": "t2m", "rmse": r, "bias": b}
            for t, r, b in ((0, 3.0, 1.0), (1, 4.0, -2.0))]  # fmt: skip
    assert summarize(rows) == {"p": {"t2m": {"rmse": pytest.approx(12.5**0.5), "bias": -0.5}}}


def test_a_prediction_against_itself_and_shifted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Winds of an output are earth-relative: they are not turned again."""
    truth = written(tmp_path / "truth.nc", FIELDS[:, :1])
    shifted = written(tmp_path / "shifted.nc", FIELDS[:, :1] + np.array([1, 0, 0], np.float32)[:, None, None])
    evaluate([truth, shifted], [truth], tmp_path / "scores")
    content = json.loads((tmp_path / "scores" / "scores.json").read_text())
    same, other = (content["scores"][str(path)] for path in (truth, shifted))
    assert {name: part["rmse"] for name, part in same.items()} == {"t2m": 0, "u10": 0, "v10": 0, "ws10": 0}
    assert other["t2m"]["bias"] == pytest.approx(1, abs=1e-5) and other["u10"]["rmse"] == 0
    assert content["hours"] == 3 and content["units"]["ws10"] == "m s-1"
    with (tmp_path / "scores" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * 4 and rows[0]["time"] == "2021-03-06T00"
    assert "t2m" in capsys.readouterr().out


def test_members_and_another_grid(tmp_path: Path, era5: Callable[..., Path]) -> None:
    ensemble = written(tmp_path / "ensemble.nc", FIELDS, np.arange(448_488, 448_491))  # as era5: 2021-03-01
    smooth = era5(range(24))
    evaluate([ensemble, smooth], [ensemble], tmp_path / "scores")
    content = json.loads((tmp_path / "scores" / "scores.json").read_text())["scores"]
    distance = 2 * 5 / np.sqrt(np.pi)  # of two members; the first of three is the truth: (2/3 - 1/2) of it
    assert content[str(ensemble)]["t2m"]["crps"] == pytest.approx(distance / 6, rel=0.05)
    assert content[str(ensemble)]["t2m"]["spread_skill"] > 0
    assert "crps" not in content[str(smooth)]["t2m"] and content[str(smooth)]["t2m"]["rmse"] > 4


def test_what_does_not_meet(tmp_path: Path, era5: Callable[..., Path]) -> None:
    truth = written(tmp_path / "truth.nc", FIELDS[:, :1])
    with pytest.raises(LdmdownError) as caught:
        evaluate([truth], [era5(range(24))], tmp_path / "scores")
    assert str(caught.value) == (
        f"{truth}: and the reference have no hour in common\n"
        "  found: 2021-03-06T00 to 2021-03-06T02, reference 2021-03-01T00 to 2021-03-01T23\n"
        "  cure: give files of the same hours"
    )
    with xr.open_dataset(truth, engine="netcdf4") as dataset:
        dataset[["lat"]].drop_encoding().to_netcdf(tmp_path / "empty.nc", engine="netcdf4")
    with pytest.raises(LdmdownError, match="and the other files have no variable in common\n  found: .*empty.nc: none"):
        evaluate([truth], [tmp_path / "empty.nc"], tmp_path / "scores")
    (tmp_path / "text.nc").write_text("no")
    with pytest.raises(LdmdownError, match="text.nc: cannot be read as NetCDF"):
        evaluate([tmp_path / "text.nc"], [truth], tmp_path / "scores")
