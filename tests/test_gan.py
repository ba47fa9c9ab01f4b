from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from ldmdown.data.reading import pickles
from ldmdown.models.gan import PatchDiscriminator, adaptive_weight, adversarial_loss, hinge_loss

DATA = os.environ.get("LDMDOWN_TEST_DATA")


def test_losses_by_hand() -> None:
    """(1 - 0.5) / 2 real terms and (1 - 2 + ...): max(0, 1 - real), max(0, 1 + fake), halved means."""
    real, fake = torch.tensor([0.5, 2.0]), torch.tensor([-3.0, 0.0])
    assert hinge_loss(real, fake).item() == pytest.approx(0.5 * (0.25 + 0.5))


def test_the_adaptive_weight_by_hand() -> None:
    """Gradients of 3 w and 4 w: 3 / (4 + 1e-4)."""
    w = nn.Parameter(torch.ones(1))
    assert adaptive_weight(3 * w.sum(), 4 * w.sum(), w).item() == pytest.approx(3 / 4.0001)
    assert adaptive_weight(3e9 * w.sum(), 0 * w.sum(), w).item() == 1e4


def test_each_term_moves_its_own_network() -> None:
    """The judge's gradient is that of the hinge loss alone; the field's is the error's and minus the judgement's."""
    torch.manual_seed(0)
    judge = PatchDiscriminator(1, (4, 8, 8, 8)).eval()
    generator = nn.Conv2d(1, 1, 1)
    source, target = torch.randn(2, 2, 1, 32, 32)
    field = generator(source)
    adversarial_loss(judge, field, target, generator.weight, 0.2).backward()
    ours = [parameter.grad.clone() for parameter in judge.parameters()]
    theirs = torch.autograd.grad(hinge_loss(judge(target), judge(field.detach())), list(judge.parameters()))
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected)
    field = generator(source)
    error, judgement = (field - target).abs().mean(), -judge(field).mean()
    weight = adaptive_weight(error, judgement, generator.weight)
    (expected,) = torch.autograd.grad(error + 0.2 * weight * judgement, generator.weight)
    torch.testing.assert_close(generator.weight.grad, expected)


@pytest.mark.skipif(not DATA, reason="LDMDOWN_TEST_DATA is not set")
def test_the_discriminators_tensors_are_the_papers() -> None:
    state = pickles.read_torch(Path(str(DATA)) / "parity" / "GAN_2mT.ckpt")["state_dict"]
    prefix = "loss.discriminator."
    theirs = {name.removeprefix(prefix): tensor.shape for name, tensor in state.items() if name.startswith(prefix)}
    ours = PatchDiscriminator(1, (8, 16, 32, 64)).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in ours.items()} == theirs
    assert PatchDiscriminator(1, (8, 16, 32, 64))(torch.zeros(1, 1, 64, 64)).shape == (1, 1, 6, 6)
