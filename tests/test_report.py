from __future__ import annotations

import base64
import json
import re
import shutil
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import made_up
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from ldmdown.data.grid import Grid
from ldmdown.drawing import html, maps, report
from ldmdown.drawing.comparison import comparison, encode, graticule
from ldmdown.drawing.html import Cell
from ldmdown.drawing.map_fields import MapFields
from ldmdown.scoring.results import Best, Score

VOID = {"meta", "img", "input", "br", "link", "hr"}


class Outline(HTMLParser):
    """Every element with its attributes, in order; an element closed out of turn is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def drawing() -> Figure:
    figure = Figure(figsize=(4, 2), layout="constrained")
    figure.subplots().plot([0, 1], [0, 1])
    return figure


def assert_sound(text: str) -> Outline:
    """Elements nest, ids are unique and links find them, pictures are described and inline, nothing is fetched."""
    outline = Outline(text)
    ids = [attributes["id"] for _, attributes in outline.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"] for link in outline.all("a")} <= {f"#{name}" for name in ids} | {
        link["href"] for link in outline.all("a") if link["href"].startswith("https://doi.org/")
    }
    for image in outline.all("img"):
        assert image["alt"] and image["src"].startswith("data:image/")
    for _, attributes in outline.elements:
        assert not attributes.get("src", "data:").startswith("http")
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids
    assert not outline.all("link") and "@import" not in text and "url(" not in text
    headings = [int(name[1]) for name, _ in outline.elements if name in ("h1", "h2", "h3")]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(headings))
    return outline


def test_a_page_of_pieces(tmp_path: Path) -> None:
    losses = html.table("Losses <by> stage", ["stage", "loss"], [["unet", 0.51234], ["a & b", float("nan")]])
    figure = html.figure(drawing(), "Loss", "A line that rises")
    html.write_page(tmp_path / "run.html", "A run", {"Losses": [losses, figure], "None": []}, footer="1 < 2")
    text = (tmp_path / "run.html").read_text()
    assert "<footer>1 &lt; 2</footer>" in text
    outline = assert_sound(text)
    assert "Losses &lt;by&gt; stage" in text and "a &amp; b" in text
    assert ">0.512</td>" in text and ">–</td>" in text
    assert [heading["id"] for heading in outline.all("h2")] == ["losses"]
    assert outline.all("img")[0]["width"] == "400"


def test_only_columns_with_numbers_sort() -> None:
    text = html.table("T", ["name", "x", "note"], [["a", 1.0, "b"], ["c", Cell("2 ± 1", 2.0, mark="best"), "d"]])
    assert text.count("<button") == 1
    assert '<td class="best" data-value="2">2 ± 1</td>' in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00"), (1234.5, "1,234"), (-0.012345, "−0.0123"), (99.95, "100.0"), (None, "–"), (np.inf, "–")],
)
def test_numbers_for_people(value: float | None, text: str) -> None:
    assert html.number(value) == text


GRID = Grid().coarse  # 84 x 72
RESULTS, FIELDS = made_up.scored(GRID)
LEVEL = {"rmse": Best(system="U-Net", not_significantly_different_from=["italy, mean of 8"])}
SCORES = {
    name: {"t2m": {"rmse": Score(value=error, low=0.96 * error, high=1.04 * error)}}
    for name, error in made_up.ERROR.items()
}
SHOWN = RESULTS.model_copy(update={"scores": SCORES, "best": {"t2m": LEVEL}})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page with two of the figures."""
    figures = {
        "rmse_t2m": maps.error_maps(RESULTS, FIELDS, "rmse", "t2m"),
        "snapshots_ws10": maps.snapshots(RESULTS, FIELDS, "ws10"),
    }
    path = tmp_path_factory.mktemp("report") / "report.html"
    report.write_report(path, SHOWN, FIELDS, figures)
    return path


