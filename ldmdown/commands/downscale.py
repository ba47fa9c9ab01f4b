"""`ldmdown downscale`: ERA5 files to hourly 2 km fields, in CF NetCDF or Zarr.

Processes that torchrun started share the hours of each file.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import xarray as xr
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)

from ldmdown.checkpoint import Checkpoint, load
from ldmdown.config import DEFAULT, Precision, load_config
from ldmdown.data.grid import Grid, Window
from ldmdown.data.netcdf import ZARR, FieldWriter
from ldmdown.data.reading.fields import Fields, fields_of, open_fields
from ldmdown.data.reading.files import few_open
from ldmdown.data.reading.regridded import NATIVE_SPACING, check_coverage, covered_window, spacing_degrees
from ldmdown.data.variables import attributes
from ldmdown.errors import LdmdownError
from ldmdown.inference import Predictor, SamplingOptions, default_sampler, measured_correlation
from ldmdown.models.sampling import Sampler
from ldmdown.runtime import Processes, choose_device, first_process, processes
from ldmdown.typing import Float32Array

BUNDLED = "italy"
ACKNOWLEDGEMENT = (
    "Contains modified Copernicus Climate Change Service information (ERA5, doi:10.24381/cds.adbb2d47); neither "
    "the European Commission nor ECMWF is responsible for any use of it."
)
REFERENCES = "doi:10.5194/gmd-18-2051-2025 (method); doi:10.1002/qj.3803 (ERA5)"
MADE = {"unet": "the conditional mean", "gan": "the generator's field"}  # by stages that draw no members
BATCH = {"cpu": 1, "cuda": 16}  # members of hours at once


@dataclass(frozen=True)
class Options:
    """What the command line says beside the files."""

    checkpoint: str | None = None
    members: int | None = None
    seed: int = 0
    steps: int | None = None
    sampler: Literal["dpmpp", "ddim"] | None = None
    temporal_correlation: float | None = None
    start: str | None = None
    end: str | None = None
    bbox: tuple[float, float, float, float] | None = None
    covered: bool = False
    variables: tuple[str, ...] | None = None
    device: str = "auto"
    precision: Precision = "auto"
    batch_size: int | None = None
    overwrite: bool = False
    resume: bool = False


@few_open()
def downscale(files: Sequence[str], output: Path, options: Options) -> None:
    """Write the fields of all hours of the files.

    Raises
    ------
    LdmdownError
        if a file, an option or the checkpoint does not serve.
    """
    _check(output, options)
    with processes() as together, ExitStack() as opened:
        device = together.device if options.device == "auto" else choose_device(options.device)
        name = options.checkpoint or _default_checkpoint()
        checkpoints = _system(name, device)
        request = "ldmdown request" + ("" if name == BUNDLED else f" --checkpoint {name}")
        era5 = opened.enter_context(open_fields(files, _predictors(checkpoints), request=request))
        for note in era5.notes:
            _say(f"note: {note}")
        dataset = _period(era5, options)
        window = _window(dataset, checkpoints[0].grid, options)
        runners = [_runner(checkpoint, window, options, device) for checkpoint in checkpoints]
        targets = _targets(checkpoints)
        names = _variables(targets, options)
        outputs = _outputs(output, dataset)
        unfinished = [path for path in outputs if not (options.resume and _finished(path))]
        writers = {path: _writer(path, outputs[path], runners, names, options) for path in unfinished}
        if not writers:
            _say(f"{output} is finished already; --overwrite makes it anew")
            return
        left = {path: [hour for hour in range(len(writer.hours)) if not writer.done(hour)]
                for path, writer in writers.items()}  # fmt: skip
        done = len(dataset) - sum(map(len, left.values()))
        _say(_what(runners, dataset, len(outputs), done))
        together.wait()  # all have seen what is there
        for writer in writers.values() if together.first else ():
            writer.begin()
        together.wait()
        with _progress(together) as progress:
            task = progress.add_task("downscaling", total=len(dataset), completed=done)
            for path, writer in writers.items():
                mine = left[path][together.rank :: together.size]
                for index, fields in _fields(runners, outputs[path], mine):
                    writer.write(index, _select(fields, targets, names))
                    progress.advance(task, together.size)
                together.wait()
                if together.first:
                    writer.close()
        written = str(unfinished[0]) + (f" to {unfinished[-1]}" if len(unfinished) > 1 else "")
        _say(f"wrote {written}: {_count(len(dataset), 'hour')} of {', '.join(names)}; "
             f"look at it with {'xarray' if output.suffix == ZARR else 'ncview, QGIS or xarray'}")  # fmt: skip


class System:
    """A checkpoint for use from Python; see `ldmdown.load`."""

    def __init__(self, checkpoint: str, device: str) -> None:
        self.device = choose_device(device)
        self.checkpoints = _system(checkpoint, self.device)

    def downscale(
        self,
        era5: xr.Dataset,
        members: int = 1,
        seed: int = 0,
        bbox: tuple[float, float, float, float] | None = None,
    ) -> xr.Dataset:
        """Float32Array (time, realization, y, x) of all hours, in memory; `ldmdown downscale` streams to a file.

        Parameters
        ----------
        era5
            as it was downloaded, opened with xarray.
        members, seed
            of the ensemble.
        bbox
            west, south, east, north [degrees]; None: all that the dataset covers.

        Raises
        ------
        LdmdownError
            if the dataset lacks a variable or covers too little.
        """
        options = Options(members=members, seed=seed, bbox=bbox, covered=bbox is None)
        dataset = fields_of(era5, _predictors(self.checkpoints))
        grid = self.checkpoints[0].grid
        window = _window(dataset, grid, options)
        runners = [_runner(checkpoint, window, options, self.device) for checkpoint in self.checkpoints]
        fields = [one for _, one in _fields(runners, dataset, range(len(dataset)))]
        stacked = np.stack(fields)  # (time, member, variable, y, x)
        cut, earth = grid.window(window), _earth(self.checkpoints)
        dims = ("time", "realization", "y", "x")
        return xr.Dataset(
            {
                name: (dims, stacked[:, :, i], attributes(name, earth=earth) | {"grid_mapping": "crs"})
                for i, name in enumerate(_targets(self.checkpoints))
            },
            {
                "time": dataset.times,
                "realization": np.arange(stacked.shape[1]),
                "y": cut.y,
                "x": cut.x,
                "lat": (("y", "x"), cut.lat),
                "lon": (("y", "x"), cut.lon),
                "crs": ((), 0, cut.grid_mapping()),
            },
        )


def _check(output: Path, options: Options) -> None:
    """What can be refused before anything is read."""
    if output.suffix not in (".nc", ZARR) or not _is_pattern(str(output)):
        raise LdmdownError(
            output, "is not a name that can be written", expected="out.nc, out.zarr or 'out_{time:%Y%m}.nc'"
        )
    for one, other, both in (
        ("--overwrite", "--resume", options.overwrite and options.resume),
        ("--bbox", "--region", options.bbox is not None and options.covered),
    ):
        if both:
            raise LdmdownError(f"{one} and {other}", "exclude each other", fix=f"leave out {one} or {other}")


def _is_pattern(text: str) -> bool:
    """Whether it holds nothing in braces but {time}, in whatever format."""
    try:
        return bool(text.format(time=datetime(2000, 1, 1)))
    except (LookupError, ValueError, AttributeError):
        return False


def _system(names: str, device: torch.device) -> list[Checkpoint]:
    """The checkpoints of a comma-joined name, which make different variables on one grid."""
    checkpoints = [load(name, device) for name in names.split(",")]
    first = checkpoints[0]
    for one in checkpoints[1:]:
        if one.grid != first.grid:
            raise LdmdownError(
                one.path, f"is on another grid than {first.path}", found=f"{one.grid}", expected=f"{first.grid}"
            )
    targets = _targets(checkpoints)
    if len(set(targets)) < len(targets):
        raise LdmdownError(
            names, "make the same variable", found=", ".join(targets), fix="join checkpoints of different ones"
        )
    return checkpoints


def _predictors(checkpoints: Sequence[Checkpoint]) -> tuple[str, ...]:
    """What all of them need, each once."""
    return tuple(dict.fromkeys(name for one in checkpoints for name in one.config.predictors))


def _targets(checkpoints: Sequence[Checkpoint]) -> tuple[str, ...]:
    """What they make, in their order."""
    return tuple(name for one in checkpoints for name in one.config.targets)


def _earth(checkpoints: Sequence[Checkpoint]) -> bool:
    """Whether wind is known to be written towards true east and north."""
    return all(one.header["wind"] != "unknown" for one in checkpoints if "u10" in one.config.targets)


def _fields(
    runners: Sequence[Predictor], dataset: Fields, indices: Sequence[int]
) -> Iterator[tuple[int, Float32Array]]:
    """(index, (member, variable, rows, cols)) of each hour, the variables of all checkpoints together."""
    running = [runner.run(runner.predictors(dataset), indices) for runner in runners]
    for parts in zip(*running, strict=True):
        index, _ = parts[0]
        yield index, np.concatenate([fields for _, fields in parts], axis=1)


def _default_checkpoint() -> str:
    if DEFAULT.exists():
        config, _ = load_config(DEFAULT)
        return config.checkpoint or BUNDLED
    return BUNDLED


def _period(dataset: Fields, options: Options) -> Fields:
    """The hours between --start and --end, both included."""
    try:
        chosen = dataset.between(options.start, options.end)
    except (ValueError, KeyError, TypeError) as error:
        raise LdmdownError("--start/--end", "is not a time", found=str(error), expected="2020-01-31T12") from None
    if not len(chosen):
        first, last = (str(dataset.times[place])[:13] for place in (0, -1))
        raise LdmdownError(
            "--start/--end",
            "leave no hour",
            found=f"{options.start or 'the first'} to {options.end or 'the last'}",
            expected=f"a part of {first} to {last}",
        )
    return chosen


def _window(dataset: Fields, grid: Grid, options: Options) -> Window:
    """The coarse cells to downscale."""
    spacing = spacing_degrees(dataset.grid)
    if spacing > 2 * NATIVE_SPACING:
        _say(f"warning: the input's cells are {spacing:g} degrees wide; the checkpoint knows ERA5's {NATIVE_SPACING}")
    window = grid.whole
    if options.bbox is not None:
        inside = grid.containing(*options.bbox)
        if inside is None:
            raise LdmdownError(
                "--bbox",
                "holds no cell of the domain",
                found=" ".join(f"{edge:g}" for edge in options.bbox),
                expected=f"west south east north within {grid.coarse.lon.min():.2f} {grid.coarse.lat.min():.2f} "
                f"{grid.coarse.lon.max():.2f} {grid.coarse.lat.max():.2f}",
            )
        window = inside
    if options.covered:
        window = covered_window(dataset, grid) or grid.whole
    check_coverage(dataset, grid, window)
    return window


def _runner(checkpoint: Checkpoint, window: Window, options: Options, device: torch.device) -> Predictor:
    if options.members is not None and options.members > 1 and checkpoint.stage != "ldm":
        raise LdmdownError(
            checkpoint.path,
            f"gives one field an hour, {MADE[checkpoint.stage]}",
            found=f"--members {options.members}",
            expected="a checkpoint of stage ldm",
            fix="leave out --members, or train the stage ldm",
        )
    default = default_sampler(checkpoint)
    sampler = Sampler(options.sampler or default.name, options.steps or default.steps, default.spacing)
    correlation = options.temporal_correlation
    if correlation is None:
        correlation = measured_correlation(checkpoint)
    draw = SamplingOptions(options.members or 1, options.seed, sampler, correlation)
    return Predictor(checkpoint, window, draw, options.precision, options.batch_size or BATCH[device.type])


def _variables(targets: tuple[str, ...], options: Options) -> tuple[str, ...]:
    known = targets
    if {"u10", "v10"} <= set(known):
        known = (*known, "ws10")
    chosen = options.variables or targets
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise LdmdownError(
            "--variables",
            "asks for what the checkpoint does not make",
            found=", ".join(unknown),
            expected=", ".join(known),
        )
    return chosen


def _select(fields: Float32Array, targets: Sequence[str], names: Sequence[str]) -> Float32Array:
    """(member, variable, rows, cols) in the order of the output; wind speed from each member's components."""

    def field(name: str) -> Float32Array:
        if name == "ws10":
            return np.hypot(field("u10"), field("v10"))
        return fields[:, targets.index(name)]

    return np.stack([field(name) for name in names], axis=1)


