"""Every choice of architecture, sampling and training, with its default; a YAML file says only what differs.

The models receive these numbers as keyword arguments and the checkpoint carries them, so that no other
file holds a default. Lengths on the grid are metres; sizes are cells.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ldmdown.errors import LdmdownError

BUNDLED = Path(__file__).parent / "presets" / "twin.yaml"
DEFAULT = Path("ldmdown.yaml")
PRESETS = ("paper-t2m", "paper-uv")  # YAML files in this folder, for `preset: NAME`
Precision = Literal["auto", "fp32", "bf16"]


def _whole_years(value: Any) -> Any:
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(year, int) for year in value):
        return date(value[0], 1, 1), date(value[1], 12, 31)
    return value


Period = Annotated[tuple[date, date], BeforeValidator(_whole_years)]
"""First and last day, or year, both included."""


class Section(BaseModel):
    """A frozen part of the configuration that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class GridConfig(Section):
    """The fine grid, first row in the north; the coarse grid has `factor` times its spacing."""

    crs: str = "EPSG:3035"
    west: float = 3910000  # western edge of the first column [m]
    north: float = 2698000  # northern edge of the first row [m]
    rows: int = 672
    cols: int = 576
    spacing: float = 2000  # [m]
    factor: int = 8

    @model_validator(mode="after")
    def _divides(self) -> GridConfig:
        if self.rows % self.factor or self.cols % self.factor:
            raise ValueError(f"rows and cols must be multiples of factor ({self.factor})")
        return self


class TwinConfig(Section):
    """The synthetic pairs that `ldmdown twin` writes and `prepare` writes first when the files are absent."""

    periods: tuple[Period, ...] = ((date(2021, 1, 1), date(2021, 1, 4)),)
    every: int = Field(default=1, ge=1)  # of the days in periods take every n-th
    seed: int = 0
    orography: str | None = None  # fine terrain [m]; None: the built-in analytic one
    coarse_orography: str | None = None  # ERA5's terrain [m]; None: the fine one, smoothed


class Split(Section):
    """Whole days, or years, for each use; days in none of them are left out, so that a gap is what is not named."""

    train: tuple[Period, ...]
    validation: tuple[Period, ...]
    test: tuple[Period, ...] = ()
    gap: int = Field(default=1, ge=0)  # days at least between two uses, whose weather would else be the same

    @model_validator(mode="after")
    def _disjoint(self) -> Split:
        named = sorted(
            (first, last, use) for use in ("train", "validation", "test") for first, last in getattr(self, use)
        )
        for first, last, use in named:
            if last < first:
                raise ValueError(f"{use}: {last} is before {first}")
        for (_, last, use), (first, _, other) in itertools.pairwise(named):
            if first <= last:
                raise ValueError(f"{other} from {first} overlaps {use} to {last}")
            if use != other and (first - last).days <= self.gap:
                raise ValueError(f"{other} from {first} leaves no gap of {self.gap} days after {use} to {last}")
        return self


