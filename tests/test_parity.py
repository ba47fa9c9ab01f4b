"""The paper's networks and diffusion: every tensor that the authors' code computed, to 2e-5 of its std."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ldmdown.models.conditioner import Conditioner
from ldmdown.models.denoiser import Denoiser
from ldmdown.models.diffusion import Diffusion
from ldmdown.models.downscaler import Condition, Downscaler, StaticInputs
from ldmdown.models.sampling import Sampler, ddim
from ldmdown.models.unet import UNet
from ldmdown.models.vae import VAE

DATA = os.environ.get("LDMDOWN_TEST_DATA")
TOLERANCE = 2e-5  # [std]
pytestmark = [
    pytest.mark.skipif(not DATA, reason="LDMDOWN_TEST_DATA is not set"),
    pytest.mark.parametrize("target", ["2mT", "UV"]),
]


@cache
def vectors(target: str) -> dict[str, Tensor]:
    return load_file(Path(str(DATA)) / "parity" / f"{target}_vectors.safetensors")


@cache
def weights(target: str) -> dict[str, Tensor]:
    file = Path(str(DATA)) / "parity" / f"LDM_residual_{target}.ckpt"
    return torch.load(file, weights_only=True)["state_dict"]


def below(prefix: str, target: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without the aliases that residual blocks carry."""
    found = {name.removeprefix(prefix): t for name, t in weights(target).items() if name.startswith(prefix)}
    return {name: t for name, t in found.items() if ".sequence." not in name}


def ema(module: nn.Module, target: str) -> dict[str, Tensor]:
    return {name: weights(target)["denoiser_ema." + name.replace(".", "")] for name, _ in module.named_parameters()}


@cache
def system(target: str, average: bool = True) -> Downscaler:
    channels = 1 if target == "2mT" else 2
    unet = UNet(32, channels, (8, 16, 24, 32), 64)
    unet.load_state_dict(below("autoencoder.unet_regr.net.", target))
    vae = VAE(channels, 3, 4, 16)
    vae.load_state_dict(
        {n: t for n, t in below("autoencoder.", target).items() if not n.startswith("unet_regr.")}, strict=True
    )
    conditioner = Conditioner(
        14,
        18,
        levels=3,
        static_levels=3,
        static_encoder="convolutional",
        multiplier=3,
        statics_dim=16,
        predictors_dim=8,
        out_dim=8,
        depth=4,
        mixer="spectral",
        norm="group",
    )
    theirs = below("context_encoder.", target)
    conditioner.load_state_dict({n: t for n, t in theirs.items() if "to_decoder" not in n})
    denoiser = Denoiser(
        vae.latent_channels,
        conditioner.channels,
        channels=8,
        multipliers=(1, 2, 4),
        blocks=2,
        cross_levels=(0, 1),
        mixer="spectral",
        norm="none",
    )
    denoiser.load_state_dict(ema(denoiser, target) if average else below("denoiser.", target))
    model = Downscaler(
        unet,
        vectors(target)["input.static"][0],
        factor=8,
        autoencoder=vae,
        conditioner=conditioner,
        denoiser=denoiser,
        diffusion=Diffusion(1000, 1e-4, 2e-2),
    )
    return model.eval().requires_grad_(False)


def error(ours: Tensor, target: str, name: str) -> float:
    """Largest difference from the authors' tensor of this name, in its std; infinite if the shapes differ."""
    theirs = vectors(target)[name]
    return float((ours - theirs).abs().max() / theirs.std()) if ours.shape == theirs.shape else float("inf")


def test_unet(target: str) -> None:
    v, model = vectors(target), system(target)
    mean = model.mean(v["input.low_res"], StaticInputs(model, v["input.static"]))
    assert error(mean, target, "unet.output") <= TOLERANCE


def test_vae(target: str) -> None:
    v, vae = vectors(target), system(target).autoencoder
    assert isinstance(vae, VAE)
    mean, log_variance = vae.moments(v["input.high_res"] - v["unet.output"])
    assert error(mean, target, "vae.mean") <= TOLERANCE
    assert error(log_variance, target, "vae.log_var") <= TOLERANCE
    assert error(vae.decode(mean), target, "vae.reconstruction_of_mean") <= TOLERANCE


def test_conditioner(target: str) -> None:
    v, model = vectors(target), system(target)
    levels = model.condition(v["input.low_res"], StaticInputs(model, v["input.static"])).context
    for level, context in enumerate(levels):
        assert error(context, target, f"conditioner.level{level}") <= TOLERANCE


@pytest.mark.parametrize("weights_used", ["raw", "ema"])
def test_denoiser(target: str, weights_used: str) -> None:
    v = vectors(target)
    denoiser = system(target, weights_used == "ema").denoiser
    assert denoiser is not None
    context = [v[f"conditioner.level{level}"] for level in range(3)]
    output = denoiser(v["denoiser.input"], v["denoiser.timesteps"], context)
    assert error(output, target, f"denoiser.output_{weights_used}_weights") <= TOLERANCE


def test_diffusion(target: str) -> None:
    v, diffusion = vectors(target), system(target).diffusion
    assert diffusion is not None
    assert torch.equal(diffusion.alphas_cumprod, v["schedule.alphas_cumprod"])
    t, noise = v["denoiser.timesteps"], v["diffusion.noise"]
    z = diffusion.q_sample(v["vae.mean"], t, noise)
    assert error(z, target, "diffusion.q_sample") <= TOLERANCE
    velocity = diffusion.v_target(v["vae.mean"], t, noise)
    assert error(velocity, target, "diffusion.v_target") <= TOLERANCE
    assert (diffusion.z0_of_v(z, t, velocity) - v["vae.mean"]).abs().max() < 1e-5


def test_ddim_and_the_whole_pipeline(target: str) -> None:
    v, model = vectors(target), system(target)
    times = []
    denoise = model.denoise

    def spy(z: Tensor, t: Tensor, context: list[Tensor]) -> Tensor:
        times.append(int(t[0]))
        return denoise(z, t, context)

    context = [v[f"conditioner.level{level}"] for level in range(3)]
    latent = ddim(lambda z, t: spy(z, t, context), v["ddim.x_T"], model.diffusion, 5)  # type: ignore[arg-type]
    assert sorted(times) == sorted(v["ddim.timesteps"].tolist())
    assert error(latent, target, "ddim.sample") <= TOLERANCE
    mean = model.mean(v["input.low_res"], StaticInputs(model, v["input.static"]))
    condition = Condition(context, torch.zeros(()))
    output = model.sample(mean, condition, v["ddim.x_T"], Sampler("ddim", 5))
    assert error(output, target, "pipeline.output") <= TOLERANCE
