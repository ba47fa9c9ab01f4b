"""Schedule, samplers and noise: against `diffusers`, a Gaussian closed form, and statistics."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from ldmdown.models import sampling
from ldmdown.models.diffusion import Diffusion
from ldmdown.models.sampling import CoherentNoise, coherence_weights, ddim, dpmpp, white_noise

DIFFUSION = Diffusion(1000, 1e-4, 2e-2)
MEAN, DEVIATION = 0.7, 0.3


def gaussian(z: Tensor, t: Tensor) -> Tensor:
    """The best estimate of z0 where z0 is normal: what a perfect network would say."""
    signal, sigma = DIFFUSION.coefficients(t)
    gain = DEVIATION**2 * signal / (DEVIATION**2 * signal**2 + sigma**2)
    return MEAN + gain * (z - signal * MEAN)


def nonlinear(z: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(z + 0.001 * t.float()[:, None, None, None])


def test_z_and_v_give_back_z0() -> None:
    z0, noise = torch.randn(2, 5, 3, 4, 4)
    t = torch.tensor([0, 1, 400, 998, 999])
    z, v = DIFFUSION.q_sample(z0, t, noise), DIFFUSION.v_target(z0, t, noise)
    torch.testing.assert_close(DIFFUSION.z0_of_v(z, t, v), z0, rtol=0, atol=1e-5)


def test_times_between_steps_are_between_their_neighbours() -> None:
    signal, sigma = DIFFUSION.coefficients(torch.tensor([10.0, 10.5, 11.0]))
    exact, _ = DIFFUSION.coefficients(torch.tensor([10, 11]))
    torch.testing.assert_close(signal[[0, 2]], exact)
    assert signal[0] > signal[1] > signal[2]
    torch.testing.assert_close(signal**2 + sigma**2, torch.ones(3, 1, 1, 1))


def stepped(scheduler: object, denoise: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    scheduler.set_timesteps(steps)
    z = noise
    for t in scheduler.timesteps:
        z = scheduler.step(denoise(z, t.expand(len(z)).long()), t, z).prev_sample
    return z


@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("denoise", [gaussian, nonlinear])
def test_ddim_is_that_of_diffusers(steps: int, denoise: Callable[[Tensor, Tensor], Tensor]) -> None:
    scheduler = diffusers.DDIMScheduler(
        1000, 1e-4, 2e-2, "scaled_linear", steps_offset=1, clip_sample=False, prediction_type="sample"
    )
    noise = torch.randn(2, 3, 4, 4)
    ours = ddim(denoise, noise, DIFFUSION, steps)
    scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]  # the paper's last step ends at time 0
    torch.testing.assert_close(ours, stepped(scheduler, denoise, noise, steps), rtol=0, atol=2e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in diffusers itself
@pytest.mark.parametrize("steps", [2, 10, 25])
@pytest.mark.parametrize("denoise", [gaussian, nonlinear])
def test_dpmpp_is_that_of_diffusers(steps: int, denoise: Callable[[Tensor, Tensor], Tensor]) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        1000,
        1e-4,
        2e-2,
        "scaled_linear",
        prediction_type="sample",
        timestep_spacing="trailing",
        lower_order_final=False,
        final_sigmas_type="zero",
        euler_at_final=True,
    )
    noise = torch.randn(2, 3, 4, 4)
    theirs = stepped(scheduler, denoise, noise, steps)
    torch.testing.assert_close(dpmpp(denoise, noise, DIFFUSION, steps), theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("sampler", [ddim, dpmpp])
def test_gaussian_data_keep_mean_and_deviation(sampler: Callable[..., Tensor]) -> None:
    """With a perfect denoiser the map from noise to data is linear: z0 = a + b noise.

    With many steps it is the exact flow, which keeps quantiles: a noise of n deviations ends n deviations
    from the mean. The noise at the last time is not quite pure, sqrt(abar) = 0.027 of it being data.
    """
    noise = torch.tensor([-1.0, 0.0, 1.0])[:, None, None, None]
    low, middle, high = sampler(gaussian, noise, DIFFUSION, 999).flatten().double()
    signal, sigma = (float(part) for part in DIFFUSION.coefficients(torch.tensor([999])))
    shrink = DEVIATION / math.sqrt(signal**2 * DEVIATION**2 + sigma**2)
    assert middle == pytest.approx(MEAN * (1 - signal * shrink), abs=2e-3)
    assert (high - low) / 2 == pytest.approx(shrink, rel=0.01)


def test_log_snr_spacing_keeps_the_deviation_in_few_steps() -> None:
    """As measured with networks: DDIM loses spread in ten steps, DPM-Solver++ with this spacing hardly."""
    noise = torch.tensor([-1.0, 1.0])[:, None, None, None]

    def std(fields: Tensor) -> float:
        return float(fields[1] - fields[0]) / 2 / DEVIATION

    assert std(ddim(gaussian, noise, DIFFUSION, 10)) < 0.85
    assert std(dpmpp(gaussian, noise, DIFFUSION, 10, "logsnr")) == pytest.approx(1, abs=0.05)


def test_noise_is_standard_normal_and_its_own_at_each_key() -> None:
    shape = (16, 64, 64)
    one = white_noise(3, 1, 400_000, shape)
    count = one.numel()
    assert abs(float(one.mean())) < 4 / math.sqrt(count)
    assert abs(float(one.var()) - 1) < 4 * math.sqrt(2 / count)
    assert abs(float((one**4).mean()) - 3) < 4 * math.sqrt(96 / count)
    for other in ((4, 1, 400_000), (3, 2, 400_000), (3, 1, 400_001), (3, 1, -400_000)):
        assert abs(float((one * white_noise(*other, shape)).mean())) < 4 / math.sqrt(count)


def test_hours_before_1970_have_noise_of_their_own() -> None:
    """ERA5 begins in 1940; what is drawn after 1970 stays as it was."""
    shape = (1, 1, 4)
    fields = [white_noise(0, 0, hour, shape) for hour in (-262_968, -262_967, -2, -1, 0)]
    assert len({tuple(field.flatten().tolist()) for field in fields}) == 5
    torch.testing.assert_close(
        white_noise(0, 0, 400_000, shape).flatten(),
        torch.tensor([1.842779, 0.3416, 2.392438, 1.647767]),
        rtol=0,
        atol=1e-6,
    )


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.7, 0.95])
def test_coherence_has_the_variance_and_correlation_asked_for(correlation: float) -> None:
    weights = np.array(coherence_weights(correlation))
    assert weights @ weights == pytest.approx(1)
    assert weights[1:] @ weights[:-1] == pytest.approx(correlation, abs=1e-9)
    assert weights[-1] ** 2 < 0.011 or len(weights) == 1


def test_coherent_noise_depends_on_the_hour_alone() -> None:
    """Any hour can be drawn first: the noise of an hour is a sum over hours, not a recursion."""
    shape = (4, 32, 32)
    later = CoherentNoise(0, shape, ((0.7,),))(1001, 0)
    noise = CoherentNoise(0, shape, ((0.7,),))
    now = noise(1000, 0)
    torch.testing.assert_close(noise(1001, 0), later, rtol=0, atol=0)
    assert float((now * later).mean()) == pytest.approx(0.7, abs=4 / 64)
    weighted = [weight * white_noise(0, 0, 1001 - lag, shape) for lag, weight in enumerate(coherence_weights(0.7))]
    torch.testing.assert_close(later, sum(weighted), rtol=0, atol=1e-6)
    crop = slice(4, 12), slice(8, 32)
    torch.testing.assert_close(CoherentNoise(0, shape, ((0.7,),), crop)(1001, 0), later[:, *crop], rtol=0, atol=0)


def test_each_white_field_is_drawn_once_and_kept_while_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 members of 8 lags need 160 fields for the first hour and 20 for each that follows; 160 are kept."""
    drawn, fields = [], []

    def counted(seed: int, member: int, hour: int, shape: tuple[int, int, int]) -> Tensor:
        field = white_noise(seed, member, hour, shape)
        drawn.append((member, hour))
        fields.append(weakref.ref(field))
        return field

    monkeypatch.setattr(sampling, "white_noise", counted)
    noise = CoherentNoise(0, (1, 2, 2), ((0.717,),))
    lags = len(coherence_weights(0.717))
    for hour in range(100, 110):
        for member in range(20):
            noise(hour, member)
    assert len(drawn) == len(set(drawn)) == 20 * (lags + 9)
    assert sum(field() is not None for field in fields) == 20 * lags == 160


