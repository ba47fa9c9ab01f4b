"""Scores put together, on fields whose scores are known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from made_up import results_of
from pydantic import ValidationError

from ldmdown.data.grid import Grid, SourceGrid
from ldmdown.scoring.geometry import GridGeometry
from ldmdown.scoring.results import Results, Score, ScoredSystem, SystemKind
from ldmdown.scoring.scorecard import Scorecard, complete_part
from ldmdown.scoring.summaries import error_maps

GRID = Grid(west=4_700_000, north=2_200_000, rows=24, cols=32)
GEOMETRY = GridGeometry(SourceGrid(GRID.y, GRID.x, GRID.projection))
NAMES = ("t2m", "u10", "v10")
MEAN = np.array([280.0, 3.0, -3.0])[:, None, None]


def system(name: str, kind: SystemKind, members: int = 1) -> ScoredSystem:
    return ScoredSystem(name=name, kind=kind, members=members)


def card(days: int = 8, **surfaces: np.ndarray) -> tuple[Scorecard, dict]:
    """Truth of unit standard deviation in each cell; systems whose errors are known."""
    systems = [system("mean", "mean"), system("shifted", "prediction"), system("sample", "prediction"),
               system("again", "prediction"), system("ensemble", "member", 4), system("ideal", "ideal", 4)]  # fmt: skip
    hours = [24 * day + hour for day in range(days) for hour in (0, 1, 12)]
    found = Scorecard(NAMES, systems, GEOMETRY, hours, surfaces)
    random = np.random.default_rng(0)

    def draw(*members: int) -> np.ndarray:
        return (MEAN + random.normal(size=(*members, 3, *GRID.shape))).astype(np.float32)

    for hour in hours:
        truth = draw()
        fields = {
            "mean": np.broadcast_to(MEAN, (1, *truth.shape)).astype(np.float32),
            "shifted": truth[None] + np.float32(2),
            "sample": draw(1),
            "again": draw(1),
            "ensemble": MEAN.astype(np.float32) + 0.5 * (draw(4) - MEAN.astype(np.float32)),
            "ideal": draw(4),
        }
        found.add(hour, truth, fields)
    return found, results_of(found)


CARD, RESULTS = card()
SCORES = RESULTS["scores"]


def value(system: str, key: str, score: str) -> float:
    return SCORES[system][key][score]["value"]


def test_known_errors() -> None:
    assert value("mean", "t2m", "rmse") == pytest.approx(1, rel=0.01)
    assert value("sample", "u10", "rmse") == pytest.approx(2**0.5, rel=0.01)
    assert value("shifted", "t2m", "bias") == pytest.approx(2, abs=1e-4)
    assert value("shifted", "wind", "rmse") == pytest.approx(8**0.5, rel=1e-4)
    assert value("shifted", "t2m", "pcc") == pytest.approx(1, abs=1e-5)
    assert value("sample", "t2m", "r2") == pytest.approx(-1, abs=0.05)
    assert "pcc" not in SCORES["mean"]["t2m"]  # a constant
    assert SCORES["mean"]["t2m"]["crps"] == SCORES["mean"]["t2m"]["mae"]


def test_the_ideal_ensemble_is_reliable_and_a_narrow_one_is_not() -> None:
    """Standard normal: fair CRPS 1 / sqrt(pi); the mean of infinitely many members errs by 1, of 4 by sqrt(1.25)."""
    assert value("ideal", "t2m", "spread_skill") == pytest.approx(1, rel=0.01)
    assert value("ideal", "t2m", "crps") == pytest.approx(np.pi**-0.5, rel=0.01)
    assert value("ideal", "t2m", "rmse_of_mean") == pytest.approx(1, rel=0.01)
    assert value("ensemble", "t2m", "spread_skill") == pytest.approx((0.25 * 1.25 / (1 + 0.25 / 4)) ** 0.5, rel=0.02)
    ranks = np.array(RESULTS["rank_histogram"]["ideal"]["t2m"])
    np.testing.assert_allclose(ranks / ranks.sum(), 0.2, atol=0.01)
    assert RESULTS["ratio_to_ideal"]["mean"]["t2m"]["rmse"]["value"] == pytest.approx(1, rel=0.01)
    assert RESULTS["ratio_to_ideal"]["sample"]["t2m"]["rmse"]["value"] == pytest.approx(2**0.5, rel=0.01)


def test_distributions() -> None:
    assert value("shifted", "t2m", "wasserstein") == pytest.approx(2, abs=0.01)
    assert value("shifted", "t2m", "p1_error") == pytest.approx(2, abs=0.05)
    assert value("mean", "t2m", "p999_error") == pytest.approx(-3.09, abs=0.15)
    assert value("mean", "t2m", "wasserstein") == pytest.approx((2 / np.pi) ** 0.5, rel=0.05)  # E|X|
    density = RESULTS["distribution"]["t2m"]
    total = np.sum(np.array(density["density"]["reference"]) * np.diff(density["edges"]))
    assert total == pytest.approx(1, rel=1e-4)
    assert SCORES["sample"]["ws10"]["above_15"]["value"] is None  # the reference never is


def test_changes_of_successive_hours_only() -> None:
    assert value("sample", "t2m", "change_ratio") == pytest.approx(1, rel=0.02)
    assert value("mean", "t2m", "change_ratio") == 0
    assert value("ensemble", "u10", "change_ratio") == pytest.approx(0.5, rel=0.02)


def test_only_differences_that_stand_are_claimed() -> None:
    """Two samples of one distribution are level; the mean has the smaller error; what is ideal does not compete."""
    best = RESULTS["best"]["t2m"]
    assert best["rmse"] == {"system": "mean", "not_significantly_different_from": []}
    assert best["crps"]["system"] == "ensemble" and best["crps"]["not_significantly_different_from"] == []
    winner = best["p999_error"]["system"]
    assert {winner, *best["p999_error"]["not_significantly_different_from"]} == {"sample", "again"}
    low, high = (SCORES["mean"]["t2m"]["rmse"][key] for key in ("low", "high"))
    width = 4 / (2 * 24 * GRID.rows * GRID.cols) ** 0.5  # 95 % of the error of an error of normal deviates
    assert low < value("mean", "t2m", "rmse") < high and high - low == pytest.approx(width, rel=0.5)


def test_a_score_that_is_best_near_one_or_zero() -> None:
    assert RESULTS["best"]["t2m"]["change_ratio"] == {"system": "shifted", "not_significantly_different_from": []}
    assert "shifted" not in (
        RESULTS["best"]["t2m"]["bias"]["system"],
        *RESULTS["best"]["t2m"]["bias"]["not_significantly_different_from"],
    )


def test_effective_resolution_and_spectra() -> None:
    resolved = RESULTS["spectra"]["t2m"]["effective_resolution_km"]
    assert resolved["shifted"] == pytest.approx(RESULTS["spectra"]["t2m"]["wavelength_km"][-1])
    assert resolved["mean"] is None
    np.testing.assert_allclose(RESULTS["spectra"]["ke"]["ratio_db"]["shifted"], 0, atol=1e-3)


def test_what_is_written_is_read_back() -> None:
    """Numbers that are not defined are null in JSON and NaN in Python; what is unknown or missing is refused."""
    about = {"ldmdown": "0", "title": "t", "created": "c", "reference": {"name": "r", "files": []}, "notes": []}
    content = json.loads(Results.model_validate(about | RESULTS).model_dump_json())
    assert content == about | RESULTS
    again = Results.model_validate(content)
    assert np.isnan(again.scores["sample"]["ws10"]["above_15"].value)
    assert again.hourly["mean"]["t2m"].rmse.tolist() == RESULTS["hourly"]["mean"]["t2m"]["rmse"]
    with pytest.raises(ValidationError, match="high\n.*Field required"):
        Score.model_validate({"value": 1, "low": 2})
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Results.model_validate(content | {"more": 1})
    assert set(RESULTS["hourly"]["mean"]["t2m"]) == {"time", "rmse", "bias", "r2", "pcc"}
    assert RESULTS["hours"] == {"first": "1970-01-01T00", "last": "1970-01-08T12", "count": 24, "days": 8, "blocks": 8}


def test_missing_cells_are_missing_for_all() -> None:
    """A hole in one system is a hole in the scores of all; an hour without any cell is not scored."""
    found = Scorecard(NAMES, [system("a", "prediction"), system("b", "prediction")], GEOMETRY, [0, 1, 2], {})
    truth = np.broadcast_to(MEAN, (3, *GRID.shape)).astype(np.float32)
    wrong = truth[None].copy()
    wrong[..., 0, 0] += 24 * 32
    holed = truth[None].copy()
    holed[..., 0, 0] = np.nan
    found.add(0, truth, {"a": wrong, "b": holed})
    found.add(1, truth * np.nan, {"a": wrong, "b": holed})
    results = results_of(found)
    assert results["scores"]["a"]["t2m"]["rmse"]["value"] == 0 and results["hours"]["count"] == 1
    maps = error_maps(found.accuracy)
    assert np.isnan(maps["bias"]["t2m"]["a"][0, 0]) and maps["rmse"]["t2m"]["a"][0, 1] == 0
    assert found.notes()[0] == (
        "cells are missing: spectra, derivatives of the wind, energy and variogram scores are of the largest rectangle "
        "without, 24 x 31 cells"
    )
    assert set(results["spectra"]) == {"t2m", "ke"} and results["scores"]["a"]["t2m"]["energy_score"]["value"] == 0


def test_scores_of_structure_are_those_of_the_largest_complete_rectangle() -> None:
    """Corners of a box in another projection are empty: the rest is scored as a smaller grid would be."""
    part = np.s_[2:22, 4:32]
    random = np.random.default_rng(1)
    truth, field = (MEAN + random.normal(size=(2, 3, *GRID.shape))).astype(np.float32)
    holed = np.full_like(field, np.nan)
    holed[:, *part] = field[:, *part]
    whole = Scorecard(NAMES, [system("a", "prediction")], GEOMETRY, [0, 1], {})
    small = Scorecard(
        NAMES,
        [system("a", "prediction")],
        GridGeometry(SourceGrid(GRID.y[part[0]], GRID.x[part[1]], GRID.projection)),
        [0, 1],
        {},
    )
    for hour in (0, 1):
        whole.add(hour, truth, {"a": holed[None]})
        small.add(hour, truth[:, *part], {"a": field[None][..., *part]})
    found, expected = results_of(whole), results_of(small)
    assert found["grid"]["rows"] == 24 and expected["grid"]["rows"] == 20
    for name in ("spectra", "scores", "distribution", "best"):
        assert found[name] == expected[name]
    assert "energy_score" in found["scores"]["a"]["wind"] and "wasserstein" in found["scores"]["a"]["vorticity"]


def test_an_hour_that_lacks_a_part_of_the_rectangle_has_no_spectrum() -> None:
    found = Scorecard(NAMES, [system("a", "prediction")], GEOMETRY, [0, 1], {})
    truth = np.broadcast_to(MEAN, (3, *GRID.shape)).astype(np.float32)
    holed = truth.copy()
    holed[:, 12, 16] = np.nan
    for hour, field in enumerate((truth, holed)):
        found.add(hour, truth, {"a": field[None]})
    assert found.series["a"].spectra == 1 and found.accuracy["a"].sums["t2m", "structure hours"][0] == 1
    assert found.notes()[0].startswith("1 of 2 hours have missing cells: spectra")


def test_the_complete_part() -> None:
    valid = np.ones((40, 30), bool)
    assert valid[complete_part(valid)].size == 1200
    valid[:10, :10] = valid[35, 15] = False
    assert valid[complete_part(valid)].shape == (25, 30)  # 750 cells; 35 x 20 are 700
    assert complete_part(valid[:15]) is None  # too flat


def test_kinds_of_ground_are_scored_apart() -> None:
    land = np.zeros(GRID.shape, bool)
    land[:, :16] = True
    found = Scorecard(NAMES, [system("a", "prediction")], GEOMETRY, [0], {"land": land, "none": land & ~land})
    truth = np.broadcast_to(MEAN, (3, *GRID.shape)).astype(np.float32)
    found.add(0, truth, {"a": truth[None] + 3 * land.astype(np.float32)})
    assert results_of(found)["by_surface"] == {"land": {"a": {
        **{key: {"rmse": pytest.approx(3), "bias": pytest.approx(3)} for key in NAMES},
        "ws10": {"rmse": pytest.approx(6 - 18**0.5, rel=1e-4), "bias": pytest.approx(6 - 18**0.5, rel=1e-4)},
    }}}  # fmt: skip