def _one_or_many(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Files = Annotated[tuple[str, ...], BeforeValidator(_one_or_many)]
"""Names or globs, one or a list, from the configuration's folder."""


class StaticFiles(Section):
    """What the fields of the ground in `statics.given` are made from: GeoTIFF (tiles too), NetCDF or GRIB."""

    terrain: Files = ()  # heights [m], or geopotential: z, z_std
    land_sea_mask: Files = ()  # 0 sea to 1 land: land_sea_mask, coast_distance
    land_cover: Files = ()  # numbers of classes: land_cover_NUMBER, the share of a cell


class DataConfig(Section):
    """Where the raw files are and the archive goes: globs allowed, relative to the configuration file."""

    era5: Files = ("era5/*.nc",)
    reference: Files = ("reference/*.nc",)
    published: str | None = None  # instead of both: the folder of the archive that the paper published
    statics: StaticFiles = StaticFiles()
    archive: str = "archive.zarr"
    split: Split


class StaticsConfig(Section):
    """What the networks are told about the ground."""

    given: tuple[str, ...] = ()  # fields of the ground, in the order of the channels; none: estimate an embedding
    embedding: int = 8  # fields of the ground that the training hours tell of (models/ground)


class UNetConfig(Section):
    """The conditional mean."""

    features: tuple[int, ...] = (48, 96, 128)
    bottleneck: int = 128
    stem: int = 2  # pixel-unshuffle before the first level; 1: none
    baseline: Literal["zero", "bilinear"] = "bilinear"  # what the network's output is added to


class AutoencoderConfig(Section):
    """The latent space of the residual: an exact lapped orthogonal transform, or the paper's KL-VAE."""

    kind: Literal["lapped", "kl"] = "lapped"
    levels: int = 3
    multiplier: int = 4  # kl: channels at level i are max(minimum, targets x multiplier^i)
    minimum: int = 16
    kl_weight: float = 0.01


class ConditionerConfig(Section):
    """What the denoiser is told about the coarse state and the ground, on the coarse grid and below."""

    static_encoder: Literal["convolutional", "unshuffled"] = "unshuffled"
    multiplier: int = 3  # convolutional: channels at level i are max(16, statics x multiplier^i)
    norm: Literal["group", "layer"] = "group"  # convolutional: of its residual blocks
    statics_dim: int = 64
    predictors_dim: int = 32
    out_dim: int = 128
    depth: int = 2  # mixing blocks in each branch
    mixer: Literal["spectral", "local"] = "local"


class ScaleConfig(Section):
    """The network that predicts the std of each latent channel, by which latents are divided."""

    conditioner: ConditionerConfig = ConditionerConfig(statics_dim=48, predictors_dim=16, out_dim=64, depth=1)


class DenoiserConfig(Section):
    """The U-Net on latents."""

    channels: int = 192
    multipliers: tuple[float, ...] = (1, 1.5)
    blocks: int = 2
    cross_levels: tuple[int, ...] = (0, 1)  # levels with cross blocks; the middle always has one
    mixer: Literal["spectral", "local"] = "local"
    norm: Literal["none", "layer"] = "layer"


class GanConfig(Section):
    """The discriminator that the stage `gan` sets against a U-Net of its own."""

    widths: tuple[int, ...] = (64, 128, 256, 512)
    weight: float = 0.2  # of its judgement beside the absolute error
    start: float = 0.25  # of the stage's steps, after which it joins


class DiffusionConfig(Section):
    """beta = linspace(sqrt(first), sqrt(last), steps)^2; the network predicts v (arXiv 2202.00512)."""

    steps: int = 1000
    beta_first: float = 1e-4
    beta_last: float = 2e-2


class SamplerConfig(Section):
    """How a sample is drawn unless the command line says otherwise."""

    name: Literal["dpmpp", "ddim"] = "dpmpp"
    steps: int = Field(default=10, ge=1)
    spacing: Literal["trailing", "logsnr"] = "trailing"  # of dpmpp


class StageConfig(Section):
    """One training stage. `crop` is in coarse cells; `batch` counts crops over all processes."""

    steps: int = Field(ge=0)  # 0: keep the weights that the stage starts from
    rate: float
    batch: int
    crop: int = 16
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 1e-3
    schedule: Literal["cosine", "plateau"] = "cosine"  # of the rate; plateau: x 0.25 after 4 validations without gain
    warmup: float = 0.05  # cosine: fraction of the steps, before it falls to zero
    clip: float = 1.0
    ema: float = 0.998
    validate_every: int = 200
    patience: int = 10  # validations without a better loss, then the stage ends


class TrainConfig(Section):
    """Where a run keeps its state, and its stages."""

    run: str = "run"
    seed: int = 0
    precision: Precision = "auto"  # of matrix products and convolutions; auto: bf16 on CUDA
    compile: bool = False  # the networks, by torch.compile: a wait at first, then faster on CUDA
    start: str | None = None  # a checkpoint, by file or name, whose weights the networks start from where they fit
    unet: StageConfig = StageConfig(steps=4000, rate=1e-3, batch=16, ema=0.99)
    gan: StageConfig = StageConfig(steps=4000, rate=2e-4, batch=16, betas=(0.5, 0.9), ema=0.99)
    vae: StageConfig = StageConfig(steps=4000, rate=1e-3, batch=16, ema=0.99)
    scale: StageConfig = StageConfig(steps=1000, rate=1e-3, batch=32, ema=0.99)
    ldm: StageConfig = StageConfig(steps=10000, rate=8e-4, batch=32)


class Config(Section):
    """A whole system: data, networks, sampler and training."""

    name: str
    description: str = ""
    license: str = "none given"  # of the checkpoint
    provenance: str = ""  # whose data it was trained on
    grid: GridConfig = GridConfig()
    predictors: tuple[str, ...] = ("t2m", "u10", "v10", "cossza")
    targets: tuple[str, ...] = ("t2m", "u10", "v10")
    data: DataConfig
    twin: TwinConfig | None = None
    statics: StaticsConfig = StaticsConfig()
    unet: UNetConfig = UNetConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    conditioner: ConditionerConfig = ConditionerConfig()
    residual: bool = True  # latents are those of target - mean; false: of the target itself
    scale: ScaleConfig | None = ScaleConfig()
    gan: GanConfig | None = None
    denoiser: DenoiserConfig = DenoiserConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    sampler: SamplerConfig = SamplerConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: str | None = None  # what `downscale` uses in this folder


def load_config(path: Path | None) -> tuple[Config, Path]:
    """The configuration and the folder that its paths start from.

    Read from `path`, or ./ldmdown.yaml, or else the bundled twin's.

    Raises
    ------
    LdmdownError
        if the file is missing, is not YAML, or holds unknown or unusable keys.
    """
    if path is None and not DEFAULT.exists():
        return parse_config(BUNDLED), Path()
    path = path or DEFAULT
    return parse_config(path), path.parent


def preset(name: str) -> Config:
    """A configuration that comes with ldmdown.

    Raises
    ------
    LdmdownError
        if there is none of this name.
    """
    return Config.model_validate(_preset(name, Path(name)))


def _preset(name: str, path: Path) -> dict[str, Any]:
    if name not in PRESETS:
        raise LdmdownError(path, "names no preset", found=name, expected=", ".join(PRESETS))
    return _read(Path(__file__).parent / "presets" / f"{name}.yaml")


def _read(path: Path) -> Any:
    """The content of a YAML file, laid over that of the preset that it names."""
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise LdmdownError(
            path, "no such configuration", fix="name an existing YAML file; examples/ holds some"
        ) from None
    except yaml.YAMLError as error:
        raise LdmdownError(path, "is not readable as YAML", found=str(error)) from None
    if isinstance(content, dict) and "preset" in content:
        return _overlay(_preset(content.pop("preset"), path), content)
    return content


def _overlay(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = _overlay(below[key], value) if both else value
    return merged


def parse_config(path: Path) -> Config:
    """Read and check one YAML file; see `load_config`."""
    content = _read(path)
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise LdmdownError(path, "\n  ".join(_explain(error)), fix="mend these keys") from None


def _explain(error: ValidationError) -> Iterator[str]:
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        text = item["msg"]
        if item["type"] == "extra_forbidden":
            *parents, key = item["loc"]
            near = difflib.get_close_matches(str(key), _keys(Config, parents), n=1)
            text = "unknown key" + (f", did you mean {near[0]}?" if near else "")
        yield f"{where}: {text}"


def _keys(section: Any, parents: list[int | str]) -> list[str]:
    for parent in parents:
        field = section.model_fields.get(parent)
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        section = next((kind for kind in kinds if hasattr(kind, "model_fields")), None)
        if section is None:
            return []
    return list(section.model_fields)