def test_the_report_is_sound_and_complete(written: Path) -> None:
    text = written.read_text()
    outline = assert_sound(text)
    assert [heading["id"] for heading in outline.all("h2")] == [
        "scores", "against-the-ideal-ensemble", "before-and-after", "an-hour", "where", "scales", "stations",
        "what-the-scores-mean",
    ]  # fmt: skip
    assert [image["alt"] for image in outline.all("img")] == [
        "Maps of 10 metre wind speed of the reference and of bilinear, U-Net, GAN, italy, a member, italy, mean of 8, "
        "ideal, with a closer look at a part.",
        "Maps of the RMSE of 2 metre temperature, of bilinear, U-Net, GAN, italy, a member, italy, mean of 8, ideal. "
        "Lowest RMSE of 2 metre temperature: U-Net.",
    ]
    assert "a test world &lt;not COSMO&gt;" in text
    assert sorted(path.name for path in written.parent.iterdir()) == ["report.html"]


def test_best_and_level_scores_are_marked(written: Path) -> None:
    """t2m's RMSE: U-Net 1.00 is best, the mean of 8 level with it; the ideal ensemble does not compete."""
    text = written.read_text()
    assert '<td class="best" data-value="1">1.00<small>0.96 … 1.04</small></td>' in text
    assert '<td class="tie" data-value="1.02">1.02<small>0.98 … 1.06</small></td>' in text
    assert '<td data-value="1.3">1.30<small>1.25 … 1.35</small></td>' in text


def test_intervals_that_are_not_known_are_left_out(tmp_path: Path) -> None:
    known, unknown = Score(value=1.0, low=np.nan, high=np.nan), Score(value=np.nan, low=np.nan, high=np.nan)
    scores = {"ideal": {}, "U-Net": {"t2m": {"rmse": known, "crps": unknown}}}
    left_out = {"best": {}, "stations": None, "spectra": {}, "ratio_to_ideal": {}}
    path = tmp_path / "report.html"
    results = RESULTS.model_copy(update={"scores": scores, "systems": RESULTS.systems[1:2], **left_out})
    report.write_report(path, results, None, {})
    assert '<td data-value="1">1.00</td>' in path.read_text()
    assert "<td>–</td>" in path.read_text()


def decoded(text: str, shape: tuple[int, int]) -> np.ndarray:
    """As the page does it: differences added up in 16 bits."""
    steps = np.cumsum(np.frombuffer(zlib.decompress(base64.b64decode(text)), "<i2"), dtype=np.int16)
    return np.where(steps == -32768, np.nan, steps * 0.1).reshape(shape)


def test_fields_are_kept_to_half_a_step() -> None:
    """Missing cells stay missing, and differences that pass 16 bits come back."""
    field = np.random.default_rng(0).normal(0, 20, (40, 30)).astype(np.float32)
    field[3:5, 2:9] = np.nan
    field[10, 10], field[10, 11] = -3000, 3000
    back = decoded(encode(field), field.shape)
    assert np.array_equal(np.isnan(back), np.isnan(field))
    assert np.nanmax(np.abs(back - field)) < 0.0501


def test_the_graticule_follows_the_fields_of_degrees() -> None:
    """On the whole domain: every fourth degree, and each point of a line has its degree."""
    lines = graticule(FIELDS)
    assert [line["label"] for line in lines] == ["8°E", "12°E", "16°E", "36°N", "40°N", "44°N"]
    for line in lines:
        field = FIELDS.lon if line["side"] == "bottom" else FIELDS.lat
        for x, y in line["points"]:
            near = field[round(y), round(x)]
            assert near == pytest.approx(float(re.sub(r"\D", "", line["label"])), abs=0.12)


