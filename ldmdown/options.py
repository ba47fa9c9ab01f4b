"""Options that the command line and Python share: their names, types, defaults and help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from typer import Option

from ldmdown.choices import MAX_CORRELATION, Consistency, Precision, SamplerName
from ldmdown.errors import LdmdownError

MAX_OPTIONS = {"members": 10_000, "steps": 1000, "batch_size": 1024, "seed": 2**63 - 1}
CORRELATIONS = f"auto, or 0 to {MAX_CORRELATION}"

Box = tuple[float, float, float, float]  # west, south, east, north [degrees]
Device = Annotated[str, Option(help="Device that computes: auto, cpu, cuda or cuda:1.")]
KeptBoxes = Annotated[
    Consistency | None,
    Option(
        help="How closely means over ERA5's boxes keep to ERA5; learned: as those of training fields do.",
        show_default="the checkpoint's",
    ),
]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace the output if it exists.")]


def _names(given: str | tuple[str, ...]) -> tuple[str, ...]:
    """Names that commas separate; a default is a tuple already."""
    return tuple(given.split(",")) if isinstance(given, str) else given


def _correlation(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise LdmdownError("--temporal-correlation", "is not a number", found=text, expected=CORRELATIONS) from None


@dataclass(frozen=True)
class DownscaleOptions:
    """What is computed, and how; None stands for the default that the help shows.

    Raises LdmdownError if options exclude each other or are out of range.
    """

    members: Annotated[
        int | None,
        Option(min=1, help="Number of ensemble members; without it one field and no realization dimension."),
    ] = None
    statistics: Annotated[
        Sequence[str],
        Option(
            parser=_names,
            metavar="NAMES",
            help="Statistics of the members, instead of them: mean, std, min, max, p1 to p99.",
        ),
    ] = ()
    keep_members: Annotated[bool, Option("--keep-members", help="Write the members beside their statistics.")] = False
    seed: Annotated[int, Option(min=0, help="Random seed of the initial noise.")] = 0
    steps: Annotated[int | None, Option(min=1, help="Number of sampler steps.", show_default="the checkpoint's")] = None
    sampler: Annotated[SamplerName | None, Option(help="Sampler.", show_default="the checkpoint's")] = None
    temporal_correlation: Annotated[
        float | None,
        Option(
            parser=_correlation,
            metavar="auto|R",
            help="Correlation of the noise of successive hours: auto (as in training) or 0 to 0.95.",
            show_default="auto",
        ),
    ] = None
    compression: Annotated[
        Literal["lossless", "quantized"],
        Option(help="Compression; quantized rounds to 0.01 K and 0.01 m/s, for smaller files."),
    ] = "lossless"
    consistency: KeptBoxes = None
    start: Annotated[
        str | None, Option(metavar="TIME", help="First hour, such as 2020-01-31T06.", show_default="that of the files")
    ] = None
    end: Annotated[
        str | None, Option(metavar="TIME", help="Last hour, or last day.", show_default="that of the files")
    ] = None
    bbox: Annotated[Box | None, Option(metavar="W S E N", help="Box in degrees, enlarged to whole cells of 16 km.")] = (
        None
    )
    region: Annotated[Literal["covered"] | None, Option(help="Part of the domain: the part that the files cover.")] = (
        None
    )
    points: Annotated[
        Path | None,
        Option(help="CSV of sites (name, lat, lon; height in m) whose values are written, to .csv, .parquet or .nc."),
    ] = None
    variables: Annotated[
        Sequence[str] | None,
        Option(
            parser=_names,
            metavar="NAMES",
            help="Variables, such as t2m,u10,v10,ws10.",
            show_default="all of the checkpoint",
        ),
    ] = None
    precision: Annotated[
        Precision, Option(help="Precision; auto means bf16 on CUDA and on CPUs that have it, else fp32.")
    ] = "auto"
    batch_size: Annotated[
        int | None, Option(min=1, help="Number of fields computed at once.", show_default="1 on the CPU, 16 on CUDA")
    ] = None
    strict: Annotated[
        bool, Option("--strict", help="Write nothing and exit with 3 if the input is far outside the training data.")
    ] = False
    skip_bad_hours: Annotated[
        bool, Option("--skip-bad-hours", help="Leave out hours with missing, unphysical or damaged input values.")
    ] = False

    def __post_init__(self) -> None:
        from ldmdown.data.statistics import check_statistics  # with NumPy, for which --help need not wait

        areas = [f"--{name}" for name in ("bbox", "region", "points") if getattr(self, name) is not None]
        if len(areas) > 1:
            fix = f"leave out {' or '.join(areas)}"
            raise LdmdownError(" and ".join(areas), "exclude each other", fix=fix)
        correlation = self.temporal_correlation
        if correlation is not None and not 0 <= correlation <= MAX_CORRELATION:
            raise LdmdownError(
                "--temporal-correlation", "is out of range", found=f"{correlation:g}", expected=CORRELATIONS
            )
        check_statistics(self.statistics)
        if self.keep_members and not self.statistics:
            raise LdmdownError("--keep-members", "goes with --statistics alone", fix="leave it out: members are kept")
        for name, limit in MAX_OPTIONS.items():
            value = getattr(self, name)
            if value is not None and not (0 if name == "seed" else 1) <= value <= limit:
                option = f"--{name.replace('_', '-')}"
                raise LdmdownError(option, "is out of range", found=str(value), expected=f"1 to {limit}")


@dataclass(frozen=True)
class RunOptions:
    """Where it runs, and what becomes of an output that is there already."""

    device: Device = "auto"
    processes: Annotated[
        int, Option(min=1, help="Number of processes that share the hours and the cores of this machine.")
    ] = 1
    overwrite: Overwrite = False
    resume: Annotated[bool, Option("--resume", help="Complete an interrupted run.")] = False
    dry_run: Annotated[
        bool, Option("--dry-run", help="Print hours, size, time and memory, from the first hours; write nothing.")
    ] = False


@dataclass(frozen=True)
class ConvertOptions:
    """What is assumed of published weights, which do not say it, and whether an output that exists is replaced."""

    wind: Annotated[
        Literal["unknown", "earth", "rotated-168", "rotated-170"],
        Option(help="Wind direction: unknown, earth-relative, or along a grid with its pole at this longitude."),
    ] = "unknown"
    regridding: Annotated[
        Literal["bilinear", "nearest"],
        Option(help="Regridding of ERA5 to the coarse grid; the authors do not describe theirs."),
    ] = "bilinear"
    overwrite: Overwrite = False


@dataclass(frozen=True)
class CheckpointOptions:
    """How checkpoints are scored on an archive; of several runs of an hour the last is."""

    period: Annotated[Literal["test", "validation", "train"], Option(help="Split of the archive to score.")] = "test"
    members: Annotated[int, Option(min=1, help="Ensemble members per checkpoint.")] = 8
    source: Annotated[
        str | None, Option(help="Source of the archive to score, if it has several (`data.sources`).")
    ] = None
    every: Annotated[int, Option(min=1, help="Score every n-th hour of the archive.")] = 1
    seed: Annotated[int, Option(min=0, help="Random seed of the initial noise.")] = 0
    consistency: KeptBoxes = None
    device: Device = "auto"


@dataclass(frozen=True)
class StationOptions:
    """Measurements that are scored against beside the fields."""

    stations: Annotated[
        Path | None, Option(help="CSV of hourly station measurements, beside a reference or alone; columns as above.")
    ] = None
    nearest: Annotated[
        bool, Option("--nearest", help="Take the nearest cell at a station instead of interpolating.")
    ] = False
    height_correction: Annotated[
        bool, Option("--height-correction", help="Correct temperatures to the stations' heights by 6.5 K/km.")
    ] = False


@dataclass(frozen=True)
class PlotOptions:
    """What is drawn."""

    variables: Annotated[
        Sequence[str],
        Option(
            parser=_names, metavar="NAMES", help="Variables, one in each row of the picture.", show_default="t2m,ws10"
        ),
    ] = ("t2m", "ws10")
    time: Annotated[
        str | None, Option(metavar="TIME", help="Hour to draw, or first of a film.", show_default="the first")
    ] = None
    member: Annotated[int, Option(min=0, help="Number of the ensemble member to draw, from 0.")] = 0
    arrows: Annotated[bool, Option("--arrows", help="Draw arrows of wind.")] = False
    extent: Annotated[Box | None, Option(metavar="W S E N", help="Box to draw, in degrees.", show_default="all")] = None
