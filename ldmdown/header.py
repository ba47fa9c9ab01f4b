"""What a checkpoint says of itself: found and read without the weights, and without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveFloat, ValidationError, model_validator
from safetensors import SafetensorError, safe_open

from ldmdown.config import Config, upgrade
from ldmdown.errors import LdmdownError
from ldmdown.typing import Float32Array

FORMAT = 3
KEY = "ldmdown"
HASH = "content_sha256"  # in the header: a hash of all else in it and of the weights
DIFFERENT = "its parts have different sizes"
AGAIN = "copy or download the file again"
Correlation = Annotated[float, Field(ge=-1, lt=1)]  # as measured; what is used is not negative
CorrelationByGround = Annotated[dict[Literal["land", "sea"], list[Correlation]], Field(min_length=2)]
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
    """The header of a checkpoint, with every key of its configuration; weights are read for their hash alone.

    Raises LdmdownError if the file is no checkpoint of ldmdown, is damaged, incomplete, or of a later format.
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
            path, "holds weights, but no ldmdown header", expected="a checkpoint that `ldmdown train` wrote"
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
        upgraded = _upgraded(header) if header["format"] == 1 else header
        config = _Header.model_validate(upgraded).config
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise LdmdownError(path, "has a damaged header", found=wrong, fix=AGAIN) from None
    except (LookupError, TypeError, AttributeError) as error:
        raise LdmdownError(path, "has a damaged header", found=f"{type(error).__name__}: {error}", fix=AGAIN) from None
    if HASH in header and header[HASH] != content_hash(header, path.read_bytes()):
        raise LdmdownError(path, "is damaged", found="another hash than its header names", fix=AGAIN)
    return upgraded | {"config": config.model_dump(mode="json")}


def content_hash(header: Mapping[str, Any], content: bytes) -> str:
    """The hash of a header, and of the weights in a file of safetensors, which follow its own header."""
    said = json.dumps({key: value for key, value in header.items() if key != HASH}, sort_keys=True)
    weights = memoryview(content)[8 + int.from_bytes(content[:8], "little") :]
    return hashlib.sha256(said.encode() + weights).hexdigest()


def read_statics(path: Path, header: dict[str, Any]) -> dict[str, Float32Array]:
    """The static fields (rows, cols) that a checkpoint names, normalised; those that it has learned are left out."""
    names = header["config"]["statics"]["fields"]
    if not names:
        return {}
    with safe_open(path, framework="np") as file:
        fields = file.get_tensor("statics")[: len(names)].astype(np.float32)
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

    @model_validator(mode="after")
    def _fits(self) -> Self:
        fields = [*self.mean.values(), *self.std.values()]
        sizes = {(len(field), len(row)) for field in fields for row in field}
        if not sizes <= {(len(self.lat), len(self.lon))} or self.mean.keys() != self.std.keys():
            raise ValueError(DIFFERENT)
        return self


class _StaticField(BaseModel):
    """How a static field was normalised; one of which only a part is known has neither."""

    mean: float | None = None
    std: PositiveFloat | None = None


class _PredictorLaw(BaseModel):
    """The law of predictors of data/predictor_law."""

    tiles: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    mean: list[float]
    std: list[PositiveFloat]
    seasonal: list[list[float]]
    correlation: list[list[float]]
    limits: list[PositiveFloat]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        parts: list[Sized] = [self.mean, self.std, self.correlation, *self.seasonal, *self.correlation]
        if len({len(one) for one in parts}) > 1 or len(self.limits) != len(self.tiles):
            raise ValueError(DIFFERENT)
        return self


class _Header(BaseModel):
    """What every header holds, beside the card."""

    model_config = ConfigDict(allow_inf_nan=False)

    format: int
    name: str
    stage: Literal["unet", "gan", "ldm"]
    config: Config
    normalization: dict[Literal["predictors", "target"], _Statistics] = Field(min_length=2)
    wind: str = Field(pattern=r"^(earth|unknown|rotated-?\d+(\.\d+)?)$")
    regridding: Literal["bilinear", "nearest"]
    temporal_correlation: Correlation | list[Correlation] | CorrelationByGround = 0.0
    latent_gain: list[PositiveFloat] | None = None
    student_gain: list[PositiveFloat] | None = None
    statics_normalization: dict[str, _StaticField] = {}
    training_truth: dict[str, dict[str, Any]] = {}
    box_differences: _BoxDifferences | None = None
    predictor_law: Annotated[_PredictorLaw | None, BeforeValidator(lambda held: held or None)] = None


def _upgraded(header: dict[str, Any]) -> dict[str, Any]:
    """A header of format 1 with today's names."""
    normalization = {
        kind: {"mean": values["mean"], "std": values["deviation"]} for kind, values in header["normalization"].items()
    }
    config = upgrade(header["config"])
    if config["statics"]["fields"]:  # instead of which fields were estimated
        config["statics"]["embedding"] = 0
    return header | {"config": config, "normalization": normalization}
