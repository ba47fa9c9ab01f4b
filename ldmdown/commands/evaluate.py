"""`ldmdown evaluate`: score files or checkpoints, and write tables, figures and a report.

Hours are read one by one, so memory does not grow with their number.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from ldmdown.atomic import locked, replacing
from ldmdown.console import progress_bar, say
from ldmdown.data.reading.files import few_open
from ldmdown.data.reading.stations import read_stations
from ldmdown.drawing.map_fields import MapFields
from ldmdown.drawing.plausibility import plausibility_figures, write_plausibility
from ldmdown.drawing.plots import figures
from ldmdown.drawing.report import write_report
from ldmdown.errors import LdmdownError
from ldmdown.options import CheckpointOptions, StationOptions
from ldmdown.scoring.days import Snapshots, Sums, score_days
from ldmdown.scoring.geometry import GridGeometry
from ldmdown.scoring.plausibility import OUTPUT, Plausibility, UnreferencedOutput
from ldmdown.scoring.predictions import Predictions
from ldmdown.scoring.results import ReferenceFiles, Results
from ldmdown.scoring.scorecard import Scorecard
from ldmdown.scoring.stations import StationScores
from ldmdown.scoring.summaries import error_maps

if TYPE_CHECKING:
    from ldmdown.scoring.systems import Systems

FIGURE_DPI = 130
MAX_SYSTEMS_IN_TITLE = 3
PRINTED_VARIABLES = ("t2m", "ws10", "wind")
PRINTED_SCORES = ("rmse", "bias", "pcc", "crps", "energy_score", "spread_skill", "wasserstein")


@few_open()
def evaluate(
    predictions: Sequence[Path],
    reference: Sequence[Path],
    output: Path,
    *,
    terrain: Path | None = None,
    stations: StationOptions = StationOptions(),
    processes: int | None = None,
) -> None:
    """Score files of predictions, and write report.html, scores.json, scores.csv and figures to a folder.

    They are scored against a reference, against measurements at stations, or both.

    Args:
        predictions: outputs of `downscale`, other gridded fields, or ERA5 itself; each one file, or a glob of files in
            time.
        reference: files, or globs of them, that count as true, such as VHR-REA_IT's, all together; may be none.
        output: the folder.
        terrain: a file of heights, by which land, sea, mountains and coast are scored separately.
        processes: number of those that score days side by side; None: one for each core.

    Raises LdmdownError if a file cannot be read, or no variable, place or hour is in all of them.
    """
    with Predictions(predictions, reference, terrain) as data:
        write_scores(data, output, stations, processes)


@few_open()
def evaluate_unreferenced(
    output: Path, era5: Sequence[Path], folder: Path, checkpoint: str | None = None, terrain: Path | None = None
) -> None:
    """Look at an output without a reference, and write report.html, scores.json and figures to a folder.

    Args:
        output, era5, checkpoint, terrain: as in `UnreferencedOutput`.

    Raises LdmdownError as that, or if the files share no hour.
    """
    with locked(folder), UnreferencedOutput(output, era5, checkpoint, terrain) as data:
        found = _measured(data)
        drawn = plausibility_figures(found, data.measures.boxes.centres, data.measures.bias())
        _write_files(folder, found.model_dump_json(), drawn)
        write_plausibility(folder / "report.html", found, drawn)
    for note in found.notes:
        say(f"note: {note}")
    for one in found.verdicts:
        if one.within is False or not found.training:
            print(one.text)
    if found.training:
        within = sum(one.within is True for one in found.verdicts)
        print(f"{within} of {len(found.verdicts)} numbers are as in training.")
    say(f"{len(data.hours)} hours measured; look at {folder / 'report.html'}; beside it scores.json and the figures")


def _measured(data: UnreferencedOutput) -> Plausibility:
    with progress_bar("hours") as progress:
        for hour in progress.track(data.hours, description="measuring"):
            data.add(hour)
    record = data.measures.record()
    first, last = (str(np.datetime64(data.hours[place], "h")) for place in (0, -1))
    return Plausibility(
        ldmdown=version("ldmdown"),
        title=f"{data.files[0].name} beside its ERA5 and its training",
        created=_now(),
        output=data.files[0],
        era5=data.files[1],
        checkpoint=data.training.label,
        first=first,
        last=last,
        notes=[*data.notes, *data.left_out(record)],
        verdicts=data.verdicts(record),
        effective_resolution_km=data.resolutions(record),
        records={OUTPUT: record, **data.training.records},
    )


def evaluate_checkpoints(
    checkpoints: Sequence[str],
    archive: Path,
    output: Path,
    options: CheckpointOptions,
    *,
    terrain: Path | None = None,
    stations: StationOptions = StationOptions(),
    processes: int | None = None,
) -> None:
    """Score checkpoints on an archive, beside baselines and, on the twin's, the ideal ensemble.

    Args:
        checkpoints, archive, options, terrain: as in `systems.Systems`.
        output: the folder.
        processes: number of those that score days side by side; None: one for each core, but one with CUDA.

    Raises LdmdownError if a checkpoint does not fit the archive, or the archive has no such hours.
    """
    from ldmdown.runtime import choose_device  # and PyTorch with it, which files do not need
    from ldmdown.scoring.systems import Systems

    if choose_device(options.device).type == "cuda":
        processes = processes or 1
    write_scores(Systems(checkpoints, archive, options, terrain), output, stations, processes)


def write_scores(data: Predictions | Systems, output: Path, stations: StationOptions, processes: int | None) -> None:
    """Score all hours, write everything to a folder and print the scores that matter most."""
    with locked(output):
        results, maps = score(data, stations, processes)
        _write(output, results, maps)


def _write(output: Path, results: Results, maps: MapFields) -> None:
    drawn = figures(results, maps)
    _write_files(output, results.model_dump_json(), drawn)
    _write_csv(output / "scores.csv", results)
    write_report(output / "report.html", results, maps, drawn)
    _print_tables(results)
    for note in results.notes:
        say(note)
    report = output / "report.html"
    say(f"{results.hours.count} hours scored; look at {report}; beside it scores.json, scores.csv and the figures")


def _write_files(folder: Path, scores: str, drawn: Mapping[str, Figure]) -> None:
    """Write scores.json and the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "scores.json") as beside:
        beside.write_text(scores, encoding="utf-8")
    for name, figure in drawn.items():
        with replacing(folder / f"{name}.png") as beside:
            figure.savefig(beside, dpi=FIGURE_DPI, format="png")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def score(
    data: Predictions | Systems, stations: StationOptions, processes: int | None = 1
) -> tuple[Results, MapFields]:
    """Score all hours, without a reference those of the stations: the content of scores.json, and fields to look at.

    Days are scored by themselves and added up in their order, so that the number of processes changes nothing.

    Raises LdmdownError if no hour or no cell can be scored.
    """
    at_stations = _open_stations(data, stations)
    hours = data.hours
    reference = data.reference
    if reference is None:
        assert at_stations is not None and stations.stations is not None
        hours = [hour for hour in hours if hour in at_stations.stations.values]
        reference = ReferenceFiles(name=stations.stations.name, files=[str(stations.stations)])
    geometry = GridGeometry(data.grid)
    surfaces = data.terrain.surfaces(geometry.spacing_km) if data.terrain is not None else {}
    card = Scorecard(data.names, data.systems, geometry, hours, surfaces)
    shown = hours[len(hours) // 2]
    snapshots: Snapshots = {}
    with progress_bar("hours") as progress:
        task = progress.add_task("scoring", total=len(hours))
        advance = partial(progress.advance, task)
        for day in score_days(data.read, Sums(card, at_stations), hours, shown, processes, advance):
            card.join(day.card)
            if at_stations is not None and day.stations is not None:
                at_stations.join(day.stations)
            snapshots = snapshots or day.snapshots
    if not card.scored:
        raise LdmdownError(reference.name, "no common cell with the predictions that is not missing")
    names = [one.name for one in data.systems]
    what = ", ".join(names) if len(names) <= MAX_SYSTEMS_IN_TITLE else f"{len(names)} systems"
    results = Results(
        ldmdown=version("ldmdown"),
        title=f"{what} against {reference.name}",
        created=_now(),
        reference=reference,
        notes=[*data.notes, *(card.notes() if data.reference else ())],
        **card.results(),
        stations=None if at_stations is None else at_stations.results(),
    )
    when = str(np.datetime64(shown, "h"))
    maps = error_maps(card.accuracy)
    return results, MapFields(geometry.lat, geometry.lon, data.grid.x, data.grid.y, maps, when, snapshots)


def _open_stations(data: Predictions | Systems, options: StationOptions) -> StationScores | None:
    if options.stations is None:
        return None
    if options.height_correction and data.terrain is None:
        raise LdmdownError("--height-correction", "needs the height of the cells", fix="add --terrain FILE")
    measured = read_stations(options.stations)
    if not measured.values.keys() & set(data.hours):
        found, expected = (
            f"{np.datetime64(min(hours), 'h')} to {np.datetime64(max(hours), 'h')}"
            for hours in (measured.values, data.hours)
        )
        wrong, fix = "no common hours with the fields", "give stations and fields of the same hours"
        raise LdmdownError(options.stations, wrong, found=found, expected=expected, fix=fix)
    terrain = data.terrain if options.height_correction else None
    return StationScores(measured, data.grid, "nearest" if options.nearest else "bilinear", terrain)


def _write_csv(path: Path, results: Results) -> None:
    """Write a line a score; an empty field is a number that is not defined."""
    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["system", "variable", "score", "value", "low", "high", "units"])
        for name, variables in results.scores.items():
            for key, scores in variables.items():
                for score, one in scores.items():
                    numbers = [value if np.isfinite(value) else "" for value in (one.value, one.low, one.high)]
                    writer.writerow([name, key, score, *numbers, results.units(score, key)])