def test_rows_from_the_south_are_turned() -> None:
    """A field whose first row lies in the south makes the same map."""
    turned = MapFields(
        FIELDS.lat[::-1],
        FIELDS.lon[::-1],
        FIELDS.x,
        FIELDS.y[::-1],
        snapshots={"reference": {name: one[::-1] for name, one in FIELDS.snapshots["reference"].items()}},
        snapshot_time=FIELDS.snapshot_time,
    )
    arguments: tuple[Any, ...] = ("reference", "reference", ["reference"], {"t2m": RESULTS.variables["t2m"]})
    assert comparison(turned.north_up, *arguments) == comparison(FIELDS, *arguments)


def test_cells_of_a_geographic_grid_are_taller_than_wide() -> None:
    """At 60 degrees a degree of longitude is half as long as one of latitude."""
    lat, lon = np.meshgrid(np.arange(65.0, 54, -1), np.arange(0.0, 9), indexing="ij")
    assert MapFields(lat, lon, lon[0], lat[:, 0]).cell_shape == pytest.approx(2)
    assert FIELDS.cell_shape == pytest.approx(1, abs=0.02)  # the projection keeps areas, not shapes


# In a browser

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS.split())
        yield opened
        opened.close()


@pytest.fixture
def opened(browser: Any, written: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The report in a page of its own; whatever it complains of, or fetches, is an error."""
    settings = {"viewport": {"width": 1400, "height": 900}} | getattr(request, "param", {})
    page = browser.new_page(**settings)
    complaints: list[str] = []
    page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: asked.url.startswith(("file:", "data:")) or complaints.append(asked.url))
    page.goto(written.as_uri())
    page.locator(".scale span", has_text="°C").first.wait_for()
    yield page
    page.close()
    assert complaints == []


def value_of(page: Any) -> float:
    return float(page.locator(".divider").input_value())


def point_at(page: Any, row: int, col: int) -> tuple[float, float]:
    """Window coordinates of the centre of a cell."""
    page.locator(".map").scroll_into_view_if_needed()
    box = page.locator(".map").bounding_box()
    rows, cols = GRID.shape
    return box["x"] + (col + 0.5) / cols * box["width"], box["y"] + (row + 0.5) / rows * box["height"]


def colour_at(page: Any, row: int, col: int) -> list[int]:
    rows, cols = GRID.shape
    share = (col + 0.5) / cols, (row + 0.5) / rows
    return page.evaluate(
        "([x, y]) => { const map = document.querySelector('.map');"
        "return [...map.getContext('2d').getImageData(x * map.width, y * map.height, 1, 1).data].slice(0, 3); }",
        share,
    )


def colour_of(written: Path, system: str, row: int, col: int) -> list[int]:
    """What the colour scale makes of a cell of t2m."""
    content = json.loads(re.search(r'"application/json">(.*?)</script>', written.read_text(), re.DOTALL)[1])  # type: ignore[index]
    scale = content["variables"]["t2m"]
    value = np.rint((FIELDS.snapshots[system]["t2m"][row, col] - 273.15) / 0.1) * 0.1
    place = round(float(np.clip((value - scale["low"]) / (scale["high"] - scale["low"]), 0, 1)) * 255)
    return list(matplotlib.colormaps["plasma"](place, bytes=True)[:3])


def assert_reads(text: str, row: int, col: int, name: str, right: str = "italy, a member") -> None:
    place = re.search(r"([\d.]+)° N, ([\d.]+)° E", text)
    assert place
    assert float(place[1]) == pytest.approx(FIELDS.lat[row, col], abs=0.0056)
    assert float(place[2]) == pytest.approx(FIELDS.lon[row, col], abs=0.0056)
    for system in ("bilinear", right):
        found = re.search(rf"{system}: ([−\d.]+) (°C|m s⁻¹)", text)
        assert found
        expected = FIELDS.snapshots[system][name][row, col] - (273.15 if name == "t2m" else 0)
        assert float(found[1].replace("−", "-")) == pytest.approx(expected, abs=0.0501)
        assert found[2] == ("°C" if name == "t2m" else "m s⁻¹")


@pytest.mark.slow
def test_the_slider_moves_by_keyboard_and_mouse(opened: Any, written: Path) -> None:
    """The cell beside the middle shows the left field, or the right one once the boundary has passed it."""
    cell = (30, 30)
    expected = {name: colour_of(written, name, *cell) for name in ("bilinear", "italy, a member")}
    assert expected["bilinear"] != expected["italy, a member"]
    assert value_of(opened) == 50 and colour_at(opened, *cell) == pytest.approx(expected["bilinear"], abs=2)
    opened.locator(".divider").focus()
    for _ in range(20):
        opened.keyboard.press("ArrowLeft")
    assert value_of(opened) == 30 and colour_at(opened, *cell) == pytest.approx(expected["italy, a member"], abs=2)
    opened.locator(".divider").scroll_into_view_if_needed()
    box = opened.locator(".divider").bounding_box()
    middle = box["y"] + box["height"] / 2
    opened.mouse.move(box["x"] + 0.3 * box["width"], middle)
    opened.mouse.down()
    opened.mouse.move(box["x"] + 0.8 * box["width"], middle, steps=5)
    opened.mouse.up()
    assert value_of(opened) == pytest.approx(80, abs=3)
    assert colour_at(opened, *cell) == pytest.approx(expected["bilinear"], abs=2)
    y = point_at(opened, 30, 0)[1]
    box = opened.locator(".map").bounding_box()
    opened.mouse.move(box["x"] + value_of(opened) / 100 * box["width"], y)
    opened.mouse.down()
    opened.mouse.move(box["x"] + 0.2 * box["width"], y, steps=5)
    opened.mouse.up()
    assert value_of(opened) == pytest.approx(20, abs=1)


@pytest.mark.slow
def test_values_under_the_pointer_are_those_of_the_arrays(opened: Any) -> None:
    readout = opened.locator("#compare-values")
    for row, col in ((0, 0), (20, 50), (83, 71), (47, 13)):
        opened.mouse.move(*point_at(opened, row, col))
        assert_reads(readout.inner_text(), row, col, "t2m")
    opened.locator(".map").focus()
    for key in ("ArrowRight", "ArrowUp", "Shift+ArrowRight"):
        opened.keyboard.press(key)
    assert_reads(readout.inner_text(), 46, 24, "t2m")
    opened.get_by_role("radio", name="10 metre wind speed").check()
    assert_reads(readout.inner_text(), 46, 24, "ws10")
    opened.get_by_role("combobox", name="Right").select_option("reference")
    assert_reads(readout.inner_text(), 46, 24, "ws10", "reference")


@pytest.mark.slow
@pytest.mark.parametrize(
    "opened", [{"viewport": {"width": 400, "height": 800}, "has_touch": True, "color_scheme": "dark"}], indirect=True
)
def test_on_a_phone_in_the_dark(opened: Any) -> None:
    """A finger reads values; the page is dark and does not scroll sideways."""
    opened.touchscreen.tap(*point_at(opened, 20, 50))
    assert_reads(opened.locator("#compare-values").inner_text(), 20, 50, "t2m")
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 27)"
    assert opened.evaluate("document.documentElement.scrollWidth") == 400
    assert opened.locator(".map").bounding_box()["width"] > 340


@pytest.mark.slow
def test_headers_sort_by_keyboard(opened: Any) -> None:
    table = opened.locator("table").first
    column = "rows => rows.map(row => parseFloat(row.cells[1].dataset.value))"
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(253, 253, 252)"
    for order in ("ascending", "descending"):
        table.get_by_role("button", name="RMSE [K]").focus()
        opened.keyboard.press("Enter")
        values = table.locator("tbody tr").evaluate_all(column)
        assert values == sorted(values, reverse=order == "descending") and len(values) == 6
        assert table.locator("th[aria-sort]").get_attribute("aria-sort") == order
