"""The loop that fits a stage: the same on the CPU and on many GPUs, stopped and gone on with at any step.

Step k draws its hours, crops and noise from (seed, stage, k) alone, so that a run that was killed repeats the
losses of one that was not, and the noise of a crop is its own, so that processes and parts of a step add up to
the same.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from rich.progress import Progress
from torch import Tensor, nn

from ldmdown import runtime
from ldmdown.config import Precision, StageConfig
from ldmdown.errors import LdmdownError
from ldmdown.models.conditioner import Fusion
from ldmdown.models.denoiser import CrossBlock, TimeResBlock
from ldmdown.models.layers import DoubleConv, MixingBlock, ResBlock2D
from ldmdown.training.batches import Batch, Source, ahead, corner, draw, parts
from ldmdown.training.run import Losses, Run, State, load

LOG_EVERY = 20  # steps between readings of the losses, each of which waits for the device
VALIDATION_BATCHES = 8
LEVELS = 5  # of noise, by which validation is told apart
SHOW_EVERY = 5  # validations between pictures
EXPLODED = 10  # times the first losses, above them
SETBACKS = 3  # returns to the last good state, then the stage gives up
PLATEAU, PLATEAU_FACTOR = 4, 0.25  # validations without a better loss, after which the rate falls (section 3.4)
CPU_MARGIN = 1.5  # of memory beside what is kept for the gradients
BLOCKS = (DoubleConv, ResBlock2D, TimeResBlock, CrossBlock, MixingBlock, Fusion)  # computed again when memory is short


@dataclass(frozen=True)
class Stage:
    """What a stage trains, on what, and by which loss."""

    name: str
    settings: StageConfig
    modules: Mapping[str, nn.Module]
    tensors: Mapping[str, Tensor]  # all that is trained or counted, by its name in the state
    sources: Mapping[str, Source]  # "train" and "validation"
    loss: Callable[[Batch], Tensor]  # () or, of each crop, (B,)
    level: Callable[[Batch], Tensor] | None  # of noise of each crop, in [0, 1)
    multiple: int  # coarse cells that divide the sides of what its networks take
    show: Callable[[int], None]  # draw what it has learned after a step
    fingerprint: str
    seed: int
    precision: Precision
    compile: bool


class Objective(nn.Module):
    """A stage's loss as a module that holds what it trains."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(stage.modules)
        self.stage = stage

    def forward(self, batch: Batch) -> Tensor:
        """() or (B,)."""
        device = batch["predictors"].device
        with runtime.autocast(device, self.stage.precision):
            return self.stage.loss(batch)


