from __future__ import annotations

import pytest
import torch
from conftest import CONFIG, NORMALIZATION, untrained
from torch import nn
from torch.nn import functional

from ldmdown import checkpoint
from ldmdown.config import Config, preset
from ldmdown.data.normalization import Normalization
from ldmdown.models.downscaler import Downscaler
from ldmdown.models.layers import LocalFilter, SpectralFilter


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_sizes_are_the_papers() -> None:
    """Section 3 of the paper: 31 M, 274 M; its conditioner holds 118 k more in a part that nothing calls."""
    config = preset("paper-t2m")
    unit = Normalization(dict.fromkeys(config.predictors, 0.0), dict.fromkeys(config.predictors, 1.0))
    with torch.device("meta"):
        model = checkpoint.build(config, {"predictors": unit, "target": unit}, "ldm")
    assert model.conditioner is not None and model.denoiser is not None
    unet, conditioner, denoiser = model.unet, model.conditioner, model.denoiser
    assert [parameters(part) for part in (unet, conditioner, denoiser)] == [31_054_337, 23_714_398, 274_467_616]


def test_an_untrained_mean_is_the_bilinear_interpolation() -> None:
    model = checkpoint.build(CONFIG, NORMALIZATION, "unet").eval()
    predictors = torch.randn(2, 4, 8, 8)
    mean = model.mean(predictors, model.statics_at([(0, 0), (0, 0)], 8, 8))
    mu, sigma = (
        torch.tensor([getattr(NORMALIZATION["target"], kind)[name] for name in CONFIG.targets])[:, None, None]
        for kind in ("mean", "std")
    )
    coarse_mu, coarse_sigma = (
        torch.tensor([getattr(NORMALIZATION["predictors"], kind)[name] for name in CONFIG.targets])[:, None, None]
        for kind in ("mean", "std")
    )
    physical = functional.interpolate(predictors[:, :3] * coarse_sigma + coarse_mu, scale_factor=8, mode="bilinear")
    torch.testing.assert_close(mean * sigma + mu, physical, rtol=0, atol=2e-4)


def test_a_field_of_the_mean_and_white_latents_is_the_mean_and_scaled_noise() -> None:
    model = untrained("ldm").eval()
    predictors, statics = torch.randn(1, 4, 8, 8), model.statics_at([(0, 0)], 8, 8)
    condition, latent = model.condition(predictors, statics), torch.randn(1, 192, 8, 8)
    noise = model.sample(torch.zeros(1, 3, 64, 64), condition, latent, None)
    assert model.autoencoder is not None
    torch.testing.assert_close(model.autoencoder.encode(noise), latent * condition.log_scale.exp(), rtol=0, atol=1e-4)


def test_what_no_hour_changes_is_computed_once_and_serves_every_hour() -> None:
    """Two hours together, from the static parts of one window, are the two hours alone, each from its own."""
    statics = {"fields": ["z", "land_sea_mask"], "embedding": 1, "terrain_features": True}
    config = Config.model_validate(CONFIG.model_dump() | {"statics": statics, "unet": {"skip": "regression"}})
    model = checkpoint.build(config, NORMALIZATION, "ldm").eval()
    torch.manual_seed(0)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and not tensor.any():
            nn.init.normal_(tensor, std=0.1)
    both, once = torch.randn(2, 4, 8, 8), model.statics_at([(0, 0)], 8, 8)
    with torch.no_grad():
        mean, condition = model.mean(both, once), model.condition(both, once)
        assert model.regression is not None and model.conditioner is not None
        for hour in range(2):
            own = model.statics_at([(0, 0)], 8, 8)
            alone = both[hour : hour + 1]
            torch.testing.assert_close(mean[hour : hour + 1], model.mean(alone, own))
            expected = model.condition(alone, own)
            for part, other in zip(condition.take([hour]).context, expected.context, strict=True):
                torch.testing.assert_close(part, other)
            torch.testing.assert_close(condition.log_scale[hour : hour + 1], expected.log_scale)
        response = model.regression.interpolate(model.regression.responses(both).flatten(1, 2)).unflatten(1, (3, -1))
        fields = torch.cat([torch.ones(2, 1, 64, 64), once.fields.expand(2, -1, -1, -1)], dim=1)[:, None]
        torch.testing.assert_close(
            model.regression(both, once.fields.expand(2, -1, -1, -1)),
            (response * fields).sum(dim=2),
            atol=1e-4,
            rtol=1e-4,
        )


def test_a_window_sees_what_the_domain_sees() -> None:
    """Away from its edges: every part of the small networks looks a finite distance."""
    torch.manual_seed(0)
    config = CONFIG.model_copy(update={"grid": CONFIG.grid.model_copy(update={"rows": 768, "cols": 64})})
    model = checkpoint.build(config, NORMALIZATION, "ldm").eval()
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    predictors, latent, t = torch.randn(1, 4, 96, 8), torch.randn(1, 192, 96, 8), torch.tensor([500])

    def v(rows: slice) -> torch.Tensor:
        given = predictors[:, :, rows], model.statics_at([(rows.start, 0)], rows.stop - rows.start, 8)
        assert model.denoiser is not None
        return model.denoiser(latent[:, :, rows], t, model.condition(*given).context)

    whole, part = v(slice(0, 96)), v(slice(8, 88))
    torch.testing.assert_close(part[:, :, 38:42], whole[:, :, 46:50], rtol=0, atol=1e-4)
    assert (part[:, :, 0] - whole[:, :, 8]).abs().max() > 1e-3


@pytest.mark.parametrize("mixer", [SpectralFilter, LocalFilter])
def test_filters_without_weights_hand_on_their_input(mixer: type[nn.Module]) -> None:
    layer = mixer(16)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(2, 8, 6, 16)
    torch.testing.assert_close(layer(x), x)


def test_sides_that_the_networks_divide() -> None:
    model = checkpoint.build(CONFIG, NORMALIZATION, "ldm")
    assert isinstance(model, Downscaler) and model.size_multiple == 2  # denoiser 2 cells, U-Net 4 of 8
