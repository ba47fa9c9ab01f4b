"""A system of checkpoints at work: what `ldmdown downscale` and `ldmdown.load(...).downscale(...)` share.

A `System` is made of checkpoints that make different variables on one grid. Its `job` says all about one downscaling
(window, hours, variables, attributes of the output) and computes fields hour by hour.
"""

from __future__ import annotations

import hashlib
import shlex
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.sparse
import torch
import xarray as xr

from ldmdown.atomic import sha256
from ldmdown.checkpoint import Checkpoint, load
from ldmdown.config import Precision, SamplerName
from ldmdown.console import say
from ldmdown.data.grid import ERA5_SPACING, Grid, SourceGrid, Window, regrid
from ldmdown.data.reading.blocks import moment
from ldmdown.data.reading.fields import Fields, fields_of
from ldmdown.data.reading.files import GriddedFiles
from ldmdown.data.reading.orography import LAPSE_RATE
from ldmdown.data.reading.regridded import check_coverage, covered_margin, covered_window, spacing_degrees
from ldmdown.data.reading.stations import read_sites
from ldmdown.data.sites import Sites, windows_of
from ldmdown.data.statistics import check_statistics
from ldmdown.data.template import OutputTemplate, output_dataset
from ldmdown.data.variables import WINDS, Variable, variable
from ldmdown.errors import LdmdownError, OutsideTrainingError
from ldmdown.inference import MAX_CORRELATION, Predictor, SamplingOptions, default_sampler, measured_correlation
from ldmdown.models.sampling import Sampler
from ldmdown.runtime import choose_device, resolve_precision
from ldmdown.typing import BoolArray, Float32Array

ACKNOWLEDGEMENT = (
    "Contains modified Copernicus Climate Change Service information (ERA5, doi:10.24381/cds.adbb2d47); neither "
    "the European Commission nor ECMWF is responsible for any use of it."
)
REFERENCES = "doi:10.5194/gmd-18-2051-2025 (method); doi:10.1002/qj.3803 (ERA5)"
SINGLE_FIELD = {"unet": "the conditional mean", "gan": "the generator's field"}  # of stages that draw no members
DEFAULT_BATCH_SIZE = {"cpu": 1, "cuda": 16}
MARGIN = 4  # coarse cells around a window that are computed and cut off, where the input covers them
FAR, FARTHEST = 3.5, 12.0  # standard deviations of a field, and of a single wind, beyond which it is not like training
JUST_OUTSIDE, FEW_CELLS = 0.05, 1e-3  # of physical bounds, and of the cells of a field: told, not refused
MAX_OPTIONS = {"members": 10_000, "steps": 1000, "batch_size": 1024, "seed": 2**63 - 1}
MAX_LISTED_FILES = 16  # whose sizes and times an output records one by one


