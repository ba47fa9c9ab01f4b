"""The options of a downscaling, the same on the command line and in Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ldmdown.config import Consistency, Precision, SamplerName
from ldmdown.data.statistics import check_statistics
from ldmdown.errors import LdmdownError
from ldmdown.inference import MAX_CORRELATION

MAX_OPTIONS = {"members": 10_000, "steps": 1000, "batch_size": 1024, "seed": 2**63 - 1}


@dataclass(frozen=True)
class DownscaleOptions:
    """What is computed, and how.

    Args:
        members: number of ensemble members; None: one field and no dimension `realization`.
        seed: random seed of the initial noise.
        steps, sampler: number of sampler steps and name of the sampler; None: the checkpoint's.
        temporal_correlation: correlation of the initial noise of successive hours, 0 to 0.95; None: as measured in
            training.
        start, end: first and last hour, such as 2020-01-31T12; None: those of the data.
        bbox: west, south, east, north [degrees] of a box that is enlarged to whole cells of the coarse grid.
        region: "covered": the part of the domain that the data cover; None: the whole domain.
        points: table of sites (name, lat, lon, height) at which values are wanted, instead of fields.
        consistency: how closely means over ERA5's boxes keep to ERA5: free, as they come out; learned, as closely as
            those of the training fields; exact; None: as the checkpoint's configuration says.
        variables: names of the variables; None: those that the checkpoints make.
        statistics: names of statistics of the members, such as mean and p90, which the output holds instead of the
            members.
        keep_members: whether it holds the members too.
        compression: lossless, or quantized: values are rounded to 0.01 K and 0.01 m s-1, and compress better.
        precision: precision of matrix products and convolutions.
        batch_size: number of members, of one hour or several, that are computed at once.
        strict: refuse input that is far outside the training data.
        skip_bad_hours: leave out hours whose input lacks values, is not physical or cannot be decoded; they are refused
            otherwise.

    Raises LdmdownError if options exclude each other or are out of range.
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
    consistency: Consistency | None = None
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
