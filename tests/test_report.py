from __future__ import annotations

from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.figure import Figure

from ldmdown import report
from ldmdown.report import Cell

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


def test_a_page_of_pieces() -> None:
    losses = report.table("Losses <by> stage", ["stage", "loss"], [["unet", 0.51234], ["a & b", float("nan")]])
    text = report.page("A run", {"Losses": [losses, report.figure(drawing(), "Loss", "A line that rises")], "None": []})
    outline = assert_sound(text)
    assert "Losses &lt;by&gt; stage" in text and "a &amp; b" in text
    assert ">0.512</td>" in text and ">–</td>" in text
    assert [heading["id"] for heading in outline.all("h2")] == ["losses"]
    assert outline.all("img")[0]["width"] == "320"


def test_only_columns_with_numbers_sort() -> None:
    text = report.table("T", ["name", "x", "note"], [["a", 1.0, "b"], ["c", Cell("2 ± 1", 2.0, mark="best"), "d"]])
    assert text.count("<button") == 1
    assert '<td class="best" data-value="2">2 ± 1</td>' in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00"), (1234.5, "1,234"), (-0.012345, "−0.0123"), (99.95, "100.0"), (None, "–"), (np.inf, "–")],
)
def test_numbers_for_people(value: float | None, text: str) -> None:
    assert report.number(value) == text
