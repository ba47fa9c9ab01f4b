"""Outputs without a reference: numbers of fields whose answer is known, what training knew, and the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import CONFIG, NORMALIZATION, ldmdown, untrained
from made_up import noise

from ldmdown import checkpoint
from ldmdown.data.grid import Grid, SourceGrid, grid_rotation, rotate_to_earth
from ldmdown.scoring.coast import DailyCycle
from ldmdown.scoring.measures import DERIVATIVES, WAVELENGTHS, FieldMeasures, HourlyRange
from ldmdown.scoring.plausibility import verdict
from ldmdown.scoring.training_truth import BoxRecovery

GRID = Grid(west=4_700_000, north=2_200_000, rows=96, cols=96)
SOURCE = SourceGrid(GRID.y, GRID.x, GRID.projection)
LAND = np.broadcast_to(np.arange(96) < 48, GRID.shape).astype(float)
FLAT = np.full(GRID.shape, 285.0)


@pytest.fixture
def measures() -> FieldMeasures:
    return FieldMeasures(SOURCE, LAND)


def test_box_means_and_their_known_deviation(measures: FieldMeasures) -> None:
    """285 K everywhere; ERA5 has 0.7 K less in every second column of boxes and 0.7 K more in the others."""
    sign = np.where(np.arange(measures.boxes.grid.cols) % 2, 1.0, -1.0)
    measures.add(0, {"t2m": FLAT}, {"t2m": 285 + 0.7 * np.broadcast_to(sign, measures.boxes.grid.shape)})
    record = measures.record()
    assert record.numbers["box_rmse t2m land"].mean == pytest.approx(0.7)
    held = measures.bias()["t2m"]
    assert set(np.round(held[np.isfinite(held)], 9)) == {-0.7, 0.7}
    assert record.numbers["detail t2m sea"].mean == pytest.approx(0, abs=1e-9)


def test_a_lapse_rate_is_found() -> None:
    height = 400 * (1.5 + noise(GRID, 2, 0))
    measures = FieldMeasures(SOURCE, LAND, height)
    measures.add(5, {"t2m": 290 - 0.0065 * height + 0.4 * GRID.lat}, {})
    assert measures.record().numbers["lapse_rate land"].mean == pytest.approx(-6.5, abs=0.01)
    assert np.flatnonzero(np.isfinite(measures.record().numbers["lapse_rate land"].diurnal)).tolist() == [5]


def test_lapse_rates_are_told_by_season() -> None:
    """6.5 K/km on a day of July and 4 on one of January, by each hour of the day."""
    height = 400 * (1.5 + noise(GRID, 2, 0))
    measures = FieldMeasures(SOURCE, LAND, height)
    rates = {"DJF": ("2019-01-10T00", 4.0), "JJA": ("2019-07-10T00", 6.5)}
    for first, rate in rates.values():
        start = np.datetime64(first, "h").astype(int)
        for hour in (start, start + 12):
            measures.add(int(hour), {"t2m": 290 - rate / 1000 * height}, {})
    numbers = measures.record().numbers
    for season, (_, rate) in rates.items():
        found = numbers[f"lapse_rate land {season}"]
        assert found.mean == pytest.approx(-rate, abs=0.01)
        assert np.allclose(found.diurnal[[0, 12]], -rate, atol=0.01) and np.isfinite(found.diurnal).sum() == 2
    assert numbers["lapse_rate land"].mean == pytest.approx(-5.25, abs=0.01)
    assert not [key for key in numbers if key.startswith("lapse_rate") and key.endswith(("MAM", "SON"))]


@pytest.mark.parametrize("step", [1, 5])
def test_the_breeze_of_a_straight_coast(measures: FieldMeasures, step: int) -> None:
    """Land in the west, a wind towards it of 2 m/s cos(2 pi (h - 15) / 24) in solar time, 0.7 m/s, and one along it."""
    start = int(np.datetime64("2019-07-10T00", "h").astype(int))
    rotation = grid_rotation(SOURCE)
    for hour in range(start, start + 24 * step, step):
        solar = hour + GRID.lon / 15
        towards = 2 * np.cos(2 * np.pi * (solar - 15) / 24)
        wind = rotate_to_earth(-towards - 0.7, 4 * np.sin(towards), rotation)
        measures.add(hour, dict(zip(("u10", "v10"), wind, strict=True)), {})
    numbers = measures.record().numbers
    for side in ("land", "sea"):
        amplitude, hour_of = numbers[f"breeze {side} JJA"], numbers[f"breeze_hour {side} JJA"]
        assert amplitude.mean == pytest.approx(2, abs=0.01) and hour_of.mean == pytest.approx(15, abs=0.03)
        assert (amplitude.low, amplitude.high) == pytest.approx((2, 2), abs=0.02)
        assert np.nanargmax(amplitude.diurnal) == 15 and amplitude.diurnal[15] == pytest.approx(2.7, abs=0.02)


def test_days_of_their_own_breeze() -> None:
    """Amplitudes of 1 and 3 m/s with maxima at 14 and 16 h: the fits of the days are the ends of the interval."""
    hours = np.arange(48.0)
    values = np.where(hours < 24, 1, 3) * np.cos(2 * np.pi * (hours - np.where(hours < 24, 14, 16)) / 24)
    found = DailyCycle.fit(hours, values, (0.0, 1.0))
    assert found is not None
    mean = (np.exp(14j * np.pi / 12) + 3 * np.exp(16j * np.pi / 12)) / 2
    hour = np.angle(mean) * 12 / np.pi % 24
    assert found.hour == pytest.approx((hour, 14, 16))
    assert found.amplitude == pytest.approx((abs(mean), np.cos((hour - 14) * np.pi / 12), 3))
    assert DailyCycle.fit(np.arange(18.0), np.zeros(18), (0.0, 1.0)) is None


def test_a_rotating_plane_has_twice_its_rate_as_vorticity(measures: FieldMeasures) -> None:
    x, y = np.meshgrid(GRID.x - GRID.x.mean(), GRID.y - GRID.y.mean())
    wind = rotate_to_earth(-1e-3 * y, 1e-3 * x, grid_rotation(SOURCE))
    measures.add(0, dict(zip(("u10", "v10"), wind, strict=True)), {})
    densities = measures.record().densities
    for name, rate in (("vorticity", 2e-3), ("divergence", 0.0)):
        assert np.isclose(densities[name] @ DERIVATIVES.edges[:-1] * DERIVATIVES.width, rate, atol=1e-4)


def test_change_is_that_of_the_detail_of_successive_hours(measures: FieldMeasures) -> None:
    """White noise of 2 K that is new each hour changes by sqrt(2) x 2 K; the warming of all cells does not count."""
    for hour in (0, 1, 3):
        measures.add(hour, {"t2m": 280.0 + hour + 2 * np.random.default_rng(hour).normal(size=GRID.shape)}, {})
    changes = measures.record().numbers["change t2m land"]
    assert changes.mean == pytest.approx(2 * np.sqrt(2), rel=0.03) and np.isfinite(changes.diurnal).sum() == 1


def test_white_noise_has_the_same_density_at_every_wavelength_and_size() -> None:
    """The square of its standard deviation times a cell's area of 2 x 2 km."""
    for size in (96, 64):
        grid = Grid(west=4_700_000, north=2_200_000, rows=size, cols=size)
        measures = FieldMeasures(SourceGrid(grid.y, grid.x, grid.projection), None)
        for hour in range(4):
            measures.add(hour, {"t2m": 3 * np.random.default_rng(hour).normal(size=grid.shape)}, {})
        density = measures.record().spectra["t2m"]
        short = (WAVELENGTHS > 4) & (WAVELENGTHS < 20)
        assert np.allclose(density[short], 9 * 4, rtol=0.2)


