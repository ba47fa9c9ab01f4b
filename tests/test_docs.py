"""What README and the pages in examples/ say: links lead somewhere, commands and options exist, tables are narrow."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from ldmdown.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "examples").glob("*.md"))]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def commands(text: str) -> list[list[str]]:
    """Words of every command line of ldmdown in blocks of code, continued lines joined."""
    blocks = re.findall(r"```[a-z]*\n(.*?)```", text, flags=re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in re.split(r"&&|\||>", line.split("#")[0])]
    return [shlex.split(part)[1:] for part in parts if part.startswith("ldmdown ")]


@pages
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    headings = {re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-") for line in text.splitlines()}
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pages
def test_commands_and_their_options_exist(page: Path) -> None:
    for verb, *words in commands(page.read_text()):
        known = {name for parameter in COMMANDS[verb].params for name in parameter.opts}
        assert {word for word in words if re.match("--?[a-z]", word)} <= known, (verb, words)


def test_every_benchmark_stands_on_a_page() -> None:
    said = "".join(page.read_text() for page in PAGES)
    scripts = [f"tests/benchmarks/{path.name}" for path in (ROOT / "tests/benchmarks").glob("*.py")]
    assert not [script for script in scripts if script not in said]


@pages
def test_tables_have_five_columns_at_most(page: Path) -> None:
    assert max((line.count("|") - 1 for line in page.read_text().splitlines() if line.startswith("|")), default=0) <= 5