@dataclass(frozen=True)
class DownscaleOptions:
    """What is computed, and how.

    Parameters
    ----------
    members
        number of ensemble members; None: one field and no dimension `realization`.
    seed
        random seed of the initial noise.
    steps, sampler
        number of sampler steps and name of the sampler; None: the checkpoint's.
    temporal_correlation
        correlation of the initial noise of successive hours, 0 to 0.95; None: as measured in training.
    start, end
        first and last hour, such as 2020-01-31T12; None: those of the data.
    bbox
        west, south, east, north [degrees] of a box that is enlarged to whole cells of the coarse grid.
    region
        "covered": the part of the domain that the data cover; None: the whole domain.
    points
        table of sites (name, lat, lon, height) at which values are wanted, instead of fields.
    variables
        names of the variables; None: those that the checkpoints make.
    statistics
        names of statistics of the members, such as mean and p90, which the output holds instead of the members.
    keep_members
        whether it holds the members too.
    compression
        lossless, or quantized: values are rounded to 0.01 K and 0.01 m s-1, and compress better.
    precision
        precision of matrix products and convolutions.
    batch_size
        number of members, of one hour or several, that are computed at once.
    strict
        refuse input that is far outside the training data.
    skip_bad_hours
        leave out hours whose input lacks values, is not physical or cannot be decoded; they are refused otherwise.

    Raises
    ------
    LdmdownError
        if options exclude each other or are out of range.
    """

    members: int | None = None
    seed: int = 0
    steps: int | None = None
    sampler: SamplerName | None = None
    temporal_correlation: float | None = None
    start: str | None = None
    end: str | None = None
    bbox: tuple[float, float, float, float] | None = None
    region: Literal["covered"] | None = None
    points: Path | None = None
    variables: Sequence[str] | None = None
    statistics: Sequence[str] = ()
    keep_members: bool = False
    compression: Literal["lossless", "quantized"] = "lossless"
    precision: Precision = "auto"
    batch_size: int | None = None
    strict: bool = False
    skip_bad_hours: bool = False

    def __post_init__(self) -> None:
        areas = [f"--{name}" for name in ("bbox", "region", "points") if getattr(self, name) is not None]
        if len(areas) > 1:
            fix = f"leave out {' or '.join(areas)}"
            raise LdmdownError(" and ".join(areas), "exclude each other", fix=fix)
        if self.temporal_correlation is not None and not 0 <= self.temporal_correlation <= MAX_CORRELATION:
            raise LdmdownError(
                "--temporal-correlation",
                "is out of range",
                found=f"{self.temporal_correlation:g}",
                expected=f"auto, or 0 to {MAX_CORRELATION}",
            )
        check_statistics(self.statistics)
        if self.keep_members and not self.statistics:
            raise LdmdownError("--keep-members", "goes with --statistics alone", fix="leave it out: members are kept")
        for name, limit in MAX_OPTIONS.items():
            value = getattr(self, name)
            if value is not None and not (0 if name == "seed" else 1) <= value <= limit:
                option = f"--{name.replace('_', '-')}"
                raise LdmdownError(option, "is out of range", found=str(value), expected=f"1 to {limit}")


