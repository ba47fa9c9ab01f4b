"""Every choice of architecture, sampling and training, with its default; a YAML file says only what differs.

The models receive these numbers as keyword arguments and the checkpoint carries them, so that no other
file holds a default. Lengths on the grid are metres; sizes are cells.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from ldmdown.choices import Consistency, Precision, SamplerName
from ldmdown.errors import LdmdownError

PRESETS = Path(__file__).parent / "presets"
BUNDLED = PRESETS / "twin.yaml"
DEFAULT = Path("ldmdown.yaml")
LAPSE_RATE = 0.0065  # of the standard atmosphere [K m-1]
RENAMED = {  # keys of version 0.1, as patterns, and their names now
    "statics.given": "fields",
    "unet.baseline": "skip",
    "train.start": "init_from",
    "train.*.rate": "learning_rate",
    "train.*.clip": "grad_clip",
}
Fraction = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(gt=0, lt=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Size = Annotated[int, Field(gt=0, le=8192)]  # channels, blocks and the like
Depth = Annotated[int, Field(ge=0, le=10)]  # levels and blocks one after the other
Cells = Annotated[int, Field(gt=0, le=20_000)]
Steps = Annotated[int, Field(gt=0, le=100_000)]  # of a schedule
Widths = Annotated[tuple[Size, ...], Field(min_length=1, max_length=10)]
Name = Annotated[str, Field(pattern=r"^[^/\\\x00-\x1f]{1,100}$")]


def _whole_years(value: Any) -> Any:
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(year, int) for year in value):
        return date(value[0], 1, 1), date(value[1], 12, 31)
    return value


def _day_or_hour(value: Any) -> Any:
    if isinstance(value, str):
        return (datetime if "T" in value or " " in value else date).fromisoformat(value)
    return value


Moment = Annotated[datetime | date, BeforeValidator(_day_or_hour)]
Period = Annotated[tuple[Moment, Moment], BeforeValidator(_whole_years)]
"""First and last day, hour or year, both included."""


def _start(moment: date) -> datetime:
    return moment if isinstance(moment, datetime) else datetime(moment.year, moment.month, moment.day)


def _end(moment: date) -> datetime:
    """The hour after a period's last."""
    return _start(moment) + (timedelta(hours=1) if isinstance(moment, datetime) else timedelta(days=1))


class Section(BaseModel):
    """A frozen part of the configuration that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GridConfig(Section):
    """The fine grid, first row in the north; the coarse grid has `factor` times its spacing."""

    crs: str = "EPSG:3035"
    west: float = 3910000  # western edge of the first column [m]
    north: float = 2698000  # northern edge of the first row [m]
    rows: Cells = 672
    cols: Cells = 576
    spacing: PositiveFloat = 2000  # [m]
    factor: PositiveInt = 8

    @field_validator("crs")
    @classmethod
    def _is_projected(cls, crs: str) -> str:
        if crs != cls.model_fields["crs"].default:
            import pyproj  # which takes a fifth of a second

            try:
                known = pyproj.CRS(crs)
            except pyproj.exceptions.CRSError:
                raise ValueError("is not a coordinate system that PROJ knows") from None
            if not known.is_projected:
                raise ValueError("must be a projection in metres, such as EPSG:3035")
        return crs

    @model_validator(mode="after")
    def _divides(self) -> GridConfig:
        if self.rows % self.factor or self.cols % self.factor:
            raise ValueError(f"rows and cols must be multiples of factor ({self.factor})")
        return self


class TwinConfig(Section):
    """The synthetic pairs that `ldmdown twin` writes and `prepare` writes first when the files are absent."""

    periods: tuple[Period, ...] = ((date(2021, 1, 1), date(2021, 1, 4)),)
    every: PositiveInt = 1  # of the days in periods take every n-th
    seed: NonNegativeInt = 0
    orography: str | None = None  # fine terrain [m]; None: the built-in analytic one
    coarse_orography: str | None = None  # ERA5's terrain [m]; None: the fine one, smoothed


class Split(Section):
    """Days, hours or years for each use; hours in none of them are left out."""

    train: tuple[Period, ...]
    validation: tuple[Period, ...]
    test: tuple[Period, ...] = ()
    gap: NonNegativeFloat = 1  # least number of days between two uses, so that they do not share their weather

    @model_validator(mode="after")
    def _disjoint(self) -> Split:
        uses = ("train", "validation", "test")
        named = [(first, last, use) for use in uses for first, last in getattr(self, use)]
        for first, last, use in named:
            if _end(last) <= _start(first):
                raise ValueError(f"{use}: {last} is before {first}")
        in_order = sorted(named, key=lambda one: _start(one[0]))
        for (_, last, use), (first, _, other) in itertools.pairwise(in_order):
            between = _start(first) - _end(last)
            if between < timedelta(0):
                raise ValueError(f"{other} from {first} overlaps {use} to {last}")
            if use != other and between < timedelta(days=self.gap):
                raise ValueError(f"{other} from {first} leaves no gap of {self.gap:g} days after {use} to {last}")
        return self


def _one_or_many(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Files = Annotated[tuple[str, ...], BeforeValidator(_one_or_many)]
"""Names or globs, one or a list, from the configuration's folder."""


