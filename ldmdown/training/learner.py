"""A stage while it learns: its loss, its tensors and their averages, the optimiser, and a step of it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from itertools import repeat

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ldmdown import runtime
from ldmdown.config import StageConfig
from ldmdown.console import say
from ldmdown.training import memory
from ldmdown.training.batches import Batch, CropSource, micro_batches, prefetch, sample_batch
from ldmdown.training.run import Run, State, load
from ldmdown.training.stages import Stage, copy

VALIDATION_BATCHES = 8
NOISE_BANDS = 5  # of the noise level, by which the validation loss is told apart


class LossModule(nn.Module):
    """The loss of a stage as a module that holds what the stage trains."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(stage.modules)
        self.stage = stage

    def forward(self, batch: Batch) -> Tensor:
        """The loss () or (B,)."""
        with runtime.autocast(batch["predictors"].device, self.stage.config.train.precision):
            return self.stage.loss(batch)


class Learner:
    """A stage with all that changes while it learns: its tensors, their averages and the optimiser."""

    def __init__(self, stage: Stage, run: Run) -> None:
        self.stage, self.run = stage, run
        self.loss = LossModule(stage)
        self.averages = [EMA(stage.tensors, decay) for decay in stage.settings.ema]
        settings = stage.settings
        trained = [tensor for tensor in stage.tensors.values() if isinstance(tensor, nn.Parameter)]
        for tensor in trained:
            tensor.requires_grad_()
        self.optimizer = torch.optim.AdamW(
            trained,
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=trained[0].is_cuda,
        )

    def choose_micro_batch(self, source: CropSource, state: State, micro_batch: int | None) -> None:
        """Decide how many crops go through the networks at once, and whether blocks are computed again; say so."""
        processes, settings = self.run.processes, self.stage.settings
        share = settings.batch // processes.size
        if micro_batch is not None:
            state.micro_batch, state.checkpointing = micro_batch, False
        elif state.micro_batch is None or state.processes != processes.size:
            fits = processes.least(self._fitting(source) if processes.device.type == "cuda" else share)
            state.micro_batch, state.checkpointing = max(1, fits), fits == 0
        state.processes = processes.size
        assert state.micro_batch is not None
        ways = []
        if state.micro_batch < share:
            ways.append(f"micro-batches of {state.micro_batch} of {share} crops, whose gradients add up")
        if state.checkpointing:
            ways.append("activation checkpointing")
        if ways:
            say(f"{self.stage.name}: {', '.join(ways)}")

    def _fitting(self, source: CropSource) -> int:
        """How many crops fit in the memory of the GPU beside the optimiser's moments."""
        stage = self.stage
        batch = sample_batch(source, stage.name, stage.config.train.seed, stage.settings, 0, self.run.processes)
        kept = {name: buffer.clone() for name, buffer in self.loss.named_buffers()}
        moments = 2 * sum(tensor.nbytes for tensor in self.optimizer.param_groups[0]["params"])
        reserve = torch.empty(moments, dtype=torch.uint8, device=self.run.processes.device)

        def attempt(crops: int) -> None:
            self.optimizer.zero_grad()
            backward(self.loss, next(micro_batches(batch, crops))[0], crops)

        fits = memory.find_micro_batch(attempt, len(batch["seeds"]))
        del reserve
        self.optimizer.zero_grad()
        copy(dict(self.loss.named_buffers()), kept)
        return fits

    @cached_property
    def parallel(self) -> nn.Module:
        """The loss whose gradients are averaged over the processes."""
        processes = self.run.processes
        if processes.size > 1 and processes.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(self.loss)
        return processes.parallel(self.loss, partly=self.stage.partial_gradients)

    @contextlib.contextmanager
    def forward_passes(self, state: State) -> Iterator[None]:
        """The ways in which the networks are computed for as long as the context lasts."""
        with contextlib.ExitStack() as ways:
            if state.checkpointing:
                ways.enter_context(memory.checkpointed(memory.blocks(self.loss)))
            if self.stage.config.train.compile:
                ways.enter_context(memory.compiled(self.stage.modules.values()))
            yield

    def steps(self, source: CropSource, state: State) -> Iterator[tuple[int, Tensor, float]]:
        """Take steps until the stage is finished: after each its number, its loss on the device, the learning rate."""
        assert state.micro_batch is not None
        stage, settings, processes = self.stage, self.stage.settings, self.run.processes
        stream = stage.name if not state.rollbacks else f"{stage.name}, rollback {state.rollbacks}"
        make = partial(sample_batch, source, stream, stage.config.train.seed, settings, processes=processes)
        for step, batch in prefetch(make, range(state.step, settings.steps)):
            learning_rate = settings.learning_rate * schedule(step, settings) * state.lr_scale
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.zero_grad()
            loss = backward(self.parallel, batch, state.micro_batch)
            nn.utils.clip_grad_norm_(self.loss.parameters(), settings.grad_clip)
            self.optimizer.step()
            for ema in self.averages:
                ema.update(step)
            yield step + 1, loss, learning_rate
            if state.finished:
                break

    @torch.no_grad()
    def validate(self, source: CropSource, micro_batch: int) -> tuple[float, dict[str, float]]:
        """Mean loss over the same crops, times and noise at every call; and by noise level, where the stage has one."""
        stage, processes = self.stage, self.run.processes
        stream, seed = f"validation {stage.name}", stage.config.train.seed
        make = partial(sample_batch, source, stream, seed, stage.settings, processes=processes)
        self.loss.eval()
        sums = torch.zeros(2, NOISE_BANDS, device=processes.device)
        mean = torch.zeros((), device=processes.device)
        for _, batch in prefetch(make, range(VALIDATION_BATCHES)):
            for part, fraction in micro_batches(batch, micro_batch):
                values = self.loss(part).float()
                mean += values.mean() * fraction / VALIDATION_BATCHES
                level = stage.noise_level(part)
                if level is not None:
                    band = (level * NOISE_BANDS).long()
                    sums += torch.stack([torch.bincount(band, weights, NOISE_BANDS) for weights in (values, None)])
        total, count = processes.mean(sums)
        names = [f"{band / NOISE_BANDS:g}-{(band + 1) / NOISE_BANDS:g}" for band in range(NOISE_BANDS)]
        bands = dict(zip(names, (total / count).tolist(), strict=True)) if count.any() else {}
        return float(processes.mean(mean)), bands

    def content(self) -> dict[str, object]:
        """All that is kept beside the state for the next step."""
        averages = [ema.tensors for ema in self.averages]
        return {"tensors": self.stage.tensors, "averages": averages, "optimizer": self.optimizer.state_dict()}

    def restore(self) -> None:
        """Take tensors, averages and moments from the disk."""
        saved = load(self.run.state_path(self.stage.name))
        copy(self.stage.tensors, saved["tensors"])
        for ema, tensors in zip(self.averages, saved.get("averages", repeat(saved["tensors"])), strict=False):
            copy(ema.tensors, tensors)
        fresh = {"state": {}, "param_groups": self.optimizer.state_dict()["param_groups"]}
        self.optimizer.load_state_dict(saved.get("optimizer", fresh))


