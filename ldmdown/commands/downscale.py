"""`ldmdown downscale`: ERA5 files to hourly 2 km fields, in CF NetCDF or Zarr.

Processes that torchrun started take consecutive hours each. A file whose hours all belong to one process is closed
by it, the others at the end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ldmdown.config import DEFAULT, load_config
from ldmdown.console import progress_bar, say
from ldmdown.data.netcdf import ZARR, FieldWriter
from ldmdown.data.reading.fields import open_fields
from ldmdown.data.reading.files import few_open
from ldmdown.errors import LdmdownError
from ldmdown.runtime import Processes, choose_device, processes
from ldmdown.system import SINGLE_FIELD, DownscaleOptions, Job, System

BUNDLED = "italy"


@dataclass(frozen=True, eq=False)
class Output:
    """A file to be, and the hours of the job that it holds."""

    writer: FieldWriter
    hours: Sequence[int]


@few_open()
def downscale(
    files: Sequence[str],
    output: Path,
    options: DownscaleOptions,
    *,
    checkpoint: str | None = None,
    device: str = "auto",
    overwrite: bool = False,
    resume: bool = False,
) -> None:
    """Write the fields of all hours of the files.

    Parameters
    ----------
    files
        NetCDF, GRIB, zips, Zarr, folders, globs.
    output
        the file or store to be; a name that holds {time:%Y%m} stands for a file a month.
    options
        what is computed, and how.
    checkpoint
        file or name, several joined by a comma; None: that of ./ldmdown.yaml, or else the bundled one.
    device
        auto, cpu, cuda or cuda:1.
    overwrite, resume
        replace the output, or complete what a stopped run has left.

    Raises
    ------
    LdmdownError
        if a file, an option or the checkpoint does not serve.
    """
    _check(output, overwrite=overwrite, resume=resume)
    with processes() as together, ExitStack() as opened:
        name = checkpoint or _default_checkpoint()
        system = System(name, together.device if device == "auto" else choose_device(device))
        request = "ldmdown request" + ("" if name == BUNDLED else f" --checkpoint {name}")
        era5 = opened.enter_context(open_fields(files, system.inputs, request=request))
        for note in era5.notes:
            say(f"note: {note}")
        job = system.job(era5, options)
        outputs = _outputs(output, job, overwrite=overwrite, resume=resume)
        unfinished = [one for one in outputs if not one.writer.finished]
        if not unfinished:
            say(f"{output} is finished already; --overwrite computes it again")
            return
        say(_what(job, outputs))
        together.wait()  # all have seen what is there
        for one in unfinished if together.first else ():
            one.writer.begin()
        together.wait()
        _stream(job, unfinished, together)
        first, last = unfinished[0], unfinished[-1]
        say(
            f"wrote {first.writer.path}{f' to {last.writer.path}' if len(unfinished) > 1 else ''}: "
            f"{_count(sum(len(one.hours) for one in unfinished), 'hour')} of {', '.join(job.template.names)}; "
            f"look at it with {'xarray' if output.suffix == ZARR else 'ncview, QGIS or xarray'}"
        )


def _check(output: Path, *, overwrite: bool, resume: bool) -> None:
    """Refuse what can be refused before anything is read."""
    if output.suffix not in (".nc", ZARR) or not _is_pattern(str(output)):
        raise LdmdownError(
            output, "is not a name that can be written", expected="out.nc, out.zarr or 'out_{time:%Y%m}.nc'"
        )
    if overwrite and resume:
        raise LdmdownError("--overwrite and --resume", "exclude each other", fix="leave out --overwrite or --resume")


def _is_pattern(text: str) -> bool:
    """Whether it holds nothing in braces but {time}, in whatever format."""
    try:
        return bool(text.format(time=datetime(2000, 1, 1)))
    except (LookupError, ValueError, AttributeError):
        return False


def _default_checkpoint() -> str:
    if DEFAULT.exists():
        config, _ = load_config(DEFAULT)
        return config.checkpoint or BUNDLED
    return BUNDLED


def _outputs(output: Path, job: Job, *, overwrite: bool, resume: bool) -> list[Output]:
    """The files to be, each with its hours."""
    hours: dict[Path, list[int]] = defaultdict(list)
    for index, moment in enumerate(job.era5.times.tolist()):
        hours[Path(str(output).format(time=moment))].append(index)
    for path in hours:
        if path.exists() and any(Path(file).exists() and path.samefile(file) for file in job.era5.files):
            raise LdmdownError(path, "is an input file", fix="name another output")
    return [
        Output(FieldWriter(path, job.template, job.era5.hours[indices], resume=resume, overwrite=overwrite), indices)
        for path, indices in hours.items()
    ]


def _stream(job: Job, outputs: Sequence[Output], together: Processes) -> None:
    """Compute this process's part of the hours that are left, write each at once, and close the files."""
    left = [(output, place) for output in outputs for place in output.writer.left]
    mine = left[together.share(len(left))]
    places: dict[Output, list[int]] = defaultdict(list)
    for output, place in mine:
        places[output].append(place)
    for output, own in places.items():
        output.writer.take(own)
    where = {output.hours[place]: (output, place) for output, place in mine}
    total = sum(len(output.hours) for output in outputs)
    with progress_bar("hours") as progress:
        task = progress.add_task("downscaling", total=total, completed=total - len(left))
        for index, fields in job.fields([*where]):
            output, place = where[index]
            output.writer.write(place, fields)
            progress.advance(task, len(left) / len(mine))
            if places[output] == output.writer.left and place == places[output][-1]:
                output.writer.close()
    together.wait()
    for output in outputs[together.rank :: together.size]:
        if output.writer.part.exists():
            output.writer.close()
    together.wait()


def _what(job: Job, outputs: Sequence[Output]) -> str:
    """Checkpoints, device, size, period and members, in words."""
    one, times = job.predictors[0], job.era5.times
    rows, cols = job.template.grid.shape
    done = sum(len(output.hours) - len(output.writer.left) for output in outputs)
    kept = f", {done} of them finished before" if done else ""
    apart = f", in {len(outputs)} files" if len(outputs) > 1 else ""
    stage = one.checkpoint.stage
    made = _count(one.options.members, "member") if stage == "ldm" else SINGLE_FIELD[stage]
    used = [
        f"checkpoint {c.path} ({c.stage}, sha256 {c.sha256[:12]})" for c in (each.checkpoint for each in job.predictors)
    ]
    return (
        f"{', '.join(used)} on {one.device}, {one.precision}\n"
        f"{rows} x {cols} cells, {_count(len(times), 'hour')} from {str(times[0])[:16]} to {str(times[-1])[:16]}"
        f"{apart}{kept}, {made}"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number != 1 else "")