def _outputs(output: Path, dataset: Fields) -> dict[Path, Fields]:
    """The files to be, and the hours of each; a name that holds {time:%Y%m} stands for a file a month."""
    hours: dict[Path, list[int]] = {}
    for index, moment in enumerate(dataset.times.tolist()):
        hours.setdefault(Path(str(output).format(time=moment)), []).append(index)
    return {path: dataset.at(indices) for path, indices in hours.items()}


def _finished(path: Path) -> bool:
    """Whether an earlier run wrote it to its end."""
    return path.exists() and not FieldWriter.part_of(path).exists()


def _writer(
    path: Path, dataset: Fields, runners: Sequence[Predictor], names: Sequence[str], options: Options
) -> FieldWriter:
    checkpoints = [runner.checkpoint for runner in runners]
    hours = dataset.hours
    return FieldWriter(
        path,
        checkpoints[0].grid.window(runners[0].window),
        names,
        hours,
        options.members,
        _card(runners, dataset),
        _run(runners, options, hours.tolist(), names),
        earth=_earth(checkpoints),
        resume=options.resume,
        overwrite=options.overwrite,
    )


def _run(runners: Sequence[Predictor], options: Options, hours: list[int], names: Sequence[str]) -> dict[str, object]:
    """What decides the numbers and their layout: a resumed run must agree with it."""
    return {
        "checkpoint": ",".join(runner.checkpoint.sha256 for runner in runners),
        "members": options.members,
        "seed": options.seed,
        "sampler": [runner.options.sampler.__dict__ for runner in runners],
        "temporal correlation": [runner.options.correlation for runner in runners],
        "precision": options.precision,
        "hours": hours,
        "window": runners[0].window,
        "variables": names,
    }


