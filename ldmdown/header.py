"""What a checkpoint says of itself: found and read without the weights, and without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ldmdown.config import upgrade
from ldmdown.errors import LdmdownError

FORMAT = 2
KEY = "ldmdown"
REQUIRED = {"format", "name", "stage", "config", "normalization", "wind", "regridding"}
SUFFIX = ".safetensors"
FOLDERS = (
    Path("checkpoints"),
    Path(__file__).with_name("checkpoints"),  # in a wheel
    Path(__file__).parents[1] / "checkpoints",  # in a checkout
)


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
        if the file is no checkpoint of ldmdown, has an incomplete header, or is of a later format.
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
    try:
        header = json.loads(content)
    except ValueError as error:
        raise LdmdownError(path, "has a header that is not JSON", found=str(error)) from None
    missing = REQUIRED - set(header if isinstance(header, dict) else ())
    if missing:
        raise LdmdownError(
            path,
            "has an incomplete header",
            found=f"no {', no '.join(sorted(missing))}",
            expected=", ".join(sorted(REQUIRED)),
            fix="copy or download the file again",
        )
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
    config = upgrade(header["config"])
    if config["statics"]["fields"]:  # instead of which fields were estimated
        config["statics"]["embedding"] = 0
    return header | {"config": config, "normalization": normalization}
