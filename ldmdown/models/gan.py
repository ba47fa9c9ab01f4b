"""The adversarial part of the paper's GAN: a judge of patches, and the losses of a U-Net that must please it.

The generator is models/unet. Fields are (B, T, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

MOST = 1e4  # of the adaptive weight


class PatchDiscriminator(nn.Module):
    """Five convolutions 4x4 that judge overlapping patches of a field (PatchGAN, arXiv 1611.07004).

    Strides 2, 2, 2, 1, 1; batch normalisation in the middle three.
    """

    def __init__(self, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        first, *middle = widths
        layers: list[nn.Module] = [nn.Conv2d(channels, first, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for position, width in enumerate(middle):
            stride = 1 if position == len(middle) - 1 else 2
            layers += [
                nn.Conv2d(first, width, 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.LeakyReLU(0.2),
            ]
            first = width
        self.main = nn.Sequential(*layers, nn.Conv2d(first, 1, 4, padding=1))

    def forward(self, field: Tensor) -> Tensor:
        """(B, T, H, W) -> a judgement of each patch: high is real."""
        return self.main(field)


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Give the discriminator's loss from its judgements: (max(0, 1 - real) + max(0, 1 + fake)) / 2."""
    return 0.5 * (functional.relu(1 - real).mean() + functional.relu(1 + fake).mean())


def adaptive_weight(error: Tensor, adversarial: Tensor, last: Tensor) -> Tensor:
    """||grad of the error|| / (||grad of the adversarial loss|| + 1e-4) at the last layer, in [0, 1e4]."""
    (near,) = torch.autograd.grad(error, last, retain_graph=True)
    (far,) = torch.autograd.grad(adversarial, last, retain_graph=True)
    return (near.norm() / (far.norm() + 1e-4)).clamp(0, MOST).detach()


def adversarial_loss(
    discriminator: PatchDiscriminator, field: Tensor, target: Tensor, last: Tensor, weight: float
) -> Tensor:
    """Mean absolute error + weight x adaptive x (- judgement of the field) + the discriminator's hinge loss.

    Each term moves its own network only: the generator sees a judge that does not learn, the judge a field
    that is no one's. So one optimiser serves both.
    """
    error = (field - target).abs().mean()
    settled = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    adversarial = -functional_call(discriminator, settled, (field,)).mean()
    judged = hinge_loss(discriminator(target), discriminator(field.detach()))
    return error + weight * adaptive_weight(error, adversarial, last) * adversarial + judged
