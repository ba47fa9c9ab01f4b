"""One safe file for a whole system: final weights, and a JSON header that says all else.

A checkpoint is a `.safetensors` file whose metadata hold the header under the key `ldmdown`: format, name,
stage, configuration, normalisation, correlation of the noise of consecutive hours, what it was trained on, scores,
licence. Matrices are stored in float16, vectors (biases, norms, running statistics) in float32, static fields that were
estimated in steps of int8; converted weights of others are all stored in float32, so that they give what they gave
their authors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load as deserialize
from safetensors.torch import save as serialize

from ldmdown.atomic import replacing, sha256
from ldmdown.config import ConditionerConfig, Config
from ldmdown.data.grid import Grid, Window
from ldmdown.data.normalization import Normalization
from ldmdown.errors import LdmdownError
from ldmdown.header import AGAIN, FORMAT, HASH, KEY, content_hash, find, read_header
from ldmdown.models.conditioner import Conditioner
from ldmdown.models.denoiser import Denoiser
from ldmdown.models.diffusion import Diffusion
from ldmdown.models.downscaler import GAINS, Autoencoder, Downscaler, InterpolatedInput, LatentScale
from ldmdown.models.regression import FlowRegression
from ldmdown.models.terrain import FEATURES
from ldmdown.models.transform import LappedTransform
from ldmdown.models.unet import UNet
from ldmdown.models.vae import VAE
from ldmdown.typing import Float32Array

MAX_NAMES = 3  # of tensors in an error
ESTIMATED = "estimated_statics"  # in a file the last of `statics`, in int8
STEPS = "estimated_steps"  # what 1 stands for in each of them
SMALLEST = 1e-30  # largest value of a field of zeros

Stage = Literal["unet", "gan", "ldm"]
Normalizations = Mapping[Literal["predictors", "target"], Normalization]


@dataclass(frozen=True)
class Checkpoint:
    """A system ready to use."""

    path: Path
    header: dict[str, Any]
    config: Config
    grid: Grid
    normalization: Normalizations
    model: Downscaler

    @property
    def stage(self) -> Stage:
        """unet: the conditional mean only; gan: one sharp field; ldm: members can be drawn."""
        return self.header["stage"]

    @cached_property
    def sha256(self) -> str:
        """Hexadecimal hash of the file."""
        return sha256(self.path)

    def heights(self, window: Window) -> Float32Array:
        """Heights of the ground [m] (rows, cols) in a window, if the header says how they were normalised."""
        scale = self.header["statics_normalization"]["z"]
        channel = self.config.statics.fields.index("z")
        normalized = self.model.statics[channel, *self.grid.fine(window)].cpu().numpy()
        return normalized * np.float32(scale["std"]) + np.float32(scale["mean"])


def build(config: Config, normalization: Normalizations, stage: Stage) -> Downscaler:
    """The networks of a configuration as far as a stage needs them, with fresh weights."""
    levels = len(config.denoiser.multipliers)
    targets, predictors = len(config.targets), len(config.predictors)
    fields, grid = config.statics.fields, config.grid
    statics = torch.zeros(len(fields) + config.statics.embedding, grid.rows, grid.cols)
    terrain = (fields.index("z"), fields.index("land_sea_mask")) if config.statics.terrain_features else None
    static_inputs = len(statics) + (FEATURES if terrain else 0)
    unet = UNet(predictors + static_inputs, targets, config.unet.features, config.unet.bottleneck, config.unet.stem)
    interpolated = _interpolated_input(config, normalization) if config.unet.skip != "zero" else None
    regression = None
    if config.unet.skip == "regression":
        channels = [config.predictors.index(name) for name in config.targets]
        regression = FlowRegression(predictors, channels, static_inputs, grid.factor)
    mean = partial(
        Downscaler,
        unet,
        statics,
        factor=grid.factor,
        interpolated_input=interpolated,
        regression=regression,
        terrain=terrain,
    )
    if stage != "ldm":
        return mean()

    def conditioner(settings: ConditionerConfig, levels: int) -> Conditioner:
        static_levels = config.autoencoder.levels
        return Conditioner(
            predictors, static_inputs, levels=levels, static_levels=static_levels, **settings.model_dump()
        )

    autoencoder: Autoencoder
    with torch.device("cpu"):  # what these compute would, on "meta", import PyTorch's compiler for seconds
        diffusion = Diffusion(**config.diffusion.model_dump())
        lapped = LappedTransform(targets, config.autoencoder.levels) if config.autoencoder.kind == "lapped" else None
    if lapped:
        autoencoder = lapped
    else:
        autoencoder = VAE(targets, config.autoencoder.levels, config.autoencoder.multiplier, config.autoencoder.minimum)
    latents = autoencoder.latent_channels
    context = conditioner(config.conditioner, levels)
    return mean(
        residual=config.residual,
        autoencoder=autoencoder,
        conditioner=context,
        denoiser=Denoiser(latents, context.channels, **config.denoiser.model_dump()),
        student=Denoiser(latents, context.channels, **config.student.model_dump(), outputs=2 * latents)
        if config.student
        else None,
        diffusion=diffusion,
        scale=LatentScale(conditioner(config.scale.conditioner, 1), latents) if config.scale else None,
    )


def header_of(config: Config, normalization: Normalizations, stage: Stage, **card: Any) -> dict[str, Any]:
    """What `save` writes beside the weights; `card` adds what is known of training, scores and licence."""
    return {
        "format": FORMAT,
        "name": config.name,
        "stage": stage,
        "config": config.model_dump(mode="json"),
        "normalization": {kind: asdict(values) for kind, values in normalization.items()},
        "wind": "earth",  # which way its components point, and how ERA5 is brought to its coarse grid
        "regridding": "bilinear",
        **card,
    }


def save(path: Path, model: Downscaler, header: Mapping[str, Any], *, half: bool = True) -> None:
    """Write a checkpoint; without `half` every weight keeps its 32 bits."""
    tensors = {
        name: tensor.half() if half and tensor.ndim > 1 and tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    estimated = header["config"]["statics"]["embedding"]
    if half and estimated:
        given, fields = model.statics[:-estimated].half(), model.statics[-estimated:]
        steps = fields.abs().amax(dim=(1, 2), keepdim=True).clamp(min=SMALLEST) / torch.iinfo(torch.int8).max
        tensors |= {"statics": given, ESTIMATED: (fields / steps).round().to(torch.int8), STEPS: steps}
        if not len(given):  # not every version of safetensors reads an empty tensor
            del tensors["statics"]
    tensors = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    card = dict(header) | {HASH: content_hash(header, serialize(tensors))}
    with replacing(path, lock=True) as beside:
        beside.write_bytes(
            serialize(tensors, {KEY: json.dumps(card)})
        )  # with the mode that the umask gives, where safetensors' own writer gives 0600


def load(name: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
    """A checkpoint by path or name, its model in evaluation mode, in float32.

    Raises LdmdownError as `find` and `read_header`, or if tensors are missing, unexpected or misshapen.
    """
    path = find(name)
    header = read_header(path)
    config = Config.model_validate(header["config"])
    normalization: Normalizations = {kind: Normalization(**values) for kind, values in header["normalization"].items()}
    tensors = _tensors(path)
    model = _fitting(path, tensors, config, normalization, header["stage"])
    types = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: tensor.to(types[name], copy=True) for name, tensor in tensors.items()}, assign=True)
    for key in (*GAINS, "temporal_correlation"):
        held = header.get(key)
        for numbers in held.values() if isinstance(held, dict) else [held]:
            if model.autoencoder and isinstance(numbers, list) and len(numbers) != len(model.latent_gain):
                found, expected = f"{len(numbers)} numbers", f"{len(model.latent_gain)}, one for each latent channel"
                raise LdmdownError(path, f"has a damaged {key}", found=found, expected=expected, fix=AGAIN)
    if isinstance(header.get("temporal_correlation"), dict) and model.terrain is None:
        raise LdmdownError(path, "has a temporal_correlation of land and of sea, but no land-sea mask", fix=AGAIN)
    model.take_gains(header)
    model = model.to(device).eval().requires_grad_(False)
    return Checkpoint(path, header, config, Grid.of(config.grid), normalization, model)


def take_fitting(path: Path, model: Downscaler) -> int:
    """Give a model the tensors of a checkpoint that have its names and shapes; returns how many.

    Raises LdmdownError as `read_header`.
    """
    read_header(path)
    own, held = model.state_dict(), _tensors(path)
    fitting = {name: tensor for name, tensor in held.items() if name in own and own[name].shape == tensor.shape}
    model.load_state_dict(own | fitting)
    return len(fitting)


def _fitting(
    path: Path, tensors: Mapping[str, torch.Tensor], config: Config, normalization: Normalizations, stage: Stage
) -> Downscaler:
    """The networks of a configuration, on "meta": without weights.

    Raises LdmdownError if the weights are of other shapes or types than theirs.
    """
    statistics = [(normalization["predictors"], config.predictors), (normalization["target"], config.targets)]
    if lacking := [
        name for held, names in statistics for name in names if name not in held.mean or name not in held.std
    ]:
        raise LdmdownError(path, "has no normalisation of some variables", found=", ".join(lacking), fix=AGAIN)
    try:
        with torch.device("meta"):
            model = build(config, normalization, stage)
    except (ValueError, TypeError, RuntimeError, LookupError, ArithmeticError, AssertionError) as error:
        raise LdmdownError(path, "its configuration makes no system", found=str(error)) from None
    expected = model.state_dict()
    wrong = misfits(tensors, expected) or [
        f"{name} is {tensor.dtype}"
        for name, tensor in tensors.items()
        if tensor.dtype
        not in ((torch.float16, torch.float32) if expected[name].is_floating_point() else (expected[name].dtype,))
    ]
    wrong = wrong or [
        f"{name} is not finite" for name, tensor in tensors.items() if not tensor.sum(dtype=torch.float32).isfinite()
    ]
    if wrong:
        more = f"; and {len(wrong) - MAX_NAMES} more" if len(wrong) > MAX_NAMES else ""
        found = "; ".join(wrong[:MAX_NAMES]) + more
        raise LdmdownError(path, "its weights do not fit its configuration", found=found)
    return model


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a file by name; format 1 called one of them otherwise.

    Estimated static fields are joined to the given ones if they are as `save` wrote them; otherwise they stay what no
    configuration expects.
    """
    held = {name.replace("log_deviation", "log_std"): tensor for name, tensor in deserialize(path.read_bytes()).items()}
    fields, steps = (held.get(name, torch.zeros(())) for name in (ESTIMATED, STEPS))
    given = held.get("statics", torch.zeros(0, *fields.shape[1:]))
    typed = given.is_floating_point() and (fields.dtype, steps.dtype) == (torch.int8, torch.float32)
    if typed and (fields.ndim, fields.shape[1:]) == (3, given.shape[1:]) and steps.shape == (len(fields), 1, 1):
        del held[ESTIMATED], held[STEPS]
        held["statics"] = torch.cat([given.float(), fields * steps])
    return held


def misfits(given: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Every tensor that is missing, unexpected or misshapen, in words; of tensors only names and shapes matter."""
    found, wanted = ({name: tuple(tensor.shape) for name, tensor in part.items()} for part in (given, expected))
    return [
        f"{name} is {found.get(name, 'missing')}, not {wanted.get(name, 'expected')}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]


def _interpolated_input(config: Config, normalization: Normalizations) -> InterpolatedInput:
    missing = [name for name in config.targets if name not in config.predictors]
    if missing:
        raise LdmdownError(
            config.name,
            f"{', '.join(missing)} is not among the predictors, whose interpolation the U-Net corrects",
            fix="add it to `predictors`, or set unet.skip to zero",
        )
    coarse, fine = normalization["predictors"], normalization["target"]
    return InterpolatedInput(
        channel=[config.predictors.index(name) for name in config.targets],
        gain=[coarse.std[name] / fine.std[name] for name in config.targets],
        offset=[(coarse.mean[name] - fine.mean[name]) / fine.std[name] for name in config.targets],
    )
