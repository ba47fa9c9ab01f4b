"""`ldmdown downscale`: ERA5 files to hourly 2 km fields in a CF NetCDF."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
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
from ldmdown.config import DEFAULT, SamplerConfig, load_config
from ldmdown.data.era5 import (
    NATIVE_SPACING,
    as_era5,
    check_coverage,
    covered_window,
    hours_of,
    open_era5,
    source_grid,
)
from ldmdown.data.grid import Window
from ldmdown.data.netcdf import FieldWriter
from ldmdown.data.variables import attributes
from ldmdown.errors import LdmdownError
from ldmdown.inference import Draw, Fields, Runner
from ldmdown.runtime import Precision, choose_device

BUNDLED = "italy"
ACKNOWLEDGEMENT = (
    "Contains modified Copernicus Climate Change Service information (ERA5, doi:10.24381/cds.adbb2d47); neither "
    "the European Commission nor ECMWF is responsible for any use of it."
)
REFERENCES = "doi:10.5194/gmd-18-2051-2025 (method); doi:10.1002/qj.3803 (ERA5)"
MOST_CORRELATED = 0.95
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


def downscale(files: Sequence[str], output: Path, options: Options) -> None:
    """Write the fields of all hours of the files.

    Raises
    ------
    LdmdownError
        if a file, an option or the checkpoint does not serve.
    """
    _check(output, options)
    if options.resume and output.exists() and not FieldWriter.part_of(output).exists():
        _say(f"{output} is finished already; --overwrite makes it anew")
        return
    device = choose_device(options.device)
    checkpoint = load(options.checkpoint or _default_checkpoint(), device)
    dataset = _period(open_era5(files, checkpoint.config.predictors), options)
    window = _window(dataset, checkpoint, options)
    runner = _runner(checkpoint, window, options, device)
    names = _variables(checkpoint, options)
    hours = hours_of(dataset)
    writer = FieldWriter(
        output,
        checkpoint.grid.window(window),
        names,
        hours,
        options.members,
        _card(checkpoint, runner, dataset),
        _run(checkpoint, runner, options, hours.tolist(), names),
        resume=options.resume,
        overwrite=options.overwrite,
    )
    left = [index for index in range(len(hours)) if not writer.done(index)]
    _say(_what(checkpoint, runner, dataset, len(hours) - len(left)))
    predictors = runner.predictors(dataset)
    with _progress() as progress:
        task = progress.add_task("downscaling", total=len(hours), completed=len(hours) - len(left))
        for index, fields in runner.run(predictors, left):
            writer.write(index, _select(fields, checkpoint.config.targets, names))
            progress.advance(task)
    writer.close()
    _say(f"wrote {output}: {_count(len(hours), 'hour')} of {', '.join(names)}; look at it with ncview, QGIS or xarray")


class System:
    """A checkpoint for use from Python; see `ldmdown.load`."""

    def __init__(self, checkpoint: str, device: str) -> None:
        self.device = choose_device(device)
        self.checkpoint = load(checkpoint, self.device)

    def downscale(
        self,
        era5: xr.Dataset,
        members: int = 1,
        seed: int = 0,
        bbox: tuple[float, float, float, float] | None = None,
    ) -> xr.Dataset:
        """Fields (time, realization, y, x) of all hours, in memory; `ldmdown downscale` streams to a file.

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
        config, grid = self.checkpoint.config, self.checkpoint.grid
        options = Options(members=members, seed=seed, bbox=bbox, covered=bbox is None)
        dataset = as_era5({Path("the dataset"): era5}, config.predictors)
        window = _window(dataset, self.checkpoint, options)
        runner = _runner(self.checkpoint, window, options, self.device)
        predictors = runner.predictors(dataset)
        fields = [one for _, one in runner.run(predictors, range(len(predictors)))]
        stacked = np.stack(fields)  # (time, member, variable, y, x)
        cut = grid.window(window)
        dims = ("time", "realization", "y", "x")
        return xr.Dataset(
            {
                name: (dims, stacked[:, :, i], attributes(name) | {"grid_mapping": "crs"})
                for i, name in enumerate(config.targets)
            },
            {
                "time": predictors.times,
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
    if output.suffix != ".nc" or "{" in output.name:
        raise LdmdownError(output, "is not a name that can be written", expected="one file ending in .nc")
    for one, other, both in (
        ("--overwrite", "--resume", options.overwrite and options.resume),
        ("--bbox", "--region", options.bbox is not None and options.covered),
    ):
        if both:
            raise LdmdownError(f"{one} and {other}", "exclude each other", cure=f"leave out {one} or {other}")


def _default_checkpoint() -> str:
    if DEFAULT.exists():
        config, _ = load_config(DEFAULT)
        return config.checkpoint or BUNDLED
    return BUNDLED


def _period(dataset: xr.Dataset, options: Options) -> xr.Dataset:
    """The hours between --start and --end, both included."""
    try:
        chosen = dataset.sel(time=slice(options.start, options.end))
    except (ValueError, KeyError, TypeError) as error:
        raise LdmdownError("--start/--end", "is not a time", found=str(error), expected="2020-01-31T12") from None
    if not chosen.time.size:
        first, last = (str(dataset.time.values[place])[:13] for place in (0, -1))
        raise LdmdownError(
            "--start/--end",
            "leave no hour",
            found=f"{options.start or 'the first'} to {options.end or 'the last'}",
            expected=f"a part of {first} to {last}",
        )
    return chosen


def _window(dataset: xr.Dataset, checkpoint: Checkpoint, options: Options) -> Window:
    """The coarse cells to downscale."""
    grid = checkpoint.grid
    spacing = max(source_grid(dataset).spacing)
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


def _runner(checkpoint: Checkpoint, window: Window, options: Options, device: torch.device) -> Runner:
    if options.members is not None and options.members > 1 and checkpoint.stage == "unet":
        raise LdmdownError(
            checkpoint.path,
            "gives one field an hour, the conditional mean",
            found=f"--members {options.members}",
            expected="a checkpoint of stage ldm",
            cure="leave out --members, or train the stage ldm",
        )
    default = checkpoint.config.sampler
    sampler = SamplerConfig(
        name=options.sampler or default.name, steps=options.steps or default.steps, spacing=default.spacing
    )
    correlation = options.temporal_correlation
    if correlation is None:
        correlation = min(max(checkpoint.header.get("temporal_correlation", 0.0), 0.0), MOST_CORRELATED)
    draw = Draw(options.members or 1, options.seed, sampler, correlation)
    return Runner(checkpoint, window, draw, options.precision, options.batch_size or BATCH[device.type])


def _variables(checkpoint: Checkpoint, options: Options) -> tuple[str, ...]:
    known = checkpoint.config.targets
    if {"u10", "v10"} <= set(known):
        known = (*known, "ws10")
    chosen = options.variables or checkpoint.config.targets
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise LdmdownError(
            "--variables",
            "asks for what the checkpoint does not make",
            found=", ".join(unknown),
            expected=", ".join(known),
        )
    return chosen


def _select(fields: Fields, targets: Sequence[str], names: Sequence[str]) -> Fields:
    """(member, variable, rows, cols) in the order of the output; wind speed from each member's components."""

    def field(name: str) -> Fields:
        if name == "ws10":
            return np.hypot(field("u10"), field("v10"))
        return fields[:, targets.index(name)]

    return np.stack([field(name) for name in names], axis=1)


def _run(
    checkpoint: Checkpoint, runner: Runner, options: Options, hours: list[int], names: Sequence[str]
) -> dict[str, object]:
    """What decides the numbers and their layout: a resumed run must agree with it."""
    return {
        "checkpoint": checkpoint.sha256,
        "members": options.members,
        "seed": runner.draw.seed,
        "sampler": runner.draw.sampler.model_dump(),
        "temporal correlation": runner.draw.correlation,
        "precision": runner.precision,
        "hours": hours,
        "window": runner.asked,
        "variables": names,
    }


def _card(checkpoint: Checkpoint, runner: Runner, dataset: xr.Dataset) -> dict[str, str]:
    """Global attributes."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    draw, header = runner.draw, checkpoint.header
    sampler, seed = f"{draw.sampler.name} {draw.sampler.steps} steps", f"seed {draw.seed}"
    how = f"{sampler}, {seed}, temporal correlation {draw.correlation:g}"
    if checkpoint.stage == "unet":
        how = "conditional mean"
    return {
        "title": f"ERA5 downscaled to {checkpoint.grid.spacing / 1000:g} km by ldmdown",
        "history": f"{now}: {shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}",
        "source": f"ldmdown {version('ldmdown')}, checkpoint {header['name']} (stage {checkpoint.stage}, "
        f"sha256 {checkpoint.sha256}), {how}; input {', '.join(Path(f).name for f in dataset.attrs['source_files'])}",
        "comment": checkpoint.config.description,
        "references": REFERENCES,
        "acknowledgement": ACKNOWLEDGEMENT,
    }


def _what(checkpoint: Checkpoint, runner: Runner, dataset: xr.Dataset, done: int) -> str:
    first, last = (str(dataset.time.values[place])[:16] for place in (0, -1))
    rows, cols = (size * checkpoint.grid.factor for size in runner.asked[2:])
    kept = f", {done} of them finished before" if done else ""
    made = "their mean" if checkpoint.stage == "unet" else _count(runner.draw.members, "member")
    return (
        f"checkpoint {checkpoint.path} ({checkpoint.stage}, sha256 {checkpoint.sha256[:12]}) on {runner.device}\n"
        f"{rows} x {cols} cells, {_count(dataset.time.size, 'hour')} from {first} to {last}{kept}, {made}"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number != 1 else "")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> str:
        return f"{task.speed * 60:.1f} hours/min" if task.speed else ""


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))


def _say(text: str) -> None:
    print(text, file=sys.stderr)
