"""`ldmdown info`: the card of a checkpoint or of an output, without torch and without reading a weight or a field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldmdown.atomic import sha256
from ldmdown.errors import LdmdownError
from ldmdown.header import SUFFIX, find, read_header

SHOWN = 16  # numbers of a list
MAX_LENGTH = 4000  # characters of a part of a checkpoint's card
COLUMN = 24  # where values begin


def card(name: str, *, as_json: bool = False) -> str:
    """The card of a checkpoint (by path or name) or of a file of fields, as text, or all of it as JSON.

    Raises LdmdownError if it is neither.
    """
    path = Path(name)
    if path.exists() and path.suffix != SUFFIX:
        found = _fields(path)
        return json.dumps(found, indent=1, default=str) if as_json else _table(found)
    path = find(name)
    header = read_header(path)
    found = {"file": path, "bytes": path.stat().st_size, "sha256": sha256(path), **header}
    return json.dumps(found, indent=1, default=str) if as_json else _table(_checkpoint(found))


def schema() -> str:
    """The JSON schema of a configuration, with which editors complete and check YAML files."""
    from ldmdown.config import Config

    return json.dumps(Config.model_json_schema(), indent=1)


def _checkpoint(found: dict[str, Any]) -> dict[str, Any]:
    """What people look for first, in words, and then the rest of a header."""
    config = found.pop("config")
    grid = config["grid"]
    return {
        "checkpoint": f"{found.pop('file')}, {found.pop('bytes') / 1e6:.1f} MB",
        "sha256": found.pop("sha256"),
        "name": found.pop("name"),
        "description": config["description"] or "none given",
        "license": config["license"],
        "provenance": config["provenance"] or "none given",
        "predictors": config["predictors"],
        "targets": config["targets"],
        "grid": f"{grid['rows']} x {grid['cols']} cells of {grid['spacing']:g} m, {grid['crs']}",
        "latents": config["autoencoder"]["kind"],
        "sampler": ", ".join(f"{key} {value}" for key, value in config["sampler"].items()),
        **{name: _names_of_long(value) for name, value in found.items()},
    }


def _names_of_long(value: Any) -> Any:
    """A part of the header, or what it holds in names if it is long."""
    long = isinstance(value, Mapping) and len(json.dumps(value)) > MAX_LENGTH
    return f"{', '.join(value)} (their numbers: --json)" if long else value


def _fields(path: Path) -> dict[str, Any]:
    """The variables, grid and hours of the files at a path, and the attributes of the files."""
    from ldmdown.data.reading.fields import fields_of
    from ldmdown.data.reading.files import GriddedFiles

    with GriddedFiles([path]) as files:
        names = files.variables()
        if not names:
            raise LdmdownError(path, "holds no variable that ldmdown knows", expected="an output of ldmdown")
        fields = fields_of(files, names)
        card = {
            "file": path,
            "variables": names,
            "members": len(fields.members),
            "hours": len(fields),
            **{end: str(fields.times[place])[:16] for end, place in (("first", 0), ("last", -1))},
            **dict(zip(("rows", "cols"), fields.grid.shape, strict=True)),
            "area": fields.grid.box,
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