def fit(stage: Stage, run: Run, progress: Progress, *, resume: bool = False, crops: int | None = None) -> None:
    """Train a stage to its end and leave its best averaged weights in its tensors.

    `crops` go through the networks at once in each process; None: as many as fit in memory.

    Raises
    ------
    LdmdownError
        if the stage was stopped before and `resume` is not given, if it does not divide over the processes, if it
        diverges again and again, or if the disk is full.
    """
    settings, processes, tensors = stage.settings, run.processes, stage.tensors
    if settings.batch % processes.size:
        raise LdmdownError(f"train.{stage.name}.batch", "does not divide over the processes",
                           found=f"{settings.batch} crops, {processes.size} processes",
                           fix=f"make it a multiple of {processes.size}, or change --nproc-per-node")  # fmt: skip
    state = _begin(stage, run, resume)
    objective = Objective(stage)
    if not settings.steps:
        value, _ = _validate(stage, objective, run, crops or settings.batch)
        run.write(run.best_path(stage.name), {"tensors": dict(tensors)})
        run.write(run.state_path(stage.name), state | {"best_loss": value, "finished": True})
        return
    optimizer = _optimizer(stage)
    average = Average(tensors, settings.ema)
    if crops is not None or state["processes"] != processes.size:
        state |= {"crops": crops, "checkpointing": False}
    if state["crops"] is None:
        first = draw(stage.sources["train"], stage.name, stage.seed, settings, 0, processes)
        state["crops"], state["checkpointing"] = fitting(objective, first, run)
    state["processes"] = processes.size
    _say_parts(stage, run, state)
    if processes.size > 1 and processes.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(objective)
    parallel = processes.parallel(objective, partly=stage.name == "gan")
    _load(stage, state, average, optimizer)
    losses = Losses(run, stage.name, state["step"])
    task = progress.add_task(stage.name, total=settings.steps, completed=state["step"], note="")
    with contextlib.ExitStack() as ways:
        if state["checkpointing"]:
            ways.enter_context(runtime.checkpointed(_blocks(objective)))
        if stage.compile:
            ways.enter_context(runtime.compiled(stage.modules.values()))
        while not state["finished"]:
            stream = stage.name if not state["setbacks"] else f"{stage.name}, setback {state['setbacks']}"
            make = partial(draw, stage.sources["train"], stream, stage.seed, settings, processes=processes)
            for step, batch in ahead(make, range(state["step"], settings.steps)):
                rate = schedule(step, settings) * state["factor"]
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate * rate
                optimizer.zero_grad()
                loss = backward(parallel, batch, state["crops"])
                nn.utils.clip_grad_norm_(objective.parameters(), settings.grad_clip)
                optimizer.step()
                average.update(step)
                done = step + 1
                losses.note(done, loss, settings.learning_rate * rate)
                validates = done % settings.validate_every == 0 or done == settings.steps
                if not validates and done % LOG_EVERY:
                    continue
                mean = losses.read(settings.batch)
                healthy = _healthy(state, mean)
                note = f"{losses.speed:.0f} crops/s, loss {mean:.4f}, best {state['best_loss']:.4f}"
                progress.update(task, completed=done, note=note)
                if healthy and validates:
                    with average.in_place():
                        value, levels = _validate(stage, objective, run, state["crops"])
                    healthy = math.isfinite(value)
                if not healthy:
                    state = _go_back(stage, run, state, done, mean)
                    _load(stage, state, average, optimizer)
                    losses = Losses(run, stage.name, state["step"])
                    break
                if not validates:
                    losses.write()
                    continue
                losses.write(value, levels)
                _judge(stage, run, state, average, done, value)
                run.write(run.state_path(stage.name), state | _content(stage, average, optimizer))
                if run.processes.first and (state["finished"] or done // settings.validate_every % SHOW_EVERY == 0):
                    with average.in_place():
                        stage.show(done)
                if state["finished"]:
                    break
    _copy(tensors, load(run.best_path(stage.name))["tensors"])
    for tensor in tensors.values():
        tensor.requires_grad_(False)
    progress.update(task, total=state["step"], completed=state["step"])


def backward(objective: nn.Module, batch: Batch, crops: int) -> Tensor:
    """Gradients of the mean loss over a batch, `crops` at a time; with the last ones processes share them."""
    objective.train()
    total = torch.zeros((), device=batch["predictors"].device)
    pieces = list(parts(batch, crops))
    for place, (part, fraction) in enumerate(pieces, 1):
        alone = place < len(pieces) and isinstance(objective, nn.parallel.DistributedDataParallel)
        with objective.no_sync() if alone else contextlib.nullcontext():  # type: ignore[operator]
            loss = objective(part).mean() * fraction
            loss.backward()
        total += loss.detach()
    return total


def schedule(step: int, settings: StageConfig) -> float:
    """Fraction of the rate: a linear warm-up, then a cosine to zero; or 1, where plateaus lower it."""
    if settings.schedule == "plateau":
        return 1.0
    warmup = max(1, round(settings.warmup * settings.steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (settings.steps - warmup))


def fitting(objective: Objective, batch: Batch, run: Run) -> tuple[int, bool]:
    """How many crops of a batch fit in memory at once, and whether blocks must be computed again for that.

    On CUDA by trying; on the CPU, which has no second try, by what the corner of a crop keeps for its gradients.
    """
    processes, counted = run.processes, dict(objective.named_buffers())
    kept = _clone(counted)
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    moments = 2 * sum(parameter.nbytes for parameter in trained)
    objective.train()
    if processes.device.type == "cuda":
        reserve = torch.empty(moments, dtype=torch.uint8, device=processes.device)
        crops = _tried(objective, batch)
        del reserve
    else:
        small, share = corner(batch, objective.stage.multiple)
        need = CPU_MARGIN * runtime.kept_bytes(lambda: objective(small), objective) / share
        free = runtime.free_memory(processes.device) // processes.on_machine - moments * 3 // 2
        crops = len(batch["seeds"])
        while crops and crops * need > free:
            crops //= 2
    objective.zero_grad()
    _copy(counted, kept)
    crops = processes.least(crops)
    return max(1, crops), crops == 0


def _tried(objective: Objective, batch: Batch) -> int:
    """The largest half, quarter... of the batch that goes through; 0 if not even one crop does."""
    crops = len(batch["seeds"])
    while crops:
        try:
            backward(objective, next(parts(batch, crops))[0], crops)
        except torch.OutOfMemoryError:
            objective.zero_grad()
            torch.cuda.empty_cache()
            crops //= 2
        else:
            break
    return crops


class Average:
    """Exponential moving average of tensors, with the paper's warm-up: decay at most (1 + n) / (10 + n)."""

    def __init__(self, tensors: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.tensors = _clone(tensors)
        self._followed = [(self.tensors[name], tensor) for name, tensor in tensors.items()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the tensors after a step (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        floats = [pair for pair in self._followed if pair[0].is_floating_point()]
        torch._foreach_lerp_([mine for mine, _ in floats], [theirs for _, theirs in floats], 1 - decay)

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
        for mine, theirs in self._followed:
            kept = theirs.clone()
            theirs.copy_(mine)
            mine.copy_(kept)


def _begin(stage: Stage, run: Run, resume: bool) -> State:
    """The state of a stopped stage, if it is to be gone on with; else a fresh one, kept for the first setback."""
    state = run.load_state(stage.name, stage.fingerprint)
    run.processes.wait()  # all have read before the first one writes
    if state is not None and state["step"] and not resume:
        path = run.state_path(stage.name)
        raise LdmdownError(
            path,
            f"the {stage.name} stage was stopped after {state['step']} of {stage.settings.steps} steps",
            fix=f"go on with `ldmdown train --resume`, or delete {path} to train it anew",
        )
    if state is None:
        state = {"step": 0, "best_step": 0, "best_loss": math.inf, "stale": 0, "finished": False, "factor": 1.0,
                 "setbacks": 0, "events": [], "first": math.nan, "crops": None, "checkpointing": False,
                 "processes": run.processes.size, "fingerprint": stage.fingerprint}  # fmt: skip
        if stage.settings.steps:
            run.write(run.state_path(stage.name), state | {"tensors": dict(stage.tensors)})
    return state


def _content(stage: Stage, average: Average, optimizer: torch.optim.Optimizer) -> State:
    return {"tensors": dict(stage.tensors), "average": average.tensors, "optimizer": optimizer.state_dict()}


def _load(stage: Stage, state: State, average: Average, optimizer: torch.optim.Optimizer) -> None:
    """Take tensors, average and moments out of a state, which keeps the rest."""
    if "tensors" not in state:
        return
    _copy(stage.tensors, state.pop("tensors"))
    _copy(average.tensors, state.pop("average", stage.tensors))
    fresh = {"state": {}, "param_groups": optimizer.state_dict()["param_groups"]}
    optimizer.load_state_dict(state.pop("optimizer", fresh))


def _judge(stage: Stage, run: Run, state: State, average: Average, done: int, value: float) -> None:
    """Take a validation into the state: the best weights so far, a lower rate on a plateau, the end."""
    settings = stage.settings
    better = value < state["best_loss"] or stage.name == "gan"  # whose error grows as its fields sharpen
    if better:
        state |= {"best_step": done, "best_loss": value}
        run.write(run.best_path(stage.name), {"tensors": average.tensors})
    state["stale"] = 0 if better else state["stale"] + 1
    if settings.schedule == "plateau" and state["stale"] and state["stale"] % PLATEAU == 0:
        state["factor"] *= PLATEAU_FACTOR
    state |= {"step": done, "finished": done == settings.steps or state["stale"] >= settings.patience}


def _healthy(state: State, mean: float) -> bool:
    """Whether the loss is a number and not far above the first ones."""
    if math.isnan(state["first"]):
        state["first"] = mean
    return mean < state["first"] + EXPLODED * max(1, abs(state["first"]))


def _go_back(stage: Stage, run: Run, state: State, done: int, mean: float) -> State:
    """The last good state, with half the rate and other crops to come.

    Raises
    ------
    LdmdownError
        after some such setbacks.
    """
    setbacks = state["setbacks"] + 1
    if setbacks > SETBACKS:
        raise LdmdownError(
            run.folder / f"{stage.name}.csv",
            f"the loss of the {stage.name} stage went astray before step {done}, for the {setbacks}th time",
            found=f"a loss of {mean:.4g}, of {state['first']:.4g} at first",
            fix=f"lower train.{stage.name}.learning_rate and train it anew; the state of step {state['step']} is kept",
        )
    again = run.load_state(stage.name, stage.fingerprint)
    assert again is not None
    event = f"the loss went astray ({mean:.4g}) before step {done}: back to step {again['step']}, at half the rate"
    run.say(f"{stage.name}: {event}")
    kept = {key: state[key] for key in ("crops", "checkpointing", "processes", "first")}
    return again | kept | {
        "factor": state["factor"] / 2, "setbacks": setbacks, "events": [*state["events"], event]
    }  # fmt: skip


@torch.no_grad()
def _validate(stage: Stage, loss: Callable[[Batch], Tensor], run: Run, crops: int) -> tuple[float, dict[str, float]]:
    """Mean loss over the same crops, times and noise at every call; and by level of noise, where a stage has that."""
    processes = run.processes
    stream = f"validation {stage.name}"
    make = partial(draw, stage.sources["validation"], stream, stage.seed, stage.settings, processes=processes)
    for module in stage.modules.values():
        module.eval()
    sums = torch.zeros(2, LEVELS, device=processes.device)
    means = []
    for _, batch in ahead(make, range(VALIDATION_BATCHES)):
        for part, fraction in parts(batch, crops):
            values = loss(part).float()
            means.append(values.mean() * fraction)
            if stage.level is not None:
                level = (stage.level(part) * LEVELS).long()
                sums[0] += torch.bincount(level, values, LEVELS)
                sums[1] += torch.bincount(level, minlength=LEVELS)
    total, count = processes.mean(sums)
    bounds = [f"{level / LEVELS:g}-{(level + 1) / LEVELS:g}" for level in range(LEVELS)]
    levels = dict(zip(bounds, (total / count).tolist(), strict=True)) if stage.level is not None else {}
    return float(processes.mean(torch.stack(means).sum()) / VALIDATION_BATCHES), levels


def _optimizer(stage: Stage) -> torch.optim.Optimizer:
    settings = stage.settings
    trained = [tensor for tensor in stage.tensors.values() if isinstance(tensor, nn.Parameter)]
    for tensor in trained:
        tensor.requires_grad_()
    return torch.optim.AdamW(
        trained,
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        fused=trained[0].is_cuda,
    )


def _blocks(objective: nn.Module) -> list[nn.Module]:
    """The outermost blocks of the networks."""
    found: list[nn.Module] = []
    for child in objective.children():
        found += [child] if isinstance(child, BLOCKS) else _blocks(child)
    return found


def _say_parts(stage: Stage, run: Run, state: State) -> None:
    share, ways = stage.settings.batch // run.processes.size, []
    if state["crops"] < share:
        ways.append(f"{state['crops']} of {share} crops at a time, whose gradients add up")
    if state["checkpointing"]:
        ways.append("activation checkpointing")
    if ways:
        run.say(f"{stage.name}: {', '.join(ways)}")


def _clone(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


@torch.no_grad()
def _copy(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        tensor.copy_(values[name])