def test_each_channel_has_its_own_memory() -> None:
    """Correlations 0, 0.5 and 0.9 of the noise of an hour with that of the next, each of unit variance."""
    noise = CoherentNoise(0, (3, 64, 64), ((0.0, 0.5, 0.9),))
    now, later = (noise(hour, 0).flatten(1) for hour in (1000, 1001))
    found = (now * later).mean(dim=1)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.5, 0.9]), rtol=0, atol=0.04)
    torch.testing.assert_close(now.square().mean(dim=1), torch.ones(3), rtol=0, atol=0.06)


def test_land_and_sea_have_their_own_memory() -> None:
    """Each hour is white everywhere; its correlation with the next is 0.8 and 0.5 over land, 0.2 and 0 over sea."""
    land = np.arange(64) < 24
    noise = CoherentNoise(0, (2, 64, 64), ((0.8, 0.5), (0.2, 0.0)), land=np.broadcast_to(land, (64, 64)))
    now, later = (noise(hour, 0) for hour in (1000, 1001))
    for cells, expected in ((land, [0.8, 0.5]), (~land, [0.2, 0.0])):
        found = (now * later)[..., cells].mean(dim=(1, 2))
        torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=0.06)
        torch.testing.assert_close(now[..., cells].square().mean(dim=(1, 2)), torch.ones(2), rtol=0, atol=0.1)
