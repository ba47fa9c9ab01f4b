"""How long a member-hour of the whole domain takes, and what each decision about it is worth.

    python tests/benchmarks/speed.py [CHECKPOINT]

Rows add up: the paper's way (100 steps of DDIM, the conditioner run again in every step), then one change
after the other, timed in turn in one run so that ratios hold on a noisy machine.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ldmdown.checkpoint import load
from ldmdown.models.sampling import ddim, dpmpp, white_noise

ROUNDS = 2


def main(name: str) -> None:
    """Print the table."""
    checkpoint = load(name)
    model = checkpoint.model
    assert model.autoencoder is not None and model.diffusion is not None
    rows, cols = (side // model.factor for side in model.statics.shape[-2:])
    predictors = torch.randn(1, len(checkpoint.config.predictors), rows, cols)
    statics = model.statics_at([(0, 0)], rows, cols)
    noise = white_noise(0, 0, 0, (model.autoencoder.latent_channels, rows, cols))[None]
    diffusion = model.diffusion

    def again(z: Tensor, t: Tensor) -> Tensor:
        return model.denoise(z, t, model.condition(predictors, statics).context)

    def sampled(denoise: Callable[[Tensor, Tensor], Tensor], fast: bool, members: int = 1) -> Tensor:
        condition = model.condition(predictors, statics)
        start = noise.expand(members, -1, -1, -1)
        latent = dpmpp(denoise, start, diffusion, 10) if fast else ddim(denoise, start, diffusion, 100)
        return model.mean_or_zero(predictors, statics) + model.autoencoder.decode(latent * condition.log_scale.exp())

    def once(members: int = 1) -> Callable[[Tensor, Tensor], Tensor]:
        context: Sequence[Tensor] = model.condition(predictors, statics).take([0] * members).context
        return lambda z, t: model.denoise(z, t, context)

    ways: dict[str, tuple[Callable[[], Tensor], int]] = {
        "DDIM 100, conditioner in every step": (lambda: sampled(again, fast=False), 1),
        "DDIM 100, conditioner once": (lambda: sampled(once(), fast=False), 1),
        "DPM-Solver++ 10, conditioner once": (lambda: sampled(once(), fast=True), 1),
        "the same, four members together": (lambda: sampled(once(4), fast=True, members=4), 4),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with torch.inference_mode():
        for number in range(ROUNDS + 1):
            for way, (run, members) in ways.items():
                began = time.perf_counter()
                run()
                if number:  # the first round warms up
                    seconds[way].append((time.perf_counter() - began) / members)
    slowest = np.median(seconds["DDIM 100, conditioner in every step"])
    size = f"{rows * model.factor} x {cols * model.factor} cells"
    print(f"{torch.get_num_threads()} threads, PyTorch {torch.__version__}, {size}")
    for way, values in seconds.items():
        print(f"{way:40} {np.median(values):6.2f} s a member-hour  {slowest / np.median(values):5.1f} times as fast")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["italy"]))
