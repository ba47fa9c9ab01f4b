"""What a member-hour of the whole domain costs, part by part, and what each decision about it is worth.

    python tests/benchmarks/speed.py [CHECKPOINT]

Parts are timed in turn in one run, in seconds of CPU, which other work on the machine disturbs least; the least of
ROUNDS counts. The second table puts them together: the paper's way (100 steps of DDIM, the conditioner in every step)
and one change after the other.
"""

from __future__ import annotations

import copy
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ldmdown.checkpoint import load
from ldmdown.data.netcdf import NetcdfWriter
from ldmdown.data.template import OutputTemplate
from ldmdown.inference import measured_correlation
from ldmdown.models.sampling import CoherentNoise

ROUNDS = 3
CARD = {"title": "made up", "history": "", "source": "noise", "references": ""}


@torch.inference_mode()
def parts(name: str, folder: Path) -> dict[str, Callable[[], object]]:
    """The parts of a member-hour, each ready to run."""
    checkpoint = load(name)
    plain, model = copy.deepcopy(checkpoint.model), checkpoint.model.to(memory_format=torch.channels_last)
    assert model.autoencoder is not None and model.diffusion is not None
    decode, latents = model.autoencoder.decode, model.autoencoder.latent_channels
    rows, cols = checkpoint.grid.coarse.shape
    random = torch.Generator().manual_seed(0)
    predictors = torch.randn(1, len(checkpoint.config.predictors), rows, cols, generator=random)
    z, t = torch.randn(1, latents, rows, cols, generator=random), torch.tensor([500])
    old, statics = plain.statics_at([(0, 0)], rows, cols), model.statics_at([(0, 0)], rows, cols)
    before, context = plain.condition(predictors, old).context, model.condition(predictors, statics).context
    correlation = measured_correlation(checkpoint)
    land = checkpoint.model.land.numpy() if len(correlation) == 2 else None
    noise, hour = CoherentNoise(0, (latents, rows, cols), correlation, land=land), iter(range(10_000))
    noise(next(hour), 0)
    targets = checkpoint.config.targets
    hours = np.arange(400_000, 400_001)
    writer = NetcdfWriter(folder / "out.nc", OutputTemplate(checkpoint.grid, targets, None, CARD), hours)
    writer.begin()
    fields = np.random.default_rng(0).normal(280, 5, (1, len(targets), *checkpoint.grid.shape)).astype(np.float32)
    runs: dict[str, Callable[[], object]] = {
        "mean, rows first": lambda: plain.mean(predictors, old),
        "mean": lambda: model.mean(predictors, statics),
        "condition, statics again": lambda: model.condition(predictors, model.statics_at([(0, 0)], rows, cols)),
        "condition": lambda: model.condition(predictors, statics),
        "denoise, rows first": lambda: plain.denoise(z, t, before),
        "denoise": lambda: model.denoise(z, t, context),
        "decode": lambda: decode(z),
        "noise": lambda: noise(next(hour), 0),
        "compress and write": lambda: writer.write(0, writer.template.reduced(fields)),
    }
    return runs | ({"student": lambda: model.generate(z, context)} if model.student is not None else {})


@torch.inference_mode()
def main(name: str) -> None:
    """Print both tables."""
    with tempfile.TemporaryDirectory() as folder:
        runs = parts(name, Path(folder))
        least = dict.fromkeys(runs, float("inf"))
        for number in range(ROUNDS + 1):
            for part, run in runs.items():
                began = time.process_time()
                run()
                if number:  # the first round warms up
                    least[part] = min(least[part], time.process_time() - began)
    print(f"{torch.get_num_threads()} threads, PyTorch {torch.__version__}")
    for part, seconds in least.items():
        print(f"{part:42} {1000 * seconds:8.0f} ms")
    before = least["mean, rows first"] + least["decode"]
    after, beside = least["mean"] + least["decode"], least["noise"] + least["compress and write"]
    again, once, plain, fast = (
        least[part] for part in ("condition, statics again", "condition", "denoise, rows first", "denoise")
    )
    ways = {
        "DDIM 100, conditioner in every step": before + 100 * (again + plain),
        "conditioner once an hour": before + again + 100 * plain,
        "DPM-Solver++ 12": before + again + 12 * plain,
        "statics once": before + once + 12 * plain,
        "channels last": after + once + 12 * fast,
        "5 steps": after + once + 5 * fast,
    }
    if "student" in least:
        ways["student"] = after + once + least["student"]
    slowest = next(iter(ways.values()))
    for way, seconds in ways.items():
        print(f"{way:42} {seconds:8.2f} s  x {slowest / seconds:5.1f}  {beside / (seconds + beside):5.1%} beside it")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["italy"]))
