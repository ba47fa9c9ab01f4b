from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import made_up
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_allclose

from ldmdown.data.grid import Grid
from ldmdown.drawing import maps, plots, style
from ldmdown.drawing.map_fields import MapFields
from ldmdown.scoring.results import Distribution, ScoredSystem

GRID = Grid().coarse  # 84 x 72
RESULTS, FIELDS = made_up.scored(GRID)


@pytest.fixture(autouse=True)
def look() -> Iterator[None]:
    """As `figures` draws them."""
    with matplotlib.rc_context(style.LOOK):
        yield


def lines_of(figure: Figure, axis: int) -> dict[str, Any]:
    """By the system."""
    names = style.colours(RESULTS.systems)
    lines = [line for line in figure.axes[axis].lines if line.get_marker() == "None"]
    return {line.get_label(): line for line in lines if line.get_label() in names}


def test_every_part_of_the_results_has_its_figure() -> None:
    """And only what the results hold is drawn."""
    drawn = plots.figures(RESULTS, FIELDS)
    assert list(drawn) == [
        "boxplots", "surfaces", "distributions", "spectra", "derivatives", "ranks", "reliability", "diurnal",
        "hour_to_hour", "snapshots_t2m", "snapshots_ws10", "rmse_t2m", "rmse_ws10", "bias_t2m", "bias_ws10",
        "stations_rmse_t2m", "stations_bias_t2m",
    ]  # fmt: skip
    missing = {name: {} for name in ("by_surface", "reliability", "hour_to_hour", "rank_histogram")}
    poor = RESULTS.model_copy(update=missing | {"stations": None})
    assert list(plots.figures(poor)) == ["boxplots", "distributions", "spectra", "derivatives", "diurnal"]


def test_a_system_has_one_colour_and_its_kind_one_line() -> None:
    systems = [ScoredSystem(name=str(place), kind="interpolation" if place < 2 else "member") for place in range(10)]
    colours = style.colours(systems)
    assert colours["reference"] == "#000000" and colours["0"] != colours["1"] != colours["2"]
    assert colours["2"] == colours["9"]  # seven colours, then again
    mean = ScoredSystem(name="its mean", kind="ensemble mean")
    assert style.colours([*systems, mean])["its mean"] == colours["2"]
    spectra = lines_of(plots.spectra(RESULTS), 0)
    assert spectra["bilinear"].get_linestyle() == "--" and spectra["U-Net"].get_linestyle() == "-"
    looks = {(line.get_color(), str(line._unscaled_dash_pattern)) for line in spectra.values()}
    assert len(looks) == len(spectra)
    assert set(spectra) == {"reference", *made_up.KINDS}


def test_spectra_show_the_power_and_the_ratio_that_were_given() -> None:
    figure = plots.spectra(RESULTS)
    above, below = lines_of(figure, 0), lines_of(figure, 2)  # t2m
    part = RESULTS.spectra["t2m"]
    assert_allclose(above["GAN"].get_xydata().T, [part.wavelength_km, part.power["GAN"]])
    assert_allclose(below["GAN"].get_ydata(), part.ratio_db["GAN"])
    left, right = figure.axes[2].get_xlim()
    assert (
        left == part.wavelength_km.max() and right < 2 * RESULTS.grid.spacing_km
    )  # long waves on the left, to two cells


def test_a_spectrum_without_power_at_a_wavelength() -> None:
    part = RESULTS.spectra["t2m"]
    power = {name: np.concatenate([[0], values[1:]]) for name, values in part.power.items()}
    figure = plots.spectra(RESULTS.model_copy(update={"spectra": {"t2m": part.model_copy(update={"power": power})}}))
    assert figure.axes[0].get_ylim()[0] > 0


def test_an_area_too_narrow_for_a_wave_has_no_spectra() -> None:
    narrow = {"wavelength_km": np.empty(0), "power": {}, "ratio_db": {}}
    part = RESULTS.spectra["t2m"].model_copy(update=narrow)
    assert "spectra" not in plots.figures(RESULTS.model_copy(update={"spectra": {"t2m": part}, "stations": None}))


def test_joined_bins_keep_the_share_of_every_value() -> None:
    """3200 bins of a distribution become 120 at most, and its integral stays."""
    edges = np.linspace(180, 340, 3201)
    density = np.exp(-(((edges[1:] + edges[:-1]) / 2 - 280) ** 2) / 50)
    density /= (density * np.diff(edges)).sum()
    wide, joined = plots.join_bins(Distribution(edges=edges, density={"reference": density}))
    assert len(wide) <= plots.MAX_BINS + 1 and wide[0] == 180 and wide[-1] == 340
    assert (joined["reference"] * np.diff(wide)).sum() == pytest.approx(1)
    low, high = plots.tails(density, edges)
    assert (low, high) == pytest.approx((280 - 5 * 2.3263, 280 + 5 * 2.3263), abs=0.03)  # normal quantiles