def _print_tables(results: Results) -> None:
    """Print the scores that matter most; the best is bold, and what is not significantly worse."""
    for key in (key for key in PRINTED_VARIABLES if key in results.variables):
        about, best = results.variables[key], results.best.get(key, {})
        title = f"{about.long_name} [{about.units}]"
        scores = {
            name: {score: one.value for score, one in parts.get(key, {}).items()}
            for name, parts in results.scores.items()
        }
        bold = {score: (one.system, *one.not_significantly_different_from) for score, one in best.items()}
        _print_table(results, title, scores, bold)
        if results.stations is not None:
            at_stations = {name: parts.get(key, {}) for name, parts in results.stations.all.items()}
            _print_table(results, f"at stations: {title}", at_stations, {})


def _print_table(
    results: Results, title: str, rows: Mapping[str, Mapping[str, float]], bold: Mapping[str, Sequence[str]]
) -> None:
    """Print a table of scores by system, if there are any; those of the systems in `bold` are."""
    held = [score for score in PRINTED_SCORES if any(score in scores for scores in rows.values())]
    table = Table("", *(results.score_info[score].short_name for score in held), title=title, box=SIMPLE)
    for name in results.ordered(rows):
        values = [(score, rows[name].get(score, np.nan)) for score in held]
        cells = [f"{value:.3g}" if np.isfinite(value) else "" for _, value in values]
        table.add_row(
            name,
            *(
                f"[bold]{cell}[/bold]" if cell and name in bold.get(score, ()) else cell
                for cell, (score, _) in zip(cells, values, strict=True)
            ),
        )
    if held:
        Console().print(table)