def _card(runners: Sequence[Predictor], dataset: Fields) -> dict[str, str]:
    """Global attributes."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    made = "; ".join(_source(runner) for runner in runners)
    files = ", ".join(Path(file).name for file in dataset.files)
    return {
        "title": f"ERA5 downscaled to {runners[0].checkpoint.grid.spacing / 1000:g} km by ldmdown",
        "history": f"{now}: {shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}",
        "source": f"ldmdown {version('ldmdown')}, {made}; input {files}",
        "comment": " ".join(runner.checkpoint.config.description for runner in runners),
        "references": REFERENCES,
        "acknowledgement": ACKNOWLEDGEMENT,
    }


def _source(runner: Predictor) -> str:
    """A checkpoint, and how it was used."""
    checkpoint, draw, header = runner.checkpoint, runner.options, runner.checkpoint.header
    if checkpoint.stage == "ldm":
        sampler = f"{draw.sampler.name} {draw.sampler.steps} steps, seed {draw.seed}"
        how = f"{sampler}, temporal correlation {draw.correlation:g}"
    else:
        how = MADE[checkpoint.stage]
    assumed = ""
    if (header["wind"], header["regridding"]) != ("earth", "bilinear"):
        assumed = f", its wind taken as {header['wind']}, its regridding as {header['regridding']}"
    return f"checkpoint {header['name']} (stage {checkpoint.stage}, sha256 {checkpoint.sha256}), {how}{assumed}"


def _what(runners: Sequence[Predictor], dataset: Fields, files: int, done: int) -> str:
    first, last = (str(dataset.times[place])[:16] for place in (0, -1))
    one = runners[0]
    rows, cols = (size * one.checkpoint.grid.factor for size in one.window[2:])
    kept = f", {done} of them finished before" if done else ""
    apart = f", in {files} files" if files > 1 else ""
    made = _count(one.options.members, "member") if one.checkpoint.stage == "ldm" else MADE[one.checkpoint.stage]
    used = [
        f"checkpoint {c.path} ({c.stage}, sha256 {c.sha256[:12]})" for c in (runner.checkpoint for runner in runners)
    ]
    return (
        f"{', '.join(used)} on {one.device}\n"
        f"{rows} x {cols} cells, {_count(len(dataset), 'hour')} from {first} to {last}{apart}{kept}, {made}"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number != 1 else "")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> str:
        return f"{task.speed * 60:.1f} hours/min" if task.speed else ""


def _progress(together: Processes) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), disable=not together.first)


def _say(text: str) -> None:
    """Once, however many processes there are."""
    if first_process():
        print(text, file=sys.stderr)