class System:
    """Checkpoints, which make different variables on one grid, on the device that computes.

    Parameters
    ----------
    names
        a checkpoint's file or name; a comma joins several.
    device
        auto, cpu, cuda or cuda:1.

    Raises
    ------
    LdmdownError
        if there is no such checkpoint or device, or the checkpoints do not go together.
    """

    def __init__(self, names: str, device: str | torch.device = "auto") -> None:
        self.device = device if isinstance(device, torch.device) else choose_device(device)
        self.checkpoints = [load(name, self.device) for name in names.split(",")]
        first = self.checkpoints[0]
        self.grid = first.grid
        for one in self.checkpoints[1:]:
            if one.grid != first.grid:
                raise LdmdownError(
                    one.path, f"is on another grid than {first.path}", found=f"{one.grid}", expected=f"{first.grid}"
                )
        self.targets = tuple(name for one in self.checkpoints for name in one.config.targets)
        if len(set(self.targets)) < len(self.targets):
            raise LdmdownError(
                names, "make the same variable", found=", ".join(self.targets), fix="join checkpoints of different ones"
            )

    @property
    def inputs(self) -> tuple[str, ...]:
        """The variables that all checkpoints need, each once."""
        return tuple(dict.fromkeys(name for one in self.checkpoints for name in one.config.predictors))

    @property
    def earth_relative(self) -> bool:
        """Whether wind is known to be written towards true east and north."""
        return all(one.header["wind"] != "unknown" for one in self.checkpoints if "u10" in one.config.targets)

    def downscale(self, era5: xr.Dataset, **options: Any) -> xr.Dataset:
        """The dataset that `ldmdown downscale` writes, in memory.

        Parameters
        ----------
        era5
            as it was downloaded, opened with xarray.
        options
            those of `DownscaleOptions`, such as members=8, seed=1, bbox=(6, 45, 11, 47), variables=["t2m"].

        Raises
        ------
        LdmdownError
            if the dataset lacks a variable or covers too little, or an option is out of range.
        """
        files = GriddedFiles.of({str(era5.encoding.get("source", "the dataset")): era5})
        job = self.job(fields_of(files, self.inputs), DownscaleOptions(**options))
        with ThreadPoolExecutor(1) as reader:
            hours = [fields for _, fields in job.fields(range(len(job.era5)), reader)]
        fields = {name: np.stack([one[name] for one in hours]) for name in job.template.names}
        return xr.decode_cf(output_dataset(job.template, job.era5.hours, fields))

    def job(self, era5: Fields, options: DownscaleOptions) -> Job:
        """One downscaling of ERA5's fields; nothing is computed yet.

        Raises
        ------
        LdmdownError
            if the fields cover too little, or the options ask for what the checkpoints cannot give.
        """
        era5 = _period(era5, options)
        members = (options.members or 1) * len(era5.members)
        if options.statistics and members == 1:
            raise LdmdownError("--statistics", "needs several members", fix="give their number, such as --members 20")
        sites = None if options.points is None else read_sites(options.points)
        if sites is None:
            parts = [self._part(era5, choose_window(era5, self.grid, options), options)]
        else:
            parts = self._at_sites(era5, sites, options)
        predictors, every = parts[0].predictors, [one for part in parts for one in part.predictors]
        names = self._variables(options)
        bad: dict[int, LdmdownError] = _bad_hours(era5, every) if options.skip_bad_hours else {}
        skipped = "; ".join(
            f"{moment(era5.hours[index])} ({error.args[0].splitlines()[0]})" for index, error in bad.items()
        )
        if skipped:
            say(f"note: {len(bad)} hours are left out: {skipped}")
            era5 = era5.at([index for index in range(len(era5)) if index not in bad])
        attributes = _attributes(predictors, era5.files)
        if any(part.warmer is not None and part.warmer.any() for part in parts):
            attributes["comment"] += f" t2m is moved to the heights of the sites by {1000 * LAPSE_RATE:g} K/km."
        warnings, far_hours = _far_from_training(era5, predictors)
        for warning in warnings:
            say(f"warning: {warning}")
        if warnings and options.strict:
            wrong, fix = "is far outside the training data", "leave out --strict to downscale it nevertheless"
            raise OutsideTrainingError(era5.label, wrong, found="; ".join(warnings), fix=fix)
        remarks = {"warnings": "; ".join(warnings), "skipped_hours": skipped}
        template = OutputTemplate(
            parts[0].grid,
            names,
            members if members > 1 else options.members,
            attributes | {name: text for name, text in remarks.items() if text},
            _run(predictors, options, names, era5.files),
            self.earth_relative,
            tuple(options.statistics),
            options.keep_members or not options.statistics,
            options.compression == "quantized",
            sites,
            era5.members if len(era5.members) > 1 else (),
            far_hours,
        )
        return Job(parts, era5, self.targets, template)

    def _part(self, era5: Fields, window: Window, options: DownscaleOptions) -> Part:
        check_coverage(era5, self.grid, window)
        around = covered_margin(era5, self.grid, window, MARGIN)
        predictors = [self._predictor(one, window, around, options) for one in self.checkpoints]
        return Part(predictors, self.grid.window(window))

    def _at_sites(self, era5: Fields, sites: Sites, options: DownscaleOptions) -> list[Part]:
        """Parts that hold the sites, and what brings temperature to the heights of those that have one."""
        known = [one for one in self.checkpoints if "z" in one.header.get("statics_normalization", {})]
        if np.isfinite(sites.height).any() and not known:
            say("note: no checkpoint says how high its ground is: t2m is not moved to the heights of the sites")
        parts = []
        for window, served in windows_of(sites, self.grid, MARGIN):
            part = self._part(era5, window, options)
            cells = SourceGrid(part.grid.y, part.grid.x, part.grid.projection)
            weights = cells.weights(sites.lat[served], sites.lon[served])
            warmer = np.zeros(np.count_nonzero(served), np.float32)
            for ground in (one.heights(window) for one in known[:1]):
                above = regrid(weights, ground, warmer.shape) - sites.height[served]
                warmer = np.nan_to_num(LAPSE_RATE * above).astype(np.float32)
            parts.append(replace(part, served=served, weights=weights, warmer=warmer))
        return parts

    def _variables(self, options: DownscaleOptions) -> tuple[str, ...]:
        known = (*self.targets, "ws10") if {"u10", "v10"} <= set(self.targets) else self.targets
        chosen = tuple(options.variables or self.targets)
        if unknown := [name for name in chosen if name not in known]:
            raise LdmdownError(
                "--variables",
                "asks for what the checkpoint does not make",
                found=", ".join(unknown),
                expected=", ".join(known),
            )
        if len(set(chosen)) < len(chosen):
            raise LdmdownError("--variables", "names a variable twice", found=", ".join(chosen))
        return chosen

    def _predictor(
        self, checkpoint: Checkpoint, window: Window, around: Window, options: DownscaleOptions
    ) -> Predictor:
        if (options.members or 1) > 1 and checkpoint.stage != "ldm":
            raise LdmdownError(
                checkpoint.path,
                f"gives one field an hour, {SINGLE_FIELD[checkpoint.stage]}",
                found=f"--members {options.members}",
                expected="a checkpoint of stage ldm",
                fix="leave out --members, or train the stage ldm",
            )
        if options.sampler == "student" and checkpoint.config.student is None:
            raise LdmdownError(
                checkpoint.path,
                "has no student",
                found="--sampler student",
                fix="leave out --sampler, or train one: `ldmdown train --stage distill`",
            )
        default, correlation = default_sampler(checkpoint), options.temporal_correlation
        name = options.sampler or default.name
        sampling = SamplingOptions(
            options.members or 1,
            options.seed,
            Sampler(name, 1 if name == "student" else options.steps or default.steps, default.spacing),
            measured_correlation(checkpoint) if correlation is None else (correlation,),
        )
        precision = resolve_precision(options.precision, self.device)
        batch_size = options.batch_size or DEFAULT_BATCH_SIZE[self.device.type]
        return Predictor(checkpoint, window, sampling, precision, batch_size, around)