class StaticFiles(Section):
    """Files that the static fields in `statics.fields` are made from: GeoTIFF (tiles too), NetCDF or GRIB."""

    terrain: Files = ()  # heights [m], or geopotential: z, z_std
    coarse_terrain: Files = ()  # heights that the coarse t2m belongs to, such as ERA5's: coarse_z
    land_sea_mask: Files = ()  # 0 sea to 1 land: land_sea_mask, coast_distance; none: terrain above 0 m is land
    land_cover: Files = ()  # numbers of classes: land_cover_NUMBER, the share of a cell


class BoxMeansConfig(Section):
    """How coarse fields are made of a reference whose hours no analysis covers: means over boxes, as ERA5's cells."""

    spacing: PositiveFloat = 0.25  # of the boxes, whose centres are its multiples [degrees]
    smoothing: NonNegativeFloat = 0  # std of a Gaussian over them [boxes]
    reference_heights: str | None = None  # a file of the reference's terrain, from whose box means
    era5_heights: str | None = None  # t2m is moved to the heights of this file, ERA5's terrain
    lapse_rate: float = LAPSE_RATE  # by this rate [K m-1]

    @model_validator(mode="after")
    def _both_heights(self) -> BoxMeansConfig:
        if (self.reference_heights is None) != (self.era5_heights is None):
            raise ValueError("t2m is moved from reference_heights to era5_heights: name both, or none")
        return self


FROM_REFERENCE = "from_reference"


class PairConfig(Section):
    """Where the files of coarse and fine data are: globs allowed, relative to the configuration file."""

    era5: Files = ("era5/*.nc",)  # `from_reference`: means of the reference over boxes, a perfect-model pair
    reference: Files = ("reference/*.nc",)
    published: str | None = None  # instead of both: the folder of the archive that the paper published
    forecast_runs: bool = False  # each reference file is a run: an hour that several have is a sample of each
    box_means: BoxMeansConfig = BoxMeansConfig()
    weight: PositiveFloat = 1  # how many training crops come from it, relative to other sources

    @property
    def is_perfect_model(self) -> bool:
        """Whether the coarse fields are made of the reference."""
        return self.published is None and self.era5 == (FROM_REFERENCE,)


class SourceConfig(PairConfig):
    """One of several pairs of coarse and fine data in an archive."""

    name: Name
    split: Split


