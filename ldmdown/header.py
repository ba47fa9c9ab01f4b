"""What a checkpoint or an output says of itself: found, read and printed without the weights, and without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import netCDF4
from safetensors import SafetensorError, safe_open

from ldmdown.config import upgrade
from ldmdown.errors import LdmdownError

FORMAT = 2
KEY = "ldmdown"
SUFFIX = ".safetensors"
FOLDERS = (
    Path("checkpoints"),
    Path(__file__).with_name("checkpoints"),  # in a wheel
    Path(__file__).parents[1] / "checkpoints",  # in a checkout
)
COLUMN = 24  # where values begin


def find(name: str | Path) -> Path:
    """The file of a checkpoint: a path, or a name in ./checkpoints or among the bundled ones.

    Raises
    ------
    LdmdownError
        if there is none, with the names that exist.
    """
    if Path(name).is_file():
        return Path(name)
    for folder in FOLDERS:
        if (file := folder / f"{name}{SUFFIX}").is_file():
            return file
    known = sorted({file.stem for folder in FOLDERS for file in folder.glob(f"*{SUFFIX}")})
    raise LdmdownError(
        name,
        "no such checkpoint",
        found=", ".join(known) or "no checkpoints",
        expected="a .safetensors file, or the name of one in ./checkpoints or bundled",
        fix="name one of those found" if known else "train one with `ldmdown train`",
    )


def read_header(path: Path) -> dict[str, Any]:
    """The header of a checkpoint; no weight is read.

    Raises
    ------
    LdmdownError
        if the file is no checkpoint of ldmdown, or of a later format.
    """
    try:
        with safe_open(path, framework="np") as file:
            content = (file.metadata() or {}).get(KEY)
    except (SafetensorError, OSError) as error:
        raise LdmdownError(
            path, "is not a checkpoint", found=str(error), expected="a .safetensors file of ldmdown"
        ) from None
    if content is None:
        raise LdmdownError(
            path,
            "holds weights, but no ldmdown header",
            expected="a checkpoint that `ldmdown train` wrote",
        )
    header = json.loads(content)
    if header["format"] > FORMAT:
        raise LdmdownError(
            path,
            "was written by a later version of ldmdown",
            found=f"format {header['format']}",
            expected=f"format {FORMAT}",
            fix="upgrade ldmdown",
        )
    return _upgraded(header) if header["format"] == 1 else header


def _upgraded(header: dict[str, Any]) -> dict[str, Any]:
    """A header of format 1 with today's names."""
    normalization = {
        kind: {"mean": values["mean"], "std": values["deviation"]} for kind, values in header["normalization"].items()
    }
    return header | {"config": upgrade(header["config"]), "normalization": normalization}


def sha256(path: Path) -> str:
    """Hexadecimal hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def card(name: str) -> str:
    """The card of a checkpoint (by path or name) or of an output of `downscale`, as text.

    Raises
    ------
    LdmdownError
        if it is neither.
    """
    if Path(name).suffix == ".nc":
        return _table(_output(name))
    path = find(name)
    header = read_header(path)
    config = header.pop("config")
    grid = config["grid"]
    return _table(
        {
            "checkpoint": f"{path}, {path.stat().st_size / 1e6:.1f} MB",
            "sha256": sha256(path),
            "name": header.pop("name"),
            "description": config["description"] or "none given",
            "license": config["license"],
            "provenance": config["provenance"] or "none given",
            "predictors": ", ".join(config["predictors"]),
            "targets": ", ".join(config["targets"]),
            "grid": f"{grid['rows']} x {grid['cols']} cells of {grid['spacing']:g} m, {grid['crs']}",
            "latents": config["autoencoder"]["kind"],
            "sampler": ", ".join(f"{key} {value}" for key, value in config["sampler"].items()),
            **header,
        }
    )


def _output(name: str) -> dict[str, Any]:
    try:
        with netCDF4.Dataset(name) as dataset:
            attributes = {key: dataset.getncattr(key) for key in dataset.ncattrs()}
            sizes = {key: len(size) for key, size in dataset.dimensions.items() if key != "bnds"}
            fields = [key for key, one in dataset.variables.items() if "grid_mapping" in one.ncattrs()]
    except OSError as error:
        raise LdmdownError(name, "cannot be read", found=str(error), expected="an output of ldmdown") from None
    return {"file": name, "fields": ", ".join(fields), "dimensions": sizes, **attributes}


def _table(values: Mapping[str, Any], indent: str = "") -> str:
    lines = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{key}", _table(value, indent + "  ")]
        else:
            lines.append(f"{indent + key:<{COLUMN}}{_text(value)}")
    return "\n".join(lines)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_text(one) if not isinstance(one, list) else " to ".join(map(_text, one)) for one in value)
    return f"{value:.5g}" if isinstance(value, float) else str(value)
