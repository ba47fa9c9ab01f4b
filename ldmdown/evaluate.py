"""`ldmdown evaluate`: how good predictions are, of files or of checkpoints, as tables, figures and a report.

Hours are read one by one, so memory does not grow with their number.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ldmdown.climate import Place
from ldmdown.data.grid import SourceGrid
from ldmdown.predictions import Predictions
from ldmdown.scorecard import Scorecard, System

SHOWN = ("rmse", "bias", "r2", "pcc", "crps", "energy_score", "spread_skill", "wasserstein")


class Contest(Protocol):
    """Systems and a reference, hour by hour on one grid."""

    names: tuple[str, ...]
    grid: SourceGrid
    hours: list[int]
    systems: list[System]
    reference: dict[str, Any]
    notes: list[str]

    def read(self, hour: int) -> tuple[NDArray[np.float32], Mapping[str, NDArray[np.float32]]]:
        """(variable, rows, cols) of the reference, and (member, variable, rows, cols) of each system."""


def evaluate(predictions: Sequence[Path], reference: Sequence[Path], output: Path) -> None:
    """Score files of predictions, and write scores.json and scores.csv to a folder.

    Parameters
    ----------
    predictions
        outputs of `downscale`, other gridded fields, or ERA5 itself; one file each.
    reference
        files of the fields that count as true, such as VHR-REA_IT's, all together.

    Raises
    ------
    LdmdownError
        if a file cannot be read, or no variable, place or hour is in all of them.
    """
    contest = Predictions(predictions, reference)
    _report(contest, output)


def _report(contest: Contest, output: Path) -> None:
    place = Place(contest.grid)
    card = Scorecard(contest.names, contest.systems, place, contest.hours, {})
    for hour in track(contest.hours, "scoring", console=Console(stderr=True)):
        card.add(hour, *contest.read(hour))
    results = {
        "ldmdown": version("ldmdown"),
        "title": f"{', '.join(one.name for one in contest.systems)} against {contest.reference['name']}",
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "reference": contest.reference,
        "notes": contest.notes,
        **card.results(),
    }
    output.mkdir(parents=True, exist_ok=True)
    _write(output, results)
    _print(results)
    for note in results["notes"]:
        print(note, file=sys.stderr)
    print(f"wrote {output / 'scores.json'} and {output / 'scores.csv'}: {len(card.scored)} hours", file=sys.stderr)


def _write(output: Path, results: dict[str, Any]) -> None:
    (output / "scores.json").write_text(json.dumps(results, allow_nan=False))
    with (output / "scores.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["system", "variable", "score", "value", "low", "high", "units"])
        for name, variables in results["scores"].items():
            for key, scores in variables.items():
                for score, one in scores.items():
                    units = results["score_info"][score]["units"]
                    units = results["variables"][key]["units"] if units == "field" else units
                    writer.writerow([name, key, score, *one.values(), units])


def _print(results: dict[str, Any]) -> None:
    """The scores that matter most; bold is best, and not bold what is surely worse."""
    table = Table("variable", "system", *SHOWN)
    for key in results["variables"]:
        for system in results["systems"]:
            name = system["name"]
            scores = results["scores"][name].get(key, {})
            if scores:
                best = results["best"].get(key, {})
                table.add_row(key, name, *(_cell(scores.get(one), best.get(one), name) for one in SHOWN))
        table.add_section()
    Console().print(table)


def _cell(score: dict[str, float | None] | None, best: dict[str, Any] | None, name: str) -> str:
    if score is None or score["value"] is None:
        return ""
    bold = best is not None and name in (best["system"], *best["level_with"])
    return f"[bold]{score['value']:.3g}[/bold]" if bold else f"{score['value']:.3g}"