class DataConfig(PairConfig):
    """The data of an archive: one pair, named here, or several `sources`."""

    statics: StaticFiles = StaticFiles()
    archive: str = "archive.zarr"
    split: Split | None = None  # of the one pair
    sources: tuple[SourceConfig, ...] = ()

    @model_validator(mode="after")
    def _one_or_several(self) -> DataConfig:
        if self.split is None and not self.sources:
            raise ValueError("split: Field required, for the days of training, validation and test")
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError(f"sources: two have one name: {', '.join(names)}")
        named = [key for key in PairConfig.model_fields if getattr(self, key) != PairConfig.model_fields[key].default]
        if self.sources and (named or self.split):
            raise ValueError(f"{', '.join(named or ['split'])}: name it in each of the `sources` instead")
        return self

    @property
    def pairs(self) -> tuple[SourceConfig, ...]:
        """All pairs of coarse and fine data, in their order."""
        if self.sources or self.split is None:
            return self.sources
        pair = {key: getattr(self, key) for key in PairConfig.model_fields}
        return (SourceConfig(name="data", split=self.split, **pair),)


class StaticsConfig(Section):
    """The static fields that the networks are given."""

    fields: tuple[str, ...] = ()  # made from files, in the order of the channels
    embedding: Annotated[int, Field(ge=0, le=1024)] = (
        8  # how many more are estimated from the training hours (models/static_embedding)
    )
    terrain_features: bool = False  # relief, slopes, shelter and coast at several scales (models/terrain)

    @model_validator(mode="after")
    def _has_terrain(self) -> StaticsConfig:
        if self.terrain_features and not {"z", "land_sea_mask"} <= set(self.fields):
            raise ValueError("terrain_features are made from z and land_sea_mask: add both to statics.fields")
        return self


class UNetConfig(Section):
    """The conditional mean."""

    features: Widths = (48, 96, 128)
    bottleneck: Size = 128
    stem: Size = 2  # pixel-unshuffle before the first level; 1: none
    skip: Literal["zero", "bilinear", "regression"] = (
        "bilinear"  # what the output is added to: nothing, the interpolated
    )
    # input, or that and a regression on static fields and the flow (models/regression)


class AutoencoderConfig(Section):
    """The latent space of the residual: an exact lapped orthogonal transform, or the paper's KL-VAE."""

    kind: Literal["lapped", "kl"] = "lapped"
    levels: Annotated[Depth, Field(gt=0)] = 3
    multiplier: Size = 4  # kl: channels at level i are max(minimum, targets x multiplier^i)
    minimum: Size = 16
    kl_weight: NonNegativeFloat = 0.01


class ConditionerConfig(Section):
    """The networks that encode coarse state and static fields for the denoiser."""

    static_encoder: Literal["convolutional", "unshuffled"] = "unshuffled"
    multiplier: Size = 3  # convolutional: channels at level i are max(16, statics x multiplier^i)
    norm: Literal["group", "layer"] = "group"  # convolutional: normalisation in its residual blocks
    statics_dim: Size = 64
    predictors_dim: Size = 32
    out_dim: Size = 128
    depth: Depth = 2  # mixing blocks in each branch
    mixer: Literal["spectral", "local"] = "local"


class ScaleConfig(Section):
    """The network that predicts the std of each latent channel, by which latents are divided."""

    conditioner: ConditionerConfig = ConditionerConfig(statics_dim=48, predictors_dim=16, out_dim=64, depth=1)


class DenoiserConfig(Section):
    """The U-Net on latents."""

    channels: Size = 192
    multipliers: Annotated[tuple[PositiveFloat, ...], Field(min_length=1, max_length=10)] = (1, 1.5)
    blocks: Annotated[Depth, Field(gt=0)] = 2
    cross_levels: tuple[NonNegativeInt, ...] = (0, 1)  # levels with cross blocks; the middle always has one
    mixer: Literal["spectral", "local"] = "local"
    norm: Literal["none", "layer"] = "layer"


class StudentConfig(DenoiserConfig):
    """The network that makes a sample in one call, in the denoiser's place (stage distill)."""

    channels: Size = 64
    blocks: Annotated[Depth, Field(gt=0)] = 1


