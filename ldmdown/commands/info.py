"""`ldmdown info`: the card of a checkpoint or of an output, without torch and without reading a weight or a field."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldmdown.atomic import sha256
from ldmdown.errors import LdmdownError
from ldmdown.header import SUFFIX, find, read_header

SHOWN = 16  # numbers of a list
COLUMN = 24  # where values begin


def card(name: str) -> str:
    """The card of a checkpoint (by path or name) or of an output of `downscale`, as text.

    Raises LdmdownError if it is neither.
    """
    path = Path(name)
    return _table(_output(path) if path.exists() and path.suffix != SUFFIX else _checkpoint(find(name)))


def _checkpoint(path: Path) -> dict[str, Any]:
    header = read_header(path)
    config = header.pop("config")
    grid = config["grid"]
    return {
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


def _output(path: Path) -> dict[str, Any]:
    """The variables, grid and hours of the files at a path, and the attributes of the files."""
    from ldmdown.data.reading.blocks import span
    from ldmdown.data.reading.fields import fields_of
    from ldmdown.data.reading.files import GriddedFiles

    with GriddedFiles([path]) as files:
        names = files.variables()
        if not names:
            raise LdmdownError(path, "holds no variable that ldmdown knows", expected="an output of ldmdown")
        fields = fields_of(files, names)
        rows, cols = fields.grid.shape
        card = {
            "file": path,
            "fields": ", ".join(names),
            "members": fields.members,
            "hours": f"{len(fields)}, {span(fields.hours)}",
            "grid": f"{rows} x {cols} cells, {fields.grid.box}",
        }
        for source in files.sources:
            card |= source.attributes
        return card


def _table(values: Mapping[str, Any], indent: str = "") -> str:
    lines = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{key}", _table(value, indent + "  ")]
        else:
            lines.append(f"{indent + key:<{COLUMN}}{_text(value)}")
    return "\n".join(lines)


def _text(value: Any) -> str:
    if isinstance(value, list) and len(value) > SHOWN and all(isinstance(one, float) for one in value):
        return f"{len(value)} values, {min(value):.3g} to {max(value):.3g}"
    if isinstance(value, list):
        return ", ".join(_text(one) if not isinstance(one, list) else " to ".join(map(_text, one)) for one in value)
    return f"{value:.5g}" if isinstance(value, float) else str(value)