@dataclass(frozen=True, eq=False)
class Part:
    """A window of the domain that is computed at once, by a predictor for each checkpoint.

    Where an output holds sites, `served` are those (sites,) that lie in it, `weights` those of its cells, and `warmer`
    what is added to temperatures [K], since the site lies below the ground of the model.
    """

    predictors: Sequence[Predictor]
    grid: Grid
    served: BoolArray | None = None
    weights: scipy.sparse.csr_array | None = None
    warmer: Float32Array | None = None


@dataclass(frozen=True)
class Job:
    """One downscaling: the parts that are computed, the hours of the input, and what the output looks like."""

    parts: Sequence[Part]
    era5: Fields
    targets: tuple[str, ...]
    template: OutputTemplate

    def fields(self, indices: Sequence[int], reader: Executor) -> Iterator[tuple[int, dict[str, Float32Array]]]:
        """(index, the fields of the output by name) of each of these hours.

        All that is read is read by `reader`, one hour ahead.
        """
        running = [self._members(part, indices, reader) for part in self.parts]
        for made in zip(*running, strict=True):
            index, members = made[0][0], [fields for _, fields in made]
            yield index, self.template.reduced(members[0] if self.template.sites is None else self._sampled(members))

    @property
    def predictors(self) -> Sequence[Predictor]:
        """Those of the first part: in all but their window they are like the others."""
        return self.parts[0].predictors

    def _members(self, part: Part, indices: Sequence[int], reader: Executor) -> Iterator[tuple[int, Float32Array]]:
        """(index, (member, variable, rows, cols)) of a part."""
        running = [one.run(one.predictors(self.era5), indices, reader) for one in part.predictors]
        for made in zip(*running, strict=True):
            index, targets = made[0][0], np.concatenate([fields for _, fields in made], axis=1)
            fields = np.stack([self._field(targets, name) for name in self.template.variables], axis=1)
            self._check_physical(fields, index, part.grid)
            yield index, fields

    def _sampled(self, members: Sequence[Float32Array]) -> Float32Array:
        """(member, variable, sites) from the fields of each part, bilinearly."""
        variables, sites = self.template.variables, self.template.place
        values = np.empty((len(members[0]), len(variables), *sites.shape), np.float32)
        for part, fields in zip(self.parts, members, strict=True):
            assert part.weights is not None and part.warmer is not None
            here = regrid(part.weights, fields, part.warmer.shape)
            if "t2m" in variables:
                here[:, variables.index("t2m")] += part.warmer
            values[..., part.served] = here
        return values

    def _check_physical(self, fields: Float32Array, index: int, grid: Grid) -> None:
        """Refuse values that are not finite or not physical; a few that are just outside are told."""
        hour = moment(self.era5.hours[index])
        for channel, name in enumerate(self.template.variables):
            values, (low, high) = fields[:, channel], variable(name).bounds
            outside = ~((values >= low) & (values <= high))
            if not outside.any():
                continue
            member, row, col = np.argwhere(outside)[0]
            worst = np.abs(values[outside] - (low + high) / 2).max() / (high - low) - 0.5
            found = f"{values[member, row, col]:g} {variable(name).units} in {np.count_nonzero(outside)} cells, one at "
            found += f"{grid.lat[row, col]:.2f} N, {grid.lon[row, col]:.2f} E, {hour}"
            if not worst <= JUST_OUTSIDE or outside.mean() > FEW_CELLS:
                raise LdmdownError(
                    ", ".join(str(one.checkpoint.path) for one in self.predictors),
                    f"{name} comes out as what is not physical; it was not written",
                    found=found,
                    expected=f"{low:g} to {high:g} {variable(name).units}",
                    fix="try --precision fp32; if that does not help, the checkpoint is broken",
                )
            say(f"note: {name} is just outside {low:g} to {high:g}: {found}")

    def _field(self, made: Float32Array, name: str) -> Float32Array:
        if name == "ws10":
            return np.hypot(self._field(made, "u10"), self._field(made, "v10"))
        return made[:, self.targets.index(name)]