def test_a_narrow_lower_tail_is_left_out() -> None:
    """Wind speed ends at zero: a linear panel and its upper tail; temperature has two tails."""
    titles = [axis.get_title(loc="left") for axis in plots.distributions(RESULTS).axes]
    assert titles == [
        "All values", "The lowest hundredth", "The highest hundredth", "All values", "The highest hundredth",
    ]  # fmt: skip


def test_boxes_hold_half_of_the_hours() -> None:
    figure = plots.boxplots(RESULTS)
    rmse = RESULTS.hourly["bilinear"]["t2m"].rmse
    box = figure.axes[0].patches[0].get_path().get_extents()
    assert (box.x0, box.x1) == pytest.approx(tuple(np.percentile(rmse, [25, 75])))
    assert figure.axes[0].get_title(loc="left") == "RMSE [K]"
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(made_up.KINDS)


def test_hours_that_no_day_has_are_gaps_in_the_diurnal_cycle() -> None:
    """Every third hour: points at 0, 3, ... in degrees Celsius, and the line goes from one to the next."""
    cycle = np.where(np.arange(24) % 3 == 0, 280.0 + np.arange(24), np.nan)
    results = RESULTS.model_copy(update={"diurnal": {name: {"reference": cycle} for name in ("t2m", "ws10")}})
    line = plots.diurnal(results).axes[0].lines[0]
    assert_allclose(line.get_xydata().T, [np.arange(0, 24, 3), 280 - 273.15 + np.arange(0, 24, 3)])


def test_error_maps_share_one_scale() -> None:
    figure = maps.error_maps(RESULTS, FIELDS, "bias", "t2m")
    images = [axis.images[0] for axis in figure.axes if axis.images]
    assert len(images) == len(made_up.KINDS)
    every = np.stack(list(FIELDS.maps["bias"]["t2m"].values()))
    top = np.percentile(np.abs(every), 99)
    assert [image.get_clim() for image in images] == [(pytest.approx(-top), pytest.approx(top))] * len(images)
    assert_allclose(images[2].get_array(), FIELDS.maps["bias"]["t2m"]["GAN"])


def test_maps_have_degrees_where_their_lines_leave() -> None:
    """The tick of 12 E lies at the x of the southern border whose longitude is 12."""
    axis = maps.error_maps(RESULTS, FIELDS, "rmse", "t2m").axes[0]
    ticks = dict(zip((label.get_text() for label in axis.get_xticklabels()), axis.get_xticks(), strict=True))
    assert list(ticks) == ["8°E", "12°E", "16°E"]
    near = int(np.abs(FIELDS.x - ticks["12°E"]).argmin())
    assert FIELDS.lon[-1, near] == pytest.approx(12, abs=0.1)


def test_the_closer_look_is_the_alps_where_they_are() -> None:
    rows, cols = maps.alps(FIELDS)
    assert FIELDS.lat[rows, cols].min() > 45 and FIELDS.lat[rows, cols].max() < 47.3
    assert FIELDS.lon[rows, cols].min() < 7.5 and FIELDS.lon[rows, cols].max() > 13
    south = MapFields(FIELDS.lat - 5, FIELDS.lon, FIELDS.x, FIELDS.y)
    assert maps.alps(south) == (slice(28, 56), slice(24, 48))
    part = MapFields(*(field[:30, 20:50] for field in (FIELDS.lat, FIELDS.lon)), FIELDS.x[20:50], FIELDS.y[:30])
    assert maps.alps(part) == (slice(10, 20), slice(10, 20))  # they fill its whole width
    strip = MapFields(FIELDS.lat[:, :2] - 5, FIELDS.lon[:, :2], FIELDS.x[:2], FIELDS.y)
    assert maps.alps(strip) == (slice(28, 56), slice(0, 2))


@pytest.mark.parametrize(
    ("units", "text"), [("m s-1", "m s⁻¹"), ("K", "K"), ("1", ""), ("kg kg-1", "kg kg⁻¹"), ("m2 s-2", "m² s⁻²")]
)
def test_units_are_raised(units: str, text: str) -> None:
    assert style.written(units) == text
    assert style.labelled("RMSE", units) == (f"RMSE [{text}]" if text else "RMSE")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(4.6, 18.1, [8, 12, 16]), (35.0, 47.3, [36, 40, 44]), (10.2, 12.4, [10.5, 11, 11.5, 12]), (-3.5, 3.5, [-2, 0, 2])],
)
def test_few_round_degrees(low: float, high: float, expected: list[float]) -> None:
    assert_allclose(style.whole_degrees(np.array([low, high])), expected)
    assert style.degrees(-2.5, "EW") == "2.5°W" and style.degrees(0, "NS") == "0°"
