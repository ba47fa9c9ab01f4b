"""`ldmdown downscale`: ERA5 files to hourly 2 km fields, in CF NetCDF or Zarr.

Processes, those of --processes and those that torchrun started, take consecutive hours each and write them themselves;
whoever writes the last hour of a file closes it. In each process the next hours are read and those before are
compressed and written while an hour is computed.
"""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from io import StringIO
from pathlib import Path

from ldmdown.atomic import locked
from ldmdown.config import DEFAULT, load_config
from ldmdown.console import progress_bar, say
from ldmdown.data import parallel
from ldmdown.data.reading.fields import open_fields
from ldmdown.data.reading.files import few_open
from ldmdown.data.writer import FieldWriter
from ldmdown.errors import LdmdownError
from ldmdown.inference import SINGLE_FIELD
from ldmdown.job import Job
from ldmdown.options import DownscaleOptions, RunOptions
from ldmdown.runtime import choose_device, peak_memory, processes
from ldmdown.system import System

BUNDLED = "italy"
VIEWERS = {".nc": "ncview, QGIS or xarray", ".zarr": "xarray", ".tif": "QGIS or rioxarray"}  # of each kind of output
HOURS_A_BLOCK = 24  # that one of several processes computes before it takes the next
WRITING_THREADS = {"cpu": 1, "cuda": 8}  # one compresses about 15 hours a second


@dataclass(frozen=True)
class Request:
    """What is downscaled, with what, and where to."""

    files: Sequence[str]
    output: Path
    options: DownscaleOptions
    checkpoint: str
    run: RunOptions

    def job(self, opened: ExitStack) -> Job:
        """What is computed of the files, which stay open as long as `opened`."""
        system = System(self.checkpoint, choose_device(self.run.device))
        fix = "ldmdown request" + ("" if self.checkpoint == BUNDLED else f" --checkpoint {self.checkpoint}")
        era5 = opened.enter_context(open_fields(self.files, system.inputs, request=fix))
        for note in era5.notes:
            say(f"note: {note}")
        return system.job(era5, self.options)

    def hours(self, job: Job) -> dict[Path, list[int]]:
        """The files to be, each with its hours of the job. Raises LdmdownError if one is an input file."""
        hours: dict[Path, list[int]] = defaultdict(list)
        for index, moment in enumerate(job.era5.times.tolist()):
            hours[Path(str(self.output).format(time=moment))].append(index)
        read = {one for file in job.era5.files for one in (Path(file), *Path(file).parents)}  # of zips their members
        for path in hours:
            if path.exists() and any(one.exists() and path.samefile(one) for one in read):
                raise LdmdownError(path, "is an input file", fix="name another output")
        return hours

    def outputs(self, job: Job) -> list[Output]:
        """The outputs to be, by what is there of them."""
        kind = _kind(self.output, sites=job.template.sites is not None)
        existing = {"resume": self.run.resume, "overwrite": self.run.overwrite}
        return [
            Output(kind(path, job.template, job.era5.hours[indices], **existing), indices)
            for path, indices in self.hours(job).items()
        ]


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
    run: RunOptions = RunOptions(),
) -> None:
    """Write the fields of all hours of the files.

    Args:
        files: NetCDF, GRIB, zips, Zarr, folders, globs.
        output: the file or store to be; a name that holds {time:%Y%m} stands for a file a month.
        checkpoint: file or name, several joined by a comma; None: that of ./ldmdown.yaml, or else the bundled one.

    Raises LdmdownError if a file, an option or the checkpoint does not serve.
    """
    _check(output, options, run)
    with processes() as together, ExitStack() as opened:
        if run.device == "auto":
            run = replace(run, device=str(together.device))
        request = Request(tuple(files), output, options, checkpoint or _default_checkpoint(), run)
        job = request.job(opened)
        opened.enter_context(locked(*(request.hours(job) if together.first and not run.dry_run else ())))
        together.wait()
        outputs = request.outputs(job)
        left = [(number, place) for number, one in enumerate(outputs) for place in one.writer.left]
        unfinished = [one for one in outputs if not one.writer.finished]
        if not unfinished:
            say(f"{output} is finished already; --overwrite computes it again")
            return
        say(_what(job, outputs))
        needed, free = _room(unfinished)
        about = f"about {_bytes(sum(one.writer.size for one in unfinished))} on the disk"
        say(f"{about}, of {_bytes(free)} that are free")
        if run.dry_run:
            say(_pace_of_the_first_hours(job, len(left)))
            return
        if needed > free:
            raise LdmdownError(output, "does not fit on the disk", found=_bytes(free), expected=_bytes(needed))
        together.wait()  # all have seen what is there
        for one in unfinished if together.first else ():
            one.writer.begin()
        together.wait()
        mine = left[together.share(len(left))]
        at_once = run.processes if run.processes > 1 else _hours_at_once(job)
        with _progress(job, len(left), len(mine), at_once, together.size) as advance:
            if run.processes > 1 and mine:
                _compute_in_processes(request, mine, advance)
            else:
                _compute(job, [(outputs[number], place) for number, place in mine], advance)
        together.wait()
        for one in unfinished if together.first else ():
            one.writer.close()  # those that a stopped run had left to be closed
        first, last = (unfinished[place].writer.path for place in (0, -1))
        say(
            f"wrote {first}{f' to {last}' if len(unfinished) > 1 else ''}: "
            f"{_count(sum(len(one.hours) for one in unfinished), 'hour')} of {', '.join(job.template.names)}; "
            f"look at it with {'pandas or xarray' if job.template.sites else VIEWERS[output.suffix]}"
        )