def test_effective_resolution_is_where_power_is_lost(measures: FieldMeasures) -> None:
    measures.add(0, {"t2m": noise(GRID, 2, 3)}, {})
    record = measures.record()
    assert record.resolution("t2m", record) == WAVELENGTHS[0]
    lost = np.where(WAVELENGTHS < 20, 0.1, 1.0)
    smooth = record.model_copy(update={"spectra": {"t2m": record.spectra["t2m"] * lost}})
    assert smooth.resolution("t2m", record) == pytest.approx(20.2, abs=0.1)  # the first third octave above 20 km


def test_boxes_are_recovered_from_their_interpolation(measures: FieldMeasures) -> None:
    boxes = measures.boxes
    values = 280 + 5 * np.random.default_rng(0).normal(size=boxes.grid.shape)
    whole = np.isfinite(boxes.means(boxes.of_source, FLAT))
    coarse = GRID.coarse
    field = (boxes.centres.weights(coarse.lat, coarse.lon) @ values.ravel()).reshape(coarse.shape)
    assert np.abs(BoxRecovery(boxes, coarse)(field) - values)[whole].max() < 0.02


def test_hours_of_the_day_are_compared_across_midnight() -> None:
    def number(mean: float, low: float, high: float) -> HourlyRange:
        return HourlyRange(mean=mean, low=low, high=high, diurnal=np.full(24, np.nan))

    said = verdict("breeze_hour sea JJA", number(23.5, 23.5, 23.5), [number(0.5, -0.8, 2), number(1, 0, 2)])
    start = "The sea breeze over sea in JJA is strongest, in local solar time, at 23.5 h, as in training "
    assert said.within and said.text == f"{start}(training: 23.2 to 26)."


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("detail wind sea", 2.0, "Wind over sea varies within ERA5's boxes twice as much as in training (2 m s-1;"),
        ("detail wind sea", 1.1, "Wind over sea varies within ERA5's boxes as much as in training (1.1 m s-1;"),
        ("box_bias t2m land", 1.5, "Box means of temperature over land less ERA5 are on average 1.5 K, not as in"),
    ],
)
def test_a_verdict_is_a_plain_sentence(key: str, value: float, text: str) -> None:
    def number(mean: float, low: float, high: float) -> HourlyRange:
        return HourlyRange(mean=mean, low=low, high=high, diurnal=np.full(24, np.nan))

    said = verdict(key, number(value, value, value), [number(1.0, 0.8, 1.2), number(1.0, 0.9, 1.3)])
    assert said.text.startswith(text) and said.text.rstrip(").").endswith("training: 0.8 to 1.3")
    assert said.within is (value == 1.1)


