from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from ldmdown.data.grid import Grid
from ldmdown.data.netcdf import FieldWriter
from ldmdown.errors import LdmdownError
from ldmdown.evaluate import evaluate

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


def test_a_prediction_against_itself_and_shifted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Winds of an output are earth-relative: they are not turned again."""
    truth = written(tmp_path / "truth.nc", FIELDS[:, :1])
    shifted = written(tmp_path / "shifted.nc", FIELDS[:, :1] + np.array([1, 0, 0], np.float32)[:, None, None])
    evaluate([truth, shifted], [truth], tmp_path / "scores")
    content = json.loads((tmp_path / "scores" / "scores.json").read_text())
    same, other = (content["scores"][name] for name in ("truth.nc", "shifted.nc"))
    assert {same[name]["rmse"]["value"] for name in ("t2m", "u10", "v10", "ws10", "wind")} == {0}
    assert other["t2m"]["bias"]["value"] == pytest.approx(1, abs=1e-5) and other["u10"]["rmse"]["value"] == 0
    assert content["hours"]["count"] == 3 and content["variables"]["ws10"]["units"] == "m s-1"
    assert content["best"]["t2m"]["rmse"] == {"system": "truth.nc", "level_with": ["shifted.nc"]}  # of one day
    with (tmp_path / "scores" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    row = next(row for row in rows if (row["system"], row["variable"], row["score"]) == ("shifted.nc", "t2m", "mae"))
    assert float(row["value"]) == pytest.approx(1, abs=1e-5) and row["units"] == "K" and row["low"] == ""
    assert "t2m" in capsys.readouterr().out


def test_members_and_another_grid(tmp_path: Path, era5: Callable[..., Path]) -> None:
    ensemble = written(tmp_path / "ensemble.nc", FIELDS, np.arange(448_488, 448_491))  # as era5: 2021-03-01
    smooth = era5(range(24))
    evaluate([ensemble, smooth], [ensemble], tmp_path / "scores")
    content = json.loads((tmp_path / "scores" / "scores.json").read_text())
    mine, theirs = (content["scores"][path.name]["t2m"] for path in (ensemble, smooth))
    distance = 2 * 5 / np.sqrt(np.pi)  # of two members; the first of three is the truth: (2/3 - 1/2) of it
    assert mine["crps"]["value"] == pytest.approx(distance / 6, rel=0.05)
    assert mine["spread_skill"]["value"] > 0
    assert theirs["crps"] == theirs["mae"] and theirs["rmse"]["value"] > 4
    assert content["notes"] == [f"{smooth.name} was regridded bilinearly to the grid of ensemble.nc"]
    assert [one["regridded"] for one in content["systems"]] == [False, True]


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
