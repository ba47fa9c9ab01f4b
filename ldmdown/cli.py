"""The command line: options and their help. What a command does is in the file of its name."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from ldmdown import __version__
from ldmdown.errors import LdmdownError

INTERRUPTED = 130  # the exit code of Ctrl-C

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Downscale ERA5 to hourly 2 km fields of temperature and wind over Italy.",
)

Config = Annotated[
    Path | None,
    typer.Argument(help="A YAML configuration; default ./ldmdown.yaml, or else a small bundled twin."),
]
Moment = Annotated[str | None, typer.Option(metavar="TIME", help="Such as 2020-01-31 or 2020-01-31T12.")]


def main() -> None:
    """Run a command; a user's error is a message and exit code 1, Ctrl-C is 130."""
    try:
        code = app(standalone_mode=False)
    except LdmdownError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        show = getattr(error, "show", None)  # a mistake in the options, which Typer knows how to explain
        if show is None:
            raise
        show()
        code = getattr(error, "exit_code", 1)
    if code == INTERRUPTED:
        print("stopped; finished work is kept (downscale and train go on with it under --resume)", file=sys.stderr)
    sys.exit(code)


def _version(asked: bool) -> None:
    if asked:
        print(f"ldmdown {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None: ...


@app.command()
def downscale(
    files: Annotated[
        list[str], typer.Argument(help="ERA5: NetCDF, GRIB, zip, Zarr (also gs:// and the like), folders, globs.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="out.nc, out.zarr, or 'out_{time:%Y%m}.nc' for a file a month.")
    ],
    checkpoint: Annotated[
        str | None,
        typer.Option(help="A file, or a name in ./checkpoints or bundled; a comma joins two. [default: italy]"),
    ] = None,
    members: Annotated[
        int | None, typer.Option(min=1, help="Members of an ensemble; without it one field, no dimension.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise: the same seed, the same fields.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Of the sampler. [default: the checkpoint's]")] = None,
    sampler: Annotated[Literal["dpmpp", "ddim"] | None, typer.Option(help="[default: the checkpoint's]")] = None,
    temporal_correlation: Annotated[
        str,
        typer.Option(help="Of the noise of successive hours: auto (as measured in training) or 0 to 0.95."),
    ] = "auto",
    start: Moment = None,
    end: Moment = None,
    bbox: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(metavar="W S E N", help="A box in degrees, grown to whole cells of the coarse grid."),
    ] = None,
    region: Annotated[
        Literal["covered"] | None, typer.Option(help="covered: the part of the domain that the files hold.")
    ] = None,
    variables: Annotated[
        str | None, typer.Option(help="A choice of t2m,u10,v10,ws10. [default: what the checkpoint makes]")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "bf16"], typer.Option(help="auto: bf16 on CUDA, fp32 on the CPU.")
    ] = "auto",
    batch_size: Annotated[int | None, typer.Option(min=1, help="Members of hours computed at once.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output, drop finished hours.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a stopped run ended.")] = False,
) -> None:
    """Turn ERA5 files into hourly 2 km fields: the main job.

    ldmdown downscale era5.nc -o out.nc

    ldmdown downscale 'era5_2020*.nc' -o alps.nc --bbox 6 45 11 47 --members 8
    """
    from ldmdown.commands.downscale import downscale as run
    from ldmdown.system import DownscaleOptions

    options = DownscaleOptions(
        members=members,
        seed=seed,
        steps=steps,
        sampler=sampler,
        temporal_correlation=_correlation(temporal_correlation),
        start=start,
        end=end,
        bbox=bbox,
        region=region,
        variables=tuple(variables.split(",")) if variables else None,
        precision=precision,
        batch_size=batch_size,
    )
    run(files, output, options, checkpoint=checkpoint, device=device, overwrite=overwrite, resume=resume)


def _correlation(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        expected = "auto, or 0 to 0.95"
        raise LdmdownError("--temporal-correlation", "is not a number", found=text, expected=expected) from None


@app.command()
def prepare(
    config: Config = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Dask cluster, whose workers see the same files.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be made, how large and in what time; keep nothing.")
    ] = False,
) -> None:
    """Make the training archive: ERA5 and reference files on one grid, with their statistics.

    Without a configuration the bundled twin is written first. A stopped run goes on where it was.

    ldmdown prepare own_data.yaml --dry-run
    """
    from ldmdown.commands.prepare import prepare as run

    run(config, scheduler=scheduler, dry_run=dry_run)


