"""The loop that fits a stage: the same on a CPU and on many GPUs, and resumed at any step.

Step k draws its hours, crops and noise from (seed, stage, k) alone, so that a run that was killed repeats the losses of
one that was not. The noise belongs to a crop, so that processes and micro-batches add up to the same.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import cached_property, partial
from itertools import repeat

import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ldmdown import runtime
from ldmdown.config import StageConfig
from ldmdown.console import say
from ldmdown.errors import LdmdownError
from ldmdown.training import memory
from ldmdown.training.batches import Batch, CropSource, micro_batches, prefetch, sample_batch
from ldmdown.training.run import Losses, Run, State, load
from ldmdown.training.stages import Stage, copy

LOG_EVERY = 20  # steps between readings of the losses, each of which waits for the device
VALIDATION_BATCHES = 8
NOISE_BANDS = 5  # of the noise level, by which the validation loss is told apart
SHOW_EVERY = 5  # validations between pictures
EXPLODED = 10  # times the first loss, above it: the loss has diverged
MAX_ROLLBACKS = 3
PLATEAU, PLATEAU_FACTOR = 4, 0.25  # validations without a better loss after which the learning rate falls (section 3.4)


class DivergedError(Exception):
    """The loss is not a number, or far above the first one."""


def fit(
    stage: Stage,
    sources: Mapping[str, CropSource],
    run: Run,
    progress: Progress,
    *,
    show: Callable[[int], None],
    resume: bool = False,
    micro_batch: int | None = None,
) -> None:
    """Train a stage to its end and leave its best averaged weights in its tensors.

    Parameters
    ----------
    sources
        crops for "train" and "validation".
    show
        draws what has been learned after a step.
    resume
        whether a stage that was stopped goes on.
    micro_batch
        crops that go through the networks at once in each process; None: all, or on CUDA as many as fit in memory.

    Raises
    ------
    LdmdownError
        if the stage was stopped before and `resume` is not given, if its batch does not divide over the processes, or
        if it diverges again and again.
    """
    settings = stage.settings
    state = begin(stage, sources, run, progress, resume=resume)
    learner = Learner(stage, run)
    learner.choose_micro_batch(sources["train"], state, micro_batch)
    if not settings.steps:
        keep_start(learner, sources["validation"], state)
    task = progress.add_task(stage.name, total=settings.steps, note="")
    with learner.forward_passes(state):
        while not state.finished:
            learner.restore()
            losses = Losses(run, stage.name, state.step)
            try:
                for step, loss, learning_rate in learner.steps(sources["train"], state):
                    losses.note(step, loss, learning_rate)
                    validates = step % settings.validate_every == 0 or step == settings.steps
                    if not validates and step % LOG_EVERY:
                        continue
                    mean = losses.read(settings.batch)
                    check(mean, state)
                    note = f"{losses.speed:.0f} crops/s, loss {mean:.4f}, best {state.best_loss:.4f}"
                    progress.update(task, completed=step, note=note)
                    if validates:
                        validate_and_save(learner, sources["validation"], state, step, losses, show)
                    else:
                        losses.write()
            except DivergedError as error:
                state = roll_back(stage, run, state, f"{error} before step {step}")
    copy(stage.tensors, load(run.best_path(stage.name))["tensors"])
    for tensor in stage.tensors.values():
        tensor.requires_grad_(False)
    progress.update(task, total=state.step, completed=state.step)


def begin(stage: Stage, sources: Mapping[str, CropSource], run: Run, progress: Progress, *, resume: bool) -> State:
    """The state of a stage that was stopped, if it is to go on; else a fresh one, on the disk with its tensors."""
    settings, size = stage.settings, run.processes.size
    if settings.batch % size:
        raise LdmdownError(
            f"train.{stage.name}.batch",
            "does not divide over the processes",
            found=f"{settings.batch} crops, {size} processes",
            fix=f"make it a multiple of {size}, or change --nproc-per-node",
        )
    state = run.load_state(stage.name)
    run.processes.wait()  # all have read before the first one writes
    if state is not None and state.step and not resume:
        path = run.state_path(stage.name)
        raise LdmdownError(
            path,
            f"the {stage.name} stage was stopped after {state.step} of {settings.steps} steps",
            fix=f"resume with `ldmdown train --resume`, or delete {path} to train it anew",
        )
    if state is None:
        stage.begin(sources, progress)
        state = State(run.fingerprints[stage.name], size)
        run.write(run.state_path(stage.name), asdict(state) | {"tensors": stage.tensors})
    return state


def keep_start(learner: Learner, source: CropSource, state: State) -> None:
    """Finish a stage without a step: the weights that it starts from are its best."""
    assert state.micro_batch is not None
    stage, run = learner.stage, learner.run
    learner.restore()
    state.best_loss, _ = learner.validate(source, state.micro_batch)
    state.finished = True
    run.write(run.best_path(stage.name), {"tensors": stage.tensors})
    run.write(run.state_path(stage.name), asdict(state))


def check(loss: float, state: State) -> None:
    """Raise `DivergedError` unless a loss is a number and not far above the first one."""
    if math.isnan(state.first_loss):
        state.first_loss = loss
    if not loss < state.first_loss + EXPLODED * max(1, abs(state.first_loss)):
        raise DivergedError(f"the loss diverged ({loss:.4g}, {state.first_loss:.4g} at first)")


def validate_and_save(
    learner: Learner, source: CropSource, state: State, step: int, losses: Losses, show: Callable[[int], None]
) -> None:
    """Validate each average of the weights and keep all that the stage resumes from; the best one in its own file."""
    assert state.micro_batch is not None
    stage, run, settings = learner.stage, learner.run, learner.stage.settings
    validated = []
    for ema in learner.averages:
        with ema.in_place():
            validated.append((*learner.validate(source, state.micro_batch), ema))
        if not math.isfinite(validated[-1][0]):
            raise DivergedError(f"the validation loss diverged ({validated[-1][0]:.4g})")
    value, bands, ema = min(validated, key=lambda one: one[0])
    losses.write(value, bands)
    better = value < state.best_loss or stage.keeps_last
    if better:
        state.best_step, state.best_loss, state.best_ema = step, value, ema.decay
        run.write(run.best_path(stage.name), {"tensors": ema.tensors})
    state.bad_validations = 0 if better else state.bad_validations + 1
    if settings.schedule == "plateau" and state.bad_validations and state.bad_validations % PLATEAU == 0:
        state.lr_scale *= PLATEAU_FACTOR
    state.step = step
    state.finished = step == settings.steps or state.bad_validations >= settings.patience
    run.write(run.state_path(stage.name), asdict(state) | learner.content())
    if run.processes.first and (state.finished or step // settings.validate_every % SHOW_EVERY == 0):
        with ema.in_place():
            show(step)


def roll_back(stage: Stage, run: Run, state: State, reason: str) -> State:
    """The last saved state, with half the learning rate and other crops to come.

    Raises
    ------
    LdmdownError
        after some rollbacks.
    """
    if state.rollbacks == MAX_ROLLBACKS:
        raise LdmdownError(
            run.folder / f"{stage.name}.csv",
            f"the {stage.name} stage diverges again after {MAX_ROLLBACKS} rollbacks",
            found=reason,
            fix=f"lower train.{stage.name}.learning_rate and train it anew; the state of step {state.step} is kept",
        )
    saved = run.load_state(stage.name)
    assert saved is not None
    event = f"{reason}: back to step {saved.step}, with half the learning rate"
    say(f"{stage.name}: {event}")
    return replace(
        state,
        **{key: getattr(saved, key) for key in ("step", "best_step", "best_loss", "best_ema", "bad_validations")},
        lr_scale=state.lr_scale / 2,
        rollbacks=state.rollbacks + 1,
        events=[*state.events, event],
    )


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