def test_the_page_of_an_output(tiny: dict[str, Path], era5: Callable[..., Path], tmp_path: Path) -> None:
    """A checkpoint that knows nothing of its training says so; one that has learned from this output finds it right."""
    source, out, check = era5(range(2)), tmp_path / "out.nc", tmp_path / "check"
    assert ldmdown("downscale", str(source), "-o", str(out), "--checkpoint", str(tiny["unet"])).returncode == 0
    said = ldmdown("evaluate", str(out), str(source), "-o", str(check), "--checkpoint", str(tiny["unet"]))
    assert said.returncode == 0 and "does not tell what its training fields looked like" in said.stderr
    scores = json.loads((check / "scores.json").read_text())
    assert {one["within"] for one in scores["verdicts"]} == {None} and list(scores["records"]) == ["output"]
    knowing = tmp_path / "knowing.safetensors"
    truth = {"twin": scores["records"]["output"]}
    del truth["twin"]["numbers"]["high_tail t2m"]
    checkpoint.save(
        knowing, untrained("unet"), checkpoint.header_of(CONFIG, NORMALIZATION, "unet", training_truth=truth)
    )
    said = ldmdown("evaluate", str(out), str(source), "-o", str(check), "--checkpoint", str(knowing))
    assert "the checkpoint does not know these of its training fields: high_tail t2m" in said.stderr
    count = len(scores["verdicts"]) - 1
    assert f"{count} of {count} numbers are as in training." in said.stdout
    page = (check / "report.html").read_text()
    assert "As in training" in page and "What differs from training" not in page and page.count("<img") == 3