class GanConfig(Section):
    """The discriminator that the stage `gan` trains against a U-Net of its own."""

    widths: Widths = (64, 128, 256, 512)
    weight: NonNegativeFloat = 0.2  # of the adversarial loss relative to the absolute error
    start: Fraction = 0.25  # fraction of the stage's steps after which the adversarial loss is added


class DiffusionConfig(Section):
    """The schedule beta = linspace(sqrt(first), sqrt(last), steps)^2; the network predicts v (arXiv 2202.00512)."""

    steps: Steps = 1000
    beta_first: Beta = 1e-4
    beta_last: Beta = 2e-2


class SamplerConfig(Section):
    """How a sample is drawn unless the command line says otherwise."""

    name: SamplerName = "dpmpp"  # student: one call of the student
    steps: Steps = 10  # of dpmpp and ddim
    spacing: Literal["trailing", "logsnr"] = "trailing"  # of dpmpp's steps


def _one_or_more_decays(value: Any) -> Any:
    return (value,) if isinstance(value, int | float) else value


Decays = Annotated[tuple[Decay, ...], Field(min_length=1), BeforeValidator(_one_or_more_decays)]
"""One decay of an exponential moving average, or several from which the best on validation is taken."""


class StageConfig(Section):
    """One training stage. `crop` is in coarse cells; `batch` counts crops over all processes."""

    steps: NonNegativeInt  # 0: keep the weights that the stage starts from
    learning_rate: PositiveFloat
    batch: Cells
    crop: Cells = 16
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    weight_decay: NonNegativeFloat = 1e-3
    schedule: Literal["cosine", "plateau"] = "cosine"  # plateau: x 0.25 after 4 validations without a better loss
    warmup: Fraction = 0.05  # cosine: fraction of the steps during which the learning rate rises
    grad_clip: PositiveFloat = 1.0  # largest norm of the gradient
    ema: Decays = (0.998,)  # of the weights
    validate_every: PositiveInt = 200
    patience: PositiveInt = 10  # validations without a better loss after which the stage ends


class TrainConfig(Section):
    """Where a run keeps its state, and its stages."""

    run: str = "run"
    seed: NonNegativeInt = 0
    precision: Precision = "auto"  # of matrix products and convolutions; auto: bf16 where it is native
    compile: bool = False  # the networks, by torch.compile: a wait at first, then faster on CUDA
    init_from: str | None = None  # a checkpoint, by file or name, whose weights the networks start from where they fit
    unet: StageConfig = StageConfig(steps=4000, learning_rate=1e-3, batch=16, ema=(0.99, 0.998))
    gan: StageConfig = StageConfig(steps=4000, learning_rate=2e-4, batch=16, betas=(0.5, 0.9), ema=(0.99,))
    vae: StageConfig = StageConfig(steps=4000, learning_rate=1e-3, batch=16, ema=(0.99,))
    scale: StageConfig = StageConfig(steps=1000, learning_rate=1e-3, batch=32, ema=(0.99,))
    distill: StageConfig = StageConfig(steps=4000, learning_rate=1e-3, batch=16, ema=(0.99, 0.998))
    ldm: StageConfig = StageConfig(steps=10000, learning_rate=8e-4, batch=32, ema=(0.99, 0.998, 0.9995))


class Config(Section):
    """A whole system: data, networks, sampler and training."""

    name: Name
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
    student: StudentConfig | None = None
    diffusion: DiffusionConfig = DiffusionConfig()
    sampler: SamplerConfig = SamplerConfig()
    consistency: Consistency = "free"  # how closely box means keep to ERA5 unless the command line says otherwise
    train: TrainConfig = TrainConfig()
    checkpoint: str | None = None  # what `downscale` uses in this folder

    @model_validator(mode="after")
    def _has_student(self) -> Config:
        if self.sampler.name == "student" and self.student is None:
            raise ValueError("sampler.name is student, but there is none: add `student: {}`")
        return self

    @model_validator(mode="before")
    @classmethod
    def _over_defaults(cls, content: Any) -> Any:
        """A section that names some of its keys keeps the defaults of this section for the others."""
        if not isinstance(content, dict):
            return content
        defaults = {name: field.default for name, field in cls.model_fields.items()}
        sections = {name: value.model_dump() for name, value in defaults.items() if isinstance(value, Section)}
        return overlay(sections, content)