def _check(output: Path, options: DownscaleOptions, run: RunOptions) -> None:
    """Refuse what can be refused before anything is read."""
    names, wanted = [*VIEWERS], "out.nc, out.zarr, out.tif or 'out_{time:%Y%m}.nc'"
    if options.points is not None:
        names, wanted = [".nc", ".csv", ".parquet"], "sites.nc, sites.csv or sites.parquet, with --points"
    if output.suffix not in names or not _is_pattern(str(output)):
        raise LdmdownError(output, "is not a name that can be written", expected=wanted)
    if run.overwrite and run.resume:
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


def _kind(output: Path, *, sites: bool) -> type[FieldWriter]:
    """The writer for a name; each imports what takes a quarter of a second or more."""
    if sites:
        from ldmdown.data.tables import TableWriter, TimeSeriesWriter

        return TimeSeriesWriter if output.suffix == ".nc" else TableWriter
    if output.suffix == ".zarr":
        from ldmdown.data.zarr_store import ZarrWriter

        return ZarrWriter
    if output.suffix == ".tif":
        from ldmdown.data.geotiff import GeotiffWriter

        return GeotiffWriter
    from ldmdown.data.netcdf import NetcdfWriter

    return NetcdfWriter


@contextmanager
def _progress(job: Job, left: int, mine: int, at_once: int, processes: int) -> Iterator[Callable[[float], None]]:
    """A bar that is told of finished hours, of the `mine` of this process and `left` in all; it says the pace once.

    `at_once` hours, or blocks of them, are finished together.
    """
    finished: list[float] = []  # when an hour or a block of hours was
    with progress_bar("hours") as progress:
        task = progress.add_task("downscaling", total=len(job.era5), completed=len(job.era5) - left)

        def advance(hours: float) -> None:
            finished.append(time.perf_counter())
            if len(finished) == at_once + 1:
                say(_pace((finished[-1] - finished[0]) / at_once / hours / processes, left, job))
            progress.advance(task, hours * left / mine)

        yield advance


def _compute(job: Job, hours: Sequence[tuple[Output, int]], advance: Callable[[float], None]) -> None:
    """Compute hours of outputs by their place in them, write them, and close each output whose last hour is written.

    The files of netCDF4's HDF5, which serves one thread only, are read and closed by one thread.
    """
    where = {output.hours[place]: (output, place) for output, place in hours}
    unwritten = Counter(output for output, _ in hours)
    threads = WRITING_THREADS[job.predictors[0].device.type]
    writing: deque[tuple[Output, Future[None]]] = deque()
    closing: list[Future[bool]] = []
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(threads) as writers:

        def wait_for_the_first() -> None:
            output, written = writing.popleft()
            written.result()
            advance(1)
            unwritten[output] -= 1
            if not unwritten[output]:
                closing.append(reader.submit(output.writer.close))

        for index, fields in job.fields([*where], reader):
            output, place = where[index]
            writing.append((output, writers.submit(output.writer.write, place, fields)))
            if len(writing) > threads:
                wait_for_the_first()
        while writing:
            wait_for_the_first()
    for closed in closing:
        closed.result()


