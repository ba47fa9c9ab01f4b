"""The loop that fits a stage: the same on a CPU and on many GPUs, and resumed at any step.

Step k draws its hours, crops and noise from (seed, stage, k) alone, so that a run that was killed repeats the losses of
one that was not. The noise belongs to a crop, so that processes and micro-batches add up to the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace

from rich.progress import Progress

from ldmdown.console import say
from ldmdown.errors import LdmdownError
from ldmdown.training.batches import CropSource
from ldmdown.training.learner import Learner
from ldmdown.training.run import Losses, Run, State, load
from ldmdown.training.stages import Stage, copy

LOG_EVERY = 20  # steps between readings of the losses, each of which waits for the device
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

    Args:
        sources: crops for "train" and "validation".
        show: draws what has been learned after a step.
        resume: whether a stage that was stopped goes on.
        micro_batch: crops that go through the networks at once in each process; None: all, or on CUDA as many as fit in
            memory.

    Raises LdmdownError if the stage was stopped before and `resume` is not given, if its batch does not divide over the
    processes, or if it diverges again and again.
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
    """The state of a stage that was stopped, if it is to go on; else a fresh one, on the disk with its tensors.

    Raises LdmdownError as `fit`.
    """
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
    """Validate each average of the weights and keep all that the stage resumes from; the best one in its own file.

    Raises `DivergedError` if the loss is not finite.
    """
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

    Raises LdmdownError after some rollbacks.
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