def backward(loss: nn.Module, batch: Batch, micro_batch: int) -> Tensor:
    """Gradients of the mean loss over a batch, a micro-batch at a time; with the last one processes share them."""
    loss.train()
    total = torch.zeros((), device=batch["predictors"].device)
    pieces = list(micro_batches(batch, micro_batch))
    for number, (piece, fraction) in enumerate(pieces, 1):
        alone = number < len(pieces) and isinstance(loss, nn.parallel.DistributedDataParallel)
        with loss.no_sync() if alone else contextlib.nullcontext():  # type: ignore[operator]
            value = loss(piece).mean() * fraction
            value.backward()
        total += value.detach()
    return total


def schedule(step: int, settings: StageConfig) -> float:
    """Fraction of the learning rate: a linear warm-up, then a cosine to zero; or 1, where plateaus lower it."""
    if settings.schedule == "plateau":
        return 1.0
    warmup = max(1, round(settings.warmup * settings.steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (settings.steps - warmup))


class EMA:
    """Exponential moving average of tensors, with the paper's warm-up: decay at most (1 + n) / (10 + n)."""

    def __init__(self, tensors: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        self._pairs = [(self.tensors[name], tensor) for name, tensor in tensors.items()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the tensors after a step (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        floats = [pair for pair in self._pairs if pair[0].is_floating_point()]
        get_ema_multi_avg_fn(decay)([average for average, _ in floats], [tensor for _, tensor in floats], step)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The average in the tensors' own place for as long as the context lasts."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for average, tensor in self._pairs:
            kept = tensor.clone()
            tensor.copy_(average)
            average.copy_(kept)
