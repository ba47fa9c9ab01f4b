"""`ldmdown convert`: the weights that the paper's authors published become one safe checkpoint.

Their files are PyTorch-Lightning checkpoints, that is pickles, of which only tensors are read (data/reading/pickles).
The sizes of the networks are those of the tensors; every tensor must find its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ldmdown import checkpoint
from ldmdown.atomic import sha256
from ldmdown.config import Config, preset
from ldmdown.console import say
from ldmdown.data.archive.statics import read_published
from ldmdown.data.reading import pickles
from ldmdown.data.reading.published import read_statistics
from ldmdown.errors import LdmdownError
from ldmdown.models.diffusion import Diffusion
from ldmdown.options import ConvertOptions

Kind = Literal["unet", "gan", "vae", "ldm"]
Tensors = dict[str, pickles.Tensor]

SCHEDULE_TOLERANCE = 5e-6  # between their noise schedule and the configuration's
MAX_NAMES = 5  # of tensors in an error


@dataclass(frozen=True)
class Published:
    """One of their files."""

    path: Path
    kind: Kind
    tensors: Tensors

    def below(self, prefix: str) -> Tensors:
        """The tensors under a prefix, without it and without the second names of residual blocks."""
        found = {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}
        return {name: tensor for name, tensor in found.items() if ".sequence." not in name}


def convert(
    files: Sequence[Path],
    output: Path,
    options: ConvertOptions = ConvertOptions(),
    *,
    statistics: Path,
    statics: Path,
) -> None:
    """Write a checkpoint of the U-Net alone, of the GAN, or of U-Net, VAE and LDM together.

    Args:
        files: UNET_*.ckpt, VAE_*.ckpt and LDM_*.ckpt, or GAN_*.ckpt alone.
        output: the checkpoint to write.
        statistics: normalization_data.pkl, or the same as JSON.
        statics: the folder static_var.

    Raises LdmdownError if a file is none of theirs or asks to run code, files contradict each other, or tensors are
    missing, unexpected or misshapen.
    """
    check_output(output, options.overwrite)
    given = _together([_published(path) for path in files])
    stage: checkpoint.Stage = "ldm" if "ldm" in given else "gan" if "gan" in given else "unet"
    names, ground, grid = read_published(statics)
    unet = given["gan" if stage == "gan" else "unet"].below("net.")
    targets = ("t2m",) if unet["outputs.weight"].shape[0] == 1 else ("u10", "v10")
    base = preset("paper-t2m" if len(targets) == 1 else "paper-uv")
    config = _config(base, given, unet, output.stem, names, grid)
    normalization = _normalization(statistics, config)
    with torch.device("meta"):
        expected = checkpoint.build(config, normalization, stage).state_dict()
    weights = {f"unet.{name}": tensor for name, tensor in unet.items()}
    if stage == "ldm":
        weights |= _latent(given["ldm"])
        _check_schedule(given["ldm"], config)
    del expected["statics"]  # which come from their own files
    if wrong := checkpoint.misfits(weights, expected):
        raise LdmdownError(", ".join(map(str, files)), "do not fit the paper's networks", found="; ".join(wrong))
    model = checkpoint.build(config, normalization, stage)
    values = {name: torch.from_numpy(np.array(tensor.array())) for name, tensor in weights.items()}
    model.load_state_dict(values | {"statics": torch.from_numpy(ground)})
    sources = {kind: {"file": part.path.name, "sha256": sha256(part.path)} for kind, part in given.items()}
    assumed = {"wind": options.wind, "regridding": options.regridding}
    header = checkpoint.header_of(
        config, normalization, stage, **assumed, converted_from=sources, temporal_correlation=0.0
    )
    checkpoint.save(output, model, header, half=False)
    say(f"wrote {output}: {', '.join(config.targets)}, stage {stage}")


def check_output(output: Path, overwrite: bool) -> None:
    """Raise LdmdownError if the output is there and must not be replaced."""
    if output.exists() and not overwrite:
        raise LdmdownError(output, "exists already", fix="name another file, or give --overwrite to replace it")


def _published(path: Path) -> Published:
    """Read a file and say which it is."""
    if not path.is_file():
        raise LdmdownError(path, "no such file")
    content = pickles.read_torch(path)
    held = content.get("state_dict") if isinstance(content, Mapping) else None
    if not isinstance(held, Mapping):
        raise LdmdownError(path, "is not a checkpoint of PyTorch-Lightning", expected="a dict with a state_dict")
    tensors = {str(name): tensor for name, tensor in held.items() if isinstance(tensor, pickles.Tensor)}
    marks: dict[Kind, str] = {"ldm": "denoiser.", "vae": "to_moments.", "gan": "loss.discriminator.", "unet": "net."}
    for kind, mark in marks.items():
        if any(name.startswith(mark) for name in tensors):
            return Published(path, kind, tensors)
    raise LdmdownError(
        path,
        "is none of the published models",
        found=", ".join(list(tensors)[:MAX_NAMES]) or "no tensors",
        expected="UNET_*.ckpt, GAN_*.ckpt, VAE_residual_*.ckpt or LDM_residual_*.ckpt",
    )


def _together(published: Sequence[Published]) -> dict[Kind, Published]:
    """Which file is which; those that hold the same network must agree to the bit."""
    given: dict[Kind, Published] = {}
    for one in published:
        if one.kind in given:
            raise LdmdownError(one.path, f"is a second {one.kind} file, beside {given[one.kind].path}")
        given[one.kind] = one
    if set(given) not in ({"unet"}, {"gan"}, {"unet", "vae", "ldm"}):
        raise LdmdownError(
            ", ".join(str(one.path) for one in published),
            "do not make a system",
            found=", ".join(sorted(given)),
            expected="the U-Net's file, the GAN's, or the U-Net's, the VAE's and the LDM's together",
        )
    if "ldm" in given:
        unet, vae, ldm = given["unet"], given["vae"], given["ldm"]
        _agree(unet, unet.below("net."), vae, vae.below("unet_regr.net."), "U-Net")
        _agree(unet, unet.below("net."), ldm, ldm.below("autoencoder.unet_regr.net."), "U-Net")
        _agree(vae, _own(vae.below("")), ldm, _own(ldm.below("autoencoder.")), "VAE")
    return given


def _own(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("unet_regr.")}


def _agree(one: Published, first: Tensors, other: Published, second: Tensors, what: str) -> None:
    for name in sorted(first.keys() | second.keys()):
        if name not in first or name not in second or not np.array_equal(first[name].array(), second[name].array()):
            raise LdmdownError(
                other.path,
                f"holds another {what} than {one.path}",
                found=f"{name} differs",
                fix="give the files of one download, all for the same target",
            )


def _latent(ldm: Published) -> Tensors:
    """Their names to ours: VAE, conditioner, and the denoiser's averaged weights."""
    weights = {f"autoencoder.{name}": tensor for name, tensor in _own(ldm.below("autoencoder.")).items()}
    weights |= {
        f"conditioner.{name}": tensor
        for name, tensor in ldm.below("context_encoder.").items()
        if ".to_decoder." not in name  # which nothing calls
    }
    average = ldm.below("denoiser_ema.")
    for name in ldm.below("denoiser."):
        if name.replace(".", "") not in average:
            raise LdmdownError(ldm.path, f"holds no averaged weights of denoiser.{name}")
        weights[f"denoiser.{name}"] = average[name.replace(".", "")]
    return weights


