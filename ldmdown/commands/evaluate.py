"""`ldmdown evaluate`: how good predictions are, of files or of checkpoints, as tables, figures and a report.

Hours are read one by one, so memory does not grow with their number.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ldmdown.data.grid import SourceGrid
from ldmdown.data.reading.files import few_open
from ldmdown.data.reading.stations import read_stations
from ldmdown.drawing.pictures import Pictures
from ldmdown.drawing.plots import figures
from ldmdown.drawing.report import write_report
from ldmdown.errors import LdmdownError
from ldmdown.scoring.climate import Place
from ldmdown.scoring.predictions import Predictions
from ldmdown.scoring.scorecard import Scorecard, System, plain
from ldmdown.scoring.stations import StationScores
from ldmdown.scoring.terrain import Terrain

DOTS_PER_INCH = 130  # of figures
NAMED = 3  # systems at most in the title
TABLES = ("t2m", "ws10", "wind")  # that are printed
SHOWN = {"rmse": "RMSE", "bias": "bias", "pcc": "PCC", "crps": "CRPS", "energy_score": "energy",
         "spread_skill": "spread", "wasserstein": "distrib."}  # fmt: skip


class Contest(Protocol):
    """Systems and a reference, hour by hour on one grid."""

    names: tuple[str, ...]
    grid: SourceGrid
    hours: list[int]
    systems: list[System]
    reference: dict[str, Any]
    notes: list[str]
    terrain: Terrain | None

    def read(self, hour: int) -> tuple[NDArray[np.float32], Mapping[str, NDArray[np.float32]]]:
        """(variable, rows, cols) of the reference, and (member, variable, rows, cols) of each system."""


@dataclass(frozen=True)
class Options:
    """What is scored beside the fields.

    Parameters
    ----------
    stations
        a CSV file of measurements; see data/stations.
    nearest
        take the nearest cell's value at a station, not the interpolated one.
    height_corrected
        bring temperatures to the stations' heights, which needs a known terrain.
    """

    stations: Path | None = None
    nearest: bool = False
    height_corrected: bool = False


@few_open()
def evaluate(
    predictions: Sequence[Path],
    reference: Sequence[Path],
    output: Path,
    *,
    terrain: Path | None = None,
    options: Options = Options(),
) -> None:
    """Score files of predictions, and write report.html, scores.json, scores.csv and figures to a folder.

    Parameters
    ----------
    predictions
        outputs of `downscale`, other gridded fields, or ERA5 itself; each one file, or a glob of files in time.
    reference
        files, or globs of them, that count as true, such as VHR-REA_IT's, all together.
    terrain
        a file of heights, by which land, sea, mountains and coast are scored separately.

    Raises
    ------
    LdmdownError
        if a file cannot be read, or no variable, place or hour is in all of them.
    """
    _report(Predictions(predictions, reference, terrain), output, options)


def evaluate_checkpoints(
    checkpoints: Sequence[str],
    archive: Path,
    output: Path,
    *,
    period: str = "test",
    members: int = 8,
    every: int = 1,
    seed: int = 0,
    device: str = "auto",
    terrain: Path | None = None,
    options: Options = Options(),
) -> None:
    """Score checkpoints on an archive, beside interpolations and, on the twin's, the ideal ensemble.

    Parameters
    ----------
    checkpoints, archive, period, members, every, seed, device, terrain
        as in `systems.Systems`.

    Raises
    ------
    LdmdownError
        if a checkpoint does not fit the archive, or the archive has no such hours.
    """
    from ldmdown.scoring.systems import Systems  # and PyTorch with it, which files do not need

    contest = Systems(
        checkpoints, archive, period, members=members, every=every, seed=seed, device=device, terrain=terrain
    )
    _report(contest, output, options)


def score(contest: Contest, options: Options) -> tuple[dict[str, Any], Pictures]:
    """All hours of a contest: what is written as scores.json, and fields to look at."""
    place = Place(contest.grid)
    surfaces = contest.terrain.surfaces(place.spacing_km) if contest.terrain is not None else {}
    card = Scorecard(contest.names, contest.systems, place, contest.hours, surfaces)
    stations = _stations(contest, options)
    shown = contest.hours[len(contest.hours) // 2]
    snapshots: dict[str, dict[str, Any]] = {}
    for hour in track(contest.hours, "scoring", console=Console(stderr=True)):
        first = card.add(hour, *contest.read(hour))
        if stations is not None:
            stations.add(hour, first)
        if hour == shown:
            snapshots = first
    if not card.scored:
        raise LdmdownError(contest.reference["name"], "and the predictions have no cell in common that is not missing")
    names = [one.name for one in contest.systems]
    results = {
        "ldmdown": version("ldmdown"),
        "title": f"{', '.join(names) if len(names) <= NAMED else f'{len(names)} systems'} "
        f"against {contest.reference['name']}",
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "reference": contest.reference,
        "notes": [*contest.notes, *card.notes()],
        **card.results(),
    }
    if stations is not None:
        results["stations"] = plain(stations.results())
    grid, when = contest.grid, str(np.datetime64(shown, "h"))
    return results, Pictures(place.lat, place.lon, grid.x, grid.y, card.maps(), when, snapshots)


def _report(contest: Contest, output: Path, options: Options) -> None:
    results, pictures = score(contest, options)
    output.mkdir(parents=True, exist_ok=True)
    _write(output, results)
    drawn = figures(results, pictures)
    for name, figure in drawn.items():
        figure.savefig(output / f"{name}.png", dpi=DOTS_PER_INCH)
    write_report(output / "report.html", results, pictures, drawn)
    _print(results)
    for note in results["notes"]:
        print(note, file=sys.stderr)
    print(f"{results['hours']['count']} hours scored; look at {output / 'report.html'}; beside it scores.json, "
          "scores.csv and the figures", file=sys.stderr)  # fmt: skip


def _stations(contest: Contest, options: Options) -> StationScores | None:
    if options.stations is None:
        return None
    if options.height_corrected and contest.terrain is None:
        raise LdmdownError("--height-correction", "needs the height of the cells", fix="add --terrain FILE")
    measured = read_stations(options.stations)
    if not measured.values.keys() & set(contest.hours):
        span = [str(np.datetime64(hour, "h")) for hour in (min(measured.values), max(measured.values))]
        raise LdmdownError(options.stations, "and the fields have no hour in common", found=" to ".join(span),
                           expected=" to ".join(str(np.datetime64(contest.hours[at], "h")) for at in (0, -1)),
                           fix="give stations and fields of the same hours")  # fmt: skip
    terrain = contest.terrain if options.height_corrected else None
    return StationScores(measured, contest.grid, "nearest" if options.nearest else "bilinear", terrain)


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
    """The scores that matter most; bold is the best and what is not surely worse."""
    for key in (key for key in TABLES if key in results["variables"]):
        rows = {one["name"]: results["scores"][one["name"]].get(key, {}) for one in results["systems"]}
        held = [score for score in SHOWN if any(score in scores for scores in rows.values())]
        about = results["variables"][key]
        table = Table(
            "", *(SHOWN[score] for score in held), title=f"{about['long_name']} [{about['units']}]", box=SIMPLE
        )
        best = results["best"].get(key, {})
        for name, scores in rows.items():
            table.add_row(name, *(_cell(scores.get(score), best.get(score), name) for score in held))
        Console().print(table)


def _cell(score: dict[str, float | None] | None, best: dict[str, Any] | None, name: str) -> str:
    if score is None or score["value"] is None:
        return ""
    bold = best is not None and name in (best["system"], *best["level_with"])
    return f"[bold]{score['value']:.3g}[/bold]" if bold else f"{score['value']:.3g}"