def _bad_hours(era5: Fields, predictors: Sequence[Predictor]) -> dict[int, LdmdownError]:
    """The hours whose predictors cannot be used, and why; not all of them may be."""
    readers, found = [one for each in predictors for one in each.predictors(era5)], dict[int, LdmdownError]()
    for index in range(len(era5)):
        try:
            for one in readers:
                one.read(index)
        except LdmdownError as error:
            found[index] = error
    if len(found) == len(era5):
        raise found[0]
    return found


def _far_from_training(era5: Fields, predictors: Sequence[Predictor]) -> tuple[list[str], tuple[int, ...]]:
    """What of the input's first member is far outside of the training data, and in which hours since 1970."""
    spacing, warnings, far = spacing_degrees(era5.grid), list[str](), set[int]()
    if not ERA5_SPACING / 2 <= spacing <= 2 * ERA5_SPACING:
        warnings.append(f"the input's cells are {spacing:.3g} degrees wide; the checkpoint knows ERA5's {ERA5_SPACING}")
    for one in predictors:
        reader, trained = one.predictors(era5)[0], one.checkpoint.normalization["predictors"]
        found: dict[Variable, list[tuple[float, int, str]]] = defaultdict(list)  # times the limit, hour, values
        for index, hour in enumerate(era5.hours.tolist()):
            with suppress(LdmdownError):  # of a bad hour, which is told when it is computed
                for known, field in zip(reader.variables, reader.read(index), strict=True):
                    distance = distance_from_training(field, trained.mean[known.name], trained.std[known.name], known)
                    if distance > 1:
                        found[known].append((distance, hour, f"{np.nanmin(field):.4g} to {np.nanmax(field):.4g}"))
        for known, hours in found.items():
            distance, hour, values = max(hours)
            mean, std = trained.mean[known.name], trained.std[known.name]
            warnings.append(
                f"{known.name} is far outside the training data in {len(hours)} of {len(era5)} hours: {values} "
                f"{known.units} at {moment(hour)}, {distance:.3g} times the limit; in training {mean:.4g} with a "
                f"standard deviation of {std:.3g}"
            )
            far |= {hour for _, hour, _ in hours}
    return warnings, tuple(sorted(far))


def distance_from_training(field: Float32Array, mean: float, std: float, known: Variable) -> float:
    """How far a field lies from training: 1 is the limit."""
    distance = np.abs(field[np.isfinite(field)] - mean) / std
    if not distance.size:
        return 0.0
    farthest = float(distance.max()) / FARTHEST if known.name in WINDS else 0.0
    return max(float(np.sqrt(np.mean(distance**2))) / FAR, farthest)