def _config(
    base: Config, given: Mapping[Kind, Published], unet: Tensors, name: str, statics: Sequence[str], grid: Any
) -> Config:
    """The preset with the sizes that the tensors have."""
    levels = sum(f"e{level}.conv.conv.0.weight" in unet for level in range(1, 9))
    features = [unet[f"e{level}.conv.conv.0.weight"].shape[0] for level in range(1, levels + 1)]
    changes: dict[str, Any] = {
        "name": name,
        "description": "The paper's published weights, converted. See `converted_from`, `wind` and `regridding`.",
        "grid": {"west": grid.west, "north": grid.north, "rows": grid.rows, "cols": grid.cols},
        "statics": {"embedding": 0, "fields": list(statics)},
        "unet": {"features": features, "bottleneck": unet["b.conv.0.weight"].shape[0]},
    }
    if "ldm" in given:
        tensors = given["ldm"].tensors
        branch = "context_encoder.analysis.0."
        changes["conditioner"] = {
            "statics_dim": tensors["context_encoder.proj.0.weight"].shape[0],
            "predictors_dim": tensors["context_encoder.proj.1.weight"].shape[0],
            "out_dim": tensors["context_encoder.fusion.fusion.2.weight"].shape[0],
            "depth": sum(f"{branch}{block}.norm1.weight" in tensors for block in range(32)),
        }
        changes["denoiser"] = {"channels": tensors["denoiser.input_blocks.0.0.weight"].shape[0]}
    content = base.model_dump()
    for section, values in changes.items():
        content[section] = content[section] | values if isinstance(values, dict) else values
    return Config.model_validate(content)


def _normalization(path: Path, config: Config) -> checkpoint.Normalizations:
    """Give the statistics of ERA5 and of the reference, by our names."""
    return {
        "predictors": read_statistics(path, "ERA5", config.predictors),
        "target": read_statistics(path, "CMCC", config.targets),
    }


def _check_schedule(ldm: Published, config: Config) -> None:
    theirs = ldm.tensors["alphas_cumprod"].array()
    ours = Diffusion(**config.diffusion.model_dump()).alphas_cumprod.numpy()
    if theirs.shape != ours.shape or np.abs(theirs - ours).max() > SCHEDULE_TOLERANCE:
        raise LdmdownError(ldm.path, "has another noise schedule than the paper's", found=f"{theirs.shape[0]} steps")
