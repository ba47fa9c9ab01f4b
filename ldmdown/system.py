"""A system of checkpoints at work: what `ldmdown downscale` and `ldmdown.load(...).downscale(...)` share.

A `System` is made of checkpoints that make different variables on one grid. Its `job` says all about one downscaling
(window, hours, variables, attributes of the output) and computes fields hour by hour.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr

from ldmdown import provenance
from ldmdown.checkpoint import Checkpoint, load
from ldmdown.choices import Consistency
from ldmdown.config import LAPSE_RATE
from ldmdown.consistency import MEANING, BoxConsistency, usual
from ldmdown.console import say
from ldmdown.data.archive.box_means import era5_boxes
from ldmdown.data.grid import Grid, Window, regrid
from ldmdown.data.reading.blocks import moment
from ldmdown.data.reading.fields import Fields, fields_of
from ldmdown.data.reading.files import GriddedFiles
from ldmdown.data.reading.regridded import check_coverage, covered_margin, covered_window
from ldmdown.data.reading.stations import read_sites
from ldmdown.data.sites import Sites, windows_of
from ldmdown.data.template import OutputTemplate, output_dataset
from ldmdown.errors import LdmdownError, OutsideTrainingError
from ldmdown.inference import SINGLE_FIELD, Predictor, SamplingOptions, default_sampler, measured_correlation
from ldmdown.job import Job, Part
from ldmdown.models.sampling import Sampler
from ldmdown.options import DownscaleOptions
from ldmdown.runtime import choose_device, resolve_precision
from ldmdown.screening import bad_hours, far_from_training

DEFAULT_BATCH_SIZE = {"cpu": 1, "cuda": 16}
MARGIN = 4  # coarse cells around a window that are computed and cut off, where the input covers them


class System:
    """Checkpoints, which make different variables on one grid, on the device that computes.

    Args:
        names: a checkpoint's file or name; a comma joins several.
        device: auto, cpu, cuda or cuda:1.

    Raises LdmdownError if there is no such checkpoint or device, or the checkpoints do not go together.
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

        Args:
            era5: as it was downloaded, opened with xarray.
            options: those of `DownscaleOptions`, such as members=8, seed=1, bbox=(6, 45, 11, 47), variables=["t2m"].

        Raises LdmdownError if the dataset lacks a variable or covers too little, or an option is out of range.
        """
        files = GriddedFiles.of({str(era5.encoding.get("source", "the dataset")): era5})
        job = self.job(fields_of(files, self.inputs), DownscaleOptions(**options))
        with ThreadPoolExecutor(1) as reader:
            hours = [fields for _, fields in job.fields(range(len(job.era5)), reader)]
        fields = {name: np.stack([one[name] for one in hours]) for name in job.template.names}
        return xr.decode_cf(output_dataset(job.template, job.era5.hours, fields))

    def job(self, era5: Fields, options: DownscaleOptions) -> Job:
        """One downscaling of ERA5's fields; nothing is computed yet.

        Raises LdmdownError if the fields cover too little, or the options ask for what the checkpoints cannot give.
        """
        era5 = _period(era5, options)
        members = (options.members or 1) * len(era5.members)
        if options.statistics and members == 1:
            raise LdmdownError("--statistics", "needs several members", fix="give their number, such as --members 20")
        way = options.consistency or usual(one.config.consistency for one in self.checkpoints)
        sites = None if options.points is None else read_sites(options.points)
        if sites is None:
            parts = [self._part(era5, choose_window(era5, self.grid, options), options, way)]
        else:
            parts = self._at_sites(era5, sites, options, way)
        predictors, every = parts[0].predictors, [one for part in parts for one in part.predictors]
        names = self._variables(options)
        bad: dict[int, LdmdownError] = bad_hours(era5, every) if options.skip_bad_hours else {}
        skipped = "; ".join(
            f"{moment(era5.hours[index])} ({error.args[0].splitlines()[0]})" for index, error in bad.items()
        )
        if skipped:
            say(f"note: {len(bad)} hours are left out: {skipped}")
            era5 = era5.at([index for index in range(len(era5)) if index not in bad])
        attributes = provenance.attributes(predictors, era5.files)
        if any(part.warmer is not None and part.warmer.any() for part in parts):
            attributes["comment"] += f" t2m is moved to the heights of the sites by {1000 * LAPSE_RATE:g} K/km."
        warnings, far_hours = far_from_training(era5, predictors)
        for warning in warnings:
            say(f"warning: {warning}")
        if warnings and options.strict:
            wrong, fix = "is far outside the training data", "leave out --strict to downscale it nevertheless"
            raise OutsideTrainingError(era5.label, wrong, found="; ".join(warnings), fix=fix)
        remarks = {
            "warnings": "; ".join(warnings),
            "skipped_hours": skipped,
            "consistency": MEANING[way] if all(part.consistency for part in parts) else "",
        }
        template = OutputTemplate(
            grid=parts[0].grid,
            variables=names,
            members=members if members > 1 else options.members,
            attributes=attributes | {name: text for name, text in remarks.items() if text},
            run=provenance.decisive(predictors, parts[0].window, replace(options, consistency=way), names, era5.files),
            earth_relative=self.earth_relative,
            statistics=tuple(options.statistics),
            keep_members=options.keep_members or not options.statistics,
            lossy=options.compression == "quantized",
            sites=sites,
            input_members=era5.members if len(era5.members) > 1 else (),
            far_hours=far_hours,
        )
        return Job(parts, era5, self.targets, template)

    def _part(self, era5: Fields, window: Window, options: DownscaleOptions, way: Consistency) -> Part:
        check_coverage(era5, self.grid, window)
        around, consistency = covered_margin(era5, self.grid, window, MARGIN), None
        if way != "free":
            known = [one.header.get("box_differences", {}) for one in self.checkpoints]
            boxes = era5_boxes(self.grid.window(around))
            covered = dict.fromkeys(era5.names, era5.grid.covers(*boxes.latlon()))
            try:
                consistency = BoxConsistency(boxes, self.targets, covered, known, exact=way == "exact")
            except LdmdownError as error:
                if options.consistency:
                    raise
                say(f"note: box means do not keep to ERA5: {error.args[0].splitlines()[0]}")
        computed = window if consistency is None else around
        predictors = [self._predictor(one, computed, around, options) for one in self.checkpoints]
        return Part(predictors, window, self.grid.window(window), consistency)

    def _at_sites(self, era5: Fields, sites: Sites, options: DownscaleOptions, way: Consistency) -> list[Part]:
        """Parts that hold the sites, and what brings temperature to the heights of those that have one."""
        known = [one for one in self.checkpoints if "z" in one.header.get("statics_normalization", {})]
        if np.isfinite(sites.height).any() and not known:
            say("note: no checkpoint says how high its ground is: t2m is not moved to the heights of the sites")
        parts = []
        for window, served in windows_of(sites, self.grid, MARGIN):
            part = self._part(era5, window, options, way)
            weights = part.grid.cells.weights(sites.lat[served], sites.lon[served])
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
        if name == "student" and options.steps not in (None, 1):
            raise LdmdownError(
                "--steps",
                "the student makes a member in one call",
                found=str(options.steps),
                fix="leave out --steps, or add --sampler dpmpp",
            )
        sampling = SamplingOptions(
            options.members or 1,
            options.seed,
            Sampler(name, 1 if name == "student" else options.steps or default.steps, default.spacing),
            measured_correlation(checkpoint) if correlation is None else ((correlation,),),
        )
        precision = resolve_precision(options.precision, self.device)
        batch_size = options.batch_size or DEFAULT_BATCH_SIZE[self.device.type]
        return Predictor(checkpoint, window, sampling, precision, batch_size, around)


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
    """The coarse cells to downscale: (row, col, rows, cols). Raises LdmdownError if there are none."""
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
