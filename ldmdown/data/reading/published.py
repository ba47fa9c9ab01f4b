"""The archive that the paper's authors published, as a source of paired hours.

A day is a file for predictors and one for each group of targets, `YYYY/YYYY-MM-DD_{low,high_2mT,high_UV}.pt.zst`:
a zstandard-compressed `torch.save` of a list of 24 dicts {variable: 2-D tensor}, normalised with
`normalization_data.pkl`. Tensors alone are read, nothing is executed (data/reading/pickles).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zstandard

from ldmdown.data.normalization import Normalization
from ldmdown.data.reading import pickles
from ldmdown.data.variables import variable, variable_called
from ldmdown.errors import LdmdownError
from ldmdown.typing import Float32Array, IntArray

StatisticsOf = Literal["ERA5", "CMCC"]  # of predictors and of targets

STATISTICS = "normalization_data.pkl"
METADATA = "metadata.csv"
STATICS = "static_var"
GROUPS = {("t2m",): "high_2mT", ("u10", "v10"): "high_UV"}
FILL_VALUE = -10 + 1e-3  # normalised values below mark a missing sea surface temperature


def read_statistics(path: Path, source: StatisticsOf, names: Sequence[str]) -> Normalization:
    """Mean and std by our names, of normalization_data.pkl or of the same numbers as JSON.

    Raises LdmdownError if the file cannot be read safely, or lacks a variable.
    """
    content = pickles.read_statistics(path)
    parts: dict[str, dict[str, float]] = {"mean": {}, "std": {}}
    for kind, found in parts.items():
        try:
            held = {variable_called(key): value for key, value in content[source][kind].items()}
        except (KeyError, TypeError, AttributeError):
            raise LdmdownError(
                path, f"has no [{source!r}][{kind!r}]", expected="['ERA5'|'CMCC']['mean'|'std'][variable]"
            ) from None
        for name in names:
            if name not in held:
                raise LdmdownError(
                    path, f"{name} has no {kind} in {source}", found=", ".join(sorted(content[source][kind]))
                )
            found[name] = float(np.asarray(held[name]).item())
    return Normalization(parts["mean"], parts["std"])


class PublishedDay:
    """Predictors, or the targets of one group, of a day's file, hour by hour in physical units.

    Args:
        folder: of the archive.
        files: of which there is one a day.
        names: the variables in the order of the channels; targets must be one group, t2m or u10 and v10.
        shape: (rows, cols) that a field must have.
    """

    def __init__(
        self, folder: Path, files: Sequence[str], names: Sequence[str], source: StatisticsOf, shape: tuple[int, int]
    ) -> None:
        self.names, self.source, self.shape = tuple(names), source, shape
        self.notes: Sequence[str] = ()
        self._places = [(Path(file), hour) for file in files for hour in range(24)]
        self.hours = np.array([_hour(file) + hour for file, hour in self._places], np.int64)
        self.normalization = read_statistics(folder / STATISTICS, source, names)

    def read(self, index: int) -> Float32Array:
        """(variable, rows, cols) of one hour; NaN where a variable may be missing and is.

        Raises LdmdownError if the file is not of this kind, or a value is missing that must not be or is not physical.
        """
        file, hour = self._places[index]
        day = _read_day(file)
        if not isinstance(day, list) or len(day) != 24 or not isinstance(day[hour], dict):
            raise LdmdownError(file, "is not a day of the published archive", expected="a list of 24 dicts")
        held = {variable_called(str(name)): tensor for name, tensor in day[hour].items()}
        missing = [name for name in self.names if name not in held]
        if missing:
            raise LdmdownError(file, f"{', '.join(missing)} missing", found=", ".join(day[hour]))
        fields = np.stack([held[name].array().astype(np.float32) for name in self.names])
        if fields.shape[1:] != self.shape:
            raise LdmdownError(
                file,
                "is on another grid than the configuration's",
                found=" x ".join(map(str, fields.shape[1:])),
                expected=" x ".join(map(str, self.shape)),
            )
        for channel, name in enumerate(self.names):
            if variable(name).fill is not None:
                fields[channel][fields[channel] < FILL_VALUE] = np.nan
        fields = self.normalization.denormalize(fields, self.names)
        for name, field in zip(self.names, fields, strict=True):
            low, high = variable(name).bounds if self.source == "CMCC" else (-np.inf, np.inf)  # ERA5's were regridded
            wrong = (field < low) | (field > high) | (np.isnan(field) if variable(name).fill is None else False)
            if np.any(wrong):
                raise LdmdownError(
                    file,
                    f"{name} is missing or not physical in hour {hour}",
                    found=f"{field[wrong][0]:g}",
                    expected=f"{low:g} to {high:g} {variable(name).units}",
                )
        return fields


def catalogue(folder: Path, targets: Sequence[str]) -> dict[str, dict[str, IntArray]]:
    """The files of predictors ("era5") and of a group of targets ("reference"), and the hours of each.

    Hours that metadata.csv does not list, where there is one, are left out.

    Raises LdmdownError if there are no files, or no such group of targets.
    """
    group = GROUPS.get(tuple(targets))
    if group is None:
        groups = " or ".join(", ".join(group) for group in GROUPS)
        raise LdmdownError(folder, "holds no such group of targets", found=", ".join(targets), expected=groups)
    listed = _listed(folder / METADATA)
    found = {}
    for kind, ending in (("era5", "low"), ("reference", group)):
        files = sorted(folder.glob(f"*/*_{ending}.pt.zst"))
        if not files:
            raise LdmdownError(
                folder,
                "no such files",
                found=f"no YYYY/YYYY-MM-DD_{ending}.pt.zst",
                fix="correct data.published, or download them",
            )
        hours = {str(file): _hour(file) + np.arange(24) for file in files}
        found[kind] = {file: held if listed is None else held[np.isin(held, listed)] for file, held in hours.items()}
    return found


@lru_cache(maxsize=3)
def _read_day(file: Path) -> Any:
    with file.open("rb") as packed, zstandard.ZstdDecompressor().stream_reader(packed) as stream:
        content = io.BytesIO(stream.read())
    return pickles.read_torch(content, file)


def _hour(file: Path) -> int:
    """The first hour of a file, since 1970-01-01T00."""
    return int(np.datetime64(file.name[:10], "h").astype(np.int64))


def _listed(path: Path) -> IntArray | None:
    """The hours that metadata.csv lists; None if there is none."""
    if not path.exists():
        return None
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    hours = [np.datetime64(row["ref_time"][:10], "h").astype(np.int64) + int(row["hour"]) for row in rows]
    return np.array(hours, np.int64)
