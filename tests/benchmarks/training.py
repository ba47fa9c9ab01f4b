"""What each measure gains in the denoiser's stage, and how much memory the paper's denoiser needs.

    python tests/benchmarks/training.py speed FOLDER [lapped|kl] [STEPS]
    /usr/bin/time -v python tests/benchmarks/training.py memory FOLDER [again]

speed: the default networks, with one latent space or the other, on three days of the bundled twin, which is prepared
in FOLDER first. The paper's plain step computes the U-Net's mean and the latents of every batch again, in float32 and
the default memory format. Then one measure after the other, each with networks of its own that start alike and see
the same crops, step by step in turn; on the CPU in seconds of the processor, so that other work on the machine does
not count.

memory: two steps of `preset: paper-t2m` on made-up hours of 512 x 512 cells, one crop of them all; `again`: with
blocks that are computed again for the gradients.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from ldmdown import runtime
from ldmdown.choices import Precision
from ldmdown.commands import train as verb
from ldmdown.commands.prepare import prepare
from ldmdown.commands.train import Training
from ldmdown.config import BUNDLED, Config, load_config, parse_config
from ldmdown.console import progress_bar
from ldmdown.data.archive.manifest import fingerprint
from ldmdown.data.archive.store import ArchiveSource
from ldmdown.data.grid import Grid
from ldmdown.data.normalization import Normalization
from ldmdown.training import learner
from ldmdown.training import memory as ways_of_memory
from ldmdown.training.batches import Batch, CropSource, field_source, sample_batch
from ldmdown.training.stages import Stage

SMALLER = ("unet", "conditioner", "scale", "denoiser")  # in the bundled twin than by default
SIDE = 512


def speed(folder: Path, latent_space: str, steps: int) -> None:
    """Print crops a second, and losses beside each other."""
    path = folder / "twin.yaml"
    settings = {key: value for key, value in yaml.safe_load(BUNDLED.read_text()).items() if key not in SMALLER}
    kept = {"steps": 0, "learning_rate": 0.001, "batch": 8, "crop": 8}
    settings["train"] = dict.fromkeys(("unet", "vae", "scale"), kept) | {
        "ldm": {"steps": 1000, "learning_rate": 0.0008, "batch": 32}
    }
    settings["autoencoder"] = {"kind": latent_space}
    if latent_space == "kl":
        settings["scale"] = None
    settings["twin"]["periods"] = days = [["2021-01-11", "2021-01-12"], ["2021-01-18", "2021-01-18"]]
    settings["data"] = {"split": {"train": days[:1], "validation": days[1:]}}
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(settings))
    prepare(path)
    bf16 = {"precision": "bf16"}
    ways: dict[str, dict[str, Any]] = {
        "the paper's plain step": {"plain": True},
        "+ latents from the disk": {},
        "+ channels last": {"channels_last": True},
        "+ torch.compile": {"channels_last": True, "compiled": True},
        "channels last, bfloat16": {"channels_last": True, **bf16},
    }
    with runtime.processes() as processes, progress_bar("steps") as progress, ExitStack() as stack:
        runs = {}
        clock = time.perf_counter if processes.device.type == "cuda" else time.process_time
        for label, options in ways.items():
            training = Training(*load_config(path), path, processes, progress)
            *before, ldm = training.stages
            for stage in before:
                if not training.load_finished(stage):
                    training.fit(stage, resume=True, micro_batch=None)
            runs[label] = stack.enter_context(_Way(training, ldm, **options))
        seconds: dict[str, list[float]] = {label: [] for label in ways}
        losses: dict[str, list[float]] = {label: [] for label in ways}
        for step in range(steps):
            for label, run in runs.items():
                began = clock()
                losses[label].append(run(step))
                seconds[label].append(clock() - began)
    batch = settings["train"]["ldm"]["batch"]
    print(f"{processes.device}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}, batch {batch}, crop 16")
    slowest = np.median(seconds["the paper's plain step"][1:])
    for label, values in seconds.items():
        usual = np.median(values[1:])
        print(f"{label:26} {batch / usual:7.1f} crops/s  {slowest / usual:5.2f} times, first step {values[0]:.1f} s")
    shown = sorted({0, *range(4, steps, 5)})
    print(f"{'loss at step':26}" + "".join(f"{step + 1:9}" for step in shown))
    for label, values in losses.items():
        print(f"{label:26}" + "".join(f"{values[step]:9.5f}" for step in shown))


class _Way(ExitStack):
    """Steps of the denoiser's stage, taken in one way."""

    def __init__(
        self,
        training: Training,
        stage: Stage,
        plain: bool = False,
        channels_last: bool = False,
        compiled: bool = False,
        precision: Precision = "fp32",
    ) -> None:
        super().__init__()
        format_ = torch.channels_last if channels_last else torch.contiguous_format
        training.model.to(memory_format=format_)  # type: ignore[call-overload]
        self.training, self.stage, self.precision = training, stage, precision
        self.source: CropSource = training.sources(stage)["train"]
        self.loss: Callable[[Batch], Tensor] = stage.loss
        if plain:
            self.source, self.loss = field_source(training.hours["train"], training.processes), self._plain
        self.optimizer = learner.Learner(stage, training.run).optimizer
        if compiled:
            self.enter_context(ways_of_memory.compiled(stage.modules.values()))

    def _plain(self, batch: Batch) -> Tensor:
        model = self.training.model
        with torch.no_grad():
            assert model.autoencoder is not None
            latents = model.autoencoder.encode(batch["target"] - self.stage.mean_or_zero(batch))
        return self.stage.loss(batch | {"latents": latents})

    def __call__(self, step: int) -> float:
        stage, device = self.stage, self.training.processes.device
        batch = sample_batch(self.source, stage.name, 0, stage.settings, step, self.training.processes)
        self.optimizer.zero_grad()
        with runtime.autocast(device, self.precision):
            loss = self.loss(batch).mean()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def memory(folder: Path, again: bool) -> None:
    """Two steps at the paper's size."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {"steps": 0, "learning_rate": 0.001, "batch": 1, "crop": 8}
    settings = {
        "preset": "paper-t2m",
        "name": "paper",
        "grid": {"rows": SIDE, "cols": SIDE},
        "data": {"split": {"train": [["2021-01-01", "2021-01-01"]], "validation": [["2021-01-03", "2021-01-03"]]}},
        "residual": False,  # latents of the fields themselves, which are made sooner
        "sampler": {"steps": 1},
        "train": {"unet": kept, "vae": kept, "ldm": {"steps": 2, "batch": 1, "validate_every": 2}},
    }
    path = folder / "paper.yaml"
    path.write_text(yaml.safe_dump(settings))
    config = parse_config(path)
    learner.VALIDATION_BATCHES = 1
    verb.Archive = partial(MadeUp, config)  # type: ignore[misc,assignment]
    with runtime.processes() as processes, progress_bar("steps") as progress:
        training = Training(config, folder, path, processes, progress)
        (ldm,) = (stage for stage in training.stages if stage.name == "ldm")
        for stage in ldm.before:
            training.fit(stage, resume=False, micro_batch=1)
        computed = ways_of_memory.blocks(ldm.modules["denoiser"]) if again else []
        with ways_of_memory.checkpointed(computed):
            training.fit(ldm, resume=False, micro_batch=1)
    sizes = {name: sum(part.numel() for part in network.parameters()) / 1e6
             for name, network in training.model.named_children()}  # fmt: skip
    trained = sizes["conditioner"] + sizes["denoiser"]
    ways = ", blocks computed again" if again else ""
    print(f"{sum(sizes.values()):.0f} M parameters, {trained:.0f} M of them trained, crop {SIDE}, batch 1{ways}")


class MadeUp:
    """An hour of white noise for each use, read as an archive is."""

    def __init__(self, config: Config, path: Path) -> None:
        self.path, self.grid = path, Grid.of(config.grid)
        self.hours = np.arange(2)
        self.scale_factor = np.full((len(config.targets), 1, 1), 1 / 256, np.float32)
        self.add_offset = np.zeros_like(self.scale_factor)
        self.source, self.realization, self.fingerprint = np.zeros(2, int), np.zeros(2, int), fingerprint(config)
        self.sources = [ArchiveSource("data", "white noise", self.fingerprint["split"]["data"], self.valid())]
        self.predictors, self.targets, self.statics = config.predictors, config.targets, config.statics.fields
        names = {"predictors": self.predictors, "target": self.targets}
        self.normalization = {
            kind: Normalization(dict.fromkeys(part, 0.0), dict.fromkeys(part, 1.0)) for kind, part in names.items()
        }

    def valid(self) -> np.ndarray:
        return np.ones(self.grid.coarse.shape, bool)

    def split(self, use: str) -> np.ndarray:
        return self.hours[:1] if use == "train" else self.hours[1:]

    def load_statics(self) -> np.ndarray:
        return self._noise(len(self.statics), *self.grid.shape)

    def load_predictors(self, indices: np.ndarray) -> np.ndarray:
        return self._noise(len(indices), len(self.predictors), *self.grid.coarse.shape)

    def read_packed(self, index: int, rows: slice, cols: slice) -> np.ndarray:
        return (256 * self._noise(len(self.targets), *self.grid.shape)[:, rows, cols]).astype(np.int16)

    def read(self, index: int) -> dict[str, np.ndarray]:
        return {"predictors": self.load_predictors(self.hours[:1])[0], "target": self._noise(1, *self.grid.shape)}

    @staticmethod
    def _noise(*shape: int) -> np.ndarray:
        return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


if __name__ == "__main__":
    what, where, *rest = sys.argv[1:]
    if what == "speed":
        speed(Path(where), *(rest[:1] or ["lapped"]), int(rest[1]) if rest[1:] else 20)
    else:
        memory(Path(where), bool(rest))