@app.command()
def train(
    config: Config = None,
    stage: Annotated[
        Literal["all", "unet", "vae", "ldm", "gan"], typer.Option(help="all: those that are not finished, in order.")
    ] = "all",
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a stopped run ended.")] = False,
    batch_size: Annotated[
        str, typer.Option(metavar="auto|N", help="Crops computed at once on each device; gradients of parts add up.")
    ] = "auto",
) -> None:
    """Train a system on an archive, and write its checkpoint after each stage.

    ldmdown train own_data.yaml --resume

    torchrun --nproc-per-node 4 -m ldmdown train own_data.yaml
    """
    from ldmdown.commands.train import train as run

    run(config, stage, resume, _crops(batch_size))


def _crops(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or not int(text):
        raise LdmdownError("--batch-size", "is no number of crops", found=text, expected="auto, or 1 or more")
    return int(text)


@app.command()
def twin(
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write to.")],
    start: Annotated[str, typer.Option(metavar="TIME", help="First day or hour.")] = "2021-01-01",
    end: Annotated[str, typer.Option(metavar="TIME", help="Last day or hour, included.")] = "2021-01-02",
    members: Annotated[int, typer.Option(min=1, help="Draws of the truth; the first is the reference.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the synthetic weather.")] = 0,
    orography: Annotated[
        Path | None, typer.Option(help="Fine terrain, GRIB or NetCDF. [default: a made-up one]")
    ] = None,
    coarse_orography: Annotated[
        Path | None, typer.Option(help="ERA5's terrain. [default: the fine one, smoothed]")
    ] = None,
) -> None:
    """Write synthetic ERA5 and reference files of Italy, laid out as real downloads are.

    ldmdown twin -o twin --start 2021-07-20 --end 2021-07-22
    """
    import os

    from ldmdown.data.grid import Grid
    from ldmdown.twin.files import write_twin

    first, last = (_moment(name, text) for name, text in (("--start", start), ("--end", end)))
    if last < first:
        raise LdmdownError("--end", "is before --start", found=f"{start} to {end}")
    write_twin(
        output,
        Grid(),
        [(start, end)],
        members=members,
        seed=seed,
        orography=orography,
        coarse_orography=coarse_orography,
        processes=os.cpu_count() or 1,
        progress=lambda done, total: print(f"{done} of {total} days", file=sys.stderr),
    )


def _moment(name: str, text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise LdmdownError(name, "is not a time", found=text, expected="2020-01-31 or 2020-01-31T12") from None


@app.command()
def request(
    start: Annotated[str, typer.Option(metavar="DAY", help="First day, such as 2020-01-31.")],
    end: Annotated[str, typer.Option(metavar="DAY", help="Last day, included.")],
    checkpoint: Annotated[str, typer.Option(help="The one to be fed; a comma joins two.")] = "italy",
) -> None:
    """Print a script that downloads the ERA5 that a checkpoint needs: its variables, levels and area.

    ldmdown request --start 2020-01-01 --end 2020-03-31 > download.py
    """
    from ldmdown.commands.request import cds_script
    from ldmdown.data.grid import Grid
    from ldmdown.header import find, read_header

    first, last = (_moment(name, text).date() for name, text in (("--start", start), ("--end", end)))
    if last < first:
        raise LdmdownError("--end", "is before --start", found=f"{start} to {end}")
    configs = [read_header(find(name))["config"] for name in checkpoint.split(",")]
    names = tuple(dict.fromkeys(name for config in configs for name in config["predictors"]))
    print(cds_script(names, Grid(**configs[0]["grid"]), first, last), end="")


@app.command()
def convert(
    files: Annotated[list[Path], typer.Argument(help="UNET_*.ckpt, VAE_*.ckpt and LDM_*.ckpt, or GAN_*.ckpt alone.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The checkpoint to write.")],
    statistics: Annotated[Path, typer.Option(help="normalization_data.pkl, or its numbers as JSON.")],
    statics: Annotated[Path, typer.Option(help="The folder static_var.")],
    wind: Annotated[
        Literal["unknown", "earth", "rotated-168", "rotated-170"],
        typer.Option(help="Which way their wind points: not known, true north, a rotated grid with its pole there."),
    ] = "unknown",
    regridding: Annotated[
        Literal["bilinear", "nearest"], typer.Option(help="Of ERA5 to their coarse grid, which is not published.")
    ] = "bilinear",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
) -> None:
    """Turn the weights that the paper's authors published into a checkpoint; nothing in them is executed.

    ldmdown convert UNET_2mT.ckpt VAE_residual_2mT.ckpt LDM_residual_2mT.ckpt --statistics normalization_data.pkl
    --statics static_var -o checkpoints/paper-t2m.safetensors
    """
    from ldmdown.commands.convert import convert as run

    run(files, output, statistics=statistics, statics=statics, wind=wind, regridding=regridding, overwrite=overwrite)


@app.command()
def evaluate(
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder for report.html, scores and figures.")],
    predictions: Annotated[
        list[Path] | None, typer.Argument(help="Outputs of downscale, other fields, or ERA5; a quoted glob is one.")
    ] = None,
    reference: Annotated[
        list[Path] | None,
        typer.Option(help="File, or quoted glob, of fields that count as true; repeat for more."),
    ] = None,
    checkpoint: Annotated[
        list[str] | None, typer.Option(help="Checkpoint to score instead of files; repeat to compare several.")
    ] = None,
    archive: Annotated[
        Path | None, typer.Option(help="Archive, made by `prepare`, that checkpoints are scored on.")
    ] = None,
    period: Annotated[
        Literal["test", "validation", "train"], typer.Option(help="Split of the archive to score.")
    ] = "test",
    members: Annotated[int, typer.Option(min=1, help="Ensemble members per checkpoint.")] = 8,
    every: Annotated[int, typer.Option(min=1, help="Score every n-th hour of the archive.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the checkpoints' initial noise.")] = 0,
    device: Annotated[str, typer.Option(help="Device: auto, cpu, cuda or cuda:1.")] = "auto",
    terrain: Annotated[
        Path | None,
        typer.Option(help="File of heights on regular lat/lon, GRIB or NetCDF; an archive of the twin has its own."),
    ] = None,
    stations: Annotated[
        Path | None,
        typer.Option(help="CSV of hourly measurements to score against; its columns are described above."),
    ] = None,
    nearest: Annotated[
        bool, typer.Option("--nearest", help="Compare stations with the nearest cell, not bilinearly.")
    ] = False,
    height_correction: Annotated[
        bool, typer.Option("--height-correction", help="Bring temperatures to the stations' heights by 6.5 K/km.")
    ] = False,
) -> None:
    """Score predictions against a reference, or checkpoints on an archive beside what needs no network.

    ldmdown evaluate out.nc era5.nc --reference reference/VHR-REA_IT_20210105.nc -o scores

    ldmdown evaluate --checkpoint twin --checkpoint twin-gan --archive archive.zarr -o scores

    Columns of a CSV of stations, separated by comma, semicolon or tab: time or date (UTC); name or id; lat, lon; alt
    or height (m); t or t2m (degrees C or K); ws, wg, ff or ws10 (m/s, at 10 m); wr or dd (degrees, whence it blows).
    A second line may hold units in brackets.
    """
    from ldmdown.commands.evaluate import CheckpointOptions, StationOptions, evaluate_checkpoints
    from ldmdown.commands.evaluate import evaluate as evaluate_files

    measured = StationOptions(stations, nearest, height_correction)
    if predictions and reference and not checkpoint and archive is None:
        evaluate_files(predictions, reference, output, terrain=terrain, stations=measured)
    elif checkpoint and archive is not None and not predictions and not reference:
        options = CheckpointOptions(period, members, every, seed, device)
        evaluate_checkpoints(checkpoint, archive, output, options=options, terrain=terrain, stations=measured)
    else:
        raise LdmdownError(
            "evaluate",
            "needs files and what they are compared with",
            expected="PREDICTION ... --reference FILE, or --checkpoint NAME ... --archive ARCHIVE",
        )


@app.command()
def plot(
    files: Annotated[list[Path], typer.Argument(help="Outputs of downscale, or ERA5; drawn side by side.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The picture: .png, .pdf or .svg.")],
    variables: Annotated[str, typer.Option(help="Rows of the picture.")] = "t2m,ws10",
    time: Annotated[str | None, typer.Option(metavar="TIME", help="Such as 2020-01-31T12. [default: first]")] = None,
    member: Annotated[int, typer.Option(min=0, help="Of an ensemble.")] = 0,
    arrows: Annotated[bool, typer.Option("--arrows", help="Draw the wind.")] = False,
    extent: Annotated[
        tuple[float, float, float, float] | None, typer.Option(metavar="W S E N", help="A box in degrees.")
    ] = None,
) -> None:
    """Draw an hour on a map, for a quick look.

    ldmdown plot era5.nc out.nc -o map.png --time 2020-01-31T12

    ldmdown plot out.nc -o alps.png --variables t2m --extent 6 45 11 47 --arrows
    """
    from ldmdown.commands.plot import plot as run

    run(files, output, variables=variables.split(","), time=time, member=member, arrows=arrows, extent=extent)


@app.command()
def info(
    file: Annotated[str, typer.Argument(help="A checkpoint, by file or name, or an output of downscale.")],
) -> None:
    """Print the card of a checkpoint or of an output; no weight is read.

    ldmdown info italy
    """
    from ldmdown.header import card

    print(card(file))