def _period(era5: Fields, options: DownscaleOptions) -> Fields:
    """The hours from start to end, both included."""
    try:
        chosen = era5.between(options.start, options.end)
    except (ValueError, KeyError, TypeError) as error:
        raise LdmdownError("--start/--end", "is not a time", found=str(error), expected="2020-01-31T12") from None
    if not len(chosen):
        first, last = (str(era5.times[place])[:13] for place in (0, -1))
        raise LdmdownError(
            "--start/--end",
            "leave no hour",
            found=f"{options.start or 'the first'} to {options.end or 'the last'}",
            expected=f"a part of {first} to {last}",
        )
    return chosen


def choose_window(era5: Fields, grid: Grid, options: DownscaleOptions) -> Window:
    """The coarse cells to downscale: (row, col, rows, cols).

    Raises
    ------
    LdmdownError
        if there are none.
    """
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
    if options.region == "covered":
        window = covered_window(era5, grid) or grid.whole
    return window


def _run(
    predictors: Sequence[Predictor], options: DownscaleOptions, names: Sequence[str], files: Sequence[str]
) -> dict[str, Any]:
    """What decides the numbers and their layout: a run that is resumed must agree with it."""
    sampling = [one.options for one in predictors]
    return {
        "checkpoint": ",".join(one.checkpoint.sha256 for one in predictors),
        "members": options.members,
        "statistics": [*options.statistics, *["members"] * options.keep_members] or None,
        "points": None if options.points is None else sha256(options.points),
        "compression": None if options.compression == "lossless" else options.compression,
        "seed": sampling[0].seed,
        "sampler": ",".join(f"{one.sampler.name} {one.sampler.steps} {one.sampler.spacing}" for one in sampling),
        "temporal correlation": [one.correlation for one in sampling],
        "precision": predictors[0].precision,
        "window": predictors[0].window,
        "variables": names,
        **_input_files(files),
    }


def _input_files(files: Sequence[str]) -> Mapping[str, str]:
    """Sizes and times of the files; of many a hash of them."""
    states = [(f"input {Path(file).name}", _state(Path(file))) for file in files]
    if len(dict(states)) == len(files) <= MAX_LISTED_FILES:
        return dict(states)
    return {"input": f"{len(files)} files, {hashlib.sha256(repr(states).encode()).hexdigest()[:12]}"}


def _state(path: Path) -> str:
    """The size and time of a file, of all files of a folder, or of the zip that holds a file."""
    while not path.exists() and path != path.parent:
        path = path.parent
    files = [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path]
    found = [one.stat() for one in files] if path.name else []
    if not found:
        return "no file"
    last = datetime.fromtimestamp(max(one.st_mtime for one in found), UTC).isoformat()
    return f"{sum(one.st_size for one in found)} bytes, {last}"


def _attributes(predictors: Sequence[Predictor], files: Sequence[str]) -> dict[str, str]:
    """Global attributes of an output."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    made = "; ".join(_source(one) for one in predictors)
    names = ", ".join(Path(file).name for file in files)
    return {
        "title": f"ERA5 downscaled to {predictors[0].checkpoint.grid.spacing / 1000:g} km by ldmdown",
        "history": f"{now}: {shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}",
        "source": f"ldmdown {version('ldmdown')} with NumPy {np.__version__}, {made}; input {names}",
        "comment": " ".join(one.checkpoint.config.description for one in predictors),
        "references": REFERENCES,
        "acknowledgement": ACKNOWLEDGEMENT,
    }


def _source(predictor: Predictor) -> str:
    """A checkpoint, and how it was used."""
    checkpoint, sampling, header = predictor.checkpoint, predictor.options, predictor.checkpoint.header
    if checkpoint.stage == "ldm":
        steps = "in one call" if sampling.sampler.name == "student" else f"{sampling.sampler.steps} steps"
        sampler = f"{sampling.sampler.name} {steps}"
        how = f"{sampler}, seed {sampling.seed}, temporal correlation {np.mean(sampling.correlation):.3g}"
    else:
        how = SINGLE_FIELD[checkpoint.stage]
    assumed = ""
    if (header["wind"], header["regridding"]) != ("earth", "bilinear"):
        assumed = f", its wind taken as {header['wind']}, its regridding as {header['regridding']}"
    return f"checkpoint {header['name']} (stage {checkpoint.stage}, sha256 {checkpoint.sha256}), {how}{assumed}"
