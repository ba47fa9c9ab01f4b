"""The parts of the loop of training, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import write_archive, write_small

from ldmdown import checkpoint, runtime
from ldmdown.config import StageConfig, parse_config
from ldmdown.data.archive.store import Archive
from ldmdown.errors import LdmdownError
from ldmdown.models.unet import UNet
from ldmdown.training import heldout, loop, memory
from ldmdown.training.batches import micro_batches, noise, stratified_timesteps
from ldmdown.training.hours import HourSet
from ldmdown.training.learner import EMA, schedule
from ldmdown.training.run import State


def test_the_average_by_hand() -> None:
    """Decay min(0.5, (1 + n) / (10 + n)): 0.1 after the first step, 2/11 after the second."""
    weight = torch.zeros(1)
    average = EMA({"w": weight}, 0.5)
    weight += 1
    average.update(0)
    assert average.tensors["w"].item() == pytest.approx(0.9)
    weight += 1
    average.update(1)
    assert average.tensors["w"].item() == pytest.approx(0.9 * 2 / 11 + 2 * 9 / 11)
    with average.in_place():
        assert weight.item() == pytest.approx(0.9 * 2 / 11 + 2 * 9 / 11)
    assert weight.item() == 2


def batch(places: range, whole: int = 8) -> dict[str, object]:
    """Crops of a batch of which there are `whole`."""
    chosen = list(places)
    return {"predictors": torch.zeros(len(chosen), 1), "seeds": [100 + i for i in chosen], "places": chosen,
            "whole": whole, "step": 3}  # fmt: skip


def test_noise_and_timesteps_belong_to_a_crop() -> None:
    """Whole, or as halves of two processes, the second in micro-batches of three."""
    first, second = batch(range(4)), batch(range(4, 8))
    pieces = [first, *(part for part, _ in micro_batches(second, 3))]
    for values in (stratified_timesteps, lambda one: noise(one, (2, 3))):
        torch.testing.assert_close(values(batch(range(8))), torch.cat([values(one) for one in pieces]), rtol=0, atol=0)
    assert [fraction for _, fraction in micro_batches(second, 3)] == [0.75, 0.25]
    assert (stratified_timesteps(batch(range(8))) * 8).long().tolist() == list(range(8))
    assert abs(noise(batch(range(8)), (64, 64)).std().item() - 1) < 0.01


def test_the_share_of_a_process() -> None:
    shares = [runtime.Processes(rank, 3, 3, torch.device("cpu")).share(12) for rank in range(3)]
    assert [range(12)[share] for share in shares] == [range(4), range(4, 8), range(8, 12)]


def test_computed_again_is_the_same() -> None:
    """Gradients, and running statistics that count a batch once."""
    torch.manual_seed(0)
    unet = UNet(2, 1, (4, 8), 8).train()
    source, results = torch.randn(2, 2, 16, 16), []
    start = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    for again in (False, True):
        unet.load_state_dict(start)
        unet.zero_grad()
        blocks = memory.blocks(unet) if again else []
        kept: list[int] = []

        def pack(tensor: torch.Tensor, kept: list[int] = kept) -> torch.Tensor:
            kept.append(tensor.nbytes)
            return tensor

        with memory.checkpointed(blocks), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = unet(source).square().mean()
        bytes_kept = sum(kept)
        with memory.checkpointed(blocks):
            loss.backward()
        assert all("forward" not in vars(block) for block in blocks)
        results.append((bytes_kept, [one.grad for one in unet.parameters()], dict(unet.state_dict())))
    (most, *expected), (least, *found) = results
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert least < most / 2
    assert found[1]["e1.conv.conv.1.num_batches_tracked"] == 1


@pytest.mark.parametrize(("room", "tried"), [(9, [8]), (2, [8, 4, 2]), (0, [8, 4, 2, 1])])
def test_halved_until_it_fits(room: int, tried: list[int]) -> None:
    """A GPU that has room for some crops, and fails at more as CUDA does."""
    attempts: list[int] = []

    def attempt(crops: int) -> None:
        attempts.append(crops)
        if crops > room:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert memory.find_micro_batch(attempt, 8) == (tried[-1] if room else 0)
    assert attempts == tried


def test_schedules_by_hand() -> None:
    """Ten steps of warm-up of a hundred, then half a cosine; or none."""
    settings = StageConfig(steps=100, learning_rate=1.0, batch=1, warmup=0.1)
    assert [schedule(step, settings) for step in (0, 9, 10, 55)] == pytest.approx([0.1, 1, 1, 0.5])
    assert schedule(0, settings.model_copy(update={"schedule": "plateau"})) == 1


def test_a_loss_diverges_if_it_is_no_number_or_far_above_the_first() -> None:
    state = State("", 1)
    for loss in (-2.0, 17.9):
        loop.check(loss, state)
    assert state.first_loss == -2
    for loss in (18.1, float("inf"), float("nan")):
        with pytest.raises(loop.DivergedError):
            loop.check(loss, state)


def test_power_lost_by_wavelength() -> None:
    """A wave of 32 km at half its amplitude lacks 6.02 dB; one of 128 km lacks nothing."""
    rows = np.cos(2 * np.pi * (np.arange(64) + 0.5) * 2 / 32)[:, None]
    cols = np.cos(2 * np.pi * (np.arange(64) + 0.5) * 2 / 128)
    reference = (rows + cols)[None]
    lost = heldout.power_lost((0.5 * rows + cols)[None], reference, 2.0)
    assert lost["32"] == pytest.approx(20 * np.log10(2), abs=1e-6)
    assert lost["128"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("strength", [0.5, 0.8, 1.0])
def test_the_gain_with_which_spread_matches_the_error(strength: float) -> None:
    """Members that are `strength` times draws from the truth's own distribution need its inverse."""
    random = torch.Generator().manual_seed(0)
    truth, draws = torch.randn(100_000, generator=random), torch.randn(8, 100_000, generator=random)
    members = strength * draws
    mean = members.mean(dim=0)
    sums = [part.sum() for part in (mean * mean, mean * truth, truth * truth, members.var(dim=0))]
    gain = float(heldout.matching_gain(*sums, members=8))
    assert gain == pytest.approx(1 / strength, rel=0.01)
    error, spread = (gain * mean - truth).square().mean(), (gain * members).var(dim=0).mean()
    assert float(error / (9 / 8 * spread)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("text", ["0", "-2", "many"])
def test_batch_size_on_the_command_line(text: str) -> None:
    from ldmdown.cli import _crops

    assert (_crops("auto"), _crops("4")) == (None, 4)
    with pytest.raises(LdmdownError, match="--batch-size: is not a positive integer"):
        _crops(text)


def test_how_long_latents_last_over_land_and_over_sea(tmp_path: Path) -> None:
    """Over land 0.8 of an hour is in the next and 0.6 is new, over sea all is new."""
    statics = {"fields": ["z", "land_sea_mask"], "terrain_features": True}
    config = parse_config(write_small(tmp_path, statics=statics, scale=None, autoencoder={"kind": "lapped"}))
    write_archive(tmp_path / "archive.zarr", config)
    hours = HourSet(Archive(tmp_path / "archive.zarr"), "train")
    model = checkpoint.build(config, hours.archive.normalization, "ldm")
    land = torch.arange(8) < 3
    model.statics[1] = land.repeat_interleave(8)
    random = torch.Generator().manual_seed(0)
    latents = torch.randn(len(hours), 192, 8, 8, generator=random)
    for hour in range(1, len(hours)):
        latents[hour, ..., land] = 0.8 * latents[hour - 1, ..., land] + 0.6 * latents[hour, ..., land]
    found = heldout.coherence(model, hours, latents, runtime.Processes(0, 1, 1, torch.device("cpu")))
    assert isinstance(found, dict)
    assert np.mean(found["land"]) == pytest.approx(0.8, abs=0.02) and np.std(found["land"]) < 0.04
    assert np.mean(found["sea"]) == pytest.approx(0, abs=0.02) and np.std(found["sea"]) < 0.05
