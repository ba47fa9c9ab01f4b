"""The command line: options and their help. What a command does is in the file of its name in commands/."""

from __future__ import annotations

import gc
import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer import Argument, Option

from ldmdown import __version__
from ldmdown.errors import STOPPED, LdmdownError, printable
from ldmdown.options import CheckpointOptions, ConvertOptions, DownscaleOptions, PlotOptions, RunOptions, StationOptions

SIGNALLED, DEFECT = 128, 70  # exit codes of a signal to stop, to which its number is added, and of a defect of ldmdown
DEBUG = "LDMDOWN_DEBUG"  # a variable of the environment with which defects show their traceback

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Downscale ERA5 to hourly 2 km fields of temperature and wind over Italy.",
)

Config = Annotated[
    Path | None, Argument(help="YAML configuration; without it ./ldmdown.yaml, or else the small bundled twin.")
]


def main() -> None:
    """Run a command; a user's error is a message and its exit code, a defect one and 70, Ctrl-C 130, SIGTERM 143."""
    with _stopped_by_signals() as stopped:
        try:
            code = app(prog_name="ldmdown", standalone_mode=False)
        except (KeyboardInterrupt, typer.Abort):
            stopped = stopped or [signal.SIGINT]
        except LdmdownError as error:
            code = error.exit_code
            if not stopped:
                print(error, file=sys.stderr)
        except Exception as error:  # also what libraries make of a signal in the middle of their import
            show = getattr(error, "show", None)  # a mistake in the options, which Typer knows how to explain
            if show is not None:
                show()
                code = getattr(error, "exit_code", 1)
            elif not stopped:
                code = _unforeseen(error)
        if stopped:
            print(STOPPED, file=sys.stderr)
            code = SIGNALLED + stopped[0]
        sys.exit(code)


@contextmanager
def _stopped_by_signals() -> Iterator[list[int]]:
    """Let Ctrl-C and SIGTERM end the processes that this one started, and it by a KeyboardInterrupt; a second at once.

    Gives the list that their numbers are noted in.
    """
    stopped: list[int] = []

    def stop(number: int, _: object) -> None:
        if stopped:
            os._exit(SIGNALLED + number)
        stopped.append(number)
        if "multiprocessing" in sys.modules:
            for process in sys.modules["multiprocessing"].active_children():
                process.kill()
        raise KeyboardInterrupt

    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = [signal.signal(one, stop) for one in signals]
    try:
        yield stopped
    finally:
        for one, handler in zip(signals, before, strict=True):
            signal.signal(one, handler)


def _unforeseen(error: Exception) -> int:
    """Explain what no command foresaw: a failure of the system, or else a defect; returns the exit code."""
    if DEBUG in os.environ:
        raise error
    if isinstance(error, BrokenPipeError):  # who reads the output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, OSError | MemoryError):
        file, found = getattr(error, "filename", None) or "ldmdown", str(error) or "no memory is left"
        print(LdmdownError(file, "the system refused to read, write or compute", found=found), file=sys.stderr)
        return 1
    print(
        LdmdownError(
            f"ldmdown {' '.join(sys.argv[1:])}",
            "has met a defect of its own",
            found=f"{type(error).__name__}: {error}",
            fix=f"report it with what {DEBUG}=1 shows, and with the file at hand",
        ),
        file=sys.stderr,
    )
    return DEFECT


def _version(asked: bool) -> None:
    if asked:
        print(f"ldmdown {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
    quiet: Annotated[bool, Option("--quiet", "-q", help="Print errors and results alone, no progress.")] = False,
) -> None:
    if quiet:
        from ldmdown.console import be_quiet

        be_quiet()


