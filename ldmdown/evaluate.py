"""`ldmdown evaluate`: how far predictions lie from a reference, hour by hour, on the first prediction's grid.

Everything else is interpolated bilinearly to that grid; hours are read one by one, so memory does not grow.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ldmdown import metrics
from ldmdown.data.era5 import open_era5, source_grid
from ldmdown.data.grid import Array, SourceGrid, regrid
from ldmdown.data.reference import Reference, open_reference
from ldmdown.data.variables import variable
from ldmdown.errors import LdmdownError

Fields = NDArray[np.float32]  # (member, variable, rows, cols)

KNOWN = ("t2m", "u10", "v10")
SPEED = "ws10"
SHOWN = ("rmse", "bias", "mae", "r2", "pcc", "crps", "spread_skill")


@dataclass(frozen=True)
class Prediction:
    """A file, and the way from its grid to the grid of the scores."""

    name: str
    fields: Reference
    weights: Any  # None: it is on that grid
    index: dict[int, int]

    def read(self, hour: int, shape: tuple[int, int]) -> Fields:
        """(member, variable, rows, cols); a file without members has one."""
        values = self.fields.read(self.index[hour])
        values = np.moveaxis(values, 1, 0) if values.ndim == 4 else values[None]
        return values if self.weights is None else regrid(self.weights, values, shape)


def evaluate(predictions: Sequence[Path], reference: Sequence[Path], output: Path) -> None:
    """Write scores.json and scores.csv to a folder, and print a table.

    Parameters
    ----------
    predictions
        outputs of `downscale`, other gridded fields, or ERA5 itself; one file each.
    reference
        files of the fields that count as true, such as VHR-REA_IT's, all together.

    Raises
    ------
    LdmdownError
        if a file cannot be read, or no variable, place or hour is in all of them.
    """
    names = _common_names([*predictions, reference[0]])
    opened = [_open([path], names) for path in predictions]
    truth = _open(reference, names)
    grid = opened[0].source
    lon, lat = grid.lonlat()
    parts = [_on_grid(str(path), one, grid, lat, lon) for path, one in zip(predictions, opened, strict=True)]
    true = _on_grid("reference", truth, grid, lat, lon)
    hours = sorted(set(true.index).intersection(*(part.index for part in parts)))
    if not hours:
        raise LdmdownError(
            predictions[0],
            "and the reference have no hour in common",
            found=f"{_span(opened[0])}, reference {_span(truth)}",
            cure="give files of the same hours",
        )
    rows: list[dict[str, Any]] = []
    for hour in track(hours, "scoring", console=Console(stderr=True)):
        target = _with_speed(true.read(hour, lat.shape), names)[0]
        for part in parts:
            fields = _with_speed(part.read(hour, lat.shape), names)
            for channel, name in enumerate(_shown(names)):
                when = str(np.datetime64(hour, "h"))
                rows.append({"prediction": part.name, "time": when, "variable": name}
                            | score(fields[:, channel], target[channel]))  # fmt: skip
    output.mkdir(parents=True, exist_ok=True)
    _write(output, rows, summarize(rows), grid, hours)
    _print(summarize(rows))
    print(f"wrote {output / 'scores.json'} and {output / 'scores.csv'}: {len(hours)} hours", file=sys.stderr)


def score(fields: NDArray[np.float32], target: NDArray[np.float32]) -> dict[str, float]:
    """Of one hour and variable: (member, rows, cols) against (rows, cols), where neither is missing.

    Of the first member; with several members also of their mean, fair CRPS and spread over error.
    """
    valid = np.isfinite(target) & np.isfinite(fields).all(axis=0)
    if not valid.any():
        return {}
    members, truth = fields[:, valid], target[valid]
    first = members[0]
    result = {
        "rmse": metrics.rmse(first, truth),
        "bias": metrics.bias(first, truth),
        "mae": metrics.mae(first, truth),
        "r2": metrics.r2(first, truth),
        "pcc": metrics.pcc(first, truth),
    }
    if len(members) > 1:
        result["rmse_of_mean"] = metrics.rmse(members.mean(axis=0), truth)
        result["crps"] = metrics.crps(members, truth)
        result["spread_skill"] = metrics.spread_skill(members, truth)
    return result


def summarize(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """By prediction and variable, the mean over hours; of RMSE the root of the mean square."""
    hourly: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        scores = hourly.setdefault((row["prediction"], row["variable"]), {})
        for key, value in row.items():
            if key not in ("prediction", "time", "variable"):
                scores.setdefault(key, []).append(value)
    result: dict[str, dict[str, dict[str, float]]] = {}
    for (prediction, name), scores in hourly.items():
        means = {key: float(np.mean(values)) for key, values in scores.items()}
        roots = {key: float(np.sqrt(np.mean(np.square(values)))) for key, values in scores.items() if "rmse" in key}
        result.setdefault(prediction, {})[name] = means | roots
    return result


def _common_names(files: Sequence[Path]) -> list[str]:
    """The variables that all files hold."""
    held: list[set[str]] = []
    for file in files:
        try:
            with xr.open_dataset(file, engine="netcdf4") as dataset:
                content = {str(name) for name in dataset.variables}
        except (OSError, ValueError) as error:
            raise LdmdownError(file, "cannot be read as NetCDF", found=str(error)) from None
        held.append({name for name in KNOWN if content & {name, *variable(name).aliases}})
    common = [name for name in KNOWN if all(name in one for one in held)]
    common = [
        name for name in common if name == "t2m" or {"u10", "v10"} <= set(common)
    ]  # one component cannot be turned
    if not common:
        raise LdmdownError(
            files[0],
            "and the other files have no variable in common",
            found="; ".join(
                f"{file}: {', '.join(sorted(one)) or 'none'}" for file, one in zip(files, held, strict=True)
            ),
            expected=f"one of {', '.join(KNOWN)}",
        )
    return common


def _open(files: Sequence[Path], names: Sequence[str]) -> Reference:
    with xr.open_dataset(files[0], engine="netcdf4") as dataset:
        geographic = {"latitude", "longitude"} <= set(dataset.dims)
    if not geographic:
        return open_reference(files, names)
    era5 = open_era5(files, names)
    return Reference(era5, names, source_grid(era5), files[0])


def _on_grid(name: str, fields: Reference, grid: SourceGrid, lat: Array, lon: Array) -> Prediction:
    hours = fields.times.astype("datetime64[h]").astype(np.int64).tolist()
    index = {hour: place for place, hour in enumerate(hours)}
    source = fields.source
    same = source.crs == grid.crs and source.shape == grid.shape
    if same and np.allclose(source.x, grid.x) and np.allclose(source.y, grid.y):
        return Prediction(name, fields, None, index)
    if not source.covers(lat, lon).any():
        raise LdmdownError(fields.file, "covers nothing of the first prediction's area")
    print(f"{name}: interpolated to the grid of the first prediction", file=sys.stderr)
    return Prediction(name, fields, source.weights(lat, lon), index)


def _shown(names: Sequence[str]) -> list[str]:
    return [*names, SPEED] if "u10" in names else list(names)


def _with_speed(fields: Fields, names: Sequence[str]) -> Fields:
    """With the wind speed of each member as a further variable."""
    if "u10" not in names:
        return fields
    u, v = (fields[:, names.index(name)] for name in ("u10", "v10"))
    return np.concatenate([fields, np.hypot(u, v)[:, None]], axis=1)


def _span(fields: Reference) -> str:
    first, last = (np.datetime_as_string(fields.times[place], unit="h") for place in (0, -1))
    return f"{first} to {last}"


def _write(
    output: Path, rows: Sequence[dict[str, Any]], summary: dict[str, Any], grid: SourceGrid, hours: Sequence[int]
) -> None:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    with (output / "scores.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, keys, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    names = {row["variable"] for row in rows}
    content = {
        "hours": len(hours),
        "first": str(np.datetime64(hours[0], "h")),
        "last": str(np.datetime64(hours[-1], "h")),
        "grid": f"{grid.shape[0]} x {grid.shape[1]} cells, {grid.crs.name}",
        "units": {name: variable(name).units for name in sorted(names)},
        "scores": summary,
    }
    (output / "scores.json").write_text(json.dumps(content, indent=1))


def _print(summary: dict[str, dict[str, dict[str, float]]]) -> None:
    held = [key for key in SHOWN if any(key in scores for part in summary.values() for scores in part.values())]
    table = Table("prediction", "variable", *held)
    for prediction, variables in summary.items():
        for name, scores in variables.items():
            table.add_row(prediction, name, *(f"{scores[key]:.3f}" if key in scores else "" for key in held))
    Console().print(table)