def _compute_in_processes(request: Request, hours: Sequence[tuple[int, int]], advance: Callable[[float], None]) -> None:
    """Compute hours, by the number of the output and the place in it, in blocks that processes take in turn."""
    count = min(request.run.processes, len(hours))
    size = min(HOURS_A_BLOCK, -(-len(hours) // count))
    blocks = [hours[start : start + size] for start in range(0, len(hours), size)]
    begun = replace(request, run=replace(request.run, overwrite=False, resume=True))
    parallel.run(
        _compute_block,
        [(begun, block) for block in blocks],
        processes=count,
        threads=max(1, parallel.workers() // count),
        advance=lambda: advance(len(hours) / len(blocks)),
    )


def _compute_block(task: tuple[Request, Sequence[tuple[int, int]]]) -> None:
    request, hours = task
    job, outputs = _opened(request)
    _compute(job, [(outputs[number], place) for number, place in hours], lambda _: None)


@cache
def _opened(request: Request) -> tuple[Job, list[Output]]:
    """Open a request in a process that computes blocks of it; what is to be said the first process has said."""
    few_open().__enter__()
    with redirect_stderr(StringIO()):
        job = request.job(ExitStack())
    return job, request.outputs(job)


def _what(job: Job, outputs: Sequence[Output]) -> str:
    """Checkpoints, device, size, period and members, in words."""
    one, times = job.predictors[0], job.era5.times
    rows, cols = job.template.grid.shape
    sites = job.template.sites
    place = f"{rows} x {cols} cells"
    if sites is not None:
        cells = sum(math.prod(part.predictors[0].padded[2:]) for part in job.parts)
        place = f"{_count(len(sites), 'site')} in {_count(len(job.parts), 'window')} of {cells} coarse cells in all"
    done = sum(len(output.hours) - len(output.writer.left) for output in outputs)
    kept = f", {done} of them finished before" if done else ""
    apart = f", in {len(outputs)} files" if len(outputs) > 1 else ""
    stage = one.checkpoint.stage
    made = _count(job.template.members or 1, "member") if stage == "ldm" else SINGLE_FIELD[stage]
    if job.template.input_members:
        made += f", of {len(job.template.input_members)} members of the input"
    used = [
        f"checkpoint {c.path} ({c.stage}, sha256 {c.sha256[:12]})" for c in (each.checkpoint for each in job.predictors)
    ]
    return (
        f"{', '.join(used)} on {one.device}, {one.precision}\n"
        f"{place}, {_count(len(times), 'hour')} from {str(times[0])[:16]} to {str(times[-1])[:16]}"
        f"{apart}{kept}, {made}"
    )


def _room(outputs: Sequence[Output]) -> tuple[float, float]:
    """The bytes that the hours that are left take while they are written, and those that are free."""
    sizes = [one.writer.size * len(one.writer.left) / len(one.hours) for one in outputs]
    apart = 0 if outputs[0].writer.folder else max(one.writer.size * one.writer.copies for one in outputs)
    folder = next(path for path in outputs[0].writer.path.absolute().parents if path.exists())
    return sum(sizes) + apart, shutil.disk_usage(folder).free


def _hours_at_once(job: Job) -> int:
    return min(one.hours_at_once for one in job.predictors)


def _pace_of_the_first_hours(job: Job, hours: int) -> str:
    """The pace of the second batch of hours, since the first warms up; of the first where there is no other."""
    batch, finished = _hours_at_once(job), [time.perf_counter()]
    with ThreadPoolExecutor(1) as reader:
        finished += [time.perf_counter() for _ in job.fields(range(len(job.era5))[: 2 * batch], reader)]
    start = batch if len(finished) > batch + 1 else 0
    return _pace((finished[-1] - finished[start]) / (len(finished) - 1 - start), hours, job)


def _pace(seconds: float, hours: int, job: Job) -> str:
    """The time of an hour of the output and of all of them, and the memory."""
    whole = timedelta(seconds=round(seconds * hours))
    memory = f"{peak_memory(job.predictors[0].device):.1f} GB of memory"
    return f"{seconds:.3g} s an hour, about {whole} in all; {memory}"


def _bytes(size: float) -> str:
    power = min(max(int(math.log10(max(size, 1)) // 3), 1), 4)
    return f"{size / 1000**power:.3g} {'kMGT'[power - 1]}B"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number != 1 else "")