def load_config(path: Path | None) -> tuple[Config, Path]:
    """The configuration and the folder that its paths start from.

    Read from `path`, or ./ldmdown.yaml, or else the bundled twin's.

    Raises LdmdownError if the file is missing, is not YAML, or holds unknown or unusable keys.
    """
    if path is None and not DEFAULT.exists():
        return parse_config(BUNDLED), Path()
    path = path or DEFAULT
    return parse_config(path), path.parent


def preset(name: str) -> Config:
    """A configuration that comes with ldmdown. Raises LdmdownError if there is none of this name."""
    return Config.model_validate(_read(_preset(name, Path(name))))


def parse_config(path: Path) -> Config:
    """Read and check one YAML file; see `load_config`. Raises LdmdownError as that."""
    content = _read(path)
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise LdmdownError(path, "\n  ".join(_explain(error)), fix="correct these keys") from None


def overlay(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Nested values of `above` over those of `below`."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = overlay(below[key], value) if both else value
    return merged


def upgrade(content: dict[str, Any], place: str = "") -> dict[str, Any]:
    """The content of a configuration of version 0.1 with today's keys."""
    upgraded = {}
    for key, value in content.items():
        name = _today(place + key) or key
        upgraded[name] = upgrade(value, f"{place}{name}.") if isinstance(value, dict) else value
    return upgraded


def _today(key: str) -> str | None:
    """Today's name of a key of version 0.1; None if it has not changed."""
    return next((name for pattern, name in RENAMED.items() if fnmatch(key, pattern)), None)


class _Loader(yaml.SafeLoader):
    """Plain values only, and every key once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if keys.count(key.value) > 1 and key.value != "<<":
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
        return super().construct_mapping(node, deep)


def _read(path: Path, above: tuple[Path, ...] = ()) -> Any:
    """The content of a YAML file, over that of the preset that it names."""
    if path in above:
        raise LdmdownError(path, "is a preset of itself", fix="name another file as its `preset`")
    try:
        if not path.is_file():  # a pipe would be waited for
            raise LdmdownError(path, "no such configuration", fix="name an existing YAML file; examples/ holds some")
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, OSError, ValueError, TypeError, RecursionError) as error:
        raise LdmdownError(path, "is not readable as YAML", found=str(error)) from None
    if isinstance(content, dict) and "preset" in content:
        return overlay(_read(_preset(content.pop("preset"), path), (*above, path)), content)
    return content


def _preset(name: str, path: Path) -> Path:
    """The file of a preset that the configuration `path` names."""
    bundled = {file.stem: file for file in PRESETS.glob("*.yaml")}
    file = bundled.get(name, path.parent / str(name))
    if not file.is_file():
        expected = f"{', '.join(sorted(bundled))}, or a YAML file (its path from this file)"
        raise LdmdownError(path, "the preset does not exist", found=str(name), expected=expected)
    return file


def _explain(error: ValidationError) -> Iterator[str]:
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        text = item["msg"]
        if item["type"] == "extra_forbidden":
            *parents, key = item["loc"]
            near = difflib.get_close_matches(str(key), _keys(Config, parents), n=1)
            text = "unknown key" + (f", did you mean {near[0]}?" if near else "")
            text = f"is called {name} since version 0.2" if (name := _today(where)) else text
        yield f"{where}: {text}"


def _keys(section: Any, parents: list[int | str]) -> list[str]:
    for parent in parents:
        field = section.model_fields.get(parent)
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        section = next((kind for kind in kinds if hasattr(kind, "model_fields")), None)
        if section is None:
            return []
    return list(section.model_fields)