def _with_fields(command: Callable[..., None]) -> Callable[..., None]:
    """A command that takes, instead of each dataclass among its parameters, that one's fields."""
    own = inspect.signature(command, eval_str=True).parameters
    kinds: dict[str, Any] = {name: one.annotation for name, one in own.items() if is_dataclass(one.annotation)}

    @wraps(command)
    def flat(**given: Any) -> None:
        for name, kind in kinds.items():
            given[name] = kind(**{one.name: given.pop(one.name) for one in fields(kind)})
        command(**given)

    taken: list[inspect.Parameter] = []
    for name, one in own.items():
        taken += inspect.signature(kinds[name], eval_str=True).parameters.values() if name in kinds else [one]
    flat.__signature__ = inspect.Signature([one.replace(kind=one.KEYWORD_ONLY) for one in taken])  # type: ignore[attr-defined]
    return flat


@app.command()
@_with_fields
def downscale(
    files: Annotated[list[str], Argument(help="ERA5 files: NetCDF, GRIB, zip, Zarr (also gs://...), folders, globs.")],
    output: Annotated[
        Path,
        Option("-o", "--output", help="out.nc, out.zarr, out.tif, or 'out_{time:%Y%m}.nc' for one file per month."),
    ],
    *,
    checkpoint: Annotated[
        str | None,
        Option(help="Checkpoint, by file or name; a comma joins two of different variables.", show_default="italy"),
    ] = None,
    options: DownscaleOptions,
    run: RunOptions,
) -> None:
    """Downscale ERA5 files to hourly 2 km fields.

    ldmdown downscale era5.nc -o out.nc

    ldmdown downscale 'era5_2020*.nc' -o alps.nc --bbox 6 45 11 47 --members 8

    ldmdown downscale era5.nc -o quantiles.nc --members 20 --statistics mean,std,p10,p50,p90
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: other runs need the cores too
    gc.disable()  # a sixth of the time of the imports goes into looking for garbage, of which they leave none
    from ldmdown.commands.downscale import downscale as command

    gc.freeze()
    gc.enable()
    command(files, output, options, checkpoint=checkpoint, run=run)


@app.command()
def prepare(
    config: Config = None,
    scheduler: Annotated[
        str | None,
        Option(metavar="ADDRESS", help="Address of a Dask scheduler whose workers see the same files."),
    ] = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Print what would be made, its size and the time it takes; write nothing.")
    ] = False,
) -> None:
    """Make the training archive: ERA5 and reference files on one grid, with their statistics.

    Without a configuration the bundled twin is written first. An interrupted run resumes.

    ldmdown prepare own_data.yaml --dry-run
    """
    from ldmdown.commands.prepare import prepare as run

    run(config, scheduler=scheduler, dry_run=dry_run)


@app.command()
def train(
    config: Config = None,
    stage: Annotated[
        Literal["all", "unet", "vae", "ldm", "distill", "gan"],
        Option(help="Stage to train; all means those that are not finished, in order."),
    ] = "all",
    resume: Annotated[bool, Option("--resume", help="Continue an interrupted run.")] = False,
    batch_size: Annotated[
        str, Option(metavar="auto|N", help="Number of crops computed at once on each device.")
    ] = "auto",
) -> None:
    """Train a system on an archive and write its checkpoint after each stage.

    ldmdown train own_data.yaml --resume

    torchrun --nproc-per-node 4 -m ldmdown train own_data.yaml
    """
    from ldmdown.commands.train import train as run

    run(config, stage, resume, _crops(batch_size))


def _crops(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or not int(text):
        raise LdmdownError("--batch-size", "is not a positive integer", found=text, expected="auto, or 1 or more")
    return int(text)


@app.command()
def twin(
    output: Annotated[Path, Option("-o", "--output", help="Folder to write to.")],
    start: Annotated[str, Option(metavar="TIME", help="First day or hour.")] = "2021-01-01",
    end: Annotated[str, Option(metavar="TIME", help="Last day or hour, included.")] = "2021-01-02",
    members: Annotated[int, Option(min=1, help="Number of draws of the truth; the first is the reference.")] = 1,
    seed: Annotated[int, Option(min=0, help="Random seed of the synthetic weather.")] = 0,
    orography: Annotated[Path | None, Option(help="Fine terrain, GRIB or NetCDF.", show_default="synthetic")] = None,
    coarse_orography: Annotated[
        Path | None, Option(help="Terrain of ERA5, GRIB or NetCDF.", show_default="the fine one, smoothed")
    ] = None,
) -> None:
    """Write synthetic ERA5 and reference files of Italy, laid out as real downloads are.

    ldmdown twin -o twin --start 2021-07-20 --end 2021-07-22
    """
    from ldmdown.commands.twin import twin as run

    _period(start, end)
    run(output, start, end, members=members, seed=seed, orography=orography, coarse_orography=coarse_orography)


def _period(start: str, end: str) -> tuple[date, date]:
    """First and last day."""
    try:
        first, last = datetime.fromisoformat(start), datetime.fromisoformat(end)
    except ValueError as error:
        raise LdmdownError(
            "--start/--end", "is not a time", found=str(error), expected="2020-01-31 or 2020-01-31T12"
        ) from None
    if last < first:
        raise LdmdownError("--end", "is before --start", found=f"{start} to {end}")
    return first.date(), last.date()


@app.command()
def request(
    start: Annotated[str, Option(metavar="DAY", help="First day, such as 2020-01-31.")],
    end: Annotated[str, Option(metavar="DAY", help="Last day, included.")],
    checkpoint: Annotated[
        str, Option(help="Checkpoint that the data are for, by file or name; a comma joins two.")
    ] = "italy",
    reference: Annotated[
        bool, Option("--reference", help="Print the script for VHR-REA_IT, the 2 km reference, instead.")
    ] = False,
) -> None:
    """Print a script that downloads the ERA5 data that a checkpoint needs: variables, levels and area.

    ldmdown request --start 2020-01-01 --end 2020-03-31 > download.py

    ldmdown request --start 2020-01-01 --end 2020-03-31 --reference > download_reference.py
    """
    from ldmdown.commands.request import request as run

    print(run(checkpoint, *_period(start, end), reference=reference), end="")


@app.command()
@_with_fields
def convert(
    files: Annotated[list[Path], Argument(help="UNET_*.ckpt, VAE_*.ckpt and LDM_*.ckpt, or GAN_*.ckpt.")],
    output: Annotated[Path, Option("-o", "--output", help="Checkpoint to write.")],
    statistics: Annotated[Path, Option(help="Statistics: normalization_data.pkl, or its numbers as JSON.")],
    statics: Annotated[Path, Option(help="Folder static_var of the published data.")],
    options: ConvertOptions,
) -> None:
    """Convert the weights that the paper's authors published to a checkpoint; no code in them is executed.

    ldmdown convert UNET_2mT.ckpt VAE_residual_2mT.ckpt LDM_residual_2mT.ckpt --statistics normalization_data.pkl
    --statics static_var -o checkpoints/paper-t2m.safetensors
    """
    from ldmdown.commands.convert import convert as run

    run(files, output, options, statistics=statistics, statics=statics)


@app.command()
@_with_fields
def fetch(
    name: Annotated[Literal["paper-t2m", "paper-uv"], Argument(help="Temperature or wind of the paper's system.")],
    options: ConvertOptions,
) -> None:
    """Download the weights that the paper's authors published and convert them to checkpoints/NAME.safetensors.

    Downloads of several GB are checked, kept in checkpoints/downloads, and continued where they were cut.

    ldmdown fetch paper-t2m && ldmdown downscale era5.nc --checkpoint paper-t2m -o out.nc
    """
    from ldmdown.commands.convert import check_output, convert
    from ldmdown.commands.fetch import published_files

    output = Path("checkpoints", f"{name}.safetensors")
    check_output(output, options.overwrite)
    with published_files(name, output.with_name("downloads")) as files:
        convert(files.weights, output, options, statistics=files.statistics, statics=files.statics)


@app.command()
@_with_fields
def evaluate(
    output: Annotated[Path, Option("-o", "--output", help="Folder for report.html, scores and figures.")],
    predictions: Annotated[
        list[Path] | None,
        Argument(help="Outputs of downscale, other fields, or ERA5; a quoted glob is one prediction."),
    ] = None,
    *,
    reference: Annotated[list[Path] | None, Option(help="Reference: a file or a quoted glob; may be repeated.")] = None,
    checkpoint: Annotated[list[str] | None, Option(help="Checkpoint to score on an archive; may be repeated.")] = None,
    archive: Annotated[
        Path | None, Option(help="Archive of `ldmdown prepare` on which checkpoints are scored.")
    ] = None,
    options: CheckpointOptions,
    terrain: Annotated[
        Path | None,
        Option(help="Terrain heights, GRIB or NetCDF.", show_default="that of the archive, if it has one"),
    ] = None,
    stations: StationOptions,
    processes: Annotated[
        int | None,
        Option(min=1, help="Number of processes that score days side by side.", show_default="the cores"),
    ] = None,
) -> None:
    """Score predictions against a reference, or checkpoints on an archive, or check an output without a reference.

    ldmdown evaluate out.nc era5.nc --reference reference/VHR-REA_IT_20210105.nc -o scores

    ldmdown evaluate --checkpoint twin --checkpoint twin-gan --archive archive.zarr -o scores

    ldmdown evaluate out.nc era5.nc -o check

    Without a reference, an output is compared with the ERA5 that it was made from and with what its checkpoint learned
    from.

    Columns of a CSV of stations, separated by comma, semicolon or tab: time or date (UTC); name or id; lat, lon; alt
    or height (m); t or t2m (degrees C or K); ws, wg, ff or ws10 (m/s, at 10 m); wr or dd (direction that the wind
    comes from, degrees). A second line may hold units in brackets.
    """
    from ldmdown.commands import evaluate as command

    if predictions and (reference or stations.stations) and not checkpoint and archive is None:
        command.evaluate(predictions, reference or [], output, terrain=terrain, stations=stations, processes=processes)
    elif checkpoint and archive is not None and not predictions and not reference:
        command.evaluate_checkpoints(
            checkpoint, archive, output, options, terrain=terrain, stations=stations, processes=processes
        )
    elif predictions and len(predictions) > 1 and archive is None and stations.stations is None:
        names = ",".join(checkpoint or []) or None
        command.evaluate_unreferenced(predictions[0], predictions[1:], output, names, terrain)
    else:
        raise LdmdownError(
            "evaluate",
            "needs files and what they are compared with",
            expected="PREDICTION ... --reference FILE or --stations FILE, --checkpoint NAME ... --archive ARCHIVE, "
            "or OUTPUT ERA5 ...",
        )


@app.command()
@_with_fields
def plot(
    files: Annotated[list[Path], Argument(help="Outputs of downscale, ERA5 or other fields, side by side.")],
    output: Annotated[Path, Option("-o", "--output", help="Picture (.png, .pdf, .svg) or film (.gif, .mp4).")],
    options: PlotOptions,
) -> None:
    """Draw maps of one hour, or animate the hours that the files have in common, for a quick look.

    ldmdown plot era5.nc out.nc -o map.png --time 2020-01-31T12

    ldmdown plot out.nc -o alps.png --variables t2m --extent 6 45 11 47 --arrows

    ldmdown plot era5.nc out.nc -o hours.gif
    """
    from ldmdown.commands.plot import plot as run

    run(files, output, options)


@app.command()
def info(
    file: Annotated[str, Argument(help="Checkpoint, by file or name, or a file of fields.", show_default=False)] = "",
    as_json: Annotated[bool, Option("--json", help="Print everything as JSON.")] = False,
    schema: Annotated[
        bool, Option("--schema", help="Print the JSON schema of a configuration, for editors of YAML.")
    ] = False,
) -> None:
    """Print what a checkpoint or an output says of itself; no weights are read.

    ldmdown info italy

    ldmdown info out.nc --json

    ldmdown info --schema > ldmdown.schema.json
    """
    from ldmdown.commands import info as command

    if bool(file) == schema:
        raise LdmdownError("info", "needs one thing to print", expected="a checkpoint, a file of fields, or --schema")
    print(printable(command.schema() if schema else command.card(file, as_json=as_json)))
