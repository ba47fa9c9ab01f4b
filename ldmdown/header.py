"""What a checkpoint says of itself: found and read without the weights, and without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError
from safetensors import SafetensorError, safe_open

from ldmdown.config import upgrade
from ldmdown.errors import LdmdownError
from ldmdown.typing import Float32Array

FORMAT = 2
KEY = "ldmdown"
HASH = "content_sha256"  # in the header: a hash of all else in it and of the weights
AGAIN = "copy or download the file again"
Correlation = Annotated[float, Field(ge=-1, lt=1)]  # as measured; what is used is not negative
SUFFIX = ".safetensors"
FOLDERS = (
    Path("checkpoints"),
    Path(__file__).with_name("checkpoints"),  # in a wheel
    Path(__file__).parents[1] / "checkpoints",  # in a checkout
)


def find(name: str | Path) -> Path:
    """The file of a checkpoint: a path, or a name in ./checkpoints or among the bundled ones.

    Raises LdmdownError if there is none, with the names that exist.
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

    Raises LdmdownError if the file is no checkpoint of ldmdown, has an incomplete header, or is of a later format.
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
        later = header["format"] > FORMAT
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise LdmdownError(path, "has no header of ldmdown", found=str(error), fix=AGAIN) from None
    if later:
        raise LdmdownError(
            path,
            "was written by a later version of ldmdown",
            found=f"format {header['format']}",
            expected=f"format {FORMAT}",
            fix="upgrade ldmdown",
        )
    try:
        header = _upgraded(header) if header["format"] == 1 else header
        _Header.model_validate(header)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise LdmdownError(path, "has a damaged header", found=wrong, fix=AGAIN) from None
    except (LookupError, TypeError, AttributeError) as error:
        raise LdmdownError(path, "has a damaged header", found=f"{type(error).__name__}: {error}", fix=AGAIN) from None
    return header


def read_statics(path: Path, header: dict[str, Any]) -> dict[str, Float32Array]:
    """The static fields (rows, cols) that a checkpoint names, normalised; those that it has learned are left out."""
    names = header["config"]["statics"]["fields"]
    with safe_open(path, framework="np") as file:
        fields = file.get_slice("statics")[: len(names)].astype(np.float32)
    return dict(zip(names, fields, strict=True))


class _Statistics(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)

    mean: dict[str, float]
    std: dict[str, PositiveFloat]


class _BoxDifferences(BaseModel):
    """How box means differ from ERA5, by variable (lat, lon)."""

    lat: list[float]
    lon: list[float]
    mean: dict[str, list[list[float | None]]]
    std: dict[str, list[list[float | None]]]


class _Header(BaseModel):
    """What every header holds, beside the card."""

    model_config = ConfigDict(allow_inf_nan=False)

    format: int
    name: str
    stage: Literal["unet", "gan", "ldm"]
    config: dict[str, Any]
    normalization: dict[Literal["predictors", "target"], _Statistics] = Field(min_length=2)
    wind: str = Field(pattern=r"^(earth|unknown|rotated-?\d+(\.\d+)?)$")
    regridding: Literal["bilinear", "nearest"]
    temporal_correlation: Correlation | list[Correlation] = 0.0
    latent_gain: list[PositiveFloat] | None = None
    statics_normalization: dict[str, dict[str, Any]] = {}
    training_truth: dict[str, dict[str, Any]] = {}
    box_differences: _BoxDifferences | None = None
    predictor_law: dict[str, Any] = {}


def _upgraded(header: dict[str, Any]) -> dict[str, Any]:
    """A header of format 1 with today's names."""
    normalization = {
        kind: {"mean": values["mean"], "std": values["deviation"]} for kind, values in header["normalization"].items()
    }
    config = upgrade(header["config"])
    if config["statics"]["fields"]:  # instead of which fields were estimated
        config["statics"]["embedding"] = 0
    return header | {"config": config, "normalization": normalization}
